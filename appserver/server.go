// Package appserver is the daemon: one engine that does the work, one gate that
// every client passes, and the listeners on this machine. It wires the packages
// below it together and knows nothing of SSH; doors that live elsewhere hand
// their connections to Server.Serve.
//
// Start with Open, then Run.
package appserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/appserver/access"
	"towline/appserver/access/bearer"
	"towline/appserver/access/token"
	"towline/appserver/audit"
	"towline/appserver/gate"
	"towline/appserver/metrics"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
	"towline/config/store"
)

// Config says what the daemon runs and where it keeps things.
type Config struct {
	Paths  config.Paths
	Engine Engine   // see OpenEngine
	Listen []string // besides the daemon's own socket: unix://PATH, ws://IP:PORT, wss://IP:PORT
	// Listeners says how those work.
	Listeners Listeners
	// Metrics, where its Listen is not empty, tells what is counted.
	Metrics metrics.ServerConfig

	Host    string // what to call this machine
	Project string // absolute
	Version string
	// DisableUnsandboxed refuses what runs outside the agent's sandbox.
	DisableUnsandboxed bool
	// Remote is the switch of remote control; nil leaves it as Listeners.RemoteOff
	// says.
	Remote *RemoteControl
	// Rate bounds what principals may ask for.
	Rate config.Rates
	// Describe adds to a status what only the caller knows (the SSH door). It is
	// called from any goroutine; nil is fine.
	Describe func(*protocol.HostStatus)
	// HostLogin is the gate's: whether a login of the host's own is stored.
	HostLogin func() bool
	// MayLogIn is the gate's: whether a mandate allows an account/login/start.
	MayLogIn func(params json.RawMessage) error
	// MayRelay is the gate's: whether one allows to be reached through a relay.
	MayRelay func() error
	// Egress, when not nil, is asked about clients that lend this host their network.
	Egress transport.EgressFunc
	// Succession says how this daemon takes over from another, and others from it.
	Succession Succession
	// Audit says how the log of who did what is kept.
	Audit config.Audit
	Log   *slog.Logger
}

// Server is a daemon whose listeners are open.
type Server struct {
	cfg      Config
	gate     *gate.Gate
	store    *store.Store
	audit    *audit.Log
	tokens   *token.Manager
	auth     *bearer.Authenticator
	doors    doors
	meter    *metrics.Metrics
	telling  *metrics.Server // nil: metrics are not told
	sessions *rpc.Sessions   // streams that outlive their connections
	started  time.Time
	clients  census
	succ     *succession
}

// Open takes the home, which has one daemon, and opens the listeners and the
// state. Nothing is accepted before Run. Errors are *config.Problem.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{cfg: cfg, started: time.Now(), sessions: rpc.NewSessions(rpc.SessionsConfig{Log: cfg.Log}), succ: newSuccession()}
	s.meter = metrics.New(cfg.Version, s.snapshot)
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := cfg.Paths.Ensure(); err != nil {
		return nil, err
	}
	if cfg.Succession.Heir != nil {
		err = s.claim(ctx)
	} else {
		s.succ.lock, err = cfg.hold()
	}
	if err != nil {
		return nil, err
	}
	if s.store, err = store.Open(ctx, cfg.Paths.Database()); err != nil {
		return nil, &config.Problem{Stage: "state", Err: err, Exit: config.ExitConfig}
	}
	if s.audit, err = audit.Open(cfg.Paths.Audit(), cfg.auditOptions()); err != nil {
		return nil, &config.Problem{
			Stage: "audit", Err: err, Exit: config.ExitConfig,
			Hints: []string{"run `towline audit verify` to see where the chain breaks"},
		}
	}
	if s.tokens, err = s.newTokens(); err != nil {
		return nil, err
	}
	s.gate = gate.New(gate.Config{
		Extensions: s.remoteMethods(s.tokenMethods()),
		HostLogin:  cfg.HostLogin, MayLogIn: cfg.MayLogIn, MayRelay: cfg.MayRelay,
		Engine: cfg.Engine, Store: s.store, Audit: s.audit, Log: cfg.Log,
		Host: cfg.Host, Project: cfg.Project, Version: cfg.Version, Rehearsal: cfg.Engine.Rehearsal,
		DisableUnsandboxed: cfg.DisableUnsandboxed, Rate: cfg.Rate, Status: s.Status,
	})
	if cfg.Succession.Heir != nil {
		s.gate.GoOn()
	}
	if err := s.openDoors(ctx); err != nil {
		return nil, err
	}
	if cfg.Succession.Heir == nil {
		s.listenForHeir(false)
	}
	return s, nil
}

