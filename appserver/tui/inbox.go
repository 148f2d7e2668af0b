package tui

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/transcript"
)

// Bounds of what the server said and the screen has not taken yet. A terminal
// that does not keep up makes deltas melt together first; beyond these the
// connection is dropped and everything is read anew, which is cheaper.
const (
	inboxEvents = 16384
	inboxBytes  = 48 << 20
)

// event is one message from the server.
type event struct {
	gen    int // the connection it came on
	method string
	params json.RawMessage
	req    *rpc.Request // a question; nil for notifications
	delta  *delta       // a delta notification, decoded; params is nil then
}

// delta is what a streaming item grew by, possibly several notifications' worth.
type delta struct {
	ThreadID protocol.ThreadID `json:"threadId"`
	TurnID   string            `json:"turnId"`
	ItemID   string            `json:"itemId"`
	Delta    string            `json:"delta"`
	text     strings.Builder
}

// inbox holds events between the connection's reader, which must never wait,
// and the program, which takes them at most once a frame. Deltas of one item
// that meet here become one. One goroutine takes; any may put.
type inbox struct {
	mu    sync.Mutex // guards what follows
	queue []event
	bytes int
	over  bool // a bound was passed; nothing more is taken from this connection
	gen   int  // of the connection that may put
	wake  chan struct{}
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// open empties the inbox and lets connection gen put.
func (b *inbox) open(gen int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue, b.bytes, b.over, b.gen = nil, 0, false, gen
}

// put queues e and reports false when that passed a bound.
func (b *inbox) put(e event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.gen != b.gen || b.over {
		return true // nobody waits for it
	}
	size := len(e.params)
	if e.delta != nil {
		size = len(e.delta.Delta)
	}
	if len(b.queue) >= inboxEvents || b.bytes+size > inboxBytes {
		b.queue, b.bytes, b.over = nil, 0, true
		return false
	}
	b.bytes += size
	if !b.merge(e) {
		if e.delta != nil {
			e.delta.text.WriteString(e.delta.Delta)
		}
		b.queue = append(b.queue, e)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// merge melts e into a queued delta of the same item, if only deltas follow it.
func (b *inbox) merge(e event) bool {
	if e.delta == nil || e.method == transcript.DeltaSummaryPart {
		return false
	}
	for i := len(b.queue) - 1; i >= max(len(b.queue)-4, 0); i-- {
		q := b.queue[i]
		if q.delta == nil || q.method == transcript.DeltaSummaryPart {
			return false
		}
		if q.method == e.method && q.delta.ItemID == e.delta.ItemID {
			q.delta.text.WriteString(e.delta.Delta)
			return true
		}
	}
	return false
}

// take empties the queue.
func (b *inbox) take() []event {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queue
	b.queue, b.bytes = nil, 0
	return q
}

// receiver is the rpc.Handler of one connection: everything goes to the inbox.
type receiver struct {
	gen  int
	box  *inbox
	over func() // called once when the inbox is full
}

func (r *receiver) Request(_ context.Context, q *rpc.Request) {
	r.deliver(event{gen: r.gen, method: q.Method, params: q.Params, req: q})
}

func (r *receiver) Notification(_ context.Context, method string, params json.RawMessage) {
	e := event{gen: r.gen, method: method, params: params}
	switch method {
	case transcript.DeltaMessage, transcript.DeltaPlan, transcript.DeltaSummary, transcript.DeltaReasoning,
		transcript.DeltaOutput, transcript.DeltaSummaryPart:
		d := new(delta)
		if json.Unmarshal(params, d) != nil {
			return
		}
		e.delta, e.params = d, nil
	}
	r.deliver(e)
}

func (r *receiver) deliver(e event) {
	if !r.box.put(e) {
		r.over()
	}
}
