package main

import (
	"context"
	"runtime/debug"
	"time"
)

// settleAfter is how long a start is given to be over: late enough that nobody
// waits for a first screen, and soon enough to be called idle.
const settleAfter = time.Second

// settle gives back, once, what only starting took: a daemon runs for weeks and
// mostly waits, and Go returns little to the system while nothing is allocated.
func settle(ctx context.Context) {
	t := time.NewTimer(settleAfter)
	defer t.Stop()
	select {
	case <-t.C:
		debug.FreeOSMemory()
		unmapStart()
	case <-ctx.Done():
	}
}
