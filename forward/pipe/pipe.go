// Package pipe carries bytes between two connections, unread.
//
// [Join] copies both ways. The end of one direction is passed on as the end of
// that direction only, so that a peer which has said everything still hears the
// answer; both ends are closed when both directions are over. It starts two
// goroutines and returns when they have ended.
package pipe

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// chunk is how much is read at once, in bytes: two of these are all a Join
	// holds, however slow either end is.
	chunk = 32 << 10
	// DefaultLinger is how long one direction may go on after the other has
	// ended, when nothing moves any more.
	DefaultLinger = 30 * time.Second
)

// Options change how [Join] works. The zero value is usable.
type Options struct {
	// Linger is how long the second direction may stand still after the first has
	// ended; 0 is DefaultLinger. A peer that ended its half and waits for ever for
	// the other would otherwise stay.
	Linger time.Duration
}

// Carried is what a Join moved, in bytes.
type Carried struct {
	ToA, ToB int64
}

// Join copies what a says to b and what b says to a until both have ended, one
// of them breaks, or ctx ends. It closes both, and waits for what it started. An
// end whose Close does not interrupt its Read must have its own way of ending.
//
// The error is why it ended: nil when both directions ended well, the cause of
// ctx, or the first error of a copy. That an end was closed is no error.
func Join(ctx context.Context, a, b io.ReadWriteCloser, o Options) (Carried, error) {
	if o.Linger <= 0 {
		o.Linger = DefaultLinger
	}
	j := &join{linger: o.Linger, over: make(chan struct{})}
	closeBoth := sync.OnceFunc(func() { _, _ = a.Close(), b.Close() }) // whatever they say, they are closed
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var out Carried
	var wg sync.WaitGroup
	wg.Go(func() { out.ToB = j.direction(b, a, closeBoth) })
	wg.Go(func() { out.ToA = j.direction(a, b, closeBoth) })
	wg.Wait()
	close(j.over)
	j.timers.Wait()
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	return out, j.err
}

// join is what the two directions share.
type join struct {
	linger time.Duration
	over   chan struct{} // closed when both directions have ended
	timers sync.WaitGroup

	mu    sync.Mutex // guards what follows
	ended int        // directions
	moved time.Time  // when the one that is left last moved
	err   error      // the first that is one
}

// direction copies from src to dst and passes the end on.
func (j *join) direction(dst io.Writer, src io.Reader, closeBoth func()) int64 {
	var n int64
	buf := make([]byte, chunk)
	var err error
	for {
		var k int
		k, err = src.Read(buf)
		if k > 0 {
			if _, werr := dst.Write(buf[:k]); werr != nil {
				err = werr
				break
			}
			n += int64(k)
			j.beat()
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if w, ok := dst.(interface{ CloseWrite() error }); ok {
			if cerr := w.CloseWrite(); cerr != nil && !closed(cerr) {
				err = cerr
			}
		} else {
			closeBoth() // an end that cannot be half closed is closed
		}
	}
	j.end(err, closeBoth)
	return n
}

func (j *join) beat() {
	j.mu.Lock()
	j.moved = time.Now()
	j.mu.Unlock()
}

// end notes that a direction is over. The first to end well leaves the other a
// while; one that broke takes it along.
func (j *join) end(err error, closeBoth func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil && closed(err) {
		err = nil
		closeBoth()
	}
	if j.ended++; j.err == nil {
		j.err = err
	}
	if err != nil {
		closeBoth()
	}
	if j.ended == 1 {
		j.moved = time.Now()
		j.timers.Go(func() { j.watch(closeBoth) })
	}
}

// watch closes both ends when the direction that is left stands still.
func (j *join) watch(closeBoth func()) {
	t := time.NewTimer(j.linger)
	defer t.Stop()
	for {
		select {
		case <-j.over:
			return
		case <-t.C:
		}
		j.mu.Lock()
		rest := j.linger - time.Since(j.moved)
		j.mu.Unlock()
		if rest <= 0 {
			closeBoth()
			return
		}
		t.Reset(rest)
	}
}

// closed reports whether err only says that an end was closed.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
