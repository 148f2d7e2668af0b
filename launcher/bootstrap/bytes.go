package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"

	"towline/config"
	"towline/launcher/remote"
)

// ErrNoTowline: what is there is not Towline's daemon, which alone has what was
// asked for.
var ErrNoTowline = errors.New("no Towline daemon serves this host")

// OpenBytes opens the bytes under the app-server's connection that Open makes, for
// somebody else to make a handshake on: what `app-server proxy` carries. ctx
// bounds that only. Errors are *config.Problem; one for a host without a Towline
// matches ErrNoTowline.
func OpenBytes(ctx context.Context, r Remote, rep Report, ch Choice) (io.ReadWriteCloser, error) {
	o := rep.o.withDefaults()
	if rep.Door {
		t, err := direct(ctx, r, o, doorProxy, ch)
		if err != nil {
			return nil, err
		}
		return t.bytes()
	}
	if ch.Candidate.Kind != Towline || !path.IsAbs(ch.Candidate.Path) {
		return nil, &config.Problem{
			Stage: remote.StageFind, Err: ErrNoTowline, Exit: config.ExitUnavailable,
			Hints: []string{"put this program there (no sudo, no internet needed): `towline connect " + o.host() + " --install`"},
		}
	}
	if c := socketThroughServer(ctx, r, rep, ch); c != nil {
		return c, nil
	}
	var opened Opened
	t, how, err := launch(ctx, r, rep, ch, &opened)
	if err != nil {
		return nil, err
	}
	if how != "ws" {
		t.close()
		return nil, &config.Problem{Stage: remote.StageStart, Err: fmt.Errorf("the daemon's socket cannot be had there: %w", ErrNoTowline), Exit: config.ExitUnavailable}
	}
	return t.bytes()
}

// bytes is the channel, once it is the program's.
func (t *talk) bytes() (io.ReadWriteCloser, error) {
	if err := t.free(); err != nil {
		defer t.close()
		return nil, t.lost(err)
	}
	return &channel{t: t}, nil
}

// socketThroughServer is the socket of a daemon that runs, through the SSH server
// itself; nil where that cannot be had.
func socketThroughServer(ctx context.Context, r Remote, rep Report, ch Choice) net.Conn {
	d, ok := r.(interface {
		DialUnix(ctx context.Context, path string) (net.Conn, error)
	})
	if !ok || ch.Action != Join {
		return nil
	}
	socket := ch.Candidate.Socket
	if socket == "" {
		socket = homeSocket(rep, ch)
	}
	if !path.IsAbs(socket) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, directTimeout)
	defer cancel()
	c, err := d.DialUnix(ctx, socket)
	if err != nil {
		rep.o.withDefaults().Log.Debug("the daemon's socket cannot be reached directly", "err", err)
		return nil
	}
	return c
}
