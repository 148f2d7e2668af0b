package main

import (
	"context"
	"os"
	"runtime"

	"towline/forward/login"
)

// openBrowser opens a page for the person at this machine; an error says that they
// must do it.
func openBrowser(ctx context.Context, page string) error {
	o := login.Opener{Getenv: os.Getenv, OS: runtime.GOOS, WSL: os.Getenv("WSL_DISTRO_NAME") != ""}
	return o.Open(ctx, page)
}

// portHolder says who holds a loopback port; nothing where that cannot be seen.
func portHolder(port int) string {
	h := login.FindHolder(context.Background(), port)
	if h.Program == "" && h.PID == 0 {
		return ""
	}
	return h.String()
}
