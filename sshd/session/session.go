// Package session turns one SSH "session" channel into something a UI or a
// protocol can be run on. It is the seam to Wish: what Wish's own session does
// wrongly is put right here, and nothing outside this package sees a Wish session.
//
// Wish's session reads the channel's requests and stops reading when its handler
// does not take what it reads; it lives as long as the connection, and believes
// everything. So the requests pass through a tap first (tap.go), which answers
// what is ours (window sizes, environment, signals, agent and X11) and hands on
// only the four that start something.
//
// Install [Options] on the server once and call [Serve] for each channel.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"charm.land/ssh"
	"charm.land/wish/v2"
	gossh "golang.org/x/crypto/ssh"

	"towline/sshd/auth"
)

// Why a session's context ended, see context.Cause. The server adds its own.
var (
	ErrGone        = errors.New("the client is gone")
	ErrInputEnded  = errors.New("the client's input ended")
	ErrInterrupted = errors.New("the client sent a signal")
)

// Rules is what a connection's sessions may do.
type Rules struct {
	// Terminal is whether a terminal may be had.
	Terminal bool
	// Subsystem is whether one of that name exists.
	Subsystem func(name string) bool
	// Refused is told what was asked for in vain. It must not block.
	Refused func(what string)
	// Handle runs a session and returns its exit status. A panic in it costs the
	// session.
	Handle func(ctx context.Context, ch *Channel) int
	Log    *slog.Logger
}

// Channel is one session that has been asked to start something. Call Open
// before using In, Out and Err.
type Channel struct {
	Subsystem string // when a subsystem was asked for
	Raw       string // the command as sent; empty for a shell
	Terminal  bool   // the client has one, and it was granted
	NoTTY     bool   // the client has one, but may not use it here
	Term      string
	Environ   []string // allowed variables, and TERM with a terminal
	Size      Size
	Sizes     <-chan Size // the newest size; never closed

	In       *Input
	Out, Err *Output

	st *state
}

// Words is the command, split at blanks. There is no shell here to quote for.
func (c *Channel) Words() []string { return strings.Fields(c.Raw) }

// Mode is what a session's bytes are.
type Mode int

const (
	// Text is for people: Out and Err treat "\n" as a terminal does, and the end of
	// the input ends the session.
	Text Mode = iota
	// Messages pass unchanged and the end of the input is just that. A person who
	// got here with a terminal can still leave: Ctrl-C and Ctrl-D, which no JSON
	// contains, end the input.
	Messages
	// Bytes pass unchanged, all of them: whoever is behind has a terminal device of
	// its own, or needs none.
	Bytes
)

// Open connects In, Out and Err.
func (c *Channel) Open(m Mode) {
	crlf, stop, onEOF := false, "", func() {}
	switch {
	case m == Text:
		crlf, onEOF = c.Terminal, func() { c.st.cancel(ErrInputEnded) }
	case m == Messages && c.Terminal:
		stop = "\x03\x04"
	}
	c.In = newInput(stop, onEOF)
	c.Out = newOutput(c.st.ch, crlf)
	c.Err = newOutput(c.st.ch.Stderr(), c.Terminal)
	c.st.wg.Go(func() { c.In.pump(c.st.ch) })
	c.st.wg.Go(c.Out.run)
	c.st.wg.Go(c.Err.run)
}

func (c *Channel) close() {
	if c.In != nil {
		c.In.Close()
		c.Out.Close()
		c.Err.Close()
	}
}

// state is one channel's, from open to the last goroutine.
type state struct {
	rules  Rules
	ctx    context.Context // the session's; this struct is its lifetime
	cancel context.CancelCauseFunc
	sizes  latest[Size]
	wg     sync.WaitGroup // everything started for this channel

	// The tap writes what follows before it hands on the request that starts the
	// session, and not after.
	ch      gossh.Channel
	hasPty  bool // the client asked for a terminal
	term    string
	size    Size
	environ []string
}

