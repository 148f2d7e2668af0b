package rpc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of SessionsConfig. What one person leaves behind by closing laptops
// must not press out what another works with.
const (
	defaultPerOwner   = 32
	defaultSessions   = 400
	defaultOwnerBytes = 96 << 20
	defaultTotalBytes = 256 << 20
	defaultAway       = time.Hour
	defaultMaxAway    = 24 * time.Hour
)

// SessionsConfig bounds what absent clients can make a server hold. The zero
// value is a safe default.
type SessionsConfig struct {
	// PerOwner and Total bound sessions, of one owner and in all. A new one beyond
	// that ends the owner's that has been without a link for longest.
	PerOwner, Total int
	// BufferBytes and BufferMessages bound what one session keeps for a client
	// that is away; OwnerBytes what all of one owner's do, TotalBytes all there are.
	BufferBytes            int64
	BufferMessages         int
	OwnerBytes, TotalBytes int64
	// Away is how long a session is kept for an absent client that asked for no
	// time; MaxAway for any.
	Away, MaxAway time.Duration
	Log           *slog.Logger // nil discards
}

func (c SessionsConfig) withDefaults() SessionsConfig {
	def := func(p *int64, d int64) {
		if *p <= 0 {
			*p = d
		}
	}
	count := func(p *int, d int) {
		if *p <= 0 {
			*p = d
		}
	}
	count(&c.PerOwner, defaultPerOwner)
	count(&c.Total, defaultSessions)
	def(&c.OwnerBytes, defaultOwnerBytes)
	def(&c.TotalBytes, defaultTotalBytes)
	def((*int64)(&c.Away), int64(defaultAway))
	def((*int64)(&c.MaxAway), int64(defaultMaxAway))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Sessions is the server half: it finds the stream that a link belongs to. It is
// safe for concurrent use. Lock order: Sessions.mu, then a half's.
type Sessions struct {
	cfg   SessionsConfig
	apps  sync.WaitGroup // accepts
	total atomic.Int64   // bytes kept

	running chan struct{} // closed once Run runs

	mu     sync.Mutex      // guards what follows
	ctx    context.Context // of Run, which is the sessions' lifetime; nil before
	byKey  map[sessionKey]*session
	owners map[string]*owner
}

type sessionKey struct {
	owner string
	id    token
}

// owner is what all sessions of one owner share.
type owner struct {
	sessions int // guarded by Sessions.mu
	bytes    atomic.Int64
}

// session is one stream as the server has it. It is what accept gets.
type session struct {
	half
	all    *Sessions
	key    sessionKey
	secret token
	keep   time.Duration // without a link

	life    sync.Mutex    // guards what follows; innermost
	expiry  *time.Timer   // set while there is no link
	changed chan struct{} // closed and replaced when a link comes or goes
}

// NewSessions makes the server half. Run must be running for Serve to serve.
func NewSessions(cfg SessionsConfig) *Sessions {
	return &Sessions{
		cfg: cfg.withDefaults(), running: make(chan struct{}),
		byKey: make(map[sessionKey]*session), owners: make(map[string]*owner),
	}
}

// Run lives until ctx ends, then lets every accept end and waits for it. It is
// called once.
func (s *Sessions) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	close(s.running)
	<-ctx.Done()
	_ = s.every() // whoever is being let in, is in after this; nobody else is
	s.apps.Wait()
	for _, x := range s.every() {
		x.linger(0)
		s.forget(x)
	}
	return nil
}

func (s *Sessions) every() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.byKey))
	for _, x := range s.byKey {
		out = append(out, x)
	}
	return out
}

// Serve carries one link, which has negotiated [ResumeProtocol], until it is
// over, and closes it. owner says whose it is and with which rights: a session
// is only found again by the same owner. For a new session accept is called
// once, in a goroutine of its own, with the stream that outlives the link; the
// stream is closed when it returns. Its context ends with Run's.
//
// When ctx ends nothing more is taken from the link, and it has two seconds to
// tell what there is to tell. With [ErrExpelled] as the cause the session ends too.
func (s *Sessions) Serve(ctx context.Context, st Stream, owner string, accept func(context.Context, Stream)) error {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	l := newLink(st)
	defer l.end(errOver)
	x, fresh, err := s.greet(ctx, l, owner)
	if err != nil {
		return err
	}
	if fresh {
		s.cfg.Log.Debug("session opened", "session", x.name())
		go s.run(x, accept) // counted by apps
	} else {
		s.cfg.Log.Debug("session resumed", "session", x.name())
	}
	x.linger(-1)
	defer context.AfterFunc(ctx, func() {
		x.deafen(l)
		if errors.Is(context.Cause(ctx), ErrExpelled) {
			x.expel(l, expelledText)
		}
		t := time.NewTimer(closeTime)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-l.done:
		}
	})()
	err = x.carry(hard, l)
	switch {
	case x.isOver():
		s.cfg.Log.Debug("session over", "session", x.name(), "why", x.fate(), "link", err)
		s.forget(x)
	case !x.detach(l): // it goes on over another link
	case x.isOver():
		s.cfg.Log.Info("session over", "session", x.name(), "why", x.fate())
		s.forget(x)
	default:
		s.cfg.Log.Debug("session away", "session", x.name(), "why", err)
		x.linger(x.keep)
	}
	if errors.Is(err, errOver) || errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// run is a session's goroutine.
func (s *Sessions) run(x *session, accept func(context.Context, Stream)) {
	defer s.apps.Done()
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error("session panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		_ = x.Close(nil)
	}()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	accept(ctx, x)
}