// auditOptions is how the log is kept, as the owner of the machine mandates where
// they do.
func (c Config) auditOptions() audit.Options {
	return audit.Options{
		MaxSize: c.Audit.MaxBytes(), Keep: c.Audit.KeepFiles, Refuse: c.Audit.OnFailure == config.AuditRefuse, Log: c.Log,
	}
}

func (c Config) hold() (lock *os.File, err error) {
	lock, other, err := c.Paths.HoldFile()
	switch {
	case err == nil:
		return lock, nil
	case other.PID != 0:
		return nil, c.another(fmt.Sprintf("pid %d, at %s", other.PID, other.Socket))
	}
	return nil, &config.Problem{
		Stage: "state", Err: fmt.Errorf("take the home %s: %w", c.Paths.Home(), err), Exit: config.ExitConfig,
		Hints: []string{"set TOWLINE_HOME to a folder on a local disk"},
	}
}

// running says what it means when the daemon's own socket cannot be had because
// a daemon answers there: one that another home put its socket to, or an older
// build.
func (c Config) running(ctx context.Context, url string, err error) error {
	if url != "unix://"+c.Paths.Socket() {
		return err
	}
	other, no := transport.Dial(ctx, url)
	if no != nil {
		return err
	}
	_ = other.Close(nil) // only its presence counts
	return c.another("at " + c.Paths.Socket())
}

func (c Config) another(which string) error {
	return &config.Problem{
		Stage: "daemon", Err: fmt.Errorf("one runs already with the home %s (%s)", c.Paths.Home(), which), Exit: config.ExitUnavailable,
		Hints: []string{
			"`towline status` shows it; `towline attach` opens its UI; `towline app-server stop` ends it",
			"for a second one, set TOWLINE_HOME to another folder",
		},
	}
}

// goodbyeTime is how long clients may take to read how their turns ended once
// the engine has stopped.
const goodbyeTime = 2 * time.Second

// Run keeps the engine and the gate alive and serves the listeners until ctx
// ends or one of them fails, and waits for everything it started. The engine
// goes first, and clients after it, so that they hear how their turns ended.
func (s *Server) Run(ctx context.Context) error {
	g, ctx2 := errgroup.WithContext(ctx)
	doors, closeDoors := context.WithCancel(context.WithoutCancel(ctx2))
	defer closeDoors()
	books, closeBooks := context.WithCancel(context.WithoutCancel(ctx2))
	defer closeBooks()
	// What a client lent is taken back while the engine can still be told.
	engine, endEngine := context.WithCancel(context.WithoutCancel(ctx2))
	defer endEngine()
	told := make(chan struct{})
	stop := context.AfterFunc(ctx2, func() {
		defer close(told)
		s.gate.TakeBack(ctx2)
		endEngine()
	})
	g.Go(func() error {
		defer closeBooks()
		defer closeDoors()
		err := s.cfg.Engine.Run(engine)
		if h := s.succ.elderHost(); h != nil {
			h.Ended()
		}
		if !stop() {
			<-told
		}
		select {
		case <-s.clients.drained():
		case <-time.After(goodbyeTime):
		}
		return err
	})
	g.Go(func() error { return s.gate.Run(books) })
	if l := s.succ.listener; l != nil {
		g.Go(func() error { return l.Serve(doors, s) })
	}
	g.Go(func() error {
		select {
		case <-s.succ.over:
			closeDoors()
			s.finish(ctx2)
			endEngine()
		case <-doors.Done():
		}
		return nil
	})
	g.Go(func() error { return s.sessions.Run(doors) })
	g.Go(func() error { return s.tokens.Run(doors) })
	g.Go(func() error { return s.auth.Run(doors) })
	g.Go(func() error { return s.doors.run(doors, s.accept) })
	if c := s.cfg.Listeners.Certificates; c != nil {
		g.Go(func() error { return c.Run(doors) })
	}
	if s.telling != nil {
		g.Go(func() error { return s.telling.Serve(doors) })
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *Server) accept(ctx context.Context, st rpc.Stream, p access.Principal, via, remote string) {
	_ = s.Serve(ctx, st, p, via, remote) // the gate has logged why
}

// ServeBytes is what the daemon's own socket is, for a client elsewhere that was
// proved to be p: it answers the WebSocket handshake that comes on rw, and serves
// the connection until it is over. Run must be running.
func (s *Server) ServeBytes(ctx context.Context, rw io.ReadWriteCloser, p access.Principal, via, remote string) error {
	if away, err := s.succ.away(ctx); err != nil {
		_ = rw.Close()
		return err
	} else if away {
		return s.visitBytes(ctx, rw, p, via, remote)
	}
	o := transport.Options{Log: s.cfg.Log, Sessions: s.sessions, Egress: s.cfg.Egress}
	return transport.ServeBytes(ctx, rw, o, p, via, remote, s.accept)
}

// Serve gives one connection its life at the gate and returns when it is over.
// It closes the stream. Once the engine has stopped nobody is let in.
func (s *Server) Serve(ctx context.Context, st rpc.Stream, p access.Principal, via, remote string) error {
	r, err := s.succ.enter(ctx)
	switch {
	case err == nil && r == nil && via == "ssh": // its door is still here
		return s.visit(ctx, st, p, via, remote)
	case err == nil && r == nil:
		err = errSucceeded
	case err == nil:
		defer r.inside.Done()
		if !s.clients.enter() {
			err = errStopping
		}
	}
	if err != nil {
		_ = st.Close(rpc.ErrClosed)
		return err
	}
	defer s.clients.leave()
	// To the gate it is the client that leaves: what it saw last is kept for whoever
	// comes next.
	defer context.AfterFunc(r.ctx, func() { _ = st.Close(context.Cause(r.ctx)) })()
	return s.gate.Serve(ctx, s.meter.Stream(st, via), gate.Client{Principal: p, Via: via, Remote: remote})
}

var errStopping = errors.New("the host is stopping")

// census counts who is inside until the doors close.
type census struct {
	mu     sync.Mutex // guards what follows
	inside int
	empty  chan struct{} // not nil once draining; closed when nobody is inside
}

func (c *census) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.empty != nil {
		return false
	}
	c.inside++
	return true
}

