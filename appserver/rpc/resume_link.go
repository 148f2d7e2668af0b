package rpc

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sendMessages and sendBytes bound what is taken from a half at once.
	sendMessages = 128
	sendBytes    = 256 << 10
	// probeTime is how long a link that is doubted has to give a sign of life.
	probeTime = 5 * time.Second
)

// link is one Stream that a half runs over for a while: three goroutines, one
// that sends, one that receives and one that watches whether the peer is there.
type link struct {
	s     Stream
	born  time.Time
	heard atomic.Int64  // when the peer last was, as time since born
	count atomic.Int64  // how often it was
	kick  chan struct{} // capacity 1: there is something to send
	doubt chan struct{} // capacity 1: see half.probe
	done  chan struct{} // closed by end
	once  sync.Once
	err   error // why it ended; read after done

	sending sync.Mutex  // held by whoever writes to s
	later   *time.Timer // see tellTaken; made by attach

	// Guarded by the half's mu, as is whether this is its link.
	hello      []byte // to be sent before anything else
	next       uint64 // the number of the frame to send next
	ping, pong bool   // to be sent
	soon, late bool   // what was taken is to be told when later fires; it has fired
	deaf       bool   // nothing more is taken from this link
	endSent    bool
	endReply   bool // the peer's end is to be answered
}

func newLink(s Stream) *link {
	return &link{
		s: s, born: time.Now(), kick: make(chan struct{}, 1), doubt: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

func (l *link) wake() { poke(l.kick) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// end closes the link; the first reason counts.
func (l *link) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
		_ = l.s.Close(err)
	})
}

// carry runs the half over l until that ends, and returns why. errOver means
// that the stream has ended in good order; half.isOver tells whether another
// link could be of use. When ctx ends, so does the link, at once.
func (h *half) carry(ctx context.Context, l *link) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.end(h.receive(l)) })
	wg.Go(func() { h.watch(ctx, l) })
	l.end(h.send(l))
	wg.Wait()
	return l.err
}

// send writes what there is to write until the link or the stream ends.
func (h *half) send(l *link) error {
	var batch [][]byte
	for {
		l.sending.Lock()
		var last bool
		batch, last = h.collect(l, batch[:0])
		err := writeAll(l.s, batch)
		l.sending.Unlock()
		if err != nil {
			return err
		}
		clear(batch) // what was taken need not be kept for this
		switch {
		case last:
			return errOver
		case len(batch) > 0:
			continue
		}
		select {
		case <-l.kick:
		case <-l.done:
			return errOver // end has kept the reason
		}
	}
}

// sendNow writes what was just put, in the goroutine that did so: waking another
// costs as much as the write. Whatever else there may be to send is left to the
// sender.
func (h *half) sendNow(l *link) {
	if !l.sending.TryLock() {
		l.wake()
		return
	}
	var few [4][]byte
	h.mu.Lock()
	batch := few[:0]
	if h.lk == l && l.hello == nil && !l.endSent && h.ended == nil {
		batch = h.messages(l, batch)
	}
	h.mu.Unlock()
	err := writeAll(l.s, batch)
	l.sending.Unlock()
	if err != nil {
		l.end(err)
	}
}

// tellTaken is the end of a wait for a message that what was taken could ride on.
func (h *half) tellTaken(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.soon = false
	if h.lk == l && h.taken != h.told {
		l.late = true
		l.wake()
	}
}

// writeAll writes frames so that they leave together.
func writeAll(s Stream, frames [][]byte) error {
	if len(frames) > 1 {
		if err := Batch(s, true); err != nil {
			return err
		}
	}
	for _, f := range frames {
		if err := s.Write(context.Background(), f); err != nil { // closing the link ends it
			return err
		}
	}
	if len(frames) > 1 {
		return Batch(s, false)
	}
	return nil
}

