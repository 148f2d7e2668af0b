package supervisor

import (
	"math"
	"time"
)

// Backoff is how long to wait before a daemon that ended badly is started again:
// First, then twice as long each time, at most Most. Time it ran well counts
// against that: each Forgive of it takes back one step.
type Backoff struct {
	First   time.Duration // default 100 ms
	Most    time.Duration // default one minute
	Killed  time.Duration // at most, when something outside ended one that served; default 800 ms
	Forgive time.Duration // default 10 s
}

func (b Backoff) withDefaults() Backoff {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&b.First, 100 * time.Millisecond}, {&b.Most, time.Minute}, {&b.Killed, 800 * time.Millisecond}, {&b.Forgive, 10 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return b
}

// After is the wait after an end that retry steps came before, and the steps with
// it.
func (b Backoff) After(retry int, e *Exit) (time.Duration, int) {
	if e.Answered {
		ran := time.Duration(e.Ran * float64(time.Second))
		retry = max(0, retry-int(ran/b.Forgive))
	}
	wait := b.Most
	if f := math.Ldexp(float64(b.First), min(retry, 60)); f < float64(b.Most) {
		wait = time.Duration(f)
	}
	if e.outside() {
		// Somebody ended it, or the machine ran out of memory: nothing says that it
		// would end again.
		wait = min(wait, b.Killed)
	}
	return wait, retry + 1
}