func (c *census) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside--; c.inside == 0 && c.empty != nil {
		close(c.empty)
	}
}

// drained lets nobody in from now on; the channel is closed when all have left.
// It is called once.
func (c *census) drained() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.empty = make(chan struct{})
	if c.inside == 0 {
		close(c.empty)
	}
	return c.empty
}

// Addresses lists the listeners as clients dial them: what was asked for first,
// the daemon's own socket last.
func (s *Server) Addresses() []string {
	var out []string
	open := s.doors.listeners()
	for _, l := range open[1:] {
		out = append(out, l.URL())
	}
	return append(out, open[0].URL())
}

// Record writes one event to the audit log for a door outside this package.
func (s *Server) Record(event string, p access.Principal, attrs ...slog.Attr) {
	s.audit.Record(event, p, attrs...)
}

// Stats is what the gate has counted.
func (s *Server) Stats() gate.Stats { return s.gate.Stats() }

// Status is what `towline status` shows. The gate adds who is attached.
func (s *Server) Status() protocol.HostStatus {
	st := protocol.HostStatus{
		Version: s.cfg.Version, PID: os.Getpid(), StartedAt: s.started.Unix(),
		Home: s.cfg.Paths.Home(), Project: s.cfg.Project, Listen: s.Addresses(), Engine: s.cfg.Engine.State(),
	}
	if e := s.cfg.Engine.Native; e != nil {
		st.Threads.Interrupted = e.Interrupted()
	}
	if s.cfg.Describe != nil {
		s.cfg.Describe(&st)
	}
	return st
}

// Close releases what Open opened. Run must have returned, or never begun.
func (s *Server) Close() error {
	s.cfg.Remote.wait()
	var errs []error
	if h := s.cfg.Succession.Heir; h != nil && !s.succ.confirmed { // all of it is still another's
		errs = append(errs, s.ReleaseListeners())
		h.Close()
	}
	if s.succ.listener != nil {
		errs = append(errs, s.succ.listener.Close())
	}
	if h := s.succ.elderHost(); h != nil {
		errs = append(errs, h.Close())
	}
	s.succ.carried.Wait()
	errs = append(errs, s.doors.close())
	if s.telling != nil {
		errs = append(errs, s.telling.Close())
	}
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.succ.lock != nil {
		_ = s.succ.lock.Close() // the lock goes with it
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the daemon: %w", err)
	}
	return nil
}
