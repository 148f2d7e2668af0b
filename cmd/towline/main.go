// Command towline is an SSH-native remote host for Codex: one binary that keeps
// a coding agent at work on a machine and lets people reach it from any other.
//
// Each file here is one command: flags in, calls out, no logic.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"towline/appserver/engine/native/sandbox"
	"towline/config"
	"towline/launcher/systemssh"
)

func main() {
	// The sandbox helper is this binary re-executed for every confined command:
	// it must not pay for flag parsing, nor be seen in --help.
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	os.Args = systemssh.AskpassArgs(os.Args) // ssh gives its askpass program a name and no command
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends at once, as any program's would
	root := newRoot()
	if err := root.ExecuteContext(ctx); err != nil {
		var told *said
		if !errors.As(err, &told) {
			if ctx.Err() != nil && term.IsTerminal(int(os.Stderr.Fd())) {
				fmt.Fprintln(os.Stderr) // the terminal has just shown ^C
			}
			fmt.Fprint(os.Stderr, config.Explain(err))
		}
		return config.ExitCode(err)
	}
	return config.ExitOK
}
