//go:build unix

package transport

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// sessions run until the test ends.
func sessions(t *testing.T, cfg rpc.SessionsConfig) *rpc.Sessions {
	t.Helper()
	s := rpc.NewSessions(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// frail is a connection that dies after so many bytes, whichever way they go.
type frail struct {
	net.Conn
	left *atomic.Int64
}

func (f *frail) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.left.Add(-int64(n)) < 0 {
		_ = f.Close()
	}
	return n, err
}

func (f *frail) Write(b []byte) (int, error) {
	left := f.left.Add(-int64(len(b)))
	if left >= 0 {
		return f.Conn.Write(b)
	}
	n, _ := f.Conn.Write(b[:max(int64(len(b))+left, 0)])
	_ = f.Close()
	return n, net.ErrClosed
}

// client is a resumable stream to a listener, over links that last for as many
// bytes as limit says.
func client(t *testing.T, url string, limit func() int64) *rpc.Resumable {
	t.Helper()
	network, addr, _ := strings.Cut(strings.Replace(url, "ws://", "tcp://", 1), "://")
	r := rpc.NewResumable(rpc.ResumeOptions{Dial: func(ctx context.Context) (rpc.Stream, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		f := &frail{Conn: c, left: new(atomic.Int64)}
		f.left.Store(limit())
		s, err := rpc.DialWebSocket(ctx, f, rpc.WebSocketOptions{Resume: true})
		if err == nil && !rpc.Resumes(s) {
			err = errors.New("not agreed")
		}
		return s, err
	}})
	t.Cleanup(func() { _ = r.Close(nil) })
	return r
}

const forEver = int64(1) << 60

func TestStreamOutlivesItsConnections(t *testing.T) {
	eachDoor(t, func(t *testing.T, url string) {
		var accepted atomic.Int64
		l := open(t, url, Options{Sessions: sessions(t, rpc.SessionsConfig{})}, func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
			if accepted.Add(1); p.Kind != access.KindLocal || p.Role != protocol.RoleAdmin || via == "" || remote == "" {
				t.Errorf("%+v %q %q", p, via, remote)
			}
			echo(ctx, s, p, via, remote)
		})
		var links atomic.Int64
		r := client(t, l.URL(), func() int64 {
			if n := links.Add(1); n < 100 {
				return 2000 + rand.Int64N(10000)
			}
			return forEver
		})
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		const n = 3000
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range n {
				if err := r.Write(ctx, fmt.Appendf(nil, `{"id":%d,"pad":%q}`, i, strings.Repeat("x", i%50))); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for i := range n {
			got, err := r.Read(ctx)
			if want := fmt.Sprintf(`{"id":%d,"pad":%q}`, i, strings.Repeat("x", i%50)); err != nil || string(got) != want {
				t.Fatalf("message %d: %.60s, %v", i, got, err)
			}
		}
		wg.Wait()
		if err := r.Close(nil); err != nil {
			t.Error(err)
		}
		if accepted.Load() != 1 || links.Load() < 10 {
			t.Errorf("accepted %d times over %d links", accepted.Load(), links.Load())
		}
	})
}

func TestResumptionIsOnlyForThoseWhoAskAndGetIt(t *testing.T) {
	plain := open(t, socketURL(t), Options{}, echo)
	able := open(t, socketURL(t), Options{Sessions: sessions(t, rpc.SessionsConfig{})}, echo)
	for name, tc := range map[string]struct {
		dial func(context.Context, string) (rpc.Stream, error)
		l    *Listener
		want bool
	}{
		"asked and offered":     {DialLink, able, true},
		"asked and not offered": {DialLink, plain, false},
		"not asked":             {Dial, able, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := tc.dial(t.Context(), tc.l.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close(nil) }()
			if rpc.Resumes(s) != tc.want {
				t.Errorf("resumes: %v", !tc.want)
			}
			if !tc.want { // as ever
				roundTrip(t, s, "1")
			}
		})
	}
}

