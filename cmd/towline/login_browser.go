package main

import (
	"context"
	"os"
	"runtime"

	"towline/forward/login"
)

// openBrowser opens a page for the person at this machine. An error says that they
// must do it themselves.
func openBrowser(ctx context.Context, url string) error { return browserOpener().Open(ctx, url) }

// browserOpener knows the browser of this machine.
func browserOpener() login.Opener {
	return login.Opener{Getenv: os.Getenv, OS: runtime.GOOS, WSL: runtime.GOOS == "linux" && os.Getenv("WSL_DISTRO_NAME") != ""}
}

// portHolder says who holds a loopback port.
func portHolder(port int) string { return login.FindHolder(context.Background(), port).String() }