type stateKey struct{}

// sessionCtx is a context of the session's own where Wish would use the
// connection's: it ends with the session, and what is stored in it stays in it.
type sessionCtx struct {
	ssh.Context                 // the connection's: who and from where
	own         context.Context // a lifetime, so it may be held
	mu          sync.Mutex      // guards values
	values      map[any]any
}

func (c *sessionCtx) Deadline() (time.Time, bool) { return c.own.Deadline() }
func (c *sessionCtx) Done() <-chan struct{}       { return c.own.Done() }
func (c *sessionCtx) Err() error                  { return c.own.Err() }

func (c *sessionCtx) SetValue(k, v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[k] = v
}

func (c *sessionCtx) Value(k any) any {
	c.mu.Lock()
	v, ok := c.values[k]
	c.mu.Unlock()
	if ok {
		return v
	}
	if v := c.own.Value(k); v != nil { // before the connection's, or context.Cause would tell of that
		return v
	}
	return c.Context.Value(k)
}

// Options make a Wish server run its sessions through this package. The server
// must hand every "session" channel to Serve.
func Options() []ssh.Option {
	handle := func(s ssh.Session) { s.Context().Value(stateKey{}).(*state).run(s) }
	return []ssh.Option{
		ssh.EmulatePty(), // a real one leaks and races when clients vanish, and buys a UI nothing
		wish.WithMiddleware(func(ssh.Handler) ssh.Handler { return handle }),
		wish.WithSubsystem("default", handle), // of any name: mayStart decides
		func(srv *ssh.Server) error {
			srv.PtyCallback = func(ctx ssh.Context, _ ssh.Pty) bool {
				return ctx.Value(stateKey{}).(*state).rules.Terminal
			}
			srv.SessionRequestCallback = mayStart
			return nil
		},
	}
}

// mayStart is asked once a channel, on the goroutine of Serve, right before the
// handler is started on one of its own: the last moment at which Serve can be
// made to wait for it.
func mayStart(s ssh.Session, kind string) bool {
	st := s.Context().Value(stateKey{}).(*state)
	if kind == "subsystem" && !st.rules.Subsystem(s.Subsystem()) {
		st.rules.Refused("subsystem " + auth.Printable(s.Subsystem(), 40))
		return false
	}
	st.wg.Add(1)
	return true
}

// Serve runs one channel from its opening until it is closed at both ends and
// all it started has returned. Until then it counts against the connection: a
// client that never confirms a close holds its own place.
func Serve(ctx context.Context, srv *ssh.Server, conn *gossh.ServerConn, nc gossh.NewChannel, connCtx ssh.Context, rules Rules) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(ErrGone)
	st := &state{rules: rules, ctx: ctx, cancel: cancel, sizes: newLatest[Size]()}
	own := &sessionCtx{Context: connCtx, own: ctx, values: map[any]any{stateKey{}: st}}
	ssh.DefaultSessionHandler(srv, conn, tapped{nc, st}, own)
	st.wg.Wait()
}

// run is the session itself.
func (st *state) run(s ssh.Session) {
	defer st.wg.Done()
	_, _, terminal := s.Pty()
	c := &Channel{
		Subsystem: s.Subsystem(), Raw: s.RawCommand(),
		Terminal: terminal, NoTTY: st.hasPty && !terminal, Term: st.term,
		Environ: st.environ, Size: st.size, Sizes: st.sizes.ch, st: st,
	}
	if terminal {
		c.Environ = append(c.Environ, "TERM="+st.term)
	}
	status := st.guard(c)
	c.close()
	_ = s.Exit(status & 0xff) // a client that is gone does not ask
}

// guard keeps a panic inside its session.
func (st *state) guard(c *Channel) (status int) {
	defer func() {
		if r := recover(); r != nil {
			st.rules.Log.Error("panic in a session", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			status = 1
		}
	}()
	return st.rules.Handle(st.ctx, c)
}
