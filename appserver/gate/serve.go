package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Serve carries one client until it leaves, ctx ends, or the engine closes the
// connection; it owns s and closes it. Nil means the client left in good order;
// rpc.ErrSlow that it did not read. Without an engine the client is told so in
// answer to whatever it asks, and let go when there is one.
func (g *Gate) Serve(parent context.Context, s rpc.Stream, who Client) error {
	g.ledger.restore()
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	fs := &flushable{Stream: s}
	c := g.newClient(who, rpc.NewOutbox(fs), cancel)
	var own sync.WaitGroup
	own.Go(func() { cancel(c.out.Run(ctx)) })
	c.scope, c.quota = g.newReach(ctx, who.Principal), g.quotaOf(who.Principal)
	defer g.release(c.scope, who.Principal)
	g.stats.connections.Add(1)
	if who.Principal.Lapsed != nil {
		own.Go(func() { c.watchLapse(ctx) })
	}
	if a, ok := s.(absentee); ok {
		c.away = a
		own.Go(func() { c.watchAway(ctx) })
	}
	defer func() {
		c.out.Fail(rpc.ErrClosed)
		_ = s.Close(context.Cause(ctx)) // the outbox may have told a reason before
		cancel(rpc.ErrClosed)
		own.Wait()
	}()

	up, err := g.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return clientError(context.Cause(ctx))
		}
		return clientError(g.serveWithout(ctx, s, fs, c, err))
	}
	c.u = g.newUpstream(up, c)
	g.mu.Lock()
	g.clients[c] = struct{}{}
	g.mu.Unlock()

	var left atomic.Bool
	read := make(chan struct{})
	over := func(err error) {
		defer close(read)
		if !left.Load() {
			g.engineMayTell(ctx)
			fs.goodbye(ctx, c)
			cancel(fmt.Errorf("%w: %w", errEngineGone, err))
		}
	}
	if !rpc.Feed(up, c.hear, over) {
		go func() { over(c.pumpDown()) }()
	}
	err = c.pumpUp(ctx, s)
	if errors.Is(err, io.EOF) && (who.Via == "ssh" || who.Via == "stdio") { // the ones that can end one way only
		c.lastWords(ctx)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	left.Store(true)
	g.detach(c, err)
	g.takeBack(parent, c)
	end := func() {
		_ = up.Close(rpc.ErrClosed) // nobody is left to tell
		<-read
		c.u.close(rpc.ErrClosed)
		if c.scope != nil {
			c.scope.beside.Wait()
		}
	}
	if parent.Err() != nil || c.lapsed() || !c.idle() || !g.adopt(c.u, read, end) {
		end()
	}
	return clientError(err)
}

// lastWords waits, for a client that only ended its input (a script that pipes
// requests into `ssh host app-server`), until what it asked is answered and
// written. It is bounded, and ends at once when the client is gone altogether.
func (c *client) lastWords(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWordsTime)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !c.allAnswered() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	_ = c.out.Flush(ctx) // nobody reads any more when it fails
}

// allAnswered reports whether every request was answered and every message of
// the engine's that was read has been put on the client's way.
func (c *client) allAnswered() bool {
	c.mu.Lock()
	none := c.requests == 0
	c.mu.Unlock()
	return none && !c.delivering.Load() // in this order: it is set before the count falls
}

// connect asks the engine for a connection; one that is starting may take a
// while, during which nobody reads the client.
func (g *Gate) connect(ctx context.Context) (rpc.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return g.cfg.Engine.Connect(ctx)
}

