package appserver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"towline/appserver/access/bearer"
	"towline/appserver/metrics"
	"towline/appserver/rpc"
	"towline/appserver/transport"
)

// Listeners says how the listeners besides the daemon's own socket work. The zero
// value is what a machine of one person needs.
type Listeners struct {
	// Auth is what proves who comes; access tokens need not be named in it. When
	// it holds anything, or AccessTokens is set, nobody comes in through ws and wss
	// without a credential; else processes of this user do, on loopback.
	Auth bearer.Config
	// AccessTokens lets access tokens be all the authentication that a listener
	// beyond loopback has.
	AccessTokens bool
	// Certificates are for wss; nil is none.
	Certificates *transport.Certificates
	// DangerousPlaintext allows ws beyond loopback.
	DangerousPlaintext bool
	// Hosts are further names that clients dial listeners by.
	Hosts []string
	// Limits of each listener; zero members have defaults.
	Limits transport.Limits
	// RemoteOff leaves the listeners that other machines reach closed until
	// [Server.SetRemote] opens them.
	RemoteOff bool
	// Handed are listening sockets that a daemon before this one gave away. They are
	// taken for the addresses they were configured as.
	Handed []transport.Handed
}

// doorway is one listener, open or not.
type doorway struct {
	url    string // what to open: with the port that was chosen once
	remote bool
	l      *transport.Listener     // nil while it is closed
	stop   context.CancelCauseFunc // nil unless it is served
	done   chan struct{}           // closed when it is not served any more
}

// doors are the listeners of a daemon, its own socket first.
type doors struct {
	opts transport.Options

	turn sync.Mutex // one change at a time

	mu    sync.Mutex // guards what follows, and what a doorway holds
	all   []*doorway
	off   bool // those that other machines reach are closed
	serve func(*doorway)
}

// open opens all of urls, own first.
func (d *doors) open(ctx context.Context, own string, urls []string, handed []transport.Handed, remoteOff bool) error {
	d.off = remoteOff
	defer func() {
		for _, h := range handed { // those nobody wants any more
			_ = h.File.Close()
		}
	}()
	for _, url := range append([]string{own}, urls...) {
		w := &doorway{url: url, remote: transport.Remote(url)}
		i := slices.IndexFunc(handed, func(h transport.Handed) bool { return h.Asked == url })
		var err error
		switch {
		case w.remote && remoteOff:
			err = transport.Permitted(url, d.opts) // what could not be opened later is said now
		case i >= 0:
			h := handed[i]
			handed = slices.Delete(slices.Clone(handed), i, i+1)
			w.l, err = transport.Adopt(h, d.opts)
		default:
			w.l, err = transport.Listen(ctx, url, d.opts)
		}
		if err != nil {
			return err
		}
		if w.l != nil {
			w.url = w.l.URL()
		}
		d.all = append(d.all, w)
	}
	return nil
}

// run serves every listener, those that are opened later too, until ctx ends. It
// returns when all of that is over.
func (d *doors) run(ctx context.Context, accept transport.AcceptFunc) error {
	g, ctx := errgroup.WithContext(ctx)
	d.mu.Lock()
	d.serve = func(w *doorway) {
		ctx, cancel := context.WithCancelCause(ctx)
		l, done := w.l, make(chan struct{})
		w.stop, w.done = cancel, done
		g.Go(func() error {
			defer close(done)
			defer cancel(nil)
			return l.Serve(ctx, accept)
		})
	}
	for _, w := range d.all {
		if w.l != nil {
			d.serve(w)
		}
	}
	d.mu.Unlock()
	g.Go(func() error {
		<-ctx.Done()
		d.mu.Lock() // nobody begins to serve after this
		defer d.mu.Unlock()
		d.serve = nil
		return nil
	})
	return g.Wait()
}

// close closes what is open; run must not be running.
func (d *doors) close() error {
	var errs []error
	for _, l := range d.listeners() {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// listeners are those that are open, own first.
func (d *doors) listeners() []*transport.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*transport.Listener
	for _, w := range d.all {
		if w.l != nil {
			out = append(out, w.l)
		}
	}
	return out
}

// setRemote opens or closes what other machines reach.
func (d *doors) setRemote(ctx context.Context, on bool) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.mu.Lock()
	d.off = !on
	var ways []*doorway
	for _, w := range d.all {
		if w.remote && (w.l == nil) == on {
			ways = append(ways, w)
		}
	}
	d.mu.Unlock()
	if !on {
		d.shut(ways)
		return nil
	}
	var errs []error
	for _, w := range ways {
		l, err := transport.Listen(ctx, w.url, d.opts)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.mu.Lock()
		w.l, w.url = l, l.URL()
		if d.serve != nil {
			d.serve(w)
		}
		d.mu.Unlock()
	}
	return errors.Join(errs...)
}

