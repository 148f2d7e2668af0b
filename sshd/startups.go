package sshd

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Why a connection is turned away before a word is exchanged.
var (
	errCrowd  = errors.New("too many connections are waiting to log in")
	errSource = errors.New("too many connections from one address are waiting to log in")
	errFull   = errors.New("too many connections")
)

// startups counts connections that have not logged in, and those that have.
type startups struct {
	lim  Limits
	rand func() float64 // in [0, 1)

	mu      sync.Mutex // guards what follows
	waiting int
	sources map[netip.Prefix]int
	inside  int
}

func newStartups(lim Limits) *startups {
	return &startups{lim: lim, rand: rand.Float64, sources: map[netip.Prefix]int{}}
}

// place is one connection's share of the limits.
type place struct {
	s      *startups
	source netip.Prefix
	state  placeState // guarded by s.mu
}

type placeState int

const (
	placeWaiting placeState = iota
	placeInside
	placeFree
)

// enter takes a place for a connection that has not logged in.
func (s *startups) enter(remote net.Addr) (*place, error) {
	src := sourceOf(remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.inside >= s.lim.Connections:
		return nil, errFull
	case s.sources[src] >= s.lim.StartupsPerSource:
		return nil, errSource
	case s.drop():
		return nil, errCrowd
	}
	s.waiting++
	s.sources[src]++
	return &place{s: s, source: src}, nil
}

// drop is random early drop: certain at StartupsFull, StartupsRate percent at
// StartupsBegin, linear between. A flood then cannot shut everybody out by
// keeping the queue exactly full.
func (s *startups) drop() bool {
	l := s.lim
	switch {
	case s.waiting < l.StartupsBegin:
		return false
	case s.waiting >= l.StartupsFull:
		return true
	}
	rate := float64(l.StartupsRate) / 100
	p := rate + (1-rate)*float64(s.waiting-l.StartupsBegin)/float64(l.StartupsFull-l.StartupsBegin)
	return s.rand() < p
}

// admit moves the place inside: its connection has logged in. It reports
// whether there was room. An eighth is the owner's, so that nobody who was given
// a lesser role can shut the owner out by taking every place.
func (p *place) admit(owner bool) bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	room := p.s.lim.Connections
	if !owner {
		room -= (room + 7) / 8
	}
	if p.state != placeWaiting || p.s.inside >= room {
		return false
	}
	p.leaveLocked()
	p.state = placeInside
	p.s.inside++
	return true
}

// free gives the place back. It may be called more than once.
func (p *place) free() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.leaveLocked()
	p.state = placeFree
}

func (p *place) leaveLocked() {
	switch p.state {
	case placeWaiting:
		p.s.waiting--
		if p.s.sources[p.source]--; p.s.sources[p.source] == 0 {
			delete(p.s.sources, p.source)
		}
	case placeInside:
		p.s.inside--
	}
}

// quota lets a number of things through a minute and counts the rest: what any
// stranger can cause must not fill a disk.
type quota struct {
	most int
	now  func() time.Time

	mu    sync.Mutex // guards what follows
	since time.Time
	used  int
	lost  int
}

// take reports whether there is room for one more, and how many found none
// since the last that did.
func (q *quota) take() (ok bool, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := q.now(); now.Sub(q.since) >= time.Minute {
		q.since, q.used = now, 0
	}
	if q.used >= q.most {
		q.lost++
		return false, 0
	}
	q.used++
	lost, q.lost = q.lost, 0
	return true, lost
}

// addrOf is where a connection comes from; invalid when it is not TCP.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// sourceOf is what counts as one source: an IPv4 address, or the /64 of which
// an IPv6 host has all.
func sourceOf(remote net.Addr) netip.Prefix {
	a := addrOf(remote)
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero prefix for what has no address
	return p
}
