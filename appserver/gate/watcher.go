package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Times of the watcher.
const (
	// watchTimeout bounds one request of the watcher's.
	watchTimeout = 20 * time.Second
	// idleLinger is how long a thread stays watched after it went idle: its last
	// messages follow the status, and the next turn often does too. The engine
	// unloads a thread 60 s after its last watcher left.
	idleLinger = 2 * time.Second
	// A thread cannot be resumed before its first turn is on disk, a few
	// milliseconds after it became active.
	resumeFirst, resumeMax = 20 * time.Millisecond, 2 * time.Second
	// maxResumes ends that: a thread that cannot be resumed after so many tries
	// is one of those that never can (an ephemeral one).
	maxResumes = 12
	// Reconnecting to an engine that should be there.
	reconnectFirst, reconnectMax = 50 * time.Millisecond, 5 * time.Second
)

// Run follows the engine until ctx ends: the watcher, the broadcasts to
// extension clients and the last-thread memory. It returns when all it started
// has ended. Serve may be called before and while it runs.
func (g *Gate) Run(ctx context.Context) error {
	g.ledger.restore()
	g.mu.Lock()
	g.running, g.done = true, ctx.Done()
	g.mu.Unlock()
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return g.watch(ctx) })
	eg.Go(func() error { return g.tellPresence(ctx) })
	eg.Go(func() error { return g.tellEngine(ctx) })
	eg.Go(func() error { return g.keepLast(ctx) })
	err := eg.Wait()
	g.mu.Lock()
	g.running = false
	for _, stop := range g.orphans {
		close(stop)
	}
	g.mu.Unlock()
	g.own.Wait()
	return err
}

// stopping reports whether it is the gate that ends, not an engine: what is open
// then stays open in the store, for a daemon that outlives us.
func (g *Gate) stopping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.done: // never, before Run
		return true
	default:
		return false
	}
}

// watch keeps a watcher connected as long as there is an engine.
func (g *Gate) watch(ctx context.Context) error {
	delay := reconnectFirst
	for ctx.Err() == nil {
		changed := g.cfg.Engine.Changed()
		began := time.Now()
		err := g.watchOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		g.log.Debug("watcher lost its connection", "err", err)
		if time.Since(began) > reconnectMax {
			delay = reconnectFirst
		}
		t := time.NewTimer(delay + rand.N(delay/4+1))
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		delay = min(delay*2, reconnectMax)
	}
	return nil
}

// watcher is one engine connection of the gate's own. It subscribes to threads
// that work while no client watches them, and answers nothing. Where a client
// watches, its connection tells the same, and a second subscriber would cost a
// fifth of the engine's streaming throughput (measured: BenchmarkCodexDeltas).
type watcher struct {
	g      *Gate
	u      *upstream
	events chan struct{} // capacity 1: something in wanted changed

	// Written by the reader, read by the worker, under Gate.mu.
	threads map[protocol.ThreadID]*watched
}

type watched struct {
	active    bool
	ephemeral bool // cannot be resumed by anyone
	idleSince time.Time
	on        bool // subscribed
	onSince   time.Time
	tries     int
	next      time.Time // of the next try
}

func (g *Gate) watchOnce(ctx context.Context) error {
	s, err := g.connect(ctx)
	if err != nil {
		return err
	}
	w := &watcher{g: g, u: g.newUpstream(s, nil), events: make(chan struct{}, 1), threads: make(map[protocol.ThreadID]*watched)}
	g.watching.Store(true)
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return w.read(ctx) })
	eg.Go(func() error {
		defer func() { _ = s.Close(rpc.ErrClosed) }() // unblocks the reader
		return w.work(ctx)
	})
	err = eg.Wait()
	// The order matters: connections that end from here on know by the epoch
	// that their engine is gone.
	g.watching.Store(false)
	g.epoch.Add(1)
	g.mu.Lock()
	clear(g.active)
	g.mu.Unlock()
	w.u.close(rpc.ErrClosed)
	if !g.stopping() {
		g.ledger.engineLost()
	}
	return err
}

