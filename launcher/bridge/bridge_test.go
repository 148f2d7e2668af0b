package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/rpc"
	"towline/launcher/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// far is a remote: each dial hands its end of a fresh stream to the test.
type far struct{ ends chan rpc.Stream }

func newFar() far { return far{make(chan rpc.Stream, 16)} }

func (f far) dial(context.Context) (rpc.Stream, error) {
	near, end := rpc.Pipe(4)
	f.ends <- end
	return near, nil
}

// serve runs one client through b; the result is what Serve returned.
func serve(t *testing.T, b *bridge.Bridge) (client rpc.Stream, done <-chan error) {
	t.Helper()
	client, theirs := rpc.Pipe(4)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { ended <- b.Serve(ctx, theirs, "test") })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return client, ended
}

func wait[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

func read(t *testing.T, s rpc.Stream) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

func write(t *testing.T, s rpc.Stream, m string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Write(ctx, []byte(m)); err != nil {
		t.Fatal(err)
	}
}

func TestMessagesPassAsTheyAreInOrder(t *testing.T) {
	f := newFar()
	b := bridge.New(bridge.Config{Dial: f.dial})
	client, done := serve(t, b)
	remote := wait(t, f.ends, "dial")
	var wg sync.WaitGroup
	for _, pair := range [][2]rpc.Stream{{client, remote}, {remote, client}} {
		wg.Go(func() {
			for i := range 500 {
				if err := pair[0].Write(t.Context(), fmt.Appendf(nil, `{"n": %d,  "odd":"\u00e9"}`, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			for i := range 500 {
				m, err := pair[1].Read(t.Context())
				if err != nil || string(m) != fmt.Sprintf(`{"n": %d,  "odd":"\u00e9"}`, i) {
					t.Errorf("message %d is %q, %v", i, m, err)
					return
				}
			}
		})
	}
	wg.Wait()
	_ = client.Close(nil)
	if err := wait(t, done, "end"); err != nil {
		t.Errorf("a client that left in good order: %v", err)
	}
	if _, err := remote.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the remote sees %v", err)
	}
}

func TestEachClientHasAStreamOfItsOwn(t *testing.T) {
	f := newFar()
	b := bridge.New(bridge.Config{Dial: f.dial})
	one, _ := serve(t, b)
	remoteOne := wait(t, f.ends, "dial")
	two, _ := serve(t, b)
	remoteTwo := wait(t, f.ends, "dial")
	write(t, one, "1")
	write(t, two, "2")
	if got := read(t, remoteOne) + read(t, remoteTwo); got != "12" {
		t.Errorf("the remotes got %q", got)
	}
	if b.Clients() != 2 {
		t.Errorf("%d clients", b.Clients())
	}
	_ = remoteOne.Close(nil) // one link is cut: the other client goes on
	if _, err := one.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the first client sees %v", err)
	}
	write(t, remoteTwo, "still here")
	if got := read(t, two); got != "still here" {
		t.Errorf("the second client got %q", got)
	}
}

// A client that says its last word and hangs up has said it.
func TestLastWordsAreDelivered(t *testing.T) {
	f := newFar()
	gate := make(chan struct{})
	b := bridge.New(bridge.Config{Dial: func(ctx context.Context) (rpc.Stream, error) {
		<-gate
		return f.dial(ctx)
	}})
	client, done := serve(t, b)
	close(gate)
	remote := wait(t, f.ends, "dial")
	for i := range 4 {
		write(t, client, fmt.Sprint(i))
	}
	_ = client.Close(nil)
	for i := range 4 {
		if got := read(t, remote); got != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, got)
		}
	}
	if err := wait(t, done, "end"); err != nil {
		t.Error(err)
	}
	// And what the remote said last reaches its client.
	client, done = serve(t, b)
	remote = wait(t, f.ends, "dial")
	for i := range 4 {
		write(t, remote, fmt.Sprint(i))
	}
	_ = remote.Close(nil)
	for i := range 4 {
		if got := read(t, client); got != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, got)
		}
	}
	if err := wait(t, done, "end"); err != nil {
		t.Error(err)
	}
}

func TestAClientOfAnUnreachableRemoteIsLetGo(t *testing.T) {
	cause := fmt.Errorf("the host key changed: %w", rpc.ErrRefused) // nothing that waiting mends
	events := make(chan bridge.Event, 8)
	b := bridge.New(bridge.Config{
		Dial:   func(context.Context) (rpc.Stream, error) { return nil, cause },
		Events: func(e bridge.Event) { events <- e },
	})
	client, done := serve(t, b)
	if err := wait(t, done, "end"); !errors.Is(err, cause) {
		t.Errorf("ended with %v", err)
	}
	if _, err := client.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the client sees %v", err)
	}
	if e := wait(t, events, "event"); e.What != bridge.Refused || !errors.Is(e.Err, cause) || e.Client != 1 {
		t.Errorf("event %+v", e)
	}
	if e := wait(t, events, "event"); e.What != bridge.Left || e.Clients != 0 {
		t.Errorf("event %+v", e)
	}
}

// Who connects while the link is down waits for it.
func TestAClientWaitsForARemoteThatComesBack(t *testing.T) {
	tries := 0
	far, near := rpc.Pipe(1)
	b := bridge.New(bridge.Config{Dial: func(context.Context) (rpc.Stream, error) {
		if tries++; tries < 3 {
			return nil, errors.New("connection refused")
		}
		return near, nil
	}})
	client, done := serve(t, b)
	if err := far.Write(t.Context(), []byte(`{"method":"hello"}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := client.Read(t.Context()); err != nil || string(m) != `{"method":"hello"}` {
		t.Errorf("the client reads %q, %v", m, err)
	}
	_ = client.Close(nil)
	if err := wait(t, done, "end"); err != nil {
		t.Error(err)
	}
	_ = far.Close(nil)
}

func TestAClientThatLeavesWhileDiallingStopsIt(t *testing.T) {
	dialling, stopped := make(chan struct{}), make(chan struct{})
	b := bridge.New(bridge.Config{Dial: func(ctx context.Context) (rpc.Stream, error) {
		close(dialling)
		<-ctx.Done()
		close(stopped)
		return nil, ctx.Err()
	}})
	client, done := serve(t, b)
	wait(t, dialling, "dial")
	_ = client.Close(nil)
	wait(t, stopped, "stop")
	if err := wait(t, done, "end"); err != nil {
		t.Error(err)
	}
}

func TestASilentRemoteIsGivenUp(t *testing.T) {
	b := bridge.New(bridge.Config{DialTimeout: time.Millisecond, Dial: func(ctx context.Context) (rpc.Stream, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	_, done := serve(t, b)
	if err := wait(t, done, "end"); err == nil || err.Error() != "the remote could not be reached in time" {
		t.Errorf("ended with %v", err)
	}
}
