package launcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"towline/appserver/rpc"
	"towline/config/sshconfig"
	"towline/launcher/agentfwd"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
	"towline/launcher/sshclient"
)

// errClosed is what calls on a closed Session get.
var errClosed = errors.New("the session is closed")

// Session is a connection to a host's app-server that comes back by itself. All
// methods may be called concurrently.
//
// It has one SSH connection at a time. When that is lost, whoever needs it next
// makes it anew, and the others wait for the same attempt; a resumable stream
// needs it at once, so that with a Towline remote nobody has to do anything.
type Session struct {
	cfg     Config
	target  sshconfig.Target // set by connect, then constant
	secrets *sshclient.Secrets
	keeper  *keeper

	ctx    context.Context // the session's life: what runs for several callers is bound to it
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conn    remote.Conn
	attempt *attempt // in flight, or the last one
	tries   int      // since the connection was lost
	invited bool     // a person asked for the next attempt
	doing   string   // the stage an attempt is at
	lost    error    // why there is no connection, as far as known
	since   time.Time
	report  bootstrap.Report // of the last look
	found   *found
	opened  bootstrap.Opened
	first   rpc.Stream // opened by Connect, for the first Dial
	firstOn remote.Conn
	firstAt time.Time
	agent   *agentfwd.Holder
	streams map[*stream]struct{}
	changed chan struct{}
	closed  bool

	wake chan struct{} // capacity 1
}

func newSession(cfg Config) *Session {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Session{
		cfg: cfg, ctx: ctx, cancel: cancel,
		secrets: sshclient.NewSecrets(), keeper: newKeeper(cfg.Ask),
		streams: make(map[*stream]struct{}), changed: make(chan struct{}), wake: make(chan struct{}, 1), since: time.Now(),
	}
}

func (s *Session) identity() string { return identity(s.target, s.cfg.options(nil)) }

// Dial opens an app-server stream, the first time the one Connect made. When the
// SSH connection is gone it is made anew first; ctx bounds the waiting for that,
// not the attempt, which others may wait for too. Errors are *config.Problem;
// those only a person can mend match rpc.ErrRefused.
//
// A stream that outlives its link also has State, Changed and Retry, as
// rpc.Resumable does; any other ends with the link.
func (s *Session) Dial(ctx context.Context) (rpc.Stream, error) {
	s.mu.Lock()
	st, opened := s.first, s.opened
	fresh := st != nil && time.Since(s.firstAt) < firstLasts && !over(s.firstOn)
	s.first, s.firstOn = nil, nil
	s.mu.Unlock()
	if fresh {
		if out, err := s.stream(ctx, st, opened); err == nil || ctx.Err() != nil {
			return out, err
		}
	} else if st != nil {
		_ = st.Close(nil)
	}
	st, opened, err := s.link(ctx)
	if err != nil {
		return nil, err
	}
	return s.stream(ctx, st, opened)
}

// firstLasts is for how long the stream that Connect opened is good. Whoever is
// first may come much later, and hosts give up on a stream that says nothing.
const firstLasts = 10 * time.Second

// stream makes st, a link just opened, what Dial returns.
func (s *Session) stream(ctx context.Context, st rpc.Stream, opened bootstrap.Opened) (rpc.Stream, error) {
	return s.streamKeeping(ctx, st, opened, s.cfg.Keep)
}

func (s *Session) streamKeeping(ctx context.Context, st rpc.Stream, opened bootstrap.Opened, keep time.Duration) (rpc.Stream, error) {
	if !opened.Resumable {
		return s.register(&stream{Stream: st, s: s})
	}
	r := rpc.NewResumable(rpc.ResumeOptions{First: st, Dial: s.resume, Keep: keep, Log: s.cfg.Log})
	// The server answers before anything else: what is wrong with it is known now,
	// to somebody who waits.
	if err := r.Connect(ctx); err != nil {
		return nil, newProgress(s.cfg.Host, nil).fail(remote.StageHandshake, err)
	}
	return s.register(&stream{Stream: r, s: s, resumable: r})
}

// resume makes a link for a stream that lost its own.
func (s *Session) resume(ctx context.Context) (rpc.Stream, error) {
	s.check(ctx) // the stream knows sooner than the connection
	st, opened, err := s.link(ctx)
	if err == nil && !opened.Resumable {
		_ = st.Close(nil)
		return nil, fmt.Errorf("%s answers there now instead of a towline that keeps sessions: %w", opened.Kind, rpc.ErrRefused)
	}
	return st, err
}