// greet reads which session l is for, finds or makes it, and makes l its link.
func (s *Sessions) greet(ctx context.Context, l *link, owner string) (x *session, fresh bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTime, errSilent)
	defer cancel()
	select {
	case <-s.running:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	b, err := l.s.Read(ctx)
	if err != nil {
		return nil, false, err
	}
	f, err := parseFrame(b)
	if err != nil || f.kind != 'o' && f.kind != 'r' {
		return nil, false, errFrame
	}
	x, fresh, refusal := s.find(owner, f)
	if refusal != nil {
		_ = l.s.Write(ctx, refusal) // a peer that is gone needs none
		return nil, false, errOver
	}
	if err := x.attach(l, f.received, f.taken, 0, true); err != nil {
		_ = l.s.Write(ctx, endFrame(endLost, 0, err.Error()))
		s.forget(x)
		if fresh { // ended to make room, before it began
			s.apps.Done()
		}
		return nil, false, err
	}
	return x, fresh, nil
}

// find looks a session up, or makes it. Whoever is not its owner, or does not
// know the secret, learns no more than that there is none.
func (s *Sessions) find(name string, f frame) (x *session, fresh bool, refusal []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := sessionKey{name, f.id}
	if x := s.byKey[k]; x != nil && subtle.ConstantTimeCompare(x.secret[:], f.secret[:]) == 1 && !x.isOver() {
		return x, false, nil
	} else if x != nil || f.kind == 'r' {
		return nil, false, endFrame(endLost, 0, "this host does not know it any more")
	}
	if s.ctx.Err() != nil {
		return nil, false, endFrame(endBusy, 0, "the host is stopping")
	}
	o := s.owners[name]
	if o == nil {
		o = new(owner)
	}
	if o.sessions >= s.cfg.PerOwner || len(s.byKey) >= s.cfg.Total {
		old := s.absentLocked(name)
		if old == nil {
			return nil, false, endFrame(endBusy, 0, "there are too many sessions here")
		}
		s.cfg.Log.Info("session ended to make room", "session", old.name())
		old.lose("another session of yours took its place")
		s.forgetLocked(old)
	}
	s.owners[name] = o
	x = &session{all: s, key: k, secret: f.secret, keep: f.keep, changed: make(chan struct{})}
	if x.keep <= 0 {
		x.keep = s.cfg.Away
	}
	x.keep, x.since = min(x.keep, s.cfg.MaxAway), time.Now()
	x.init(s.cfg.BufferBytes, s.cfg.BufferMessages)
	x.budget = &budget{owner: &o.bytes, total: &s.total, ownerMax: s.cfg.OwnerBytes, totalMax: s.cfg.TotalBytes}
	o.sessions++
	s.byKey[k] = x
	s.apps.Add(1)
	return x, true, nil
}

// absentLocked is the session of an owner that has been without a link longest.
func (s *Sessions) absentLocked(owner string) (old *session) {
	var since time.Time
	for k, x := range s.byKey {
		if k.owner != owner {
			continue
		}
		if at, away := x.Away(); away && (old == nil || at.Before(since)) {
			old, since = x, at
		}
	}
	return old
}

// forget takes a session out of the books.
func (s *Sessions) forget(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(x)
}

func (s *Sessions) forgetLocked(x *session) {
	if s.byKey[x.key] != x {
		return
	}
	delete(s.byKey, x.key)
	o := s.owners[x.key.owner]
	if o.sessions--; o.sessions == 0 {
		delete(s.owners, x.key.owner)
	}
}

// Count is how many sessions there are, with and without a link.
func (s *Sessions) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byKey)
}

// Expel ends every session whose owner matches, one without a link too: whoever
// owns it has lost the right to be here. It is told so, where it can be.
func (s *Sessions) Expel(match func(owner string) bool) {
	for _, x := range s.every() {
		if match(x.key.owner) {
			Expel(x)
		}
	}
}

// Expel does the same for the session st is, if it is one.
func Expel(st Stream) {
	if x, ok := st.(*session); ok {
		x.evict(expelledText)
		x.all.forget(x)
	}
}

const expelledText = "access to this host was changed or removed"

func (x *session) name() string { return fmt.Sprintf("%x", x.key.id[:4]) }

// Write implements [Stream]. It does not wait for a client that is away.
func (x *session) Write(ctx context.Context, msg []byte) error {
	err := x.half.Write(ctx, msg)
	if errors.Is(err, ErrLost) {
		x.all.forget(x)
	}
	return err
}

// Close implements [Stream]: what was written is still sent, also to a client
// that is away and comes back in time.
func (x *session) Close(reason error) error {
	x.shut(reason)
	return nil
}

// Away tells since when there is no link; away is false while there is one.
func (x *session) Away() (since time.Time, away bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.since, x.lk == nil
}

// Changed is closed, and replaced, when Away changes.
func (x *session) Changed() <-chan struct{} {
	x.life.Lock()
	defer x.life.Unlock()
	return x.changed
}

// linger lets the session end after a time without a link; a negative one means
// that there is a link, and 0 that nobody waits any more.
func (x *session) linger(d time.Duration) {
	x.life.Lock()
	defer x.life.Unlock()
	if x.expiry != nil {
		x.expiry.Stop()
		x.expiry = nil
	}
	close(x.changed)
	x.changed = make(chan struct{})
	if d > 0 {
		x.expiry = time.AfterFunc(d, x.expire)
	}
}

func (x *session) expire() {
	if since, away := x.Away(); !away || time.Since(since) < x.keep {
		return // there was another link meanwhile
	}
	x.lose("the client did not come back in time")
	x.all.cfg.Log.Info("session expired", "session", x.name())
	x.all.forget(x)
}
