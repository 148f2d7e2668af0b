package rpc

import (
	"io"
	"sync"
)

// corkBytes is how much a Cork holds back at most.
const corkBytes = 64 << 10

// Cork is a writer that can hold small writes back and let them leave in one
// system call. A model's words are short, and the call that sends one costs
// more than all else a relay does with it. It may be used concurrently.
type Cork struct {
	w    io.Writer
	room func() bool // see Room; nil when nobody can tell
	mu   sync.Mutex  // guards what follows, and the order of writes
	held []byte
	on   bool
}

// NewCork makes an open Cork: until Batch(true) every write goes through.
func NewCork(w io.Writer) *Cork { return &Cork{w: w, room: roomOf(w)} }

// Write writes p, or holds it back. What is held back is reported as written;
// the error shows when it is let go.
func (c *Cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.on {
		return c.w.Write(p)
	}
	if len(c.held)+len(p) > corkBytes {
		if err := c.letGoLocked(); err != nil {
			return 0, err
		}
		if len(p) > corkBytes {
			return c.w.Write(p)
		}
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// Batch begins to hold writes back, or ends it and lets them go.
func (c *Cork) Batch(on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
	if on {
		return nil
	}
	return c.letGoLocked()
}

func (c *Cork) letGoLocked() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.w.Write(c.held)
	if c.held = c.held[:0]; cap(c.held) > 2*corkBytes {
		c.held = nil
	}
	return err
}

// roomBytes is what a socket that takes more at all takes at once: the least
// that systems call writable.
const roomBytes = 2048

// Room reports that a write of n bytes would not wait. It holds for who alone
// writes.
func (c *Cork) Room(n int) bool { return n <= roomBytes && c.room != nil && c.room() }

// Roomy is a Stream that can tell whether writing a message of n bytes would
// wait for the peer; false also when it does not know.
type Roomy interface{ Room(n int) bool }

// Room calls s.Room when s has it.
func Room(s Stream, n int) bool {
	r, ok := s.(Roomy)
	return ok && r.Room(n)
}

// Batcher is a Stream whose writes can leave together. Between Batch(true) and
// Batch(false) a message may be on its way and not yet sent; an error of the
// latter is one of all writes between.
type Batcher interface{ Batch(on bool) error }

// Batch calls s.Batch when s has it.
func Batch(s Stream, on bool) error {
	if b, ok := s.(Batcher); ok {
		return b.Batch(on)
	}
	return nil
}