// State is how a Session's link is, for a banner.
type State struct {
	rpc.LinkState
	// Doing is the stage an attempt is at, "" when none runs.
	Doing string
}

// State is how the link is now: that of the stream that is worst off, or of the
// SSH connection while there is none.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := s.conn != nil && !over(s.conn)
	out := State{LinkState: rpc.LinkState{Up: up, Attempt: s.tries, Err: s.lost, Since: s.since}, Doing: s.doing}
	for st := range s.streams {
		if st.resumable == nil {
			continue
		}
		if ls := st.resumable.State(); !ls.Up && (out.Up || ls.Attempt > out.Attempt) {
			out.LinkState = ls
		}
	}
	return out
}

// Changed is closed, and replaced, when State may have changed.
func (s *Session) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Session) tellChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Wake tells, to one listener, that now is a good moment to try again: the
// machine woke up, the network changed. Streams that heal know it already.
func (s *Session) Wake() <-chan struct{} { return s.wake }

// Retry tries again at once: a person asked for it, so it may ask them things.
func (s *Session) Retry() {
	s.mu.Lock()
	s.invited = true
	s.mu.Unlock()
	s.secrets.Invite()
	s.hurry()
}

// hurry makes every stream try again at once, or make sure that its link works.
func (s *Session) hurry() {
	s.mu.Lock()
	s.attempt = forget(s.attempt)
	all := make([]*rpc.Resumable, 0, len(s.streams))
	for st := range s.streams {
		if st.resumable != nil {
			all = append(all, st.resumable)
		}
	}
	s.mu.Unlock()
	for _, r := range all {
		r.Retry()
	}
}

// start begins what runs beside a session: it notices sleep and other networks.
func (s *Session) start() {
	s.wg.Go(func() {
		newWatcher().run(s.ctx, func(why string) {
			s.cfg.Log.Info("trying the link at once", "why", why)
			s.check(s.ctx)
			s.hurry()
			select {
			case s.wake <- struct{}{}:
			default:
			}
		})
	})
}

// Close ends every stream and the connection, and waits. Idempotent.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	streams := make([]*stream, 0, len(s.streams))
	for st := range s.streams {
		streams = append(streams, st)
	}
	first, holder := s.first, s.agent
	s.first, s.agent = nil, nil
	s.mu.Unlock()
	// Streams first, while there is a connection to say goodbye over.
	for _, st := range streams {
		_ = st.Close(nil)
	}
	if first != nil {
		_ = first.Close(nil)
	}
	if holder != nil {
		_ = holder.Close()
	}
	s.cancel(errClosed)
	s.wg.Wait()
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	var err error
	if conn != nil {
		err = conn.Close()
	}
	s.secrets.Forget()
	s.keeper.forget()
	return err
}

// stream is one client's stream. It leaves the session when it is closed.
type stream struct {
	rpc.Stream
	s         *Session
	resumable *rpc.Resumable // nil when it ends with the link
	once      sync.Once
	gone      chan struct{}
}

// Batch implements rpc.Batcher where what is below does.
func (st *stream) Batch(on bool) error {
	if b, ok := st.Stream.(rpc.Batcher); ok {
		return b.Batch(on)
	}
	return nil
}

// Close implements rpc.Stream.
func (st *stream) Close(reason error) error {
	err := st.Stream.Close(reason)
	st.once.Do(func() {
		close(st.gone)
		st.s.mu.Lock()
		delete(st.s.streams, st)
		st.s.mu.Unlock()
		st.s.tellChanged()
	})
	return err
}

// healing is a stream that outlives its link and says how that is.
type healing struct{ *stream }

// State is how the link is.
func (h healing) State() rpc.LinkState { return h.resumable.State() }

// Changed is closed, and replaced, when State changes.
func (h healing) Changed() <-chan struct{} { return h.resumable.Changed() }

// Retry tries again at once: a person asked for it, so it may ask them things.
func (h healing) Retry() { h.s.Retry() }

// register counts a stream among the session's and passes its changes on.
func (s *Session) register(st *stream) (rpc.Stream, error) {
	st.gone = make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = st.Stream.Close(errClosed)
		return nil, errClosed
	}
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	if st.resumable == nil {
		return st, nil
	}
	s.wg.Go(func() {
		for {
			ch := st.resumable.Changed()
			s.tellChanged()
			select {
			case <-ch:
			case <-st.gone:
				return
			case <-s.ctx.Done():
				return
			}
		}
	})
	return healing{st}, nil
}
