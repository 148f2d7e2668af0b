package rpc

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// upgraded answers a handshake on c, and leaves what follows unread.
func upgraded(t *testing.T, c net.Conn) *bufio.Reader {
	t.Helper()
	br := bufio.NewReader(c)
	r, err := http.ReadRequest(br)
	if err != nil {
		t.Error(err)
		return br
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return br
}

// dialAlive dials a server that is serve, within a bubble: the beat has no other
// clock than the one that waits for everybody.
func dialAlive(t *testing.T, serve func(c net.Conn, br *bufio.Reader)) Stream {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(b, upgraded(t, b))
	}()
	s, err := DialWebSocket(t.Context(), a, WebSocketOptions{Alive: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(nil); _ = b.Close(); <-done })
	return s
}

func TestASilentServerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dialAlive(t, func(_ net.Conn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) })
		begun := time.Now()
		if _, err := s.Read(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("Read = %v", err)
		}
		if d := time.Since(begun); d < 30*time.Second || d > time.Minute {
			t.Errorf("given up after %v", d)
		}
	})
}

// A reader that is busy elsewhere says nothing about the server.
func TestWhoDoesNotReadProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dialAlive(t, func(c net.Conn, br *bufio.Reader) {
			go func() { _, _ = io.Copy(io.Discard, br) }()
			_, _ = c.Write([]byte{0x81, 2, '{', '}', 0x81, 2, '{', '}'})
		})
		for range 2 {
			if b, err := s.Read(t.Context()); err != nil || string(b) != "{}" {
				t.Errorf("Read = %q, %v", b, err)
			}
			time.Sleep(10 * time.Minute) // of the bubble's clock: nobody waits
		}
	})
}

// One that answers, as stock Codex does, twice, stays however little it says.
func TestAQuietServerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const enough = 12
		s := dialAlive(t, func(c net.Conn, br *bufio.Reader) {
			for range enough {
				head := make([]byte, 6) // FIN and ping, a length below 126, a mask
				if _, err := io.ReadFull(br, head); err != nil || head[0] != 0x89 {
					t.Errorf("%x, %v", head, err)
					return
				}
				payload := make([]byte, head[1]&0x7f)
				if _, err := io.ReadFull(br, payload); err != nil {
					t.Error(err)
					return
				}
				for i := range payload {
					payload[i] ^= head[2+i%4]
				}
				pong := append([]byte{0x8a, byte(len(payload))}, payload...)
				if _, err := c.Write(append(pong, pong...)); err != nil {
					t.Error(err)
					return
				}
			}
			_, _ = c.Write([]byte{0x81, 2, '{', '}'})
			_, _ = io.Copy(io.Discard, br)
		})
		if b, err := s.Read(t.Context()); err != nil || string(b) != "{}" {
			t.Errorf("Read = %q, %v", b, err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		" 12 ":                          12 * time.Second,
		"-5":                            0,
		"1.5":                           0,
		"soon":                          0,
		"999999":                        MaxRetryAfter,
		"99999999999999999999":          0,
		"Wed, 06 May 2026 07:08:39 GMT": 30 * time.Second,
		"Wed, 06 May 2026 07:00:00 GMT": 0,
		"Wed, 06 May 2028 07:00:00 GMT": MaxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q = %v, want %v", text, got, want)
		}
	}
	err := fmt.Errorf("dial: %w", &HandshakeError{Status: 429, RetryAfter: time.Minute})
	if RetryAfter(err) != time.Minute || RetryAfter(io.EOF) != 0 {
		t.Errorf("%v", RetryAfter(err))
	}
}
