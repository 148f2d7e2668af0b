package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"time"
)

const (
	// firstDelay doubles with each try that failed, up to maxDelay, and is never
	// given up. The first try comes at once.
	firstDelay = 500 * time.Millisecond
	maxDelay   = 60 * time.Second
	// hastyDelay and maxHasty are the same while links can be had and nothing
	// gets through them.
	hastyDelay = 100 * time.Millisecond
	maxHasty   = 2 * time.Second
	// stuckDial is how long a try is left alone by Retry.
	stuckDial = 3 * time.Second
)

// ResumeOptions set up the client half of a resumable stream. Dial is required.
type ResumeOptions struct {
	// Dial opens a fresh link: a Stream that negotiated [ResumeProtocol], see
	// [DialWebSocket]. It bounds itself: a person may have to type a password.
	// An error that trying again will not mend wraps ErrRefused.
	Dial func(ctx context.Context) (Stream, error)
	// First, when not nil, is a link that is open already and used before Dial is.
	First Stream
	// BufferBytes and BufferMessages bound what is kept until the server has it;
	// writers beyond that wait. Zero means the default of each.
	BufferBytes    int64
	BufferMessages int
	// Keep is how long the server shall keep the session while this end is away;
	// it may keep it for less. Zero means its default, an hour.
	Keep time.Duration
	Log  *slog.Logger // nil discards
}

// LinkState is how the link under a Resumable is.
type LinkState struct {
	Up      bool
	Attempt int       // tries since the link was lost, with one that runs; 0 while it is up
	NextTry time.Time // of the next one; zero while it is up and while one runs
	Err     error     // why the link ended, or the last try failed; nil while it is up
	Since   time.Time // when Up last changed
}

// Resumable is the client half of a resumable stream: a [Stream] that outlives
// the links it runs over. Read waits while there is none; Write keeps the
// message, and waits when too many are kept.
type Resumable struct {
	h          half
	o          ResumeOptions
	log        *slog.Logger
	id, secret token
	opened     bool           // the server has welcomed us; only run uses it
	world      world          // how a change of the machine's surroundings shows
	retry      chan struct{}  // capacity 1
	wg         sync.WaitGroup // run and what it starts

	mu      sync.Mutex // guards what follows
	started bool
	closed  bool
	cancel  context.CancelCauseFunc // of run; nil before
	state   LinkState
	changed chan struct{}
	dialing time.Time // since when; zero while not
	redial  context.CancelCauseFunc
}

var _ Stream = (*Resumable)(nil)

// NewResumable makes a client half. It starts with Connect, or with the first
// Read or Write.
func NewResumable(o ResumeOptions) *Resumable {
	r := &Resumable{o: o, log: o.Log, retry: make(chan struct{}, 1), changed: make(chan struct{}), world: surroundings()}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.h.init(o.BufferBytes, o.BufferMessages)
	_, _ = rand.Read(r.id[:]) // never fails since Go 1.24
	_, _ = rand.Read(r.secret[:])
	r.state.Since = time.Now()
	return r
}

// Connect makes the first link and waits until the server has agreed. Its error
// is the first failure; the Resumable is closed then. It is optional: without it
// the first link is tried for as long as any other.
func (r *Resumable) Connect(ctx context.Context) error {
	r.start()
	for {
		changed := r.Changed()
		st := r.State()
		err := st.Err
		switch {
		case st.Up:
			return nil
		case err != nil:
			_ = r.Close(err)
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			_ = r.Close(context.Cause(ctx))
			return context.Cause(ctx)
		}
	}
}

// start runs the links, once.
func (r *Resumable) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.closed {
		return
	}
	r.started = true
	// The links live as long as the Resumable, whoever waits for it.
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	r.wg.Go(func() { r.run(ctx) })
	r.wg.Go(func() { r.world.watch(ctx, r.Retry) })
}

// Read implements [Stream]. It ends with io.EOF when the server closed the
// stream and everything was read, and with a *LostError when it cannot go on.
func (r *Resumable) Read(ctx context.Context) ([]byte, error) {
	r.start()
	return r.h.Read(ctx)
}

// Write implements [Stream]. The message is kept until the server has it.
func (r *Resumable) Write(ctx context.Context, msg []byte) error {
	r.start()
	return r.h.Write(ctx, msg)
}

// Close implements [Stream]. With a link it lets what was written arrive and
// ends the session on the server, within two seconds. Its error, each time, is a
// *LostError when messages were left that may not have been read.
func (r *Resumable) Close(reason error) error {
	up := r.h.shut(reason)
	r.mu.Lock()
	r.closed = true
	cancel := r.cancel
	r.mu.Unlock()
	if cancel != nil {
		grace := closeTime
		if !up {
			grace = 0
		}
		t := time.AfterFunc(grace, func() { cancel(ErrClosed) })
		r.wg.Wait()
		t.Stop()
		cancel(nil)
	} else if r.o.First != nil {
		_ = r.o.First.Close(reason)
	}
	return r.h.leftover()
}

