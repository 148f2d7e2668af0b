package bearer

import (
	"net/netip"
	"sync"
	"time"
)

// maxSources bounds the table of sources that failed of late.
const maxSources = 4096

func (l Lockout) withDefaults() Lockout {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if l.Free <= 0 {
		l.Free = 10
	}
	if l.LoopbackFree <= 0 {
		l.LoopbackFree = 100
	}
	def(&l.Base, time.Second)
	def(&l.Max, 5*time.Minute)
	def(&l.Forget, 15*time.Minute)
	return l
}

// lockout counts failures by source. It is safe for concurrent use.
type lockout struct {
	Lockout
	mu      sync.Mutex // guards what follows
	sources map[netip.Prefix]*failures
}

type failures struct {
	n     int
	last  time.Time
	until time.Time // locked; zero is not
}

// source is what is counted together: an IPv4 address, or an IPv6 /64, which is
// what one customer of a provider has at least. A unix socket is this machine.
func source(a netip.Addr) (p netip.Prefix, local bool) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsLoopback() {
		return netip.Prefix{}, true
	}
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ = a.Prefix(bits) // both are in range
	return p, false
}

// locked is how long a source has to wait; zero is not at all.
func (l *lockout) locked(p netip.Prefix, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.sources[p]
	if f == nil || !now.Before(f.until) {
		return 0
	}
	return min(f.until.Sub(now), l.Max) // a clock that was set back locks nobody for long
}

// failed counts one more. It returns how long the source is locked from now on, and
// how often it failed.
func (l *lockout) failed(p netip.Prefix, local bool, now time.Time) (lock time.Duration, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.sources[p]
	if f != nil && now.Sub(f.last) > l.Forget {
		f = nil
	}
	if f == nil {
		if len(l.sources) >= maxSources {
			l.evict()
		}
		f = &failures{}
		l.sources[p] = f
	}
	f.last = now
	if now.Before(f.until) { // one lock at a time
		return 0, f.n
	}
	f.n++
	free := l.Free
	if local {
		free = l.LoopbackFree
	}
	over := f.n - free
	if over <= 0 {
		return 0, f.n
	}
	lock = l.Max
	if over < 32 {
		lock = min(l.Base<<(over-1), l.Max)
	}
	if lock <= 0 {
		lock = l.Max
	}
	f.until = now.Add(lock)
	return lock, f.n
}

// evict makes room: of a handful, whoever failed longest ago. Looking at all of them
// would let strangers with many addresses set the price of an attempt.
func (l *lockout) evict() {
	const handful = 16
	var oldest netip.Prefix
	var at time.Time
	n := 0
	for p, f := range l.sources { // a map begins anywhere
		if n++; n > handful {
			break
		}
		if at.IsZero() || f.last.Before(at) {
			oldest, at = p, f.last
		}
	}
	delete(l.sources, oldest)
}

// forget drops what is long ago.
func (l *lockout) forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, f := range l.sources {
		if now.Sub(f.last) > l.Forget {
			delete(l.sources, p)
		}
	}
}
