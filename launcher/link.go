package launcher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"towline/appserver/rpc"
	"towline/config"
	"towline/launcher/agentfwd"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

const (
	// openTimeout bounds getting a stream out of a live connection: a daemon may
	// have to be started on a slow disk.
	openTimeout = 2 * time.Minute
	// checkTimeout is how long a connection may take to show that it still lives,
	// when there is reason to doubt it.
	checkTimeout = 5 * time.Second
	// shareFailure is for how long a failed attempt answers whoever asks again:
	// several streams come back at once.
	shareFailure = time.Second
)

type openFunc = func(ctx context.Context, r bootstrap.Remote, rep bootstrap.Report, ch bootstrap.Choice) (rpc.Stream, bootstrap.Opened, error)

// attempt is one try to make the SSH connection, shared by all who wait for it.
type attempt struct {
	done  chan struct{} // closed when it is over
	ended time.Time     // set before that
	err   error         // set before that
}

// forget drops an attempt that is over, so that the next is a fresh one.
func forget(a *attempt) *attempt {
	if a != nil {
		select {
		case <-a.done:
			return nil
		default:
		}
	}
	return a
}

// adopt makes conn the session's connection.
func (s *Session) adopt(conn remote.Conn) {
	s.mu.Lock()
	s.conn, s.lost, s.tries, s.doing, s.since = conn, nil, 0, "", time.Now()
	s.mu.Unlock()
	s.wg.Go(func() {
		select {
		case <-conn.Done():
			s.mu.Lock()
			s.lost, s.since = conn.Err(), time.Now()
			s.mu.Unlock()
			s.cfg.Log.Info("the connection is lost", "err", conn.Err())
			s.tellChanged()
			_ = conn.Close() // what it started is waited for
		case <-s.ctx.Done():
		}
	})
	s.tellChanged()
}

// connection is the one there is, or a new one.
func (s *Session) connection(ctx context.Context) (remote.Conn, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		if s.conn != nil && !over(s.conn) {
			c := s.conn
			s.mu.Unlock()
			return c, nil
		}
		a := s.attempt
		if f := forget(a); a != nil && f == nil && (a.err == nil || time.Since(a.ended) > shareFailure) {
			a = nil // it was long ago, or its connection is gone again
		}
		if a == nil {
			a = &attempt{done: make(chan struct{})}
			s.attempt = a
			byItself := !s.invited
			s.invited = false
			s.tries++
			s.wg.Go(func() { s.try(a, byItself) })
		}
		s.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil {
				return nil, a.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try makes the connection anew. It belongs to the session, not to who asked
// first: a person may be typing a password while streams give up and come back.
func (s *Session) try(a *attempt, byItself bool) {
	s.keeper.attempt(byItself)
	p := newProgress(s.cfg.Host, s.note)
	conn, err := s.cfg.parts.dial(s.ctx, s.dialing(p.event))
	if err != nil {
		a.err = final(p.fail(remote.StageDial, s.explainDial(err)))
	}
	a.ended = time.Now()
	if err == nil {
		s.adopt(conn)
		s.holdAgent(s.ctx, conn)
	} else {
		s.mu.Lock()
		s.lost, s.doing = a.err, ""
		s.mu.Unlock()
		s.tellChanged()
	}
	close(a.done)
}

// note keeps what a reconnect is at, and tells it.
func (s *Session) note(e remote.Event) {
	if s.cfg.Events != nil {
		s.cfg.Events(e)
	}
	s.cfg.Log.Debug("reconnecting", "stage", e.Stage, "hop", e.Hop, "text", e.Text, "done", e.Done, "err", e.Err)
	if e.Detail {
		return
	}
	s.mu.Lock()
	changed := s.doing != e.Stage
	s.doing = e.Stage
	s.mu.Unlock()
	if changed {
		s.tellChanged()
	}
}

// final marks an error that trying again by itself will not mend, so that it is
// tried slowly: a login that is refused again and again gets people locked out.
func final(err error) error {
	var p *config.Problem
	if !errors.As(err, &p) {
		return err
	}
	switch p.Stage {
	case remote.StageHostKey, remote.StageAuth:
		if p.Exit == config.ExitUnavailable {
			return err // the link died on the way; nobody refused anything
		}
		fallthrough
	case remote.StageVersion, remote.StageFind:
		q := *p
		q.Err = fmt.Errorf("%w (%w)", p.Err, rpc.ErrRefused)
		return &q
	}
	return err
}

// check makes sure that the connection still carries anything, and ends it if
// not: after a sleep the peer may be gone without a word.
func (s *Session) check(ctx context.Context) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil || over(conn) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if !alive(ctx, conn) {
		s.cfg.Log.Info("the connection gives no sign of life")
		_ = conn.Close()
	}
}

// alive reports whether the other end gives a sign of life before ctx ends.
func alive(ctx context.Context, conn remote.Conn) bool {
	if p, ok := conn.(interface{ Ping(context.Context) error }); ok {
		return p.Ping(ctx) == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) && !over(conn)
	}
	p, err := conn.Exec(ctx, "exit 0", remote.ExecOptions{})
	if err == nil {
		_ = p.Close() // that it began is the answer
	}
	return err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) // so is a refusal
}

