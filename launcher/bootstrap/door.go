package bootstrap

import (
	"bufio"
	"context"
	"errors"
	"io"

	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/remote"
)

// The commands of Towline's own SSH door: the protocol as a WebSocket, which can
// resume, and as lines, which every version of the door speaks.
const (
	doorProxy = "app-server proxy"
	doorLines = "app-server"
)

// openDoor connects to a daemon through its own SSH door, which runs no shell
// and needs none. A cut link ends no turn there, however the protocol is framed.
func openDoor(ctx context.Context, r Remote, o Options, ch Choice) (rpc.Stream, Opened, error) {
	opened := Opened{Kind: Towline}
	o.Events(remote.Event{Stage: remote.StageStart, Text: "a Towline daemon answers there", Done: true})
	o.Events(remote.Event{Stage: remote.StageHandshake, Text: "opening the app-server's connection"})
	t, err := direct(ctx, r, o, doorProxy, ch)
	if err != nil {
		return nil, opened, err
	}
	s, err := handshake(ctx, t, o, "ws", !ch.Plain)
	if err == nil {
		opened.Stderr = t.lastWords
		opened.Resumable = rpc.Resumes(s)
		return s, opened, nil
	}
	t.close()
	var p *config.Problem
	if ctx.Err() != nil || !errors.As(err, &p) {
		return nil, opened, err
	}
	// An older door, or one whose key has a forced command.
	o.Log.Debug("the door does not proxy", "problem", err)
	if t, err = direct(ctx, r, o, doorLines, ch); err != nil {
		return nil, opened, err
	}
	if err := t.free(); err != nil {
		defer t.close()
		return nil, opened, t.lost(err)
	}
	opened.Stderr = t.lastWords
	opened.Note = "this Towline is too old to resume a connection without loss; after a cut, state is read again"
	return rpc.NewLines(&channel{t: t}), opened, nil
}

// direct runs a command that is no script.
func direct(ctx context.Context, r Remote, o Options, command string, ch Choice) (*talk, error) {
	t := &talk{began: true, noise: &excerpt{}, stderr: &excerpt{}, o: o}
	var err error
	if t.p, err = r.Exec(ctx, command, remote.ExecOptions{ForwardAgent: ch.ForwardAgent}); err != nil {
		return nil, &config.Problem{
			Stage: remote.StageStart, Err: err, Exit: config.ExitUnavailable,
			Hints: []string{"see what the door offers: `ssh " + o.host() + " help`"},
		}
	}
	t.unhook = context.AfterFunc(ctx, func() { t.abort(context.Cause(ctx)) })
	t.r = bufio.NewReaderSize(t.p.Stdout(), 32<<10)
	t.wg.Go(func() { _, _ = io.Copy(t.stderr, t.p.Stderr()) })
	return t, nil
}
