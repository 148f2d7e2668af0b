package lend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// A stock app-server is a process for one stream, so lender and client share it:
//
//   - what the client says passes as it is. Behind its "initialized" the lender
//     logs the process in, and nothing further of the client's passes until that
//     is done, so that its first turn finds an account;
//   - a request for another token is the lender's, and the client never sees it;
//   - what the lender says has ids of its own, strings with ownIDs before the
//     number, and their answers go to it.
const ownIDs = "towline-lender-"

// holdMost bounds how long a client is kept waiting for the login.
const holdMost = loginTimeout + 2*callTimeout

// besideDepth is how many messages wait for a client that is busy.
const besideDepth = 256

// Beside lends over a stream that its client uses too: to a process that ends
// with the stream and keeps its login in memory. It returns the client's end at
// once; how the login went is told to cfg.Events. The loan ends with the stream.
func Beside(ctx context.Context, cfg Config, s rpc.Stream) (rpc.Stream, error) {
	cfg = cfg.withDefaults()
	d := newDesk(cfg)
	tokens, err := d.token(ctx)
	if err != nil {
		_ = s.Close(err)
		return nil, err
	}
	near, far := rpc.Pipe(besideDepth)
	mine, lender := rpc.Pipe(besideDepth)
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	b := &beside{Stream: near, s: s, far: far, lender: lender, ready: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	t := newTalk(d, mine)
	b.wg.Go(func() { t.serve(life) })
	b.wg.Go(func() { b.down(life) })
	b.wg.Go(func() { b.up(life) })
	b.wg.Go(func() { b.own(life) })
	b.wg.Go(func() {
		defer close(b.done)
		select {
		case <-b.ready:
		case <-life.Done():
			return
		}
		if err := t.lend(life, tokens); err != nil && life.Err() == nil {
			d.set(State{Err: err})
		}
	})
	b.wg.Go(func() {
		select {
		case <-b.done:
			t.keep(life)
		case <-life.Done():
		}
	})
	return b, nil
}

// beside is the client's end. Its Close ends everything.
type beside struct {
	rpc.Stream            // the client's end of a pipe
	s          rpc.Stream // the app-server
	far        rpc.Stream // the other end of the client's pipe
	lender     rpc.Stream // the other end of the lender's pipe
	ready      chan struct{}
	begun      sync.Once     // ready is closed
	done       chan struct{} // closed when the login has been tried
	cancel     context.CancelCauseFunc
	wg         sync.WaitGroup
}

// Close implements rpc.Stream. The process that has the login ends with it.
func (b *beside) Close(reason error) error {
	_ = b.Stream.Close(reason)
	err := b.s.Close(reason)
	b.end(errClosed)
	b.wg.Wait()
	return err
}

// end makes everything here come to its end.
func (b *beside) end(why error) {
	b.cancel(why)
	_ = b.far.Close(why)
	_ = b.lender.Close(why)
	_ = b.s.Close(why)
}

// up carries what the client says.
func (b *beside) up(ctx context.Context) {
	for {
		msg, err := b.far.Read(ctx)
		if err != nil {
			b.end(err)
			return
		}
		e, err := protocol.Peek(msg)
		if err == nil && e.Kind == protocol.KindNotification && e.Method == "initialized" {
			if b.s.Write(ctx, msg) != nil {
				return // down ends it
			}
			b.begin(ctx)
			continue
		}
		if err == nil && isOwn(e.ID) {
			continue // nobody but the lender has these
		}
		if b.s.Write(ctx, msg) != nil {
			return
		}
	}
}

// begin lets the lender log in, and waits for it.
func (b *beside) begin(ctx context.Context) {
	b.begun.Do(func() { close(b.ready) })
	t := time.NewTimer(holdMost)
	defer t.Stop()
	select {
	case <-b.done:
	case <-ctx.Done():
	case <-t.C:
	}
}

// down sorts what the app-server says.
func (b *beside) down(ctx context.Context) {
	for {
		msg, err := b.s.Read(ctx)
		if err != nil {
			b.end(err)
			return
		}
		to := b.far
		if e, err := protocol.Peek(msg); err == nil {
			switch {
			case e.Kind == protocol.KindRequest && e.Method == methodRefresh:
				to = b.lender
			case isOwn(e.ID) && (e.Kind == protocol.KindResponse || e.Kind == protocol.KindError):
				to, msg = b.lender, renumber(e, msg)
			case e.Kind == protocol.KindNotification && e.Method == "account/login/completed":
				_ = b.lender.Write(ctx, bytes.Clone(msg)) // the client hears it too
			}
		}
		if to.Write(ctx, msg) != nil && ctx.Err() == nil && to == b.far {
			b.end(rpc.ErrClosed)
			return
		}
	}
}

// own carries what the lender says.
func (b *beside) own(ctx context.Context) {
	for {
		msg, err := b.lender.Read(ctx)
		if err != nil {
			return // the conversation has ended
		}
		e, err := protocol.Peek(msg)
		if err != nil {
			continue
		}
		if e.Kind == protocol.KindRequest {
			if msg, err = withID(msg, strconv.Quote(ownIDs+string(e.ID))); err != nil {
				continue
			}
		}
		if b.s.Write(ctx, msg) != nil {
			return
		}
	}
}

// isOwn reports whether an id is one of the lender's.
func isOwn(id json.RawMessage) bool { return bytes.HasPrefix(id, []byte(`"`+ownIDs)) }

// renumber gives an answer the id that the lender knows its question by.
func renumber(e protocol.Envelope, msg []byte) []byte {
	id := strings.TrimSuffix(strings.TrimPrefix(string(e.ID), `"`+ownIDs), `"`)
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return msg // not one of ours after all: nobody waits for it
	}
	out, err := withID(msg, id)
	if err != nil {
		return msg
	}
	return out
}

// withID puts another id into a message; the rest stays.
func withID(msg []byte, id string) ([]byte, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(msg, &m); err != nil {
		return nil, err
	}
	if _, ok := m["id"]; !ok {
		return nil, errors.New("a message without an id")
	}
	m["id"] = json.RawMessage(id)
	out, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return out, nil
}
