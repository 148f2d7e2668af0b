package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/thread"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
)

// live is one loaded thread.
type live struct {
	e       *Engine
	id      protocol.ThreadID
	log     *thread.Log // nil for an ephemeral thread
	session *agent.Session
	procs   *exec.Manager     // of the session and of shell commands
	tools   []json.RawMessage // the clients' own, as thread/start gave them

	mu    sync.Mutex // guards what follows
	hist  *thread.History
	subs  map[*conn]bool
	turn  *running
	flags map[string]bool
	asks  []*ask       // oldest first
	pause *agent.Pause // the turn waits for somebody to log in
	idle  time.Time
	gone  bool // unloaded: nothing more happens here
	typed int  // shell commands that outlive the turn they began in

	shells sync.WaitGroup // shell commands; waited for before the session closes
}

// running is the turn at work. Its last members are guarded by live.mu.
type running struct {
	id     string
	began  time.Time
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the turn is recorded and told

	agent bool    // the agent runs it: input can be steered in
	begun bool    // and has said something, so it takes input now
	later []input // what came while nothing could take it
	over  bool    // no more input: its end is being told
}

var errGone = errors.New("the thread was unloaded")

// get finds a loaded thread.
func (e *Engine) get(id protocol.ThreadID) (*live, error) {
	if !thread.ValidID(id) {
		return nil, invalidThread(id)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.threads[id]; l != nil {
		return l, nil
	}
	if e.retired {
		return nil, errDeparted(id)
	}
	return nil, protocol.Errorf("thread not found: %s", id)
}

func invalidThread(id protocol.ThreadID) error {
	return protocol.Errorf("invalid thread id: %q is not a UUID", id)
}

// notStored is Codex's answer for a thread there is no file of; other errors
// pass.
func notStored(id protocol.ThreadID, err error) error {
	var busy *thread.BusyError
	switch {
	case errors.Is(err, thread.ErrNotFound):
		return protocol.Errorf("no rollout found for thread id %s", id)
	case errors.As(err, &busy):
		return protocol.Errorf("%v", busy)
	}
	return err
}

// add makes a loaded thread of a history; e.loading is held.
func (e *Engine) add(log *thread.Log, h *thread.History) *live {
	l := &live{
		e: e, id: h.Head.ID, log: log, hist: h, idle: e.now(), tools: h.Head.DynamicTools,
		subs: make(map[*conn]bool), flags: make(map[string]bool),
	}
	l.procs = exec.NewManager(exec.Config{Sandbox: e.box, Env: e.env(), Log: e.log})
	cfg := agent.Config{
		ThreadID: l.id, Model: e.cfg.Streamer, Exec: l.procs, History: h.Input, Home: e.cfg.Home,
		BaseInstructions: h.Head.Base, DeveloperInstructions: h.Head.Developer,
		Clock: e.cfg.Clock, Log: e.log.With("thread", l.id),
	}
	if e.cfg.Accounts != nil {
		cfg.AwaitLogin = l.awaitLogin
	}
	if h.Usage != nil {
		cfg.Usage = *h.Usage
	}
	l.session = agent.NewSession(cfg)
	h.Input = nil // the session has it now
	e.mu.Lock()
	e.threads[l.id] = l
	e.mu.Unlock()
	return l
}

func (e *Engine) env() func() []string {
	if e.cfg.Environ == nil {
		return nil
	}
	return func() []string { return e.cfg.Environ }
}

// load opens a stored thread, or returns it when it is loaded already; fresh
// tells which. e.loading is held.
func (e *Engine) load(id protocol.ThreadID) (l *live, fresh bool, err error) {
	if l, err := e.get(id); err == nil {
		return l, false, nil
	}
	if e.stopping() {
		return nil, false, draining()
	}
	if err := e.departed(id); err != nil {
		return nil, false, err
	}
	head, err := e.store.Head(id)
	if err != nil {
		return nil, false, notStored(id, err)
	}
	if head.Archived {
		return nil, false, protocol.Errorf("session %s is archived. Run `codex unarchive %s` to unarchive it first.", id, id)
	}
	log, h, err := e.store.Open(id)
	if err != nil {
		return nil, false, notStored(id, err)
	}
	return e.add(log, h), true, nil
}

// stopping reports whether nothing new begins any more.
func (e *Engine) stopping() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closing
}

