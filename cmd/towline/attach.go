package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/appserver/tui"
	"towline/config"
)

func newAttach() *cobra.Command {
	var fresh bool
	var at remoteFlags
	c := &cobra.Command{
		Use:   "attach [THREAD]",
		Short: "Open the UI on this machine's daemon",
		Long: "attach opens the same UI that `ssh` shows, through the daemon's unix socket.\n" +
			"Without a thread it goes where you were last. To come back to another machine's\n" +
			"daemon, type `towline HOST`; leaving either, or `towline detach`, ends nothing\n" +
			"but the UI. With --remote it is the UI on any app-server, as `towline --remote`.",
		Example: "  towline attach\n  towline attach 0199c3f2-7f3a-7000-8000-000000000000\n  towline attach --new\n" +
			"  towline attach --remote wss://dev.example:4500 --remote-auth-token-env TOKEN",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.check(cmd.Flags()); err != nil {
				return err
			}
			if at.given() {
				return runRemote(cmd, &at, args, fresh)
			}
			paths, cfg, err := setup()
			if err != nil {
				return err
			}
			var thread protocol.ThreadID
			if len(args) == 1 {
				thread = protocol.ThreadID(args[0])
				if !looksLikeThread(args[0]) && isHost(cfg, args[0]) {
					return wrongUse("attach", "attach is for this machine's daemon, and "+args[0]+" is a host", "type `towline "+args[0]+"`")
				}
			}
			return attach(cmd.Context(), paths, thread, fresh)
		},
	}
	c.Flags().BoolVar(&fresh, "new", false, "begin a new thread")
	at.flags(c.Flags())
	return c
}

func attach(ctx context.Context, paths config.Paths, thread protocol.ThreadID, fresh bool) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return &config.Problem{
			Stage: "attach", Err: errors.New("the UI needs a terminal"),
			Hints: []string{"for a script, speak the protocol on " + "unix://" + paths.Socket()}, Exit: config.ExitUsage,
		}
	}
	dial := func(ctx context.Context) (rpc.Stream, error) { return dialDaemon(ctx, paths) }
	// A daemon that is not there is worth an error, not a screen that waits; one
	// that goes away later is waited for.
	probe, err := dial(ctx)
	if err != nil {
		return err
	}
	_ = probe.Close(nil)
	d := watchDetach(ctx, paths, openUI{ComeBack: "towline attach"})
	defer d.close()
	var open func(string) error
	if os.Getenv("SSH_CONNECTION") == "" { // the person sits at this machine, as its browser does
		open = func(url string) error { return openBrowser(d.ctx, url) }
	}
	res, err := tui.Run(d.ctx, tui.Config{
		Dial: dial, OpenURL: open, In: os.Stdin, Out: os.Stdout, Environ: os.Environ(), Thread: thread, NewThread: fresh,
		Host: hostName(), Version: version(), ReattachHint: "towline attach", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil && !d.asked() && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		return err
	}
	if res.Text != "" {
		fmt.Println(res.Text)
	}
	return nil
}

// dialDaemon opens a connection to this home's daemon.
func dialDaemon(ctx context.Context, paths config.Paths) (rpc.Stream, error) {
	s, err := transport.Dial(ctx, "unix://"+paths.FindSocket())
	if err != nil {
		var p *config.Problem
		if errors.As(err, &p) {
			err = p.Err // our hint is the better one
		}
		return nil, &config.Problem{
			Stage: "daemon", Err: fmt.Errorf("no daemon answers: %w", err),
			Hints: []string{"start it with `towline serve`"}, Exit: config.ExitUnavailable,
		}
	}
	return s, nil
}