func (w *watcher) read(ctx context.Context) error {
	for {
		msg, err := w.u.s.Read(ctx)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		env, err := protocol.PeekTrusted(msg)
		if err != nil {
			continue
		}
		ev := classify(env, msg)
		if w.u.observe(&ev) {
			continue
		}
		switch ev.what {
		case whatStatus:
			w.status(protocol.ThreadID(ev.thread), protocol.Field(ev.Params, "status"))
		case whatThreadStarted:
			thread := protocol.Field(ev.Params, "thread")
			if string(protocol.Field(thread, "ephemeral")) == "true" {
				w.ephemeral(protocol.ThreadID(ev.thread))
			}
			w.status(protocol.ThreadID(ev.thread), protocol.Field(thread, "status"))
		case whatThreadClosed:
			w.forget(protocol.ThreadID(ev.thread))
		case whatOther:
			if env.Method == protocol.AccountCompleted {
				w.loggedIn(env.Params)
			}
		}
	}
}

// loggedIn records how a login ended, whoever began it.
func (w *watcher) loggedIn(params json.RawMessage) {
	var done protocol.LoginCompleted
	if json.Unmarshal(params, &done) != nil {
		return
	}
	attrs := []slog.Attr{slog.Bool("success", done.Success)}
	if done.Error != nil {
		attrs = append(attrs, slog.String("why", printable(*done.Error, 300)))
	}
	w.g.audit(protocol.EventLogin, nil, attrs...)
}

func (w *watcher) thread(id protocol.ThreadID) *watched {
	t := w.threads[id]
	if t == nil {
		t = new(watched)
		w.threads[id] = t
	}
	return t
}

func (w *watcher) ephemeral(id protocol.ThreadID) {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	w.thread(id).ephemeral = true
}

func (w *watcher) forget(id protocol.ThreadID) {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	delete(w.threads, id)
	delete(w.g.active, id)
}

// status books what a thread does now. The watcher's stream alone decides that:
// others may be a moment behind and would turn it back.
func (w *watcher) status(id protocol.ThreadID, raw json.RawMessage) {
	var st protocol.ThreadStatus
	if id == "" || json.Unmarshal(raw, &st) != nil {
		return
	}
	w.g.mu.Lock()
	t := w.thread(id)
	switch st.Type {
	case protocol.StatusActive:
		if !t.active {
			t.active, t.tries, t.next = true, 0, time.Time{}
		}
		w.g.active[id] = len(st.ActiveFlags) > 0
	case protocol.StatusNotLoaded:
		delete(w.threads, id)
		delete(w.g.active, id)
	default:
		if t.active {
			t.active, t.idleSince = false, time.Now()
		}
		delete(w.g.active, id)
		if !t.on && !t.ephemeral {
			delete(w.threads, id)
		}
	}
	w.g.mu.Unlock()
	if st.Type != protocol.StatusActive {
		// For threads whose turn/completed nobody was there to see.
		w.g.ledger.threadStopped(w.u, id, true)
	}
	poke(w.events)
}

// working counts threads that work, and those of them that wait for a person.
func (g *Gate) working() (working, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, waits := range g.active {
		if waits {
			waiting++
		}
	}
	return len(g.active), waiting
}

// activeNow are the threads that work, and whether they wait for a person.
func (g *Gate) activeNow() map[protocol.ThreadID]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.active)
}

// work does the handshake, finds out what runs already, and then subscribes and
// unsubscribes as the threads' states change.
func (w *watcher) work(ctx context.Context) error {
	err := w.call(ctx, "initialize", map[string]any{
		"clientInfo":   map[string]string{"name": "towline-watcher", "title": "Towline", "version": w.g.cfg.Version},
		"capabilities": map[string]bool{"experimentalApi": true},
	}, nil)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if msg, err := protocol.NewNotification("initialized", nil, 0); err == nil {
		if err := w.u.s.Write(ctx, msg); err != nil {
			return err
		}
	}
	if err := w.survey(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.events:
		case <-w.g.cover:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		next, err := w.settle(ctx)
		if err != nil {
			return err
		}
		timer.Reset(next)
	}
}

// survey books the threads that were loaded before the watcher came.
func (w *watcher) survey(ctx context.Context) error {
	const most = 1000 // what a host could sensibly have loaded
	var loaded struct {
		Data []protocol.ThreadID `json:"data"`
	}
	if err := w.call(ctx, "thread/loaded/list", map[string]int{"limit": most}, &loaded); err != nil {
		return fmt.Errorf("list loaded threads: %w", err)
	}
	for _, id := range loaded.Data {
		var r struct {
			Thread struct {
				Status    json.RawMessage `json:"status"`
				Ephemeral bool            `json:"ephemeral"`
			} `json:"thread"`
		}
		err := w.callThen(ctx, "thread/read", map[string]any{"threadId": id, "includeTurns": false}, func(env protocol.Envelope) {
			w.g.places.learn(protocol.Field(env.Result, "thread"), nil)
			_ = json.Unmarshal(env.Result, &r) // what is missing is taken for idle
		})
		if err != nil {
			if ctx.Err() != nil || !refused(err) {
				return fmt.Errorf("read thread: %w", err)
			}
			continue // it was closed meanwhile
		}
		if r.Thread.Ephemeral {
			w.ephemeral(id)
		}
		w.g.mu.Lock()
		_, known := w.threads[id]
		w.g.mu.Unlock()
		if !known || r.Thread.Ephemeral { // a broadcast is newer than this answer may be
			w.status(id, r.Thread.Status)
		}
	}
	return nil
}

