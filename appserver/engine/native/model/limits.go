package model

import (
	"math"
	"net/http"
	"strconv"
)

// limits reads the allowance headers of endpoints that send them; nil without.
func limits(h http.Header) *Limits {
	l := &Limits{Primary: window(h, "primary"), Secondary: window(h, "secondary")}
	if l.Primary == nil && l.Secondary == nil {
		return nil
	}
	return l
}

func window(h http.Header, name string) *Window {
	used, err := strconv.ParseFloat(h.Get("X-Codex-"+name+"-Used-Percent"), 64)
	if err != nil || math.IsNaN(used) {
		return nil
	}
	w := &Window{UsedPercent: int(math.Round(min(max(used, 0), 100)))}
	if n, err := strconv.ParseInt(h.Get("X-Codex-"+name+"-Window-Minutes"), 10, 64); err == nil {
		w.DurationMins = &n
	}
	if n, err := strconv.ParseInt(h.Get("X-Codex-"+name+"-Reset-At"), 10, 64); err == nil {
		w.ResetsAtEpoch = &n
	}
	return w
}
