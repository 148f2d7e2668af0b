package rpc

import (
	"context"
	"sync"
	"time"
)

// Outbox decouples whoever produces messages from a peer that reads slowly. Put
// never blocks. When the queue passes QueueMessages or QueueBytes the peer has
// had its chance: the outbox fails with ErrSlow, its stream is closed, and the
// peer recovers by reconnecting and resuming. Order is kept.
type Outbox struct {
	s      Stream
	q      Queuer     // not nil: there is nothing to wait for, see Peer
	mu     sync.Mutex // guards what follows
	queue  [][]byte
	count  int   // messages queued or being written
	bytes  int64 // their size
	err    error
	empty  []chan struct{} // closed when nothing waits any more, or err is set
	later  *time.Timer     // armed while something waits for company, see PutSoon
	armed  bool
	aside  bool          // something was PutAside and not sent since
	direct bool          // Send writes, and so Run must not
	signal chan struct{} // capacity 1: the queue may be non-empty, or err set
}

// soon is how long PutSoon lets a message wait for company: less than anyone
// sees, and time for a fast model to say several words.
const soon = time.Millisecond

// NewOutbox makes an Outbox for s. It does nothing until Run.
func NewOutbox(s Stream) *Outbox {
	return &Outbox{s: s, signal: make(chan struct{}, 1)}
}

// Put queues msg, which the outbox then owns. Safe from any goroutine. Its
// error is the one that ended the outbox, ErrSlow among them.
func (o *Outbox) Put(msg []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.addLocked(msg); err != nil {
		return err
	}
	o.wake()
	return nil
}

// PutSoon is [Outbox.Put] for one of many small messages: it may wait up to
// a millisecond so that several leave together. Whatever is Put meanwhile
// takes it along; order is kept.
func (o *Outbox) PutSoon(msg []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.addLocked(msg); err != nil || o.armed {
		return err
	}
	o.armed = true
	if o.later == nil {
		o.later = time.AfterFunc(soon, o.company)
	} else {
		o.later.Reset(soon)
	}
	return nil
}

// PutAside is [Outbox.Put] for who calls [Outbox.Send] right after, without a
// lock that others may want.
func (o *Outbox) PutAside(msg []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.addLocked(msg); err != nil {
		return err
	}
	o.aside = true
	return nil
}

// Send lets go what was PutAside. When it is all that waits, and is known not to
// wait for the peer, it is written here: waking the goroutine of Run takes longer
// than all else that happens to a small answer.
func (o *Outbox) Send() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.aside {
		return
	}
	o.aside = false
	if o.err != nil || o.count != 1 || len(o.queue) != 1 || !Room(o.s, len(o.queue[0])) {
		o.wake()
		return
	}
	msg := o.queue[0]
	o.queue, o.direct = nil, true
	o.mu.Unlock()
	err := o.s.Write(context.Background(), msg) // Run ends it by closing the stream
	o.mu.Lock()
	o.direct = false
	o.wroteLocked(msg)
	if err != nil {
		o.failLocked(err)
	}
	if len(o.queue) > 0 {
		o.wake() // Run may have found it and had to leave it
	}
}

// wroteLocked counts a message as written.
func (o *Outbox) wroteLocked(msg []byte) {
	o.count--
	o.bytes -= int64(len(msg))
	if o.count == 0 {
		o.release()
	}
}

// company ends the wait that PutSoon began.
func (o *Outbox) company() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = false
	o.wake()
}

func (o *Outbox) addLocked(msg []byte) error {
	if o.err != nil {
		return o.err
	}
	if o.count >= QueueMessages || o.bytes+int64(len(msg)) > QueueBytes && o.count > 0 {
		o.failLocked(ErrSlow)
		return ErrSlow
	}
	if o.q != nil {
		if err := o.q.Queue(msg); err != nil {
			o.failLocked(err)
			return err
		}
		return nil
	}
	o.queue = append(o.queue, msg)
	o.count++
	o.bytes += int64(len(msg))
	return nil
}

// Fail ends the outbox: queued messages are dropped and Run returns err.
func (o *Outbox) Fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failLocked(err)
}

func (o *Outbox) failLocked(err error) {
	if o.err == nil {
		o.err, o.queue = err, nil
		o.release()
		o.wake()
	}
}

// release lets those go who wait in Flush; o.mu is held.
func (o *Outbox) release() {
	for _, ch := range o.empty {
		close(ch)
	}
	o.empty = nil
}

// Flush waits until everything that was put has been written, or returns why it
// will not be: the end of the outbox, or of ctx.
func (o *Outbox) Flush(ctx context.Context) error {
	o.mu.Lock()
	if o.err != nil || o.count == 0 {
		defer o.mu.Unlock()
		return o.err
	}
	ch := make(chan struct{})
	o.empty = append(o.empty, ch)
	o.mu.Unlock()
	select {
	case <-ch:
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (o *Outbox) wake() {
	select {
	case o.signal <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, the stream fails, or Fail is called, and returns
// why. It closes the stream with that reason.
func (o *Outbox) Run(ctx context.Context) error {
	for {
		o.mu.Lock()
		err := o.err
		var batch [][]byte
		if !o.direct {
			batch, o.queue = o.queue, nil
		}
		o.mu.Unlock()
		if err != nil {
			_ = o.s.Close(err)
			return err
		}
		if len(batch) > 1 {
			err = Batch(o.s, true)
		}
		for i, m := range batch {
			if err == nil {
				err = o.s.Write(ctx, m)
			}
			if err == nil && len(batch) > 1 && i == len(batch)-1 {
				err = Batch(o.s, false) // before the last one counts as written
			}
			if err != nil {
				break
			}
			o.mu.Lock()
			o.wroteLocked(m)
			o.mu.Unlock()
		}
		if err != nil {
			o.Fail(err)
			_ = o.s.Close(err)
			return err
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-o.signal:
		case <-ctx.Done():
			err := context.Cause(ctx)
			o.Fail(err)
			_ = o.s.Close(err)
			return err
		}
	}
}