// clientError is nil for the ends that are no fault of anyone's.
func clientError(err error) error {
	if errors.Is(err, errEngineGone) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, rpc.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// pumpUp carries the client's messages until one side fails.
func (c *client) pumpUp(ctx context.Context, s rpc.Stream) error {
	for {
		msg, err := s.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.receive(ctx, msg); err != nil {
			// The engine connection is broken: let its reader notice, which has the
			// last messages to pass on and the reason.
			_ = c.u.s.Close(err) // the write's error is the one to tell
			<-ctx.Done()
			return err
		}
	}
}

// pumpDown carries the engine's messages until its stream ends, or until an
// orphaned connection is of no more use. The engine connection outlives Serve's
// context by a moment, and as an orphan by more; closing it is what ends a read,
// and a read without a context costs less.
func (c *client) pumpDown() error {
	for {
		msg, err := c.u.s.Read(context.Background())
		if err == nil {
			err = c.hear(msg)
		}
		if err != nil {
			return err
		}
	}
}

// hear takes one message of the engine's. Its error says that the connection is
// of no more use.
func (c *client) hear(msg []byte) error {
	env, err := protocol.PeekTrusted(msg)
	if err != nil {
		if c.scope == nil {
			c.put(msg) // not ours to judge: the client decides, as it would without us
		}
		return nil
	}
	ev := classify(env, msg)
	c.delivering.Store(true)
	taken := c.u.observe(&ev)
	spent := !taken && c.u.spent()
	if !taken && !spent {
		c.deliver(ev)
		c.out.Send()
	}
	c.delivering.Store(false)
	if spent {
		return rpc.ErrClosed
	}
	return nil
}

// detach takes a client off the registry.
func (g *Gate) detach(c *client, why error) {
	g.mu.Lock()
	delete(g.clients, c)
	g.mu.Unlock()
	denials := c.leave()
	g.stats.requests.Add(c.requested.Load())
	g.stats.messages.Add(c.passed.Load())
	if errors.Is(why, rpc.ErrSlow) {
		g.stats.slow.Add(1)
	}
	if c.attached() {
		attrs := []slog.Attr{slog.Duration("after", time.Since(c.at).Round(time.Millisecond))}
		if e := clientError(why); e != nil {
			attrs = append(attrs, slog.String("why", e.Error()))
		}
		if denials > 0 {
			attrs = append(attrs, slog.Int("deniedMore", denials))
		}
		g.audit("detach", c, attrs...)
		g.presenceChanged()
	}
	g.log.Debug("client left", "conn", c.id, "err", why)
}

// adopt keeps the engine connection of a client that left while something
// depends on it (neededLocked), so that the person who comes back in a moment
// finds the whole text. The watcher takes over meanwhile. end ends it.
func (g *Gate) adopt(u *upstream, read <-chan struct{}, end func()) bool {
	u.book.Lock()
	u.orphan = u.neededLocked()
	keep := u.orphan
	for _, s := range u.subs {
		if s.counted {
			s.count(-1)
		}
	}
	u.book.Unlock()
	poke(g.cover)
	if !keep {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.running || len(g.orphans) >= maxOrphans && !g.quiet.isHeld() {
		return false
	}
	stop := make(chan struct{})
	g.orphans[u] = stop
	g.own.Go(func() {
		select {
		case <-read:
		case <-stop:
		case <-u.client.who.Principal.Lapsed: // never, when nil
		}
		end()
		g.mu.Lock()
		delete(g.orphans, u)
		g.mu.Unlock()
	})
	return true
}

// spent reports whether an orphaned connection has done its duty.
func (u *upstream) spent() bool {
	u.book.Lock()
	defer u.book.Unlock()
	return u.orphan && !u.neededLocked()
}

// flushable is a client's stream that can tell when everything queued so far
// was written.
type flushable struct {
	rpc.Stream
	mark atomic.Pointer[flushMark]
}

// flushMark is queued like a message and never written. Only its address counts.
type flushMark struct {
	msg     []byte
	written chan struct{}
}

func (f *flushable) Write(ctx context.Context, msg []byte) error {
	if m := f.mark.Load(); m != nil && len(msg) > 0 && &msg[0] == &m.msg[0] {
		err := rpc.Batch(f.Stream, false)
		close(m.written)
		return err
	}
	return f.Stream.Write(ctx, msg)
}

// Room implements rpc.Roomy for the stream inside.
func (f *flushable) Room(n int) bool { return rpc.Room(f.Stream, n) }

// Batch implements rpc.Batcher for the stream inside.
func (f *flushable) Batch(on bool) error { return rpc.Batch(f.Stream, on) }

// engineMayTell gives an engine whose connection has just ended the moment it
// needs to notice why: the last thing a client hears should not be that all is
// well.
func (g *Gate) engineMayTell(ctx context.Context) {
	changed := g.cfg.Engine.Changed()
	if g.cfg.Engine.State().State != engineReady {
		return
	}
	timer := time.NewTimer(noticeTimeout)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// goodbye waits until the client has been written all that is queued for it,
// and last the engine's state if it understands that.
func (f *flushable) goodbye(ctx context.Context, c *client) {
	if c.extended() {
		c.notify(protocol.NoteEngine, c.shown(c.g.cfg.Engine.State()))
	}
	m := &flushMark{msg: []byte{0}, written: make(chan struct{})}
	f.mark.Store(m)
	c.put(m.msg)
	timer := time.NewTimer(flushTimeout)
	defer timer.Stop()
	select {
	case <-m.written:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// serveWithout answers a client while there is no engine for it.
func (g *Gate) serveWithout(parent context.Context, s rpc.Stream, fs *flushable, c *client, cause error) error {
	g.log.Debug("client without an engine", "conn", c.id, "err", cause)
	ctx, cancel := context.WithCancelCause(parent)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		g.awaitEngine(ctx)
		fs.goodbye(ctx, c)
		cancel(rpc.ErrClosed)
	}()
	defer func() { cancel(nil); <-waited }()
	for {
		msg, err := s.Read(ctx)
		if err != nil {
			return err
		}
		env, err := protocol.Peek(msg)
		if err != nil || env.Kind != protocol.KindRequest || c.lapsed() {
			continue
		}
		if why := c.afford(env.Method, int64(len(msg))); why != nil {
			c.put(protocol.NewError(env.ID, why))
			continue
		}
		if c.local(ctx, env) {
			continue
		}
		c.put(protocol.NewError(env.ID, noEngine(c.shown(g.cfg.Engine.State()), cause)))
	}
}

// awaitEngine returns when the engine is ready and has been for a moment, or
// ctx ends.
func (g *Gate) awaitEngine(ctx context.Context) {
	const settle = 500 * time.Millisecond // a connection refused while ready must not make a busy loop
	for {
		changed := g.cfg.Engine.Changed()
		var ready <-chan time.Time
		if g.cfg.Engine.State().State == engineReady {
			t := time.NewTimer(settle)
			defer t.Stop()
			ready = t.C
		}
		select {
		case <-changed:
		case <-ready:
			return
		case <-ctx.Done():
			return
		}
	}
}

// engineReady is the state in which an engine takes connections.
const engineReady = "ready"

// noEngine is the error requests get meanwhile: one sentence, then what to type.
func noEngine(st protocol.EngineState, cause error) *protocol.Error {
	text := st.Problem
	if text == "" {
		text = "the engine is " + st.State
		if st.State == engineReady {
			text = fmt.Sprintf("the engine took no connection: %v", cause)
		}
	}
	for _, h := range st.Hints {
		text += "; " + h
	}
	e := protocol.Internalf("%s", text)
	e.Data = engineData(st)
	return e
}
