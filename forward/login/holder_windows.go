package login

import (
	"context"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

// findHolder asks netstat and tasklist, which every Windows has.
func findHolder(ctx context.Context, port int) Holder {
	out, err := exec.CommandContext(ctx, "netstat", "-ano", "-p", "TCP").Output()
	if err != nil {
		return Holder{}
	}
	h := Holder{PID: parseNetstat(string(out), port)}
	if h.PID == 0 {
		return h
	}
	out, err = exec.CommandContext(ctx, "tasklist", "/V", "/NH", "/FO", "CSV", "/FI", "PID eq "+strconv.Itoa(h.PID)).Output()
	if err == nil {
		h.Program, h.User = parseTasklist(string(out))
	}
	if me, err := user.Current(); err == nil {
		h.Mine = h.User != "" && strings.EqualFold(me.Username, h.User)
	}
	return h
}
