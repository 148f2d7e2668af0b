package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// spanUnits are what a span may be written in, the longest first. There are no
// months and years: nobody agrees on how long one is.
var spanUnits = []struct {
	unit string
	of   time.Duration
}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

// ParseSpan reads a span of time as people write it: whole numbers with w, d, h, m
// or s, the longer first: "30d", "12h", "1d12h". It is more than nothing.
func ParseSpan(s string) (time.Duration, error) {
	bad := func() (time.Duration, error) {
		return 0, fmt.Errorf("%q is no span of time: write it like 30d, 12h or 1w", OneLine(s))
	}
	var sum time.Duration
	rest, from := s, 0
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 || digits > 10 || digits == len(rest) {
			return bad()
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return bad()
		}
		i := from
		for i < len(spanUnits) && spanUnits[i].unit != rest[digits:digits+1] {
			i++
		}
		if i == len(spanUnits) || n > int64((math.MaxInt64-sum)/spanUnits[i].of) {
			return bad()
		}
		sum, rest, from = sum+time.Duration(n)*spanUnits[i].of, rest[digits+1:], i+1
	}
	if sum == 0 {
		return bad()
	}
	return sum, nil
}

// Span writes a span of time as ParseSpan reads it, to the second. Weeks are
// written as days.
func Span(d time.Duration) string {
	var b strings.Builder
	for _, u := range spanUnits[1:] {
		if n := d / u.of; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.unit)
			d -= n * u.of
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
