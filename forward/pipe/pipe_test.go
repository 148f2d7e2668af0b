package pipe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a real connection: both its ends.
func pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	got := make(chan net.Conn, 1)
	go func() {
		c, _ := ln.Accept()
		got <- c
	}()
	c, err := net.Dial("tcp", ln.Addr().String()) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	far, near = (<-got).(*net.TCPConn), c.(*net.TCPConn)
	for _, c := range []*net.TCPConn{near, far} {
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(45 * time.Second))
	}
	return near, far
}

type outcome struct {
	n   Carried
	err error
}

func joined(ctx context.Context, t testing.TB, a, b io.ReadWriteCloser, o Options) <-chan outcome {
	t.Helper()
	out := make(chan outcome, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		n, err := Join(ctx, a, b, o)
		out <- outcome{n, err}
	})
	t.Cleanup(wg.Wait)
	return out
}

// The end of a question does not cut off its answer.
func TestHalfCloseIsPassedOn(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	over := joined(t.Context(), t, a, b, Options{})
	question := bytes.Repeat([]byte("q"), 1<<20)
	go func() {
		_, _ = client.Write(question)
		_ = client.CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, question) {
		t.Fatalf("the server read %d bytes, %v", len(got), err)
	}
	if _, err := io.WriteString(server, "answer"); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Fatalf("the client read %q, %v", got, err)
	}
	if o := <-over; o.err != nil || o.n != (Carried{ToA: 6, ToB: 1 << 20}) {
		t.Errorf("it ended with %+v", o)
	}
}

// The other direction works the same: the server ends first.
func TestServerEndsFirst(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	over := joined(t.Context(), t, a, b, Options{})
	_ = server.CloseWrite()
	if _, err := io.ReadAll(client); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, "late"); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite()
	if got, err := io.ReadAll(server); err != nil || string(got) != "late" {
		t.Fatalf("the server read %q, %v", got, err)
	}
	if o := <-over; o.err != nil {
		t.Error(o.err)
	}
}

func TestContextEndsIt(t *testing.T) {
	_, a := pair(t)
	b, _ := pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	over := joined(ctx, t, a, b, Options{})
	why := errors.New("the login is over")
	cancel(why)
	if o := <-over; !errors.Is(o.err, why) {
		t.Error(o.err)
	}
}

// A peer that has said all and waits for ever does not keep the connection.
func TestLingerIsBounded(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	over := joined(t.Context(), t, a, b, Options{Linger: 50 * time.Millisecond})
	_ = client.CloseWrite()
	if o := <-over; o.err != nil {
		t.Error(o.err)
	}
	if _, err := io.ReadAll(server); err != nil {
		t.Error(err)
	}
}

// One end that breaks takes the other along.
func TestBrokenEndClosesTheOther(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	over := joined(t.Context(), t, a, b, Options{})
	_ = client.SetLinger(0) // a reset
	_ = client.Close()
	_, _ = io.ReadAll(server)
	<-over
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a is open: %v", err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("b is open: %v", err)
	}
}

// An end without halves is closed when the other has said all.
func TestWholeEndIsClosed(t *testing.T) {
	near, far := net.Pipe()
	client, a := pair(t)
	over := joined(t.Context(), t, a, far, Options{})
	go func() {
		_, _ = io.WriteString(client, "all")
		_ = client.CloseWrite()
	}()
	if got, err := io.ReadAll(near); err != nil || string(got) != "all" {
		t.Errorf("read %q, %v", got, err)
	}
	_ = near.Close()
	<-over
}
