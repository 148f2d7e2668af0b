package codex

import (
	"math/rand/v2"
	"time"
)

// backoff spaces restarts: doubling, with jitter so that hosts which lost the
// same thing do not come back in step.
type backoff struct {
	first, most time.Duration
	failures    int // in a row
}

// next counts a failure and returns how long to wait: between half and all of
// first, doubled for each failure before this one, at most most.
func (b *backoff) next() time.Duration {
	d := b.first
	for i := 0; i < b.failures && d < b.most; i++ {
		d *= 2
	}
	d = min(d, b.most)
	b.failures++
	return d/2 + rand.N(d/2+1) //nolint:gosec // jitter
}

func (b *backoff) reset() { b.failures = 0 }