// collect appends to batch what l is to send now. last is set when that ends
// the link.
func (h *half) collect(l *link, batch [][]byte) (_ [][]byte, last bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lk != l {
		return batch, true
	}
	if l.hello != nil {
		batch, l.hello = append(batch, l.hello), nil
	}
	if l.endSent {
		return batch, false
	}
	if l.pong {
		batch, l.pong = append(batch, []byte("q")), false
	}
	if l.ping {
		batch, l.ping = append(batch, []byte("p")), false
	}
	if h.lost != nil && !h.over { // found out here: the peer has to be told
		h.over, l.endSent = true, true
		return append(batch, endFrame(endLost, h.taken, h.lost.Why)), true
	}
	if h.ended == nil {
		batch = h.messages(l, batch)
	}
	if h.taken != h.told && (h.ackUrgent() || l.late || h.closed) {
		batch = append(batch, takenFrame(h.taken))
		h.told, h.due = h.taken, 0
	}
	l.late = false
	switch {
	case l.endReply:
		// Whatever came is going to be read, unless nobody is there any more.
		number := h.received
		if h.closed {
			number = h.taken
		}
		l.endSent = true
		return append(batch, endFrame(endClosed, number, "")), true
	case h.closed && l.next > h.last():
		l.endSent = true
		batch = append(batch, endFrame(h.verdict, h.taken, h.why))
	}
	return batch, false
}

// messages appends the next ones.
func (h *half) messages(l *link, batch [][]byte) [][]byte {
	bytes, count := 0, 0
	for ; l.next <= h.last() && count < sendMessages && bytes < sendBytes; l.next++ {
		f := h.out[l.next-h.first]
		batch = append(batch, f)
		bytes += len(f)
		count++
	}
	h.sent = max(h.sent, l.next-1)
	if count > 0 && l.next > h.last() && h.carried > h.told {
		h.told = h.carried // as it stands in the newest one
		if h.told == h.taken {
			h.due = 0
		}
	}
	return batch
}

// receive takes what comes until the link or the stream ends.
func (h *half) receive(l *link) error {
	for {
		b, err := l.s.Read(context.Background()) // closing the link ends it
		if errors.Is(err, ErrTooLarge) {
			h.lose(errViolation.Error())
		}
		if err != nil {
			return err
		}
		l.heard.Store(int64(time.Since(l.born)))
		l.count.Add(1)
		f, err := parseFrame(b)
		if err == nil {
			err = h.take(l, f)
		}
		switch {
		case err == nil:
		case (err == errFrame || err == errViolation) && h.lose(errViolation.Error()):
			<-l.done // the sender tells the peer, and ends the link
			return errViolation
		default:
			return err
		}
	}
}

// take acts on one frame.
func (h *half) take(l *link, f frame) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lk != l {
		return errReplaced
	}
	switch f.kind {
	case 'm', 'c':
		if l.deaf {
			return nil
		}
		if !h.acked(f.taken) || !h.arrived(f.number, f.msg, f.kind == 'm') {
			return errViolation
		}
	case 'a':
		if !h.acked(f.taken) {
			return errViolation
		}
	case 'p':
		l.pong = true
		l.wake()
	case 'q':
	case 'e':
		h.farewell(f.code, f.number, f.text)
		if l.endSent || f.code != endClosed {
			return errOver
		}
		l.endReply = true
		l.wake()
	default:
		return errViolation
	}
	return nil
}

// watch asks a silent peer for a sign of life and ends the link when none comes.
func (h *half) watch(ctx context.Context, l *link) {
	t := time.NewTimer(pingEvery)
	defer t.Stop()
	doubted := int64(-1) // how often the peer was heard when the link was doubted
	for {
		select {
		case <-l.done:
			return
		case <-ctx.Done():
			l.end(context.Cause(ctx))
			return
		case <-l.doubt:
			if doubted >= 0 {
				continue
			}
			doubted = l.count.Load()
			h.ask(l)
			t.Reset(probeTime)
			continue
		case <-t.C:
		}
		silent := time.Since(l.born) - time.Duration(l.heard.Load())
		if silent >= linkDead || l.count.Load() == doubted {
			l.end(errSilent)
			return
		}
		doubted = -1
		if silent >= pingEvery {
			h.ask(l)
		}
		t.Reset(pingEvery - silent%pingEvery)
	}
}

func (h *half) ask(l *link) {
	h.mu.Lock()
	l.ping = true
	h.mu.Unlock()
	l.wake()
}

// probe makes sure soon that the link, if there is one, still works.
func (h *half) probe() {
	h.mu.Lock()
	l := h.lk
	h.mu.Unlock()
	if l != nil {
		poke(l.doubt)
	}
}

// deafen takes nothing more from l: whoever is there has lost the right to say
// anything, or nobody is left to hear it. What is to be told still is.
func (h *half) deafen(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.deaf = true
}