// A listener whose clients are away can be stopped, and those who are there hear
// the last words.
func TestListenerStopsWithSessionsAwayAndThere(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ss := rpc.NewSessions(rpc.SessionsConfig{})
	ran := make(chan struct{})
	go func() { defer close(ran); _ = ss.Run(ctx) }()
	l, err := Listen(t.Context(), socketURL(t), Options{Sessions: ss})
	if err != nil {
		t.Fatal(err)
	}
	stop := serve(t, l, func(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
		if b, err := s.Read(ctx); err == nil {
			_ = s.Write(ctx, b)
		}
		<-ctx.Done()
		_ = s.Write(context.WithoutCancel(ctx), []byte("goodbye"))
	})
	there := client(t, l.URL(), func() int64 { return forEver })
	away := client(t, l.URL(), func() int64 { return 600 })
	for _, c := range []*rpc.Resumable{there, away} {
		roundTrip(t, c, "1")
	}
	_ = away.Write(t.Context(), make([]byte, 1000)) // its link dies of it
	cancel()
	<-ran
	stop()
	if b, err := there.Read(t.Context()); string(b) != "goodbye" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := there.Read(t.Context()); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// pipes connects two byte streams.
func pipes() (client, server net.Conn) { return net.Pipe() }

func TestBytesAreServedAsASocketIs(t *testing.T) {
	o := Options{Sessions: sessions(t, rpc.SessionsConfig{})}
	key := access.Principal{Kind: access.KindKey, ID: "SHA256:x", Name: "ana", Role: protocol.RoleOperator}
	type caller struct {
		p           access.Principal
		via, remote string
	}
	callers := make(chan caller, 10)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	connect := func(p access.Principal) net.Conn {
		c, s := pipes()
		serving.Go(func() {
			_ = ServeBytes(ctx, s, o, p, "ssh", "192.0.2.1:7", func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
				callers <- caller{p, via, remote}
				echo(ctx, s, p, via, remote)
			})
		})
		return c
	}
	dialAs := func(p access.Principal, resume bool) rpc.Stream {
		t.Helper()
		s, err := rpc.DialWebSocket(t.Context(), connect(p), rpc.WebSocketOptions{Resume: resume})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(nil) })
		return s
	}

	s := dialAs(key, false)
	big := `"` + strings.Repeat("x", 20<<20) + `"`
	if got := roundTrip(t, s, big); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	_ = s.Close(nil)
	if c := <-callers; c.p != key || c.via != "ssh" || c.remote != "192.0.2.1:7" {
		t.Errorf("%+v", c)
	}

	// A session belongs to a principal with a role: neither another key nor the
	// same one with other rights finds it.
	who := key
	var link rpc.Stream
	var mu sync.Mutex
	r := rpc.NewResumable(rpc.ResumeOptions{Dial: func(context.Context) (rpc.Stream, error) {
		mu.Lock()
		defer mu.Unlock()
		link = dialAs(who, true)
		return link, nil
	}})
	defer func() { _ = r.Close(nil) }()
	roundTrip(t, r, "1")
	cut := func() { mu.Lock(); defer mu.Unlock(); _ = link.Close(nil) }
	cut()
	roundTrip(t, r, "2")
	if len(callers) != 1 {
		t.Errorf("accepted %d times", len(callers))
	}
	mu.Lock()
	who.Role = protocol.RoleObserver
	mu.Unlock()
	cut()
	if _, err := r.Read(t.Context()); !errors.Is(err, rpc.ErrLost) {
		t.Errorf("with another role: %v", err)
	}
}

func TestBytesThatAreNoHandshakeAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		request, status string
	}{
		"web page":        {upgrade("x", "Origin: https://example.com"), "403 Forbidden"},
		"plain get":       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"},
		"wrong version":   {upgrade("x", "Sec-WebSocket-Version: 7"), "400 Bad Request"},
		"bad key":         {upgrade("x", "Sec-WebSocket-Key: x"), "400 Bad Request"},
		"JSON lines":      {"{\"id\":1,\"method\":\"initialize\"}\n\n", ""},
		"an endless line": {strings.Repeat("x", 1<<20), ""},
		"a huge header":   {"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20), ""},
		"nothing":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := pipes()
			ended := make(chan error, 1)
			go func() {
				ended <- ServeBytes(t.Context(), s, Options{}, access.Principal{}, "ssh", "x", func(context.Context, rpc.Stream, access.Principal, string, string) {
					t.Error("accepted")
				})
			}()
			go func() {
				_, _ = io.WriteString(c, tc.request)
				if tc.request == "" {
					_ = c.Close()
				}
			}()
			if tc.status != "" {
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil || resp.Status != tc.status {
					t.Errorf("%+v, %v", resp, err)
				}
			}
			if tc.status == "" && tc.request == "{\"id\":1,\"method\":\"initialize\"}\n\n" {
				_, _ = io.Copy(io.Discard, c)
			}
			select {
			case err := <-ended:
				if err == nil || !strings.HasPrefix(err.Error(), "handshake: ") {
					t.Errorf("%v", err)
				}
			case <-time.After(patience):
				t.Error("it goes on")
			}
			_ = c.Close()
		})
	}
}

func TestEndOfContextEndsAHandshakeOnBytes(t *testing.T) {
	c, s := pipes()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeBytes(ctx, s, Options{}, access.Principal{}, "ssh", "x", nil) }()
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}

// The WebSocket library takes the end of a connection at some places within a
// message for the end of the message (v1.8.15). Half a message must not pass for
// a whole one, wherever the connection ends.
func TestDefectHalfAMessageIsNone(t *testing.T) {
	msg := strings.Repeat("0123456789", 200)
	for name, tc := range map[string]struct {
		head  []byte // of a frame with msg, as the reader expects it
		reads func(c net.Conn, got chan<- []byte)
		hello func(c net.Conn)
	}{
		"server, bytes": {[]byte{0x81, 0xfe, 2000 >> 8, 2000 & 0xff, 0, 0, 0, 0}, func(c net.Conn, got chan<- []byte) {
			_ = ServeBytes(context.Background(), c, Options{}, access.Principal{}, "ssh", "x", func(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
				b, _ := s.Read(ctx)
				got <- b
			})
		}, func(c net.Conn) {
			_, _ = io.WriteString(c, upgrade("x"))
			_, _ = http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
		}},
		"client": {[]byte{0x81, 126, 2000 >> 8, 2000 & 0xff}, func(c net.Conn, got chan<- []byte) {
			s, err := rpc.DialWebSocket(context.Background(), c, rpc.WebSocketOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			b, _ := s.Read(context.Background())
			_ = s.Close(nil)
			got <- b
		}, func(c net.Conn) {
			r, err := http.ReadRequest(bufio.NewReaderSize(c, 16))
			if err != nil {
				t.Error(err)
				return
			}
			sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
				base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := append(tc.head, msg...)
			for n := 0; n <= len(whole); n++ {
				near, far := pipes()
				got := make(chan []byte, 1)
				go tc.reads(near, got)
				tc.hello(far)
				_, _ = far.Write(whole[:n])
				_ = far.Close()
				if b := <-got; n < len(whole) && b != nil || n == len(whole) && string(b) != msg {
					t.Fatalf("after %d bytes of %d: a message of %d bytes", n, len(whole), len(b))
				}
			}
		})
	}
}
