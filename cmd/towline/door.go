package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"towline/appserver/access"
	"towline/appserver/rpc"
	"towline/appserver/tui"
	"towline/config"
	"towline/sshd"
)

// openDoor opens the SSH listener. Nobody is served before its Serve runs.
func (h *host) openDoor(ctx context.Context, cfg config.SSH) error {
	if cfg.Listen == "off" {
		return nil
	}
	self, err := errands()
	if err != nil {
		return &config.Problem{Stage: "ssh", Err: err, Exit: config.ExitConfig}
	}
	door, err := sshd.Listen(ctx, sshd.Config{
		Socket: h.server.Inherited(doorSSH),
		Listen: cfg.Listen, HostKeyFile: cfg.HostKey, AuthorizedKeysFile: cfg.AuthorizedKeys, Log: h.log,
		Self: self, Listens: h.listens,
		UI:        h.ui,
		AppServer: h.appServer,
		WebSocket: h.webSocket,
		Audit:     func(event string, p access.Principal, attrs ...slog.Attr) { h.server.Record(event, p, attrs...) },
	})
	if err != nil {
		exit := config.ExitConfig
		var p *config.Problem
		if errors.As(err, &p) {
			exit = p.Exit
		}
		return &config.Problem{Stage: "ssh", Err: err, Exit: exit}
	}
	h.door = door
	return nil
}

// ui shows the terminal UI to one SSH session. The client's end of the
// connection and the gate's run here, in memory: what the person may do is the
// key's role, as for any other client.
func (h *host) ui(ctx context.Context, s *sshd.Session) int {
	var served sync.WaitGroup
	defer served.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := tui.Run(ctx, tui.Config{
		Dial: func(context.Context) (rpc.Stream, error) {
			near, far := rpc.Pipe(256)
			served.Go(func() { _ = h.server.Serve(ctx, far, s.Principal, "ssh", s.Remote) }) // the gate has logged why
			return near, nil
		},
		In: s.In, Out: s.Out, Environ: s.Environ,
		Size: tui.Size(s.Size), Sizes: sizes(ctx, &served, s.Sizes),
		Host: h.name, Version: version(), ReattachHint: cmp.Or(h.comeBack, h.sshCommand()), Log: h.log,
	})
	if errors.Is(context.Cause(ctx), sshd.ErrStopping) {
		// The door says so too, but on the other stream, which a client may show
		// before the screen is restored.
		_, _ = fmt.Fprintf(s.Out, "%s is stopping; your threads are kept. Come back when it is up again: %s\n", h.name, cmp.Or(h.comeBack, h.sshCommand()))
		return config.ExitFailure
	}
	if ctx.Err() != nil {
		return config.ExitFailure // nobody is there to read it
	}
	if err != nil && !errors.Is(err, io.EOF) {
		h.log.Warn("the UI failed", "principal", s.Principal.Name, "remote", s.Remote, "err", err)
		_, _ = io.WriteString(s.Err, config.Explain(err))
		return config.ExitFailure
	}
	if res.Text != "" {
		_, _ = fmt.Fprintln(s.Out, res.Text)
	}
	return config.ExitOK
}

// sizes hands terminal sizes on from the door's type to the UI's: the two
// packages do not know each other. Only the newest size matters.
func sizes(ctx context.Context, wg *sync.WaitGroup, in <-chan sshd.Size) <-chan tui.Size {
	out := make(chan tui.Size, 1)
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-in:
				select {
				case <-out:
				default:
				}
				out <- tui.Size(s)
			}
		}
	})
	return out
}

// appServer speaks the protocol, one message a line, to `ssh host app-server`.
func (h *host) appServer(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, remote string) error {
	return h.server.Serve(ctx, rpc.NewLines(rw), p, "ssh", remote)
}

// webSocket is what the daemon's own socket is, for `ssh host app-server proxy`.
func (h *host) webSocket(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, remote string) error {
	return h.server.ServeBytes(ctx, rw, p, "ssh", remote)
}

// sshCommand is what a person types to get here. The name they know this
// machine by is theirs; a loopback door is only reachable from this machine.
func (h *host) sshCommand() string {
	if h.door == nil {
		return ""
	}
	addr, port, err := net.SplitHostPort(h.door.Addr())
	if err != nil {
		return "ssh " + h.name
	}
	target := h.name
	if ip := net.ParseIP(addr); ip != nil && !ip.IsUnspecified() {
		target = addr
	}
	if port == "22" {
		return "ssh " + target
	}
	return "ssh -p " + port + " " + target
}
