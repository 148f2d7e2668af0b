package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"towline/appserver/protocol"
)

// echo answers "echo" with its params, "refuse" with an error, keeps "hold"
// for later, and passes notifications on.
type echo struct {
	notes chan string
	held  chan *Request
}

func (e echo) Request(_ context.Context, r *Request) {
	switch r.Method {
	case "echo":
		r.Reply(r.Params)
	case "hold":
		e.held <- r
	default:
		r.Fail(protocol.Errorf("no %s here", r.Method))
	}
}

func (e echo) Notification(_ context.Context, method string, _ json.RawMessage) { e.notes <- method }

// pair connects two peers over a pipe; end waits for both to finish.
func pair(t *testing.T, h Handler) (client, server *Peer, end func()) {
	t.Helper()
	a, b := Pipe(16)
	client, server = NewPeer(a, echo{make(chan string, 8), make(chan *Request, 8)}), NewPeer(b, h)
	done := make(chan error, 2)
	go func() { done <- client.Serve(context.Background()) }()
	go func() { done <- server.Serve(context.Background()) }()
	return client, server, func() { client.Close(ErrClosed); <-done; <-done }
}

func TestPeerCallsBothWays(t *testing.T) {
	h := echo{make(chan string, 8), make(chan *Request, 8)}
	client, server, end := pair(t, h)
	defer end()
	var out struct{ X int }
	if err := client.Call(t.Context(), "echo", map[string]int{"X": 7}, &out); err != nil || out.X != 7 {
		t.Errorf("echo: %+v, %v", out, err)
	}
	if err := server.Call(t.Context(), "echo", nil, nil); err != nil {
		t.Errorf("the other way: %v", err)
	}
	var pe *protocol.Error
	if err := client.Call(t.Context(), "what", nil, nil); !errors.As(err, &pe) || pe.Code != protocol.CodeInvalidRequest {
		t.Errorf("a refusal: %v", err)
	}
	if err := client.Notify("hello", nil); err != nil || <-h.notes != "hello" {
		t.Error("notification lost")
	}
}

func TestPeerAnswersOutOfOrderAndOnlyOnce(t *testing.T) {
	h := echo{make(chan string, 8), make(chan *Request, 8)}
	client, _, end := pair(t, h)
	defer end()
	slow := make(chan error, 1)
	go func() { slow <- client.Call(t.Context(), "hold", nil, nil) }()
	r := <-h.held
	if err := client.Call(t.Context(), "echo", nil, nil); err != nil {
		t.Fatal(err)
	}
	r.Reply(nil)
	r.Fail(errors.New("too late"))
	if err := <-slow; err != nil {
		t.Errorf("the first answer did not win: %v", err)
	}
}