// shut closes listeners together with their clients, and waits.
func (d *doors) shut(ways []*doorway) {
	var wait []chan struct{}
	d.mu.Lock()
	for _, w := range ways {
		_ = w.l.Close() // nobody new, at once
		if w.stop != nil {
			w.stop(rpc.ErrExpelled)
			wait = append(wait, w.done)
		}
		w.l, w.stop, w.done = nil, nil, nil
	}
	d.mu.Unlock()
	for _, done := range wait {
		<-done
	}
}

// SetRemote opens, or closes, the listeners that other machines reach: ws and wss
// beyond loopback. Closing them ends their clients and those of their sessions
// that are away, at once; nothing of that is left when it returns. The error says
// which could not be opened; the others are. A server without such listeners has
// nothing to do.
func (s *Server) SetRemote(ctx context.Context, on bool) error {
	err := s.doors.setRemote(ctx, on)
	if !on {
		s.sessions.Expel(transport.RemoteSession)
	}
	return err
}

// Remote says which listeners there are that other machines reach, as configured,
// and whether they are to be open.
func (s *Server) Remote() (urls []string, on bool) {
	s.doors.mu.Lock()
	defer s.doors.mu.Unlock()
	for _, w := range s.doors.all {
		if w.remote {
			urls = append(urls, w.url)
		}
	}
	return urls, !s.doors.off
}

// NeedsCredential reports whether nobody comes in at url without one.
func (s *Server) NeedsCredential(url string) bool {
	return s.doors.opts.RequireAuth && !strings.HasPrefix(url, "unix://")
}

// HandOver duplicates the listening sockets that are open for another process,
// the daemon's own first. All goes on until [Server.ReleaseListeners].
func (s *Server) HandOver() (out []transport.Handed, err error) {
	for _, l := range s.doors.listeners() {
		h, err := l.HandOver()
		if err != nil {
			for _, h := range out {
				_ = h.File.Close()
			}
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// ReleaseListeners stops accepting, and leaves sockets, their names and clients
// alone. Another process goes on with what HandOver gave it.
func (s *Server) ReleaseListeners() error {
	var errs []error
	for _, l := range s.doors.listeners() {
		errs = append(errs, l.Release())
	}
	return errors.Join(errs...)
}

// openDoors opens the listeners.
func (s *Server) openDoors(ctx context.Context) error {
	c := s.cfg
	auth := c.Listeners.Auth
	require := !auth.Empty() || c.Listeners.AccessTokens
	auth.Tokens, auth.Log, auth.Audit = s.tokens, c.Log, s.audit
	var err error
	if s.auth, err = bearer.New(auth); err != nil {
		return err
	}
	s.doors.opts = transport.Options{
		Log: c.Log, RuntimeDir: c.Paths.Runtime, Sessions: s.sessions, Egress: c.Egress,
		Auth: s.auth, RequireAuth: require, Certificates: c.Listeners.Certificates,
		DangerousPlaintext: c.Listeners.DangerousPlaintext, Hosts: c.Listeners.Hosts,
		Limits: c.Listeners.Limits, Crowd: transport.NewCrowd(), Meter: s.meter,
	}
	own := "unix://" + c.Paths.Socket()
	if err = s.doors.open(ctx, own, c.Listen, c.Listeners.Handed, c.Listeners.RemoteOff); err != nil {
		if len(s.doors.all) == 0 {
			return c.running(ctx, own, err)
		}
		return err
	}
	if c.Metrics.Listen == "" {
		return nil
	}
	c.Metrics.Metrics, c.Metrics.Log = s.meter, c.Log
	s.telling, err = metrics.Listen(ctx, c.Metrics)
	return err
}

// MetricsURL is where metrics are told; empty where they are not.
func (s *Server) MetricsURL() string {
	if s.telling == nil {
		return ""
	}
	return s.telling.URL()
}

// snapshot is what metrics look up.
func (s *Server) snapshot() metrics.Snapshot {
	st, engine, log := s.gate.Stats(), s.cfg.Engine.State(), s.audit.Counts()
	return metrics.Snapshot{
		Attached: st.Attached, Away: st.Away, Listeners: len(s.doors.listeners()),
		Requests: st.Requests, InFlight: st.InFlight, Denied: st.Denied, Limited: st.Limited, Slow: st.Slow, Lapsed: st.Lapsed,
		ApprovalsOpened: st.ApprovalsOpened, ApprovalsWaiting: st.ApprovalsWaiting,
		TurnsStarted: st.Turns, TurnsRunning: st.ThreadsWorking, TurnsWaiting: st.ThreadsWaiting,
		EngineKind: engine.Kind, EngineState: engine.State, AuditEntries: log.Entries, AuditFailures: log.Failures, AuditWaiting: log.Waiting + log.Lost,
	}
}
