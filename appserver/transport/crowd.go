package transport

import (
	"net/netip"
	"sync"
)

// Crowd counts connections by where they come from and whose they are, so that
// one of many cannot take every place. It is safe for concurrent use.
type Crowd struct {
	mu         sync.Mutex // guards what follows
	sources    map[netip.Prefix]inside
	principals map[string]int
}

type inside struct{ conns, pending int }

// NewCrowd makes an empty one.
func NewCrowd() *Crowd {
	return &Crowd{sources: make(map[netip.Prefix]inside), principals: make(map[string]int)}
}

// sourceOf is who counts as one: an IPv4 address, or the network that one IPv6
// subscriber has to choose addresses from.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// arrive counts a connection that has not said anything yet.
func (c *Crowd) arrive(from netip.Prefix, l Limits) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.sources[from]
	if n.conns >= l.PerSource || n.pending >= l.PendingPerSource {
		return false
	}
	c.sources[from] = inside{n.conns + 1, n.pending + 1}
	return true
}

// admit ends the wait of one that arrived.
func (c *Crowd) admit(from netip.Prefix) { c.change(from, 0, -1) }

// leave forgets one that was admitted.
func (c *Crowd) leave(from netip.Prefix) { c.change(from, -1, 0) }

func (c *Crowd) change(from netip.Prefix, conns, pending int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.sources[from]
	n = inside{n.conns + conns, n.pending + pending}
	if n.conns <= 0 {
		delete(c.sources, from)
		return
	}
	c.sources[from] = n
}

// enter counts a connection of a principal; leave must be called when ok.
func (c *Crowd) enter(key string, most int) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.principals[key] >= most {
		return nil, false
	}
	c.principals[key]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.principals[key]--; c.principals[key] <= 0 {
			delete(c.principals, key)
		}
	}), true
}
