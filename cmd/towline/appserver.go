package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

func newAppServer() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "app-server",
		Short: "The daemon alone, as `codex app-server` is: no SSH door",
		Long: "app-server keeps an app-server on this machine for programs that speak its\n" +
			"protocol. On stdio, the default, it serves whoever started it, one message a\n" +
			"line: it joins the daemon that runs already, or is one until its input ends.\n" +
			"On other addresses it runs until SIGTERM, or `towline app-server stop`.",
		Example: "  towline app-server\n" +
			"  towline app-server --listen unix://\n" +
			"  towline app-server --listen ws://127.0.0.1:4500 --listen unix:///run/user/1000/agent.sock\n" +
			"  towline app-server --listen ws://127.0.0.1:4500 --ws-auth capability-token --ws-token-file ~/token\n" +
			"  towline app-server --listen wss://0.0.0.0:4500 --ws-auth access-token --ws-tls-cert cert.pem --ws-tls-key key.pem\n" +
			"  towline app-server start\n" +
			"  ssh dev-server towline app-server proxy --start",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("stdio") && cmd.Flags().Changed("listen") {
				return o.usageError("the argument '--stdio' cannot be used with '--listen <URL>'")
			}
			if err := o.check(); err != nil {
				return err
			}
			paths, cfg, err := setup()
			if err != nil {
				return err
			}
			return appServerAlone(cmd.Context(), o, paths, cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	o.flags(c, []string{stdioURL}, "stdio://, unix:// (the daemon's own socket), unix://PATH, ws://IP:PORT, wss://IP:PORT, or off: the daemon's own socket alone")
	f.Bool("stdio", false, "the same as --listen stdio://")
	o.codex.flags(c)
	f.StringVar(&o.engine, "engine", "", "what does the work: auto, codex or native")
	f.StringVar(&o.project, "project", "", "`DIR` new threads work in (default: here)")
	f.BoolVar(&o.json, "json", false, "print a ready line as one JSON object (not with stdio)")
	f.BoolVar(&o.verbose, "verbose", false, "log what happens in detail")
	f.BoolVar(&o.takeOver, strings.TrimPrefix(takeOverFlag, "--"), false, "succeed the daemon that runs")
	f.BoolVar(&o.detached, strings.TrimPrefix(detachedFlag, "--"), false, "nobody waits for this process")
	for _, name := range []string{"take-over", "detached"} {
		_ = f.MarkHidden(name) // it exists
	}
	foldUsages(f)
	c.AddCommand(newProxy(), newStart(), newStop(), newUpgrade(), newDial(), newHold())
	return c
}

// appServerAlone is serve without its SSH door.
func appServerAlone(ctx context.Context, o serveOptions, paths config.Paths, cfg config.Config, out, errOut io.Writer) error {
	o.sshListen = "off"
	urls, stdio, _, err := o.addresses("unix://" + paths.Socket())
	if err != nil {
		return err
	}
	if stdio && o.json {
		return &config.Problem{
			Stage: "listen", Err: errors.New("with stdio, standard output belongs to the protocol"),
			Hints: []string{"leave --json out, or name another address with --listen"}, Exit: config.ExitUsage,
		}
	}
	if stdio && len(urls) == 0 {
		if s, err := transport.Dial(ctx, "unix://"+paths.FindSocket()); err == nil {
			if len(o.codex.args()) > 0 {
				_ = s.Close(nil) // only its presence counts
				return errOwnSettings
			}
			return relay(ctx, transport.Stdio(os.Stdin, os.Stdout), s)
		}
	}
	o.lasting = !stdio
	h, err := openHost(ctx, o, paths, cfg, errOut)
	if err != nil {
		return err
	}
	defer h.close()
	if err := webSocketBanner(errOut, h.server.Addresses()); err != nil {
		return err
	}
	if !stdio {
		if o.json {
			err = announce(out, true, h)
		} else {
			err = announce(errOut, false, h)
		}
		if err != nil {
			return err
		}
		return h.run(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.Go(func() error { return h.run(ctx) })
	g.Go(func() error {
		defer cancel() // its input has ended, as with Codex
		return h.server.Serve(ctx, transport.Stdio(os.Stdin, os.Stdout), transport.LocalUser(), "stdio", "stdio")
	})
	return g.Wait()
}

// errOwnSettings: what runs already cannot be told how to begin.
var errOwnSettings = &config.Problem{
	Stage: "daemon", Err: errors.New("one runs already, with settings of its own: -c, --enable, --disable and the like come too late"),
	Hints: []string{"`towline app-server stop` ends it"}, Exit: config.ExitUnavailable,
}

// lastAnswers is how long a program that ended its input may wait for what it
// asked.
const lastAnswers = 5 * time.Second

// relay carries a client on in to the daemon at the other end of s, until one of
// them ends.
func relay(ctx context.Context, in, s rpc.Stream) error {
	g, ctx := errgroup.WithContext(ctx)
	var open atomic.Int64 // requests without an answer
	answered := make(chan struct{}, 1)
	g.Go(func() error {
		defer func() { _ = s.Close(nil) }()
		for {
			msg, err := in.Read(ctx)
			if errors.Is(err, io.EOF) {
				awaitAnswers(ctx, &open, answered)
				return io.EOF
			}
			if err != nil {
				return err
			}
			if e, err := protocol.Peek(msg); err == nil && e.Kind == protocol.KindRequest {
				open.Add(1)
			}
			if err := s.Write(ctx, msg); err != nil {
				return err
			}
		}
	})
	g.Go(func() error {
		for {
			msg, err := s.Read(ctx)
			if err != nil {
				return err
			}
			if err := in.Write(ctx, msg); err != nil {
				return err
			}
			if e, err := protocol.PeekTrusted(msg); err == nil && (e.Kind == protocol.KindResponse || e.Kind == protocol.KindError) {
				open.Add(-1)
				select {
				case answered <- struct{}{}:
				default:
				}
			}
		}
	})
	err := g.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, rpc.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func awaitAnswers(ctx context.Context, open *atomic.Int64, answered <-chan struct{}) {
	t := time.NewTimer(lastAnswers)
	defer t.Stop()
	for open.Load() > 0 {
		select {
		case <-answered:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// withoutConnection is an environment without what describes the SSH connection
// it came by: a daemon outlives that.
func withoutConnection(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "SSH_CONNECTION" || name == "SSH_CLIENT" || name == "SSH_TTY" || name == "SSH_ORIGINAL_COMMAND"
	})
}
