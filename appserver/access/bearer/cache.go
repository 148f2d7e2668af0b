package bearer

import (
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"towline/appserver/access"
)

// Limits on what is remembered of good tokens. Nothing is remembered of bad ones.
const (
	maxProven = 1024
	maxLeases = 16 << 10
)

// sum is how a token is remembered: by its SHA-256, never by itself.
type sum = [sha256.Size]byte

// proven is what verifying a token found, all but the moment.
type proven struct {
	src       *jwtSource
	key       *key
	claims    claims // times only
	principal access.Principal
}

// cache remembers good tokens, so that a client that comes again does not cost a
// signature. Times and keys are looked at each time.
type cache struct {
	mu sync.Mutex
	m  map[sum]*proven
}

func (c *cache) get(s sum) *proven {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.m[s]
	if p != nil && p.key.isGone() {
		delete(c.m, s)
		return nil
	}
	return p
}

func (c *cache) put(s sum, p *proven) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for old := range c.m { // any will do: a map begins anywhere
		if len(c.m) < maxProven {
			break
		}
		delete(c.m, old)
	}
	c.m[s] = p
}

// expire forgets what is no use any more.
func (c *cache) expire(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, p := range c.m {
		if p.key.isGone() || p.claims.inTime(now, p.src.skew) != nil {
			delete(c.m, s)
		}
	}
}

// leases end principals whose token expires, where that was asked for. Connections
// of one token share one.
type leases struct {
	mu sync.Mutex
	m  map[sum]*lease
}

type lease struct {
	end   chan struct{}
	until int64 // Unix time
	key   *key  // nil: an issuer's, which may leave its set before its tokens have expired
}

var errLeases = errors.New("too many tokens are in use that end their connections when they expire")

func (l *leases) take(s sum, until int64, k *key) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.m[s]; have != nil {
		return have.end, nil
	}
	if len(l.m) >= maxLeases {
		return nil, errLeases
	}
	n := &lease{end: make(chan struct{}), until: until, key: k}
	l.m[s] = n
	return n.end, nil
}

// sweep ends what has come to its end.
func (l *leases) sweep(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, have := range l.m {
		if now > have.until || have.key != nil && have.key.isGone() {
			close(have.end)
			delete(l.m, s)
		}
	}
}

// budget is how often something may be said: some at once, and then one each so
// often. What was left unsaid is told with the next.
type budget struct {
	burst int
	every time.Duration

	mu      sync.Mutex
	left    int
	at      time.Time
	dropped int
}

func (b *budget) take(now time.Time) (dropped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.at.IsZero():
		b.left, b.at = b.burst, now
	case now.Before(b.at): // the clock was set back
		b.at = now
	}
	if n := int(min(now.Sub(b.at)/b.every, time.Duration(b.burst))); n > 0 {
		b.left, b.at = min(b.left+n, b.burst), now
	}
	if b.left == 0 {
		b.dropped++
		return 0, false
	}
	b.left--
	dropped, b.dropped = b.dropped, 0
	return dropped, true
}
