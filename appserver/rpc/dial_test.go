package rpc

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestHandshakesThatFailSayHow(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		check  func(error) bool
	}{
		"refused": {"HTTP/1.1 403 Forbidden\r\nContent-Length: 25\r\n\r\nno:\x1b[31m not for\nyou here", func(err error) bool {
			var h *HandshakeError
			return errors.As(err, &h) && h.Status == 403 && err.Error() == "HTTP 403 Forbidden: no:[31m not for you here"
		}},
		"a refusal that never ends": {"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 99999\r\n\r\n" + strings.Repeat("x", 3000), func(err error) bool {
			var h *HandshakeError
			return errors.As(err, &h) && h.Status == 500 && len(h.Text) <= 1024
		}},
		"a banner":          {"Welcome to this machine!\r\n", func(err error) bool { return errors.Is(err, ErrNoHTTP) }},
		"a shell":           {"bash: towline: command not found\n", func(err error) bool { return errors.Is(err, ErrNoHTTP) }},
		"end of stream":     {"", func(err error) bool { return errors.Is(err, io.EOF) }},
		"half an answer":    {"HTT", func(err error) bool { return errors.Is(err, io.EOF) }},
		"an endless header": {"HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X-Y: zzzzzzzzzzzzzzzzzzzzzzzzzzzz\r\n", 10000), func(err error) bool { return err != nil }},
		"the wrong key": {
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: eA==\r\n\r\n",
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "Sec-WebSocket-Accept") },
		},
		"a protocol nobody asked for": {
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: $KEY\r\nSec-WebSocket-Protocol: " + ResumeProtocol + "\r\n\r\n",
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "Sec-WebSocket-Protocol") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				answer := tc.answer
				if r, err := http.ReadRequest(bufio.NewReader(s)); err == nil {
					sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
					answer = strings.ReplaceAll(answer, "$KEY", base64.StdEncoding.EncodeToString(sum[:]))
				}
				_, _ = io.WriteString(s, answer)
				if name == "end of stream" || name == "half an answer" {
					_ = s.Close()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := DialWebSocket(ctx, c, WebSocketOptions{})
			if !tc.check(err) {
				t.Errorf("%v", err)
			}
			_ = s.Close()
			<-done
			if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("the byte stream is still open: %v", err)
			}
		})
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	c, s := net.Pipe()
	defer s.Close()
	go func() { _, _ = io.Copy(io.Discard, s) }()
	why := errors.New("no answer in time")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, why)
	defer cancel()
	if _, err := DialWebSocket(ctx, c, WebSocketOptions{}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestHandshakeSaysWhatItWasTold(t *testing.T) {
	c, s := net.Pipe()
	defer s.Close()
	got := make(chan *http.Request, 1)
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(s))
		if err != nil {
			t.Error(err)
		}
		got <- r
		_ = s.Close()
	}()
	_, _ = DialWebSocket(t.Context(), c, WebSocketOptions{Host: "dev:1", Header: http.Header{"Authorization": {"Bearer x"}}, Resume: true})
	r := <-got
	if r.Host != "dev:1" || r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("Sec-WebSocket-Protocol") != ResumeProtocol || r.Header.Get("Origin") != "" {
		t.Errorf("%+v", r)
	}
}

// deafBanner says its piece and takes nothing.
type deafBanner struct{ io.Reader }

func (deafBanner) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (deafBanner) Close() error              { return nil }

func TestWhatSpokeAndLeftIsHeard(t *testing.T) {
	_, err := DialWebSocket(t.Context(), deafBanner{strings.NewReader("hello, I am a program\n")}, WebSocketOptions{})
	if !errors.Is(err, ErrNoHTTP) {
		t.Errorf("it said something before it left: %v", err)
	}
	if _, err = DialWebSocket(t.Context(), deafBanner{strings.NewReader("")}, WebSocketOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it left without a word: %v", err)
	}
}
