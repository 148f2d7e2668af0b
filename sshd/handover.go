package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// valve says whether connections are accepted.
type valve struct {
	mu       sync.Mutex // guards what follows
	shut     bool
	released bool
	changed  chan struct{} // closed and replaced when either changes
}

func (v *valve) set(shut, released bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut, v.released = shut, released
	if v.changed != nil {
		close(v.changed)
	}
	v.changed = make(chan struct{})
}

func (v *valve) state() (shut, released bool, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.shut, v.released, v.changed
}

// HandOver duplicates the listening socket for another process, which goes on with
// it by Config.Socket.
func (s *Server) HandOver() (*os.File, error) {
	ln, ok := s.ln.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("%s cannot be handed over", s.Addr())
	}
	return ln.File()
}

// Pause accepts nobody until Continue: who connects waits in the kernel's queue.
// Those who are connected notice nothing.
func (s *Server) Pause() {
	s.valve.set(true, false)
	s.wake()
}

// Continue undoes Pause.
func (s *Server) Continue() {
	if ln, ok := s.ln.(*net.TCPListener); ok {
		_ = ln.SetDeadline(time.Time{})
	}
	s.valve.set(false, false)
}

// Release accepts nobody any more: another process listens there now. Serve
// returns when those who are connected have left.
func (s *Server) Release() {
	s.valve.set(true, true)
	s.wake()
}

// wake ends an Accept that waits.
func (s *Server) wake() {
	if ln, ok := s.ln.(*net.TCPListener); ok {
		_ = ln.SetDeadline(time.Unix(1, 0))
	}
}

// held waits while nobody is to be accepted, and reports whether that was why
// Accept failed. over: nobody is any more.
func (s *Server) held(ctx context.Context) (was, over bool) {
	for {
		shut, released, changed := s.valve.state()
		switch {
		case released:
			return true, true
		case !shut:
			return was, false
		}
		was = true
		select {
		case <-changed:
		case <-ctx.Done():
			return true, true
		}
	}
}

// adopt goes on with a listening socket that another process handed over.
func adopt(f *os.File, listen string) (net.Listener, error) {
	defer func() { _ = f.Close() }() // the listener has a duplicate
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("not a socket to go on with: %w", err)
	}
	t, ok := ln.(*net.TCPListener)
	if ok {
		_ = t.SetDeadline(time.Time{})
		return t, nil
	}
	_ = ln.Close()
	return nil, errors.New("the socket for " + listen + " is no port")
}
