//go:build !linux && !windows

package login

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// findHolder asks lsof and ps, which macOS has and other systems may.
func findHolder(ctx context.Context, port int) Holder {
	out, err := exec.CommandContext(ctx, "lsof", "-nP", "-iTCP:"+strconv.Itoa(port), "-sTCP:LISTEN", "-FpcLu").Output()
	if err != nil && len(out) == 0 {
		return Holder{}
	}
	h := parseLsof(string(out), os.Getuid())
	if h.PID == 0 {
		return h
	}
	// lsof cuts names off.
	if out, err := exec.CommandContext(ctx, "ps", "-o", "args=", "-p", strconv.Itoa(h.PID)).Output(); err == nil {
		h.Args = strings.Fields(string(out))
	}
	if len(h.Args) > 0 && strings.HasPrefix(base(h.Args[0]), h.Program) {
		h.Program = base(h.Args[0])
	}
	return h
}

func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
