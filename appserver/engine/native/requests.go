package native

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"towline/appserver/protocol"
)

// answerGrace is how long a request to programs waits for another client after
// one did not know it.
const answerGrace = 3 * time.Second

// ask is one server request: put to every subscriber of its thread under one
// id, answered by the first of them. It waits as long as its turn does; nobody
// being there to answer is no answer.
type ask struct {
	id     int64
	method string
	msg    []byte
	l      *live
	done   chan struct{} // closed when result and err are set

	// guarded by live.mu
	to     map[*conn]bool // who was asked and may still answer
	result json.RawMessage
	err    error
	over   bool
}

// Ask implements agent.Sink.
func (l *live) Ask(ctx context.Context, method string, params any) (json.RawMessage, error) {
	a, err := l.put(method, params)
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a.result, a.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.over { // answered in the same moment
		return a.result, a.err
	}
	l.settle(a, nil, context.Cause(ctx))
	return nil, a.err
}

// put sends a new request to the subscribers.
func (l *live) put(method string, params any) (*ask, error) {
	e := l.e
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &ask{method: method, l: l, done: make(chan struct{}), to: make(map[*conn]bool)}
	e.wire.Lock()
	a.id = e.nextAsk
	msg, err := protocol.NewRequest(protocol.IntID(a.id), method, params)
	if err == nil {
		e.nextAsk++
		e.asks[a.id] = a
	}
	e.wire.Unlock()
	if err != nil {
		return nil, err
	}
	a.msg = msg
	l.asks = append(l.asks, a)
	for c := range l.subs {
		a.sendTo(c)
	}
	return a, nil
}

// sendTo puts the request to one more client; l.mu is held.
func (a *ask) sendTo(c *conn) {
	a.to[c] = true
	_ = c.peer.Send(a.msg) // a client that is gone cannot answer
}

// settle ends an ask and tells the subscribers that it is over; l.mu is held.
func (l *live) settle(a *ask, result json.RawMessage, err error) {
	a.over, a.result, a.err = true, result, err
	l.asks = slices.DeleteFunc(l.asks, func(x *ask) bool { return x == a })
	l.e.wire.Lock()
	delete(l.e.asks, a.id)
	l.e.wire.Unlock()
	l.tell("serverRequest/resolved", map[string]any{"threadId": l.id, "requestId": a.id})
	close(a.done)
}

// answered takes a client's answer. Answers to what is over, or from a client
// that was not asked, count for nothing.
func (e *Engine) answered(c *conn, id, result json.RawMessage, perr *protocol.Error) {
	var n int64
	if json.Unmarshal(id, &n) != nil {
		return
	}
	e.wire.Lock()
	a, t := e.asks[n], e.tokenAsks[n]
	if t != nil && t.c == c {
		delete(e.tokenAsks, n)
	}
	e.wire.Unlock()
	if t != nil && t.c == c {
		t.answer <- tokenAnswer{result, perr}
		return
	}
	if a == nil {
		return
	}
	l := a.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.over || !a.to[c] {
		e.log.Debug("stray answer ignored", "client", c.name(), "request", n)
		return
	}
	if perr == nil {
		l.settle(a, result, nil)
		return
	}
	// "I do not know this request" is no decision while somebody else was asked:
	// a person there may still decide, a program is given a moment.
	delete(a.to, c)
	if perr.Code != protocol.CodeMethodNotFound || len(a.to) == 0 {
		l.settle(a, nil, perr)
		return
	}
	if !protocol.IsApproval(a.method) {
		e.spawn(func() { l.giveUp(a, perr) })
	}
}

// giveUp ends an ask some client could not understand when no other client
// answers it soon.
func (l *live) giveUp(a *ask, perr *protocol.Error) {
	t := time.NewTimer(answerGrace)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.done:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !a.over {
		l.settle(a, nil, perr)
	}
}

// replay puts everything that waits to a client that has just subscribed, in
// the order it was asked; l.mu is held.
func (l *live) replay(c *conn) {
	for _, a := range l.asks {
		a.sendTo(c)
	}
	if l.pause != nil {
		for _, n := range l.pauseNotes(*l.pause) {
			c.notify(n.method, n.params)
		}
	}
}

// Waiting implements agent.Sink.
func (l *live) Waiting(flag string, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on == l.flags[flag] {
		return
	}
	if on {
		l.flags[flag] = true
	} else {
		delete(l.flags, flag)
	}
	l.tellStatus()
}

// status is what clients see; l.mu is held.
func (l *live) status() protocol.ThreadStatus {
	if l.turn == nil {
		return protocol.ThreadStatus{Type: protocol.StatusIdle}
	}
	return protocol.ThreadStatus{Type: protocol.StatusActive, ActiveFlags: slices.Sorted(maps.Keys(l.flags))}
}

// tellStatus broadcasts the status; l.mu is held.
func (l *live) tellStatus() {
	l.e.broadcast("thread/status/changed", map[string]any{"threadId": l.id, "status": l.status()})
}
