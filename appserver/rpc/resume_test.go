package rpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a byte connection that dies after so many bytes in either direction.
type wire struct {
	net.Conn
	left *atomic.Int64 // bytes this end may still write
	cut  func()
}

// wires makes both ends; up and down are the bytes that get through, negative
// for any number.
func wires(up, down int64) (client, server *wire, cut func()) {
	a, b := net.Pipe()
	cut = func() { _ = a.Close(); _ = b.Close() }
	end := func(c net.Conn, n int64) *wire {
		w := &wire{Conn: c, left: new(atomic.Int64), cut: cut}
		if w.left.Store(n); n < 0 {
			w.left.Store(1 << 60)
		}
		return w
	}
	return end(a, up), end(b, down), cut
}

func (w *wire) Write(p []byte) (int, error) {
	if left := w.left.Add(-int64(len(p))); left < 0 {
		p = p[:max(int64(len(p))+left, 0)]
		n, _ := w.Conn.Write(p)
		w.cut()
		return n, net.ErrClosed
	}
	return w.Conn.Write(p)
}

// framed is the simplest Stream over bytes, whose cuts lose part of a message.
type framed struct {
	c  net.Conn
	r  *bufio.Reader
	mu sync.Mutex
}

func newFramed(c net.Conn) *framed { return &framed{c: c, r: bufio.NewReader(c)} }

func (f *framed) Read(ctx context.Context) ([]byte, error) {
	defer context.AfterFunc(ctx, func() { _ = f.c.Close() })()
	var head [4]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(f.r, b)
	return b, err
}

func (f *framed) Write(_ context.Context, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func (f *framed) Close(error) error { return f.c.Close() }

// rig is a server and what dials it.
type rig struct {
	t        *testing.T
	sessions *Sessions
	accept   func(context.Context, Stream)
	owner    string
	// limits says what the n-th link lets through each way.
	limits func(n int) (up, down int64)
	dials  atomic.Int64
	serves sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context
	ran    chan struct{}
	mu     sync.Mutex
	cut    func() // the newest link
	fault  error  // of dialing
}

func newRig(t *testing.T, cfg SessionsConfig, accept func(context.Context, Stream)) *rig {
	g := &rig{t: t, sessions: NewSessions(cfg), accept: accept, owner: "ana/admin", ran: make(chan struct{})}
	g.ctx, g.stop = context.WithCancel(context.Background())
	go func() { defer close(g.ran); _ = g.sessions.Run(g.ctx) }()
	t.Cleanup(g.close)
	return g
}

func (g *rig) close() {
	g.stop()
	<-g.ran
	g.serves.Wait()
}

func (g *rig) dial(context.Context) (Stream, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := int(g.dials.Add(1))
	if g.fault != nil {
		return nil, g.fault
	}
	up, down := int64(-1), int64(-1)
	if g.limits != nil {
		up, down = g.limits(n)
	}
	c, s, cut := wires(up, down)
	g.cut = cut
	owner := g.owner
	g.serves.Go(func() { _ = g.sessions.Serve(g.ctx, newFramed(s), owner, g.accept) })
	return newFramed(c), nil
}

func (g *rig) set(f func()) { g.mu.Lock(); defer g.mu.Unlock(); f() }

// drop cuts the newest link.
func (g *rig) drop() { g.mu.Lock(); cut := g.cut; g.mu.Unlock(); cut() }

func (g *rig) client(o ResumeOptions) *Resumable {
	o.Dial = g.dial
	r := NewResumable(o)
	r.world.addrs = func() string { return "" }
	g.t.Cleanup(func() { _ = r.Close(nil) })
	return r
}

// message is the i-th of a sequence; some are long.
func message(side string, i int) string {
	pad := i % 7 * 11
	if i%41 == 40 {
		pad = pieceBytes + i
	}
	return fmt.Sprintf("%s %d %s", side, i, strings.Repeat("x", pad))
}

func sendAll(t *testing.T, s Stream, side string, n int) {
	for i := range n {
		if err := s.Write(t.Context(), []byte(message(side, i))); err != nil {
			t.Errorf("%s: write %d: %v", side, i, err)
			return
		}
	}
}

func readAll(t *testing.T, s Stream, side string, n int) {
	for i := range n {
		got, err := s.Read(t.Context())
		if err != nil {
			t.Errorf("%s: read %d: %v", side, i, err)
			return
		}
		if want := message(side, i); string(got) != want {
			t.Errorf("%s: message %d is %.40q (%d bytes), want %.40q", side, i, got, len(got), want)
			return
		}
	}
}

// exchange sends n messages each way at once over a resumable stream, then ends
// it from the server: the client has to see every message once, then the end.
func exchange(t *testing.T, n int, limits func(int) (int64, int64), cfg SessionsConfig, o ResumeOptions) (links int64) {
	served := make(chan struct{})
	accepts := 0
	g := newRig(t, cfg, func(_ context.Context, s Stream) {
		accepts++
		var wg sync.WaitGroup
		wg.Go(func() { sendAll(t, s, "down", n) })
		wg.Go(func() { readAll(t, s, "up", n) })
		wg.Wait()
		close(served)
	})
	g.limits = limits
	r := g.client(o)
	var wg sync.WaitGroup
	wg.Go(func() { sendAll(t, r, "up", n) })
	wg.Go(func() {
		readAll(t, r, "down", n)
		if _, err := r.Read(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the last message: %v", err)
		}
	})
	wg.Wait()
	<-served
	if err := r.Close(nil); err != nil {
		t.Errorf("Close: %v", err)
	}
	g.close()
	if accepts != 1 {
		t.Errorf("accepted %d times", accepts)
	}
	return g.dials.Load()
}

func TestResumeAfterACutAtEveryByte(t *testing.T) {
	const bytes = 400 // more than the whole exchange has in one direction
	for _, dir := range []string{"up", "down"} {
		t.Run(dir, func(t *testing.T) {
			whole := 0
			for at := range int64(bytes) {
				synctest.Test(t, func(t *testing.T) {
					links := exchange(t, 5, func(n int) (int64, int64) {
						switch {
						case n > 1:
							return -1, -1
						case dir == "up":
							return at, -1
						}
						return -1, at
					}, SessionsConfig{}, ResumeOptions{})
					if links == 1 {
						whole++
					}
				})
				if t.Failed() {
					t.Fatalf("cut %s after %d bytes", dir, at)
				}
			}
			if whole == 0 || whole == bytes {
				t.Errorf("%d of %d exchanges needed one link: the cuts miss", whole, bytes)
			}
		})
	}
}

func TestResumeThroughThousandsOfCuts(t *testing.T) {
	for name, tc := range map[string]struct {
		n    int
		mean float64
		cfg  SessionsConfig
		o    ResumeOptions
	}{
		"short links":    {1500, 400, SessionsConfig{}, ResumeOptions{}},
		"longer links":   {1500, 9000, SessionsConfig{}, ResumeOptions{}},
		"little room":    {1000, 500, SessionsConfig{BufferBytes: 8 << 20}, ResumeOptions{BufferBytes: 2000, BufferMessages: 3}},
		"room for a few": {1000, 300, SessionsConfig{}, ResumeOptions{BufferMessages: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seed := rand.Uint64()
				rng := rand.New(rand.NewPCG(seed, 1))
				links := exchange(t, tc.n, func(n int) (int64, int64) {
					if n > 2500 {
						return -1, -1
					}
					draw := func() int64 {
						if d := rng.ExpFloat64() * tc.mean; rng.IntN(20) > 0 {
							return int64(d)
						} else {
							return int64(d) + pieceBytes*3/2
						}
					}
					return draw(), draw()
				}, tc.cfg, tc.o)
				t.Logf("%d links; seed %d", links, seed)
				if links < 20 {
					t.Errorf("only %d links", links)
				}
			})
		})
	}
}