func TestPeerRefusesBeyondItsBound(t *testing.T) {
	h := echo{make(chan string, 8), make(chan *Request, MaxInFlight+8)}
	client, _, end := pair(t, h)
	defer end()
	errs := make(chan error, MaxInFlight+1)
	for range MaxInFlight + 1 {
		go func() { errs <- client.Call(context.Background(), "hold", nil, nil) }()
	}
	var pe *protocol.Error
	if err := <-errs; !errors.As(err, &pe) || pe.Code != protocol.CodeOverloaded {
		t.Errorf("got %v", err)
	}
	for range MaxInFlight {
		(<-h.held).Reply(nil)
	}
	for range MaxInFlight {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := client.Call(t.Context(), "echo", nil, nil); err != nil {
		t.Errorf("the bound did not open again: %v", err)
	}
}

// Requests that were settled elsewhere must not use up the bound, and what is
// dropped stays unanswered.
func TestADroppedRequestFreesItsPlace(t *testing.T) {
	a, b := Pipe(MaxInFlight + 8)
	h := echo{make(chan string, 8), make(chan *Request, MaxInFlight+8)}
	p := NewPeer(b, h)
	done := make(chan error, 1)
	go func() { done <- p.Serve(context.Background()) }()
	for round := range 3 {
		for i := range MaxInFlight {
			msg, err := protocol.NewRequest(protocol.IntID(int64(round*MaxInFlight+i)), "hold", nil)
			if err == nil {
				err = a.Write(t.Context(), msg)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range MaxInFlight {
			r := <-h.held
			r.Drop()
			r.Drop()
			r.Reply(nil)
			r.Fail(errors.New("too late"))
		}
	}
	if n := p.inflight.Load(); n != 0 {
		t.Errorf("%d requests still in flight", n)
	}
	if err := a.Write(t.Context(), []byte(`{"id":"last","method":"echo","params":1}`)); err != nil {
		t.Fatal(err)
	}
	if msg, err := a.Read(t.Context()); err != nil || string(msg) != `{"id":"last","result":1}` {
		t.Errorf("the first answer is %s, %v", msg, err)
	}
	_ = a.Close(nil)
	<-done
}

// A reply that came first is not undone.
func TestDropAfterAReplyDoesNothing(t *testing.T) {
	h := echo{make(chan string, 8), make(chan *Request, 8)}
	client, server, end := pair(t, h)
	defer end()
	got := make(chan error, 1)
	go func() { got <- client.Call(context.Background(), "hold", nil, nil) }()
	r := <-h.held
	r.Reply(nil)
	r.Drop()
	if err := <-got; err != nil || server.inflight.Load() != 0 {
		t.Errorf("%v, %d in flight", err, server.inflight.Load())
	}
}

func TestPeerFailsWaitingCallsWhenTheOtherEndLeaves(t *testing.T) {
	h := echo{make(chan string, 8), make(chan *Request, 8)}
	client, server, end := pair(t, h)
	defer end()
	got := make(chan error, 1)
	go func() { got <- client.Call(context.Background(), "hold", nil, nil) }()
	<-h.held
	server.Close(ErrClosed)
	if err := <-got; !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	if err := client.Call(t.Context(), "echo", nil, nil); err == nil {
		t.Error("a call after the end succeeded")
	}
}

func TestPeerDropsWhatItCannotRead(t *testing.T) {
	a, b := Pipe(16)
	p := NewPeer(b, echo{make(chan string, 8), make(chan *Request, 8)})
	done := make(chan error, 1)
	go func() { done <- p.Serve(context.Background()) }()
	for _, m := range []string{`nonsense`, `[{"id":1,"method":"echo"}]`, `{"id":1.5,"method":"echo"}`, `{"id":99,"result":{}}`, `{"id":"ok","method":"echo","params":{"a":1}}`} {
		if err := a.Write(t.Context(), []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	msg, err := a.Read(t.Context())
	if err != nil || string(msg) != `{"id":"ok","result":{"a":1}}` {
		t.Errorf("got %s, %v", msg, err)
	}
	_ = a.Close(nil)
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Errorf("Serve: %v", err)
	}
}

// Last words reach a peer that is slow to read.
func TestFlushBeforeClose(t *testing.T) {
	const n = 200
	a, b := Pipe(1)
	p := NewPeer(struct{ Stream }{b}, echo{make(chan string, 8), make(chan *Request, 8)})
	done := make(chan error, 1)
	go func() { done <- p.Serve(context.Background()) }()
	for range n {
		if err := p.Notify("word", nil); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Flush(short); !errors.Is(err, context.Canceled) {
		t.Errorf("a flush nobody waits for: %v", err)
	}
	flushed := make(chan error, 1)
	go func() {
		err := p.Flush(context.Background())
		p.Close(ErrClosed)
		flushed <- err
	}()
	heard := 0
	for {
		if _, err := a.Read(t.Context()); err != nil {
			break
		}
		heard++
	}
	if err := <-flushed; err != nil || heard != n {
		t.Errorf("heard %d of %d, %v", heard, n, err)
	}
	<-done
	if err := p.Flush(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