func draining() error {
	return &protocol.Error{
		Code: protocol.CodeInvalidRequest, Message: "Server is draining; retry after reconnecting",
		Data: []byte(`{"reason":"serverShuttingDown"}`),
	}
}

// release unloads a thread: its turn is interrupted, its processes are ended,
// its file is given up. e.loading is held.
func (e *Engine) release(l *live, why error) {
	l.mu.Lock()
	if l.gone {
		l.mu.Unlock()
		return
	}
	l.gone = true
	t := l.turn
	l.mu.Unlock()
	if t != nil {
		t.cancel(why)
		<-t.done
	}
	e.unload(l)
	e.broadcast("thread/status/changed", map[string]any{"threadId": l.id, "status": protocol.ThreadStatus{Type: protocol.StatusNotLoaded}})
	e.broadcast("thread/closed", map[string]any{"threadId": l.id})
}

// unload ends what a thread that is gone still holds. e.loading is held.
func (e *Engine) unload(l *live) {
	l.session.Close()
	l.procs.Close()
	l.shells.Wait()
	if l.log != nil {
		if err := l.log.Close(); err != nil {
			e.log.Warn("thread file not closed well", "thread", l.id, "err", err)
		}
	}
	e.mu.Lock()
	delete(e.threads, l.id)
	e.mu.Unlock()
}

// interrupt stops the turn at work, if any. It does not wait for its end.
func (l *live) interrupt(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turn != nil {
		l.turn.cancel(why)
	}
}

// unloadIdle unloads the threads nobody has looked at for a while.
func (e *Engine) unloadIdle() {
	now := e.now()
	for _, l := range e.loaded() {
		if !l.idleSince(now.Add(-e.cfg.IdleUnload)) {
			continue
		}
		e.loading.Lock()
		// Somebody may have come back while we waited.
		if l.idleSince(now.Add(-e.cfg.IdleUnload)) {
			e.release(l, errGone)
		}
		e.loading.Unlock()
	}
}

// idleSince reports whether nothing has happened since t and nothing can. A
// command left in the background counts as something: it was left on purpose.
func (l *live) idleSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.gone && len(l.subs) == 0 && l.turn == nil && !l.idle.After(t) && len(l.session.Terminals()) == 0
}

// subscribe makes c hear what happens here; l.mu is held.
func (l *live) subscribe(c *conn) { l.subs[c] = true }

// unsubscribe undoes it and reports whether c was subscribed.
func (l *live) unsubscribe(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.subs[c]
	delete(l.subs, c)
	for _, a := range l.asks {
		delete(a.to, c)
	}
	if was && len(l.subs) == 0 {
		l.idle = l.e.now()
	}
	return was
}

// tell sends a notification to the subscribers; l.mu is held.
func (l *live) tell(method string, params any) {
	if len(l.subs) == 0 {
		return
	}
	msg, err := protocol.NewNotification(method, params, l.e.now().UnixMilli())
	if err != nil {
		l.e.log.Error("notification not encoded", "method", method, "err", err)
		return
	}
	for c := range l.subs {
		c.send(method, msg)
	}
}

// record stores records and makes them part of the history; l.mu is held.
func (l *live) record(recs ...thread.Record) error {
	if l.log != nil {
		if err := l.log.Append(recs...); err != nil {
			return err
		}
	}
	now := l.e.now().UnixMilli()
	for _, r := range recs {
		if r.AtMs == 0 {
			r.AtMs = now
		}
		l.hist.Add(r)
	}
	return nil
}

// settings are those in force; l.mu is held.
func (l *live) settings() *thread.Settings { return &l.hist.Head.Settings }

// change applies overrides and reports whether they changed anything; l.mu is
// held. The caller answers and then calls tellSettings.
func (l *live) change(o *overrides) (bool, error) {
	s := *l.settings()
	if err := l.e.apply(o, &s); err != nil {
		return false, err
	}
	if sameSettings(&s, l.settings()) {
		return false, nil
	}
	if err := l.record(thread.SetSettings(s)); err != nil {
		return false, fmt.Errorf("store settings: %w", err)
	}
	return true, nil
}

func (l *live) tellSettings() {
	l.tell("thread/settings/updated", map[string]any{"threadId": l.id, "threadSettings": l.e.describe(l.settings())})
}
