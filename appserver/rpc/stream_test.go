package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// streams are the framings; one behaviour suite runs over each of them.
var streams = map[string]func(t *testing.T) (a, b Stream){
	"pipe": func(t *testing.T) (Stream, Stream) { return Pipe(4) },
	"lines": func(t *testing.T) (Stream, Stream) {
		x, y := net.Pipe()
		return NewLines(x), NewLines(y)
	},
	"websocket": func(t *testing.T) (Stream, Stream) {
		got := make(chan *websocket.Conn, 1)
		done := make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			got <- c
			<-done
		}))
		t.Cleanup(func() { close(done); srv.Close() })
		c, _, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{HTTPClient: srv.Client()})
		if err != nil {
			t.Fatal(err)
		}
		return NewWebSocket(c), NewWebSocket(<-got)
	},
}

func eachStream(t *testing.T, f func(t *testing.T, a, b Stream)) {
	for name, mk := range streams {
		t.Run(name, func(t *testing.T) {
			a, b := mk(t)
			defer a.Close(nil)
			defer b.Close(nil)
			f(t, a, b)
		})
	}
}

func TestStreamCarriesMessagesWholeFromManyWriters(t *testing.T) {
	eachStream(t, func(t *testing.T, a, b Stream) {
		const writers, each = 8, 50
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					msg := fmt.Sprintf(`{"method":"m","params":{"w":%d,"i":%d,"pad":%q}}`, w, i, strings.Repeat("é", 100*w))
					if err := a.Write(t.Context(), []byte(msg)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		next := make([]int, writers)
		for range writers * each {
			msg, err := b.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var w, i int
			if _, err := fmt.Sscanf(string(msg), `{"method":"m","params":{"w":%d,"i":%d,`, &w, &i); err != nil || !bytes.HasSuffix(msg, []byte(`"}}`)) {
				t.Fatalf("broken message %.80q", msg)
			}
			if i != next[w] {
				t.Fatalf("writer %d: message %d arrived in place of %d", w, i, next[w])
			}
			next[w]++
		}
		wg.Wait()
	})
}

func TestStreamReadEndsWithItsContext(t *testing.T) {
	eachStream(t, func(t *testing.T, a, _ Stream) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		go cancel(cause)
		if _, err := a.Read(ctx); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStreamPeerLeaving(t *testing.T) {
	eachStream(t, func(t *testing.T, a, b Stream) {
		_ = b.Close(nil)
		if _, err := a.Read(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("read after the peer left: %v", err)
		}
	})
}

func TestStreamCloseUnblocksItsOwnReader(t *testing.T) {
	eachStream(t, func(t *testing.T, a, _ Stream) {
		got := make(chan error, 1)
		go func() { _, err := a.Read(context.Background()); got <- err }()
		_ = a.Close(nil)
		_ = a.Close(nil)
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		if err := a.Write(t.Context(), []byte(`{}`)); err == nil {
			t.Error("wrote to a closed stream")
		}
	})
}

func TestLinesSkipsBlanksAndBoundsLength(t *testing.T) {
	r := NewLines(rwc{Reader: strings.NewReader("\n  \r\n{\"a\":1}\r\n{\"b\":2}"), Writer: io.Discard})
	for _, want := range []string{`{"a":1}`, `{"b":2}`} {
		if got, err := r.Read(t.Context()); err != nil || string(got) != want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if _, err := r.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	long := NewLines(rwc{Reader: io.LimitReader(zeros{}, MaxMessage+2), Writer: io.Discard})
	if _, err := long.Read(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a line over the bound: %v", err)
	}
}

func TestPipeDeliversWhatWasWrittenBeforeTheClose(t *testing.T) {
	a, b := Pipe(4)
	for range 3 {
		if err := a.Write(t.Context(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.Close(nil)
	for range 3 {
		if _, err := b.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestOutboxDropsAPeerThatDoesNotRead(t *testing.T) {
	a, b := Pipe(1)
	defer b.Close(nil)
	o := NewOutbox(a)
	ended := make(chan error, 1)
	go func() { ended <- o.Run(t.Context()) }()
	var err error
	for range QueueMessages + 16 {
		if err = o.Put([]byte("{}")); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrSlow) {
		t.Fatalf("Put never failed: %v", err)
	}
	// Run may hold a message the peer does not take; closing the stream is what
	// its owner does next, and it must free Run.
	_ = a.Close(err)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("Run did not end")
	}
	if err := o.Put([]byte("{}")); !errors.Is(err, ErrSlow) {
		t.Errorf("after the end: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

type rwc struct {
	io.Reader
	io.Writer
}

func (rwc) Close() error { return nil }

func FuzzLines(f *testing.F) {
	f.Add([]byte("{}\n{}"))
	f.Add([]byte("\r\n\x00\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewLines(rwc{Reader: bytes.NewReader(in), Writer: io.Discard})
		for {
			msg, err := s.Read(t.Context())
			if err != nil {
				return
			}
			if len(bytes.TrimSpace(msg)) == 0 || bytes.IndexByte(msg, '\n') >= 0 {
				t.Fatalf("message %q", msg)
			}
		}
	})
}

// counting counts the writes that reach it.
type counting struct {
	bytes.Buffer
	writes int
}

func (c *counting) Write(p []byte) (int, error) { c.writes++; return c.Buffer.Write(p) }

func TestCorkHoldsWritesBackAndKeepsTheirOrder(t *testing.T) {
	var w counting
	c := NewCork(&w)
	var want bytes.Buffer
	put := func(s string) {
		want.WriteString(s)
		if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	put("open")
	_ = c.Batch(true)
	for i := range 100 {
		put(fmt.Sprintf("word %d ", i))
	}
	if w.writes != 1 {
		t.Errorf("%d writes while corked", w.writes)
	}
	put(strings.Repeat("large", corkBytes))
	put("after")
	if err := c.Batch(false); err != nil {
		t.Fatal(err)
	}
	put("open again")
	if w.String() != want.String() {
		t.Error("bytes lost or out of order")
	}
	if w.writes > 5 {
		t.Errorf("%d writes", w.writes)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestCorkReportsWhatItCouldNotSend(t *testing.T) {
	c := NewCork(broken{})
	_ = c.Batch(true)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Batch(false); err == nil {
		t.Error("the loss was silent")
	}
}

func TestPutSoonKeepsOrderAndDoesNotWaitForCompanyForever(t *testing.T) {
	a, b := Pipe(16)
	defer b.Close(nil)
	o := NewOutbox(a)
	ended := make(chan error, 1)
	go func() { ended <- o.Run(t.Context()) }()
	want := []string{"1", "2", "3", "4"}
	_ = o.PutSoon([]byte("1"))
	_ = o.PutSoon([]byte("2"))
	_ = o.Put([]byte("3"))
	_ = o.PutSoon([]byte("4")) // nothing follows it
	for _, w := range want {
		if got, err := b.Read(t.Context()); err != nil || string(got) != w {
			t.Fatalf("got %q, %v, want %q", got, err, w)
		}
	}
	o.Fail(ErrClosed)
	<-ended
	if err := o.PutSoon([]byte("5")); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// roomy is a Stream that notes who writes what, and has room while told so.
type roomy struct {
	Stream
	room  atomic.Bool
	enter chan struct{} // a write waits for it, when not nil

	mu   sync.Mutex
	said []string
}

func (r *roomy) Room(int) bool { return r.room.Load() }

func (r *roomy) Write(_ context.Context, msg []byte) error {
	if r.enter != nil {
		<-r.enter
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, string(msg))
	return nil
}

func (r *roomy) heard() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.said, " ")
}

func TestOutboxSendsWhereThereIsRoom(t *testing.T) {
	a, b := Pipe(1)
	defer b.Close(nil)
	s := &roomy{Stream: a}
	s.room.Store(true)
	o := NewOutbox(s)
	_ = o.PutAside([]byte("1"))
	o.Send() // nobody runs: it is written here or not at all
	if got := s.heard(); got != "1" {
		t.Fatalf("written: %q", got)
	}
	_ = o.PutSoon([]byte("2"))
	o.Send() // is not what it is for
	_ = o.PutAside([]byte("3"))
	o.Send() // may not overtake
	s.room.Store(false)
	_ = o.PutAside([]byte("4"))
	o.Send() // would wait
	if got := s.heard(); got != "1" {
		t.Fatalf("written without Run: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = o.Run(ctx) }()
	if err := o.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-ran
	if got := s.heard(); got != "1 2 3 4" {
		t.Errorf("written: %q", got)
	}
}

func TestOutboxKeepsOrderAcrossSend(t *testing.T) {
	a, b := Pipe(1)
	defer b.Close(nil)
	s := &roomy{Stream: a, enter: make(chan struct{})}
	s.room.Store(true)
	o := NewOutbox(s)
	ctx, cancel := context.WithCancel(t.Context())
	var own sync.WaitGroup
	own.Go(func() { _ = o.Run(ctx) })
	var want []string
	for i := range 200 {
		first, second := fmt.Sprint("a", i), fmt.Sprint("b", i)
		want = append(want, first, second)
		_ = o.PutAside([]byte(first))
		sent := make(chan struct{})
		go func() { defer close(sent); o.Send() }()
		s.enter <- struct{}{}
		_ = o.Put([]byte(second)) // while the first may be being written, or just was
		s.enter <- struct{}{}
		<-sent
		if err := o.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	own.Wait()
	if got := s.heard(); got != strings.Join(want, " ") {
		t.Errorf("out of order: %s", got)
	}
}

func TestSocketTellsItsRoom(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	room := NewCork(c)
	if !room.Room(10) {
		t.Error("a fresh socket has no room")
	}
	if room.Room(roomBytes + 1) {
		t.Error("there is room for more than a system promises")
	}
	_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err == nil {
		_, err = c.Write(make([]byte, 4096))
	}
	if room.Room(10) {
		t.Error("a full socket has room")
	}
	if NewCork(&bytes.Buffer{}).Room(10) {
		t.Error("there is room where nobody can tell")
	}
}
