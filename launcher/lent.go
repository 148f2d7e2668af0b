package launcher

import (
	"context"
	"errors"
	"io"
	"time"

	"towline/appserver/rpc"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// awaitLogin tells a daemon that is started for a connection that it will be lent
// a login: having none is no reason for it to refuse.
const awaitLogin = "TOWLINE_AWAIT_LOGIN"

// lending makes ch what a connection that lends a login needs: a stock Codex
// neither drops what it was lent when the connection ends nor keeps it apart from
// what is stored there, unless it is a process of that connection's own.
func (s *Session) lending(ch bootstrap.Choice) bootstrap.Choice {
	if !s.cfg.LendsLogin {
		return ch
	}
	ch.Env = set(ch.Env, awaitLogin, "1")
	if ch.Candidate.Kind == bootstrap.Codex {
		ch.Action, ch.Forget = bootstrap.Stdio, true
	}
	return ch
}

// Bytes opens the bytes under a connection to the daemon's socket, for somebody
// else to make a handshake on, over the SSH connection, which is made anew first if
// need be. They end with that. Errors are *config.Problem; that of a host without
// a Towline matches bootstrap.ErrNoTowline, and those only a person can mend match
// rpc.ErrRefused.
func (s *Session) Bytes(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := s.connection(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	f := s.found
	s.mu.Unlock()
	if f == nil {
		return nil, errors.New("nothing was found on the host yet")
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	rw, err := bootstrap.OpenBytes(ctx, conn, f.Report.With(s.cfg.options(nil)), s.choice(f))
	if err != nil {
		return nil, final(newProgress(s.cfg.Host, nil).fail(remote.StageStart, err))
	}
	return rw, nil
}

// DialKeeping is Dial for a stream of which the host keeps for so long what it
// misses while there is no link.
func (s *Session) DialKeeping(ctx context.Context, keep time.Duration) (rpc.Stream, error) {
	st, opened, err := s.link(ctx)
	if err != nil {
		return nil, err
	}
	return s.streamKeeping(ctx, st, opened, keep)
}