// settle does what is due and says when it wants to be called again at the
// latest.
func (w *watcher) settle(ctx context.Context) (next time.Duration, err error) {
	next = time.Hour
	type entry struct {
		id protocol.ThreadID
		t  *thread
		watched
	}
	var all []entry
	w.g.mu.Lock()
	for id, t := range w.threads {
		all = append(all, entry{id, w.g.threads[id], *t})
	}
	w.g.mu.Unlock()
	for _, e := range all {
		covered := false
		if e.t != nil {
			e.t.mu.Lock()
			covered = e.t.clients > 0
			e.t.mu.Unlock()
		}
		method, due := "", time.Time{}
		switch {
		case e.active && !e.on && !covered && !e.ephemeral && e.tries < maxResumes:
			method, due = "thread/resume", e.next
		case e.on && !e.active:
			method, due = "thread/unsubscribe", e.idleSince.Add(idleLinger)
		case e.on && covered:
			// Those who come and go must not make it come and go.
			method, due = "thread/unsubscribe", e.onSince.Add(idleLinger)
			if w.soleWitness(e.id) {
				due = time.Now().Add(idleLinger)
			}
		default:
			continue
		}
		if wait := time.Until(due); wait > 0 {
			next = min(next, wait)
			continue
		}
		if err := w.turn(ctx, e.id, method); err != nil {
			return 0, err
		}
		next = 0 // look again: the answer took time
	}
	return next, nil
}

// soleWitness reports whether a client that joined late depends on what this
// connection alone saw begin.
func (w *watcher) soleWitness(id protocol.ThreadID) bool {
	w.u.book.Lock()
	defer w.u.book.Unlock()
	s := w.u.subs[id]
	return s != nil && w.u.neededForLocked(s)
}

// turn subscribes or unsubscribes one thread. The books follow on the reader's
// side, at the point of the stream where the answer stands.
func (w *watcher) turn(ctx context.Context, id protocol.ThreadID, method string) error {
	on := method == "thread/resume"
	params := map[string]any{"threadId": id}
	if on {
		params["excludeTurns"] = true
	}
	err := w.callThen(ctx, method, params, func(protocol.Envelope) {
		if on {
			w.u.subscribe(id)
		} else {
			w.u.unsubscribe(id)
		}
	})
	if err != nil && !refused(err) {
		return err
	}
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	t := w.threads[id]
	if t == nil && on && err == nil {
		// It went idle while we asked, and nobody remembered that it was asked for.
		t = w.thread(id)
		t.idleSince = time.Now()
	}
	switch {
	case t == nil: // closed meanwhile
	case on && err != nil:
		delay := min(resumeFirst<<t.tries, resumeMax)
		t.tries++
		t.next = time.Now().Add(delay)
		if t.tries == maxResumes {
			w.g.log.Debug("thread cannot be watched", "thread", id, "err", err)
		}
	case on:
		t.on, t.onSince, t.tries = true, time.Now(), 0
		if !t.active {
			t.idleSince = time.Now()
		}
	default:
		t.on = false
		if !t.active && !t.ephemeral {
			delete(w.threads, id)
		}
	}
	return nil
}

// call sends a request of the watcher's and waits for its answer.
func (w *watcher) call(ctx context.Context, method string, params, result any) error {
	var raw json.RawMessage
	if err := w.callThen(ctx, method, params, func(env protocol.Envelope) { raw = env.Result }); err != nil {
		return err
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(raw, result)
}

// callThen is call with a look at a good answer in its place in the stream.
func (w *watcher) callThen(ctx context.Context, method string, params any, then func(protocol.Envelope)) error {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	answer := make(chan error, 1)
	w.u.call(method, params, func(env protocol.Envelope) {
		err := errOf(env)
		if err == nil {
			then(env)
		}
		answer <- err
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
