package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"towline/appserver/protocol"
)

// Handler receives what the other end sends. Its methods run on the goroutine
// of Peer.Serve, in the order messages arrived, and must not block: a request
// that takes time is answered later from another goroutine.
type Handler interface {
	// Request must lead to exactly one Reply, Fail or Drop on r, at any later time.
	Request(ctx context.Context, r *Request)
	// Notification's params are nil when the message had none.
	Notification(ctx context.Context, method string, params json.RawMessage)
}

// Request is one question from the other end.
type Request struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage // nil when the message had none
	Raw    []byte          // the whole message
	peer   *Peer
	once   sync.Once
}

// Reply answers with result (nil becomes {}). The first of Reply, Fail and Drop
// wins; later ones do nothing. It does not block.
func (r *Request) Reply(result any) {
	r.once.Do(func() {
		msg, err := protocol.NewResponse(r.ID, result)
		if err != nil {
			msg = protocol.NewError(r.ID, protocol.Internalf("encode the result of %s: %v", r.Method, err))
		}
		r.peer.answered(msg)
	})
}

// Fail answers with an error. A *protocol.Error goes out as it is, anything
// else as an internal error with its text.
func (r *Request) Fail(err error) {
	r.once.Do(func() {
		var pe *protocol.Error
		if !errors.As(err, &pe) {
			pe = protocol.Internalf("%v", err)
		}
		r.peer.answered(protocol.NewError(r.ID, pe))
	})
}

// Drop gives a request up without an answer, for one that was settled elsewhere
// and that nobody waits for any more; its place among those in flight is free
// again. Like the others it counts only when it is the first.
func (r *Request) Drop() {
	r.once.Do(func() { r.peer.inflight.Add(-1) })
}

// Peer is one end of a conversation. It pairs answers with calls, hands the
// rest to its Handler, refuses requests beyond MaxInFlight with -32001, and
// writes through an Outbox so that no caller waits for a slow peer.
type Peer struct {
	s        Stream
	h        Handler
	out      *Outbox
	inflight atomic.Int64
	nextID   atomic.Int64

	mu    sync.Mutex // guards what follows
	calls map[int64]chan reply
	err   error // why the conversation ended
}

type reply struct {
	result json.RawMessage
	err    error
}

// NewPeer makes an end of s. Serve starts it; until then calls wait.
func NewPeer(s Stream, h Handler) *Peer {
	p := &Peer{s: s, h: h, out: NewOutbox(s)}
	p.out.q = queuer(s)
	return p
}

// Serve reads and dispatches until the stream ends or ctx does, then fails
// every call still waiting and closes the stream. io.EOF means the other end
// left in good order. It may be called once.
func (p *Peer) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	wrote := make(chan error, 1)
	if p.out.q == nil {
		go func() { err := p.out.Run(ctx); cancel(err); wrote <- err }()
	} else {
		wrote <- nil
	}
	err := p.end(p.read(ctx))
	cancel(err)
	<-wrote
	return err
}

// Feed is Serve for a stream that hands over what arrives (see [Feeder]): it
// returns at once. sift sees every message first and keeps those for which it
// returns true; over is called when the conversation has ended, with what Serve
// would have returned. It reports false, and does nothing, where s is none.
func (p *Peer) Feed(ctx context.Context, sift func(msg []byte) bool, over func(error)) bool {
	if p.out.q == nil {
		return false
	}
	s := p.s
	if o, ok := s.(interface{ Over() Stream }); ok {
		s = o.Over()
	}
	each := func(msg []byte) error {
		if !sift(msg) {
			p.take(ctx, msg)
		}
		return nil
	}
	stop := context.AfterFunc(ctx, func() { p.Close(context.Cause(ctx)) })
	fed := Feed(s, each, func(err error) {
		stop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		over(p.end(err))
	})
	if !fed {
		stop()
	}
	return fed
}