func TestSilentPeerIsGivenUpAfterThreePings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var link atomic.Pointer[stalled]
		g := newRig(t, SessionsConfig{}, func(ctx context.Context, s Stream) { <-ctx.Done() })
		r := NewResumable(ResumeOptions{Dial: func(ctx context.Context) (Stream, error) {
			s, err := g.dial(ctx)
			st := &stalled{Stream: s}
			link.Store(st)
			return st, err
		}})
		r.world.addrs = func() string { return "" }
		defer r.Close(nil)
		if err := r.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Pings keep an idle link.
		time.Sleep(time.Hour)
		if st := r.State(); !st.Up || g.dials.Load() != 1 {
			t.Fatalf("an idle link did not last: %+v", st)
		}
		link.Load().stalled.Store(true)
		g.set(func() { g.fault = errors.New("no way") })
		began := time.Now()
		changed := r.Changed()
		<-changed
		if took := time.Since(began); took > linkDead || took < linkDead-pingEvery {
			t.Errorf("noticed after %v", took)
		}
		if st := r.State(); st.Up {
			t.Errorf("%+v", st)
		}
	})
}

// stalled swallows everything both ways while it is: a peer behind a dead NAT.
type stalled struct {
	Stream
	stalled atomic.Bool
}

func (s *stalled) Read(ctx context.Context) ([]byte, error) {
	for {
		b, err := s.Stream.Read(ctx)
		if err != nil || !s.stalled.Load() {
			return b, err
		}
	}
}

func (s *stalled) Write(ctx context.Context, b []byte) error {
	if s.stalled.Load() {
		return nil
	}
	return s.Stream.Write(ctx, b)
}
