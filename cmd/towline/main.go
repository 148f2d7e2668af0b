// Command towline is an SSH-native remote host for Codex: one binary that keeps
// a coding agent at work on a machine and lets people reach it from any other.
//
// Each file here is one command: flags in, calls out, no logic.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"towline/appserver/engine/native/sandbox"
	"towline/config"
)

func main() {
	// The sandbox helper is this binary re-executed for every confined command:
	// it must not pay for flag parsing, nor be seen in --help.
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends at once, as any program's would
	root := newRoot()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprint(os.Stderr, config.Explain(err))
		return config.ExitCode(err)
	}
	return config.ExitOK
}

// version is the module's version, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev + dirty
}