// end closes the stream and fails every call that waits.
func (p *Peer) end(err error) error {
	// A failed write shows up as a closed stream to the reader; the writer's
	// reason is the one worth telling.
	if werr := p.outErr(); werr != nil && errors.Is(err, ErrClosed) {
		err = werr
	}
	p.out.Fail(err)
	_ = p.s.Close(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	for id, ch := range p.calls {
		ch <- reply{err: fmt.Errorf("connection ended: %w", err)}
		delete(p.calls, id)
	}
	return err
}

func (p *Peer) outErr() error {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.err
}

func (p *Peer) read(ctx context.Context) error {
	for {
		msg, err := p.s.Read(ctx)
		if err != nil {
			return err
		}
		p.take(ctx, msg)
	}
}

// take handles one message.
func (p *Peer) take(ctx context.Context, msg []byte) {
	e, err := protocol.Peek(msg)
	if err != nil {
		return // Codex drops what it cannot read, and so do we
	}
	switch e.Kind {
	case protocol.KindRequest:
		r := &Request{ID: e.ID, Method: e.Method, Params: e.Params, Raw: msg, peer: p}
		if p.inflight.Add(1) > MaxInFlight {
			r.Fail(protocol.ErrOverloaded)
			return
		}
		p.h.Request(ctx, r)
	case protocol.KindNotification:
		p.h.Notification(ctx, e.Method, e.Params)
	case protocol.KindResponse:
		p.settle(e.ID, reply{result: e.Result})
	case protocol.KindError:
		pe := new(protocol.Error)
		if json.Unmarshal(e.Error, pe) != nil {
			pe = protocol.Internalf("unreadable error: %s", e.Error)
		}
		p.settle(e.ID, reply{err: pe})
	}
}

func (p *Peer) answered(msg []byte) {
	p.inflight.Add(-1)
	_ = p.out.Put(msg) // a dead peer needs no answer
}

func (p *Peer) settle(id json.RawMessage, r reply) {
	var n int64
	if json.Unmarshal(id, &n) != nil {
		return // not one of ours
	}
	p.mu.Lock()
	ch := p.calls[n]
	delete(p.calls, n)
	p.mu.Unlock()
	if ch != nil {
		ch <- r
	}
}

// Call sends a request and waits for its answer, which it decodes into result
// unless that is nil. A refusal comes back as a *protocol.Error. Giving up (ctx)
// leaves the request running at the other end.
func (p *Peer) Call(ctx context.Context, method string, params, result any) error {
	id := p.nextID.Add(1)
	msg, err := protocol.NewRequest(protocol.IntID(id), method, params)
	if err != nil {
		return fmt.Errorf("encode %s: %w", method, err)
	}
	ch := make(chan reply, 1)
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return fmt.Errorf("connection ended: %w", p.err)
	}
	if p.calls == nil {
		p.calls = make(map[int64]chan reply)
	}
	p.calls[id] = ch
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.calls, id)
		p.mu.Unlock()
	}()
	if err := p.out.Put(msg); err != nil {
		return fmt.Errorf("send %s: %w", method, err)
	}
	select {
	case r := <-ch:
		if r.err != nil {
			return r.err
		}
		if result == nil {
			return nil
		}
		if raw, ok := result.(*json.RawMessage); ok {
			*raw = r.result
			return nil
		}
		if err := json.Unmarshal(r.result, result); err != nil {
			return fmt.Errorf("decode the answer to %s: %w", method, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Notify sends a notification without waiting. Messages keep their order.
func (p *Peer) Notify(method string, params any) error {
	msg, err := protocol.NewNotification(method, params, 0)
	if err != nil {
		return fmt.Errorf("encode %s: %w", method, err)
	}
	return p.out.Put(msg)
}

// Send queues an encoded message as it is; the peer owns msg afterwards. It is
// for servers that encode once and send to many, so nobody may change msg.
func (p *Peer) Send(msg []byte) error { return p.out.Put(msg) }

// Flush waits until everything said so far is written, or returns why it will
// not be. Serve must be running.
func (p *Peer) Flush(ctx context.Context) error { return p.out.Flush(ctx) }

// Close ends the conversation; Serve returns. What is not written yet is not
// said: see Flush.
func (p *Peer) Close(reason error) {
	p.out.Fail(reason)
	_ = p.s.Close(reason)
}
