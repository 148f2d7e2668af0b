package remotetest

import (
	"net"
	"strconv"
	"sync"
	"testing"
)

// Relay passes TCP connections on to another address. It counts them, which is
// how tests know how often somebody logged in, and can cut or stall them, which
// is what links do.
type Relay struct {
	l  net.Listener
	to string

	wg    sync.WaitGroup
	mu    sync.Mutex // guards what follows
	stall sync.Cond  // on mu: stalled became false, or closed true
	open  map[net.Conn]struct{}
	count int
	still bool
	over  bool
}

// StartRelay listens on a loopback port until the test ends.
func StartRelay(t testing.TB, to string) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{l: l, to: to, open: map[net.Conn]struct{}{}}
	r.stall.L = &r.mu
	r.wg.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Addr is where it listens; Port is the port of that.
func (r *Relay) Addr() string { return r.l.Addr().String() }

// Port is the port it listens on.
func (r *Relay) Port() int { return r.l.Addr().(*net.TCPAddr).Port }

// PortString is Port for a configuration file.
func (r *Relay) PortString() string { return strconv.Itoa(r.Port()) }

// Count is how many connections there have been.
func (r *Relay) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Cut ends all connections there are.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}

// Stall holds back all bytes, without ending a connection, until Stall(false).
func (r *Relay) Stall(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.still = on
	r.stall.Broadcast()
}

func (r *Relay) close() {
	_ = r.l.Close()
	r.mu.Lock()
	r.over = true
	r.stall.Broadcast()
	r.mu.Unlock()
	r.Cut()
	r.wg.Wait()
}

func (r *Relay) accept() {
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.count++
		r.open[in], r.open[out] = struct{}{}, struct{}{}
		if r.over {
			_, _ = in.Close(), out.Close()
		}
		r.mu.Unlock()
		var pair sync.WaitGroup
		pair.Go(func() { r.pipe(in, out) })
		pair.Go(func() { r.pipe(out, in) })
		r.wg.Go(func() {
			pair.Wait()
			_, _ = in.Close(), out.Close()
			r.mu.Lock()
			delete(r.open, in)
			delete(r.open, out)
			r.mu.Unlock()
		})
	}
}

// pipe copies one direction, then ends both: an SSH connection has no half.
func (r *Relay) pipe(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		for r.still && !r.over {
			r.stall.Wait()
		}
		r.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
