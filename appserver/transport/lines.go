package transport

import (
	"log/slog"
	"sync"
	"time"
)

// Lines about strangers: manyLines at once, and one each lineEvery after that.
const (
	manyLines = 30
	lineEvery = 2 * time.Second
)

// lines bounds what strangers can have written to the log: whoever may not come in
// can be refused as often as he likes. The zero value is ready.
type lines struct {
	mu     sync.Mutex // guards what follows
	paid   time.Time  // until then the lines that were written are paid off
	unsaid int
}

// warn writes a line, or counts it for the next.
func (l *lines) warn(log *slog.Logger, what string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	if l.paid.Before(now) {
		l.paid = now
	}
	if l.paid.Sub(now) > (manyLines-1)*lineEvery {
		l.unsaid++
		l.mu.Unlock()
		return
	}
	l.paid = l.paid.Add(lineEvery)
	unsaid := l.unsaid
	l.unsaid = 0
	l.mu.Unlock()
	if unsaid > 0 {
		args = append(args, "unsaid", unsaid)
	}
	log.Warn(what, args...)
}
