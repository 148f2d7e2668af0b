package peer

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Link is a TCP connection's way between two programs, which a test can cut.
type Link struct {
	Addr   string
	target string
	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	down   bool
}

// NewLink forwards a loopback port to target (HOST:PORT) until the test ends.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	return newLink(t, "127.0.0.1:0", target)
}

func newLink(t testing.TB, listen, target string) *Link {
	t.Helper()
	ln, err := net.Listen("tcp", listen) //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{Addr: ln.Addr().String(), target: target, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { l.carry(c) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); l.Cut(); wg.Wait() })
	return l
}

func (l *Link) carry(c net.Conn) {
	defer func() { _ = c.Close() }()
	up, err := net.Dial("tcp", l.target) //nolint:noctx // loopback
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	if !l.add(c, up) {
		return
	}
	defer l.drop(c, up)
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{c, up}, {up, c}} {
		wg.Go(func() {
			_, _ = io.Copy(p[1], p[0])
			_ = p[1].(*net.TCPConn).CloseWrite()
		})
	}
	wg.Wait()
}

func (l *Link) add(cs ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range cs {
		l.conns[c] = struct{}{}
	}
	return !l.down
}

func (l *Link) drop(cs ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range cs {
		delete(l.conns, c)
	}
}

// Cut ends every connection at once and refuses new ones until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, as from a vanished network
		}
		_ = c.Close()
	}
}

// Mend lets connections through again.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}
