package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/transport"
	"towline/config"
)

// afterInput is how long the daemon may go on speaking to a client whose input
// has ended.
const afterInput = 10 * time.Second

func newProxy() *cobra.Command {
	var sock string
	var start bool
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Carry bytes between standard streams and the daemon's socket",
		Long: "proxy connects standard input and output to the daemon's unix socket and passes\n" +
			"bytes as they are, like `codex app-server proxy`: whoever runs it, through ssh\n" +
			"as a rule, makes the WebSocket handshake. With --start it first starts a daemon\n" +
			"when none answers, which stays when this ends.",
		Example: "  ssh dev-server towline app-server proxy --start\n" +
			"  towline app-server proxy --sock /run/user/1000/agent.sock",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if sock != "" {
				if start {
					return &config.Problem{
						Err: errors.New("--start is for the daemon's own socket, and --sock names another"), Exit: config.ExitUsage,
						Hints: []string{"see `towline app-server proxy --help`"},
					}
				}
				return proxy(cmd.Context(), sock)
			}
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			if start {
				if _, err := startDaemon(cmd.Context(), paths, ""); err != nil {
					return err
				}
			}
			return proxy(cmd.Context(), paths.FindSocket())
		},
	}
	c.Flags().StringVar(&sock, "sock", "", "`PATH` of another socket than the daemon's own")
	c.Flags().BoolVar(&start, "start", false, "start the daemon when none answers")
	return c
}

// proxy returns when the socket's end is reached; the end of input is passed on
// and the rest of the answers is awaited.
func proxy(ctx context.Context, sock string) error {
	c, err := transport.DialBytes(ctx, sock)
	if err != nil {
		var p *config.Problem
		if errors.As(err, &p) {
			p.Hints = append([]string{"start a daemon there with `towline app-server start`, or with --start"}, p.Hints...)
		}
		return err
	}
	defer func() { _ = c.Close() }() // both ways are over
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	// Nobody waits for this one: reading a standard stream cannot be interrupted,
	// and the process ends with proxy.
	go func() {
		_, _ = io.Copy(c, os.Stdin) // whichever end broke, the other copy tells
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(afterInput))
	}()
	_, err = io.Copy(os.Stdout, c)
	var ne net.Error
	if ctx.Err() != nil || errors.As(err, &ne) && ne.Timeout() {
		return nil
	}
	if err != nil {
		return &config.Problem{Stage: "handshake", Err: err, Hints: []string{"check that the daemon still runs: `towline status`"}, Exit: config.ExitUnavailable}
	}
	return nil
}
