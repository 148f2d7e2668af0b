package native

import (
	"context"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// # Retiring
//
// When another process takes over from this one, what runs here ends here. A
// retired engine loads and creates no thread. It keeps those in which something
// runs: a turn, a command somebody typed, one that was left in the background,
// and those that are nowhere but in its memory. Each of the others is unloaded as
// soon as nothing runs in it, its file is free for the successor from then on,
// and every client is told by NoteHandedOver. A request for a thread that is not
// here any more fails with ReasonHandedOver: whoever passed it on sends it to the
// successor.

const (
	// NoteHandedOver tells the clients of a retired engine, of which there are only
	// its successors, that a thread is the successor's: {"threadId"}.
	NoteHandedOver = "towline/elder/handedOver"
	// ReasonHandedOver is data.reason of the error about such a thread.
	ReasonHandedOver = "handedOver"
	// lookForIdle is how often a retired engine looks for threads in which nothing
	// runs any more; turns say so themselves.
	lookForIdle = 250 * time.Millisecond
)

// Elsewhere knows the threads that another process still works on.
type Elsewhere interface {
	// Status is what such a thread does; false for any other.
	Status(id protocol.ThreadID) (protocol.ThreadStatus, bool)
	// Threads lists them.
	Threads() []protocol.ThreadID
}

// Held is a thread that a retired engine keeps.
type Held struct {
	ID     protocol.ThreadID     `json:"id"`
	Status protocol.ThreadStatus `json:"status"`
}

// Retire makes the engine finish what runs and do nothing new. The threads in
// which nothing runs are unloaded when it returns.
func (e *Engine) Retire() {
	e.mu.Lock()
	e.retired = true
	e.mu.Unlock()
	e.handOff()
}

// Return undoes Retire: what is not loaded any more is loaded when it is needed.
func (e *Engine) Return() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = false
}

// Held lists the threads that are loaded.
func (e *Engine) Held() []Held {
	out := []Held{}
	for _, l := range e.loaded() {
		l.mu.Lock()
		h := Held{l.id, l.status()}
		gone := l.gone
		l.mu.Unlock()
		if !gone {
			out = append(out, h)
		}
	}
	return out
}

// Finish waits until a retired engine has nothing left to do, or ctx ends.
func (e *Engine) Finish(ctx context.Context) error {
	tick := time.NewTicker(lookForIdle)
	defer tick.Stop()
	for {
		e.handOff()
		if len(e.Held()) == 0 && !e.loggingIn() {
			return nil
		}
		select {
		case <-tick.C:
		case <-e.spare:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// AsksFrom numbers the engine's own requests from n on, so that they differ from
// those of another that serves the same clients. It is called before Connect.
func (e *Engine) AsksFrom(n int64) {
	e.wire.Lock()
	defer e.wire.Unlock()
	e.nextAsk, e.firstAsk = n, n
}

// FirstAsk is what AsksFrom was given.
func (e *Engine) FirstAsk() int64 {
	e.wire.Lock()
	defer e.wire.Unlock()
	return e.firstAsk
}

// loggingIn reports whether somebody is about to log in through this process.
func (e *Engine) loggingIn() bool {
	e.logins.mu.Lock()
	defer e.logins.mu.Unlock()
	return e.logins.now != nil
}

// spent pokes Finish: a turn has ended.
func (e *Engine) spent() {
	select {
	case e.spare <- struct{}{}:
	default:
	}
}

func (e *Engine) isRetired() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.retired
}

// handOff unloads what nothing runs in.
func (e *Engine) handOff() {
	for _, l := range e.loaded() {
		if !l.atRest() {
			continue
		}
		e.loading.Lock()
		if l.rest() {
			e.unload(l)
			e.broadcast(NoteHandedOver, l.param())
		}
		e.loading.Unlock()
	}
}

// atRest reports whether nothing runs in a thread that is also on disk.
func (l *live) atRest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.atRestLocked()
}

func (l *live) atRestLocked() bool {
	return !l.gone && l.log != nil && l.turn == nil && l.typed == 0 && len(l.session.Terminals()) == 0
}

// rest takes a thread out of use, unless something runs in it.
func (l *live) rest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.atRestLocked() {
		return false
	}
	l.gone = true
	return true
}

// departed is the error for a thread that a retired engine does not have; nil in
// any other case.
func (e *Engine) departed(id protocol.ThreadID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.retired || e.threads[id] != nil {
		return nil
	}
	return errDeparted(id)
}

func errDeparted(id protocol.ThreadID) error {
	return &protocol.Error{
		Code: protocol.CodeInvalidRequest, Message: "thread " + string(id) + " belongs to the successor of this process",
		Data: []byte(`{"reason":"` + ReasonHandedOver + `"}`),
	}
}

// astray is departed for the thread a request names.
func (c *conn) astray(r *rpc.Request) error {
	if !c.e.isRetired() {
		return nil
	}
	if id := protocol.StringField(r.Params, "threadId"); id != "" {
		return c.e.departed(protocol.ThreadID(id))
	}
	return nil
}

// away is what a thread does that another process works on.
func (e *Engine) away(id protocol.ThreadID) (protocol.ThreadStatus, bool) {
	if e.cfg.Elsewhere == nil {
		return protocol.ThreadStatus{}, false
	}
	return e.cfg.Elsewhere.Status(id)
}
