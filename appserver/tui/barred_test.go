package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// errRevoked is what a server says that lets a token in no more.
var errRevoked = fmt.Errorf("%w: %w", rpc.ErrRefused, &config.Problem{Stage: "dial", Err: errors.New("revoked"), Exit: config.ExitDenied})

// Nobody at the screen can mend a token: a return that is refused ends the client
// with the reason, with a stream that ends with its link and one that does not.
func TestRefusedReturnEndsWhereNobodyCanMendIt(t *testing.T) {
	ends := func(t *testing.T, s *tty) {
		t.Helper()
		if _, err := s.ends(); !errors.Is(err, rpc.ErrRefused) || config.ExitCode(err) != config.ExitDenied {
			t.Errorf("Run = %v", err)
		}
	}
	t.Run("plain", func(t *testing.T) {
		f := newFake(t).session(protocol.Session{Host: "dev-server"})
		var gone atomic.Bool
		s := start(t, f, 80, 24, func(c *Config) {
			c.EndWhenRefused = true
			dial := c.Dial
			c.Dial = func(ctx context.Context) (rpc.Stream, error) {
				if gone.Load() {
					return nil, errRevoked
				}
				return dial(ctx)
			}
		})
		s.sees("○ new")
		f.cut(true) // the first return works
		s.sees("back after")
		gone.Store(true)
		f.cut(true)
		ends(t, s)
	})
	t.Run("resumable", func(t *testing.T) {
		f := newFake(t).session(protocol.Session{Host: "dev-server"})
		lk := make(chan *healer, 1)
		s := start(t, f, 80, 24, func(c *Config) {
			c.EndWhenRefused = true
			dial := c.Dial
			c.Dial = func(ctx context.Context) (rpc.Stream, error) {
				st, err := dial(ctx)
				if err != nil {
					return nil, err
				}
				h := heal(st)
				lk <- h
				return h, nil
			}
		})
		h := <-lk
		s.sees("○ new")
		h.set(LinkState{Attempt: 1, NextTry: time.Now().Add(time.Hour), Since: time.Now(), Err: io.ErrUnexpectedEOF})
		s.sees("⟳ unreachable")
		h.set(LinkState{Attempt: 2, NextTry: time.Now().Add(time.Hour), Since: time.Now(), Err: errRevoked})
		ends(t, s)
	})
}

// A server that says when to come back is not asked before.
func TestReturnWaitsAsLongAsTheServerSays(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	var busy atomic.Bool
	s := start(t, f, 80, 24, func(c *Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context) (rpc.Stream, error) {
			if busy.Load() {
				return nil, &rpc.HandshakeError{Status: 429, RetryAfter: 10 * time.Minute}
			}
			return dial(ctx)
		}
	})
	s.sees("○ new")
	busy.Store(true)
	f.cut(true)
	s.sees("⟳ unreachable", "next in 59") // seconds, of the ten minutes
}
