package peer

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Chaos is a link that fails at random: connections are cut in the middle of a
// message, stall before they die, are refused, and are let through late, so that
// a later attempt can arrive before an earlier one. Every choice comes from one
// seed, which is printed when the test fails; TOWLINE_CHAOS_SEED repeats it.
type Chaos struct {
	Addr    string
	target  string
	weather Weather

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	calm  bool
	conns map[end]struct{}

	cuts    atomic.Int64
	refused atomic.Int64
	wg      sync.WaitGroup
	done    chan struct{}
}

// Weather is how bad a [Chaos] is. The zero value's times are in the order of
// magnitude of a loopback round trip: a test wants a thousand cuts, not a
// thousand waits.
type Weather struct {
	Life  time.Duration // a connection lives up to this long
	Bytes int64         // or carries up to so many bytes
	Stall time.Duration // and one in four says nothing for up to this long before it dies
	Delay time.Duration // an attempt waits up to so long to be let through
}

func (w Weather) withDefaults() Weather {
	if w.Life == 0 {
		w.Life = 60 * time.Millisecond
	}
	if w.Bytes == 0 {
		w.Bytes = 24 << 10
	}
	if w.Stall == 0 {
		w.Stall = 120 * time.Millisecond
	}
	if w.Delay == 0 {
		w.Delay = 25 * time.Millisecond
	}
	return w
}

// refuseOne attempt in so many.
const refuseOne = 8

// NewChaos forwards a loopback port to target (HOST:PORT, or the absolute path of
// a socket), badly, until the end of the test. It begins calm.
func NewChaos(t testing.TB, target string, w Weather) *Chaos {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number does
	if s := os.Getenv("TOWLINE_CHAOS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TOWLINE_CHAOS_SEED: %v", err)
		}
		seed = n
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	c := &Chaos{
		Addr: ln.Addr().String(), target: target, weather: w.withDefaults(), calm: true, conns: map[end]struct{}{},
		rng: rand.New(rand.NewPCG(seed, 0)), done: make(chan struct{}), //nolint:gosec // not a secret
	}
	c.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.wg.Go(func() { c.carry(conn.(end)) })
		}
	})
	t.Cleanup(func() {
		close(c.done)
		_ = ln.Close()
		c.Cut()
		c.wg.Wait()
		if t.Failed() {
			t.Logf("the link cut %d connections and refused %d; TOWLINE_CHAOS_SEED=%d makes the same choices", c.Cuts(), c.refused.Load(), seed)
		}
	})
	return c
}

// Begin starts the trouble: for connections to come and for those that live.
func (c *Chaos) Begin() { c.set(false) }

// Calm ends the trouble; connections that live stay.
func (c *Chaos) Calm() { c.set(true) }

func (c *Chaos) set(calm bool) {
	c.mu.Lock()
	c.calm = calm
	c.mu.Unlock()
	if !calm {
		c.Cut()
	}
}

// Cuts is how many connections that carried something were cut so far.
func (c *Chaos) Cuts() int { return int(c.cuts.Load()) }

// Cut ends every connection now, as a vanished network would.
func (c *Chaos) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		reset(conn)
		_ = conn.Close()
	}
}

// end is one end of a connection.
type end interface {
	net.Conn
	CloseWrite() error
}

// reset makes the coming Close look like a vanished network.
func reset(c end) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// fate is what will happen to one connection.
type fate struct {
	calm, refuse, reset bool
	delay, life, stall  time.Duration
	bytes               int64
}

func (c *Chaos) fate() fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm {
		return fate{calm: true}
	}
	upTo := func(d time.Duration) time.Duration { return time.Duration(c.rng.Int64N(int64(d))) }
	f := fate{
		refuse: c.rng.IntN(refuseOne) == 0, reset: c.rng.IntN(2) == 0,
		delay: upTo(c.weather.Delay), life: upTo(c.weather.Life), bytes: 1 + c.rng.Int64N(c.weather.Bytes),
	}
	if c.rng.IntN(4) == 0 {
		f.stall = upTo(c.weather.Stall)
	}
	return f
}

func (c *Chaos) carry(down end) {
	defer func() { _ = down.Close() }()
	f := c.fate()
	c.wait(f.delay)
	if f.refuse {
		c.refused.Add(1)
		return
	}
	network := "tcp"
	if strings.HasPrefix(c.target, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, c.target) //nolint:noctx // it is on this machine
	if err != nil {
		return
	}
	up := conn.(end)
	defer func() { _ = up.Close() }()
	c.add(down, up)
	defer c.forget(down, up)
	if !f.calm {
		defer c.cuts.Add(1)
		if f.reset {
			reset(down)
			reset(up)
		}
	}
	left := &atomic.Int64{}
	left.Store(f.bytes)
	over := make(chan struct{})
	var once sync.Once
	finish := func() { once.Do(func() { close(over) }) }
	var wg sync.WaitGroup
	for _, way := range [][2]end{{down, up}, {up, down}} {
		wg.Go(func() {
			if f.calm {
				_, _ = io.Copy(way[1], way[0])
				_ = way[1].CloseWrite()
				return
			}
			defer finish()
			ration(way[1], way[0], left)
		})
	}
	if f.calm {
		wg.Wait()
		return
	}
	timer := time.NewTimer(f.life)
	defer timer.Stop()
	select {
	case <-over: // it has carried its bytes, or an end was closed
	case <-timer.C:
	case <-c.done:
	}
	left.Store(0) // from here on it says nothing
	c.wait(f.stall)
	_, _ = down.Close(), up.Close()
	wg.Wait()
}

// ration copies until left bytes went through, in either direction, and stops
// in the middle of whatever is being said.
func ration(to, from end, left *atomic.Int64) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		allowed := left.Add(-int64(n)) + int64(n)
		if allowed < int64(n) {
			_, _ = to.Write(buf[:max(allowed, 0)])
			return
		}
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

// wait lasts d, or until the test is over.
func (c *Chaos) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.done:
	}
}

func (c *Chaos) add(conns ...end) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.conns[conn] = struct{}{}
	}
}

func (c *Chaos) forget(conns ...end) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		delete(c.conns, conn)
	}
}
