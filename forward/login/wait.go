package login

import (
	"context"
	"time"
)

// wait waits for d, or until ctx ends; then it is false.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