// link opens a link over the SSH connection, made anew if need be.
func (s *Session) link(ctx context.Context) (rpc.Stream, bootstrap.Opened, error) {
	p := newProgress(s.cfg.Host, s.note)
	st, opened, conn, err := s.tryOpen(ctx, p)
	if err != nil && conn != nil && ctx.Err() == nil {
		// A connection that is gone shows first in what is done over it.
		if s.check(ctx); over(conn) {
			st, opened, conn, err = s.tryOpen(ctx, p)
		}
	}
	if err != nil && conn != nil && ctx.Err() == nil && !over(conn) {
		// The host changed while we were away: look again, but install nothing.
		s.cfg.Log.Info("what was found on the host is no longer so", "err", err)
		var f *found
		if f, err = s.look(ctx, p, conn, InstallNever); err == nil {
			st, opened, err = s.open(ctx, p, conn, f)
		}
	}
	s.mu.Lock()
	s.doing = ""
	s.mu.Unlock()
	if err != nil {
		return nil, bootstrap.Opened{}, final(p.fail(remote.StageStart, err))
	}
	return st, opened, nil
}

// tryOpen opens a link by what was found last. conn is nil when there is no
// connection to open it over.
func (s *Session) tryOpen(ctx context.Context, p *progress) (st rpc.Stream, opened bootstrap.Opened, conn remote.Conn, err error) {
	if conn, err = s.connection(ctx); err != nil {
		return nil, opened, nil, err
	}
	s.mu.Lock()
	f := s.found
	s.mu.Unlock()
	st, opened, err = s.open(ctx, p, conn, f)
	return st, opened, conn, err
}

// open gets a stream out of conn by what was found there.
func (s *Session) open(ctx context.Context, p *progress, conn remote.Conn, f *found) (rpc.Stream, bootstrap.Opened, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("no app-server after %s", openTimeout))
	defer cancel()
	ch := s.choice(f)
	p.begin(remote.StageStart, oneLine(string(ch.Action)+" "+string(ch.Candidate.Kind)))
	st, opened, err := s.cfg.parts.open(ctx, conn, f.Report.With(s.cfg.options(p.event)), ch)
	if err != nil {
		return nil, bootstrap.Opened{}, err
	}
	p.done(remote.StageStart, startText(opened))
	text := oneLine(opened.Note)
	if text == "" {
		text = "the app-server answers"
	}
	p.done(remote.StageHandshake, text)
	s.mu.Lock()
	s.found, s.opened, s.report = f.started(), opened, f.Report
	s.mu.Unlock()
	return st, opened, nil
}

// choice is what was found, with what this session adds to it.
func (s *Session) choice(f *found) bootstrap.Choice {
	ch := f.Choice
	ch.Env = maps.Clone(s.target.SetEnv)
	if dir := elsewhere(f.Report, ch); dir != "" {
		ch.Env = set(ch.Env, "XDG_STATE_HOME", dir)
	}
	if f.Agent != "" && s.forwards() {
		// The stable path, never this connection's own: a daemon outlives it.
		ch.Env = set(ch.Env, "SSH_AUTH_SOCK", f.Agent)
	}
	return s.lending(ch)
}

// elsewhere is where a Towline daemon keeps its state when the home folder there
// cannot be written to and nobody said where else: beside the program, which was
// put where it could be. "" leaves it to the host.
func elsewhere(rep bootstrap.Report, ch bootstrap.Choice) string {
	if !rep.ReadOnlyHome || !rep.Writable || rep.InstallDir == "" || ch.Candidate.Kind != bootstrap.Towline ||
		rep.Env["TOWLINE_HOME"] != "" || rep.Env["XDG_STATE_HOME"] != "" {
		return ""
	}
	return rep.InstallDir + "/state"
}

func set(env map[string]string, name, value string) map[string]string {
	if env == nil {
		env = make(map[string]string)
	}
	env[name] = value
	return env
}

func startText(o bootstrap.Opened) string {
	text := string(o.Kind)
	if o.Version != "" {
		text += " " + o.Version
	}
	if o.Started {
		return oneLine(text + ", started")
	}
	return oneLine(text + ", joined")
}

// forwards reports whether the configuration forwards this machine's agent.
func (s *Session) forwards() bool {
	return agentfwd.PolicyFor(s.target, s.cfg.Environ).Socket != ""
}

// holdAgent makes the remote's stable agent path lead to this connection. That
// it does not work costs the agent, never the connection.
func (s *Session) holdAgent(ctx context.Context, conn remote.Conn) string {
	policy := agentfwd.PolicyFor(s.target, s.cfg.Environ)
	if policy.Socket == "" {
		return ""
	}
	h, err := agentfwd.Hold(ctx, conn, agentfwd.Options{Policy: policy})
	if err != nil {
		s.cfg.Log.Warn("the agent is not forwarded", "err", err)
		return ""
	}
	s.mu.Lock()
	old, closed := s.agent, s.closed
	if !closed {
		s.agent = h
	}
	s.mu.Unlock()
	if closed {
		old = h
	}
	if old != nil {
		_ = old.Close()
	}
	return h.Path()
}
