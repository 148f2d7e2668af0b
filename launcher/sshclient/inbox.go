package sshclient

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// inboxSize is how much of a stream waits here for its reader; beyond that the
	// channel's own window (2 MiB in the library) fills and the sender stops.
	inboxSize = 256 << 10
	pumpSize  = 32 << 10
)

// inbox is a channel's incoming stream with two things the library lacks: a Read
// that this side can end, and a deadline. A goroutine of the owner runs fill.
type inbox struct {
	mu       sync.Mutex // guards what follows
	more     sync.Cond  // there is something to read, or never will be
	room     sync.Cond  // there is room again
	buf      bytes.Buffer
	end      error // why nothing more comes; nil until then
	closed   error // why this side no longer reads; nil until then
	deadline time.Time
	timer    *time.Timer
}

func newInbox() *inbox {
	b := &inbox{}
	b.more.L, b.room.L = &b.mu, &b.mu
	return b
}

// fill moves r's bytes in until it ends. Once this side stopped reading the rest
// is thrown away, so that the channel can end in order.
func (b *inbox) fill(r io.Reader) {
	chunk := make([]byte, pumpSize)
	for {
		n, err := r.Read(chunk)
		b.mu.Lock()
		for b.buf.Len() >= inboxSize && b.closed == nil {
			b.room.Wait()
		}
		if b.closed == nil {
			b.buf.Write(chunk[:n])
		}
		if err != nil {
			b.end = err
		}
		b.more.Broadcast()
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (b *inbox) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.closed != nil:
			return 0, b.closed
		case len(p) == 0:
			return 0, nil
		case b.buf.Len() > 0:
			n, _ := b.buf.Read(p)
			b.room.Signal()
			return n, nil
		case b.end != nil:
			return 0, b.end
		case !b.deadline.IsZero() && !time.Now().Before(b.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		b.more.Wait()
	}
}

// close ends reading here, with err for whoever tries.
func (b *inbox) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		b.closed = err
		b.buf = bytes.Buffer{}
	}
	if b.timer != nil {
		b.timer.Stop()
	}
	b.more.Broadcast()
	b.room.Broadcast()
}

// setDeadline bounds every Read, also those under way; the zero time lifts it.
func (b *inbox) setDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deadline = t
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if !t.IsZero() && b.closed == nil {
		b.timer = time.AfterFunc(time.Until(t), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.more.Broadcast()
		})
	}
	b.more.Broadcast()
}