// State is how the link is now.
func (r *Resumable) State() LinkState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Changed is closed, and replaced, when State changes.
func (r *Resumable) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *Resumable) set(st LinkState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st.Since = r.state.Since; st.Up != r.state.Up {
		st.Since = time.Now()
	}
	r.state = st
	close(r.changed)
	r.changed = make(chan struct{})
}

// errRetry ends a try that hangs so that another can begin.
var errRetry = errors.New("trying again")

// Retry tries again at once instead of at NextTry. With a link, it makes sure
// that the link still works.
func (r *Resumable) Retry() {
	r.mu.Lock()
	if r.state.Up {
		r.mu.Unlock()
		r.h.probe()
		return
	}
	stuck := r.redial
	if r.dialing.IsZero() || time.Since(r.dialing) < stuckDial {
		stuck = nil
	}
	idle := r.dialing.IsZero()
	r.mu.Unlock()
	switch {
	case stuck != nil:
		stuck(errRetry)
	case idle:
		poke(r.retry)
	}
}

// run keeps a link under the half until the stream is over or ctx ends.
func (r *Resumable) run(ctx context.Context) {
	defer func() { r.cancel(ErrClosed) }() // the watch on the world ends too
	attempt, hasty, mark := 0, 0, uint64(0)
	var why error
	for {
		attempt++
		r.set(LinkState{Attempt: attempt, Err: why})
		l, err := r.link(ctx)
		if err == nil {
			attempt = 0
			r.set(LinkState{Up: true})
			r.log.Debug("link up", "session", r.name())
			err = r.h.carry(ctx, l)
			r.h.detach(l)
			hasty++
			if m := r.h.mark(); m > mark {
				hasty, mark = 0, m
			}
		}
		if why = err; r.h.isOver() || ctx.Err() != nil || r.isClosed() {
			if e := r.h.fate(); r.isClosed() {
				why = ErrClosed
			} else if e != nil {
				why = e
			}
			r.log.Debug("session over", "session", r.name(), "why", why)
			r.set(LinkState{Attempt: attempt, Err: why})
			return
		}
		r.log.Debug("link down", "session", r.name(), "attempt", attempt, "why", why)
		if errors.Is(err, errRetry) {
			continue
		}
		delay := maxDelay
		switch {
		case errors.Is(err, ErrRefused):
		case attempt == 0:
			delay = backoff(hasty-1, hastyDelay, maxHasty)
		default:
			delay = max(backoff(attempt, firstDelay, maxDelay), RetryAfter(err))
		}
		r.set(LinkState{Attempt: attempt, Err: why, NextTry: time.Now().Add(delay)})
		t := time.NewTimer(delay)
		select {
		case <-t.C:
		case <-r.retry:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// backoff is how long to wait after n tries that came to nothing: twice as long
// each time, give or take a quarter.
func backoff(n int, first, most time.Duration) time.Duration {
	if n < 1 {
		return 0
	}
	d := min(first<<min(n-1, 10), most)
	return min(d-d/4+mrand.N(d/2), most)
}

func (r *Resumable) name() string { return fmt.Sprintf("%x", r.id[:4]) }

func (r *Resumable) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// link makes one try: a Stream, and the server's welcome on it.
func (r *Resumable) link(ctx context.Context) (*link, error) {
	s, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := newLink(s)
	if err = r.greet(ctx, l); err != nil {
		_ = s.Close(err)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return l, nil
}

func (r *Resumable) dial(ctx context.Context) (Stream, error) {
	if s := r.o.First; s != nil {
		r.o.First = nil
		return s, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	r.dialing, r.redial = time.Now(), cancel
	r.mu.Unlock()
	s, err := r.o.Dial(ctx)
	r.mu.Lock()
	r.dialing, r.redial = time.Time{}, nil
	r.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return s, err
}

// greet says which session the link is for, and makes it that one's link.
func (r *Resumable) greet(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTime, errSilent)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.s.Close(context.Cause(ctx)) })()
	received, taken := r.h.progress()
	hello := openFrame(r.id, r.secret, r.o.Keep)
	if r.opened {
		hello = resumeFrame(r.id, r.secret, received, taken)
	}
	if err := l.s.Write(ctx, hello); err != nil {
		return err
	}
	b, err := l.s.Read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	f, err := parseFrame(b)
	switch {
	case err != nil:
		return err
	case f.kind == 'e' && f.code == endBusy:
		return fmt.Errorf("%w: the server: %s", ErrRefused, f.text)
	case f.kind == 'e':
		r.h.lose(f.text)
		return errOver
	case f.kind != 'w':
		return errViolation
	}
	r.opened = true
	err = r.h.attach(l, f.received, f.taken, taken, false)
	if errors.Is(err, errViolation) {
		_ = l.s.Write(ctx, endFrame(endLost, 0, err.Error()))
	}
	return err
}
