package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultKeepBytes and defaultKeepCount bound what one end keeps for the
	// other: minutes of the fastest model's words.
	defaultKeepBytes = 32 << 20
	defaultKeepCount = 1 << 17
	// directBytes is how much may be under way when a writer sends its message
	// itself: less than any link's buffers.
	directBytes = 16 << 10
	// keepOverhead is what a kept message costs besides its bytes.
	keepOverhead = 64
	// maxInBytes and maxInCount bound what has arrived and was not read. A peer
	// that keeps to its own bounds, which may be these, never meets them.
	maxInBytes = QueueBytes + MaxMessage + headRoom
	maxInCount = 4 * defaultKeepCount
)

// Why links and sessions end.
var (
	errSilent    = errors.New("nothing was heard from the other end for too long")
	errReplaced  = errors.New("the session goes on over another link")
	errOver      = errors.New("the session is over")
	errViolation = errors.New("the other end broke the rules of " + ResumeProtocol)
)

// half is one end of a resumable stream: what both ends have in common. It is
// the state between the links; what runs on a link is in resume_link.go.
//
// Nothing is called with mu held.
type half struct {
	keepBytes int64
	keepCount int
	// budget makes this a server's half: without a link its writers do not wait,
	// they lose the session when what is kept becomes too much. Nil is a client's.
	budget *budget

	readable chan struct{} // capacity 1: Read has something to do

	mu sync.Mutex // guards what follows

	out      [][]byte // frames the peer has not taken; out[0] is number first
	first    uint64   // at least 1
	outBytes int64    // of out, with overhead
	carried  uint64   // what the newest frame of out says was taken
	sent     uint64   // the highest number a link was given
	heard    uint64   // what the peer had received when the last link began
	batching bool     // see Batch

	in       []arrival
	part     []byte // of a message that has not arrived as a whole
	inBytes  int64  // of both
	parked   int64  // what of it counted against the budget when the link went
	received uint64
	taken    uint64
	told     uint64 // what the peer was told of taken, on this link
	due      int64  // bytes taken since

	lk    *link         // nil while away
	since time.Time     // when lk became nil, or not
	room  chan struct{} // closed when a waiting writer may look again; nil when none waits

	closed  bool       // by this end
	verdict string     // the code this end closes with
	why     string     // and its text
	ended   error      // by the peer, or lost: for Read once in is empty, and for Write
	lost    *LostError // set when ended is that
	left    *LostError // what was kept when ended was set
	over    bool       // both ends have agreed that it is
}

func (h *half) init(bytes int64, count int) {
	if bytes <= 0 {
		bytes = defaultKeepBytes
	}
	if count <= 0 {
		count = defaultKeepCount
	}
	h.keepBytes, h.keepCount = min(bytes, QueueBytes), min(count, 2*defaultKeepCount)
	h.first, h.readable = 1, make(chan struct{}, 1)
}

// arrival is a message that came whole.
type arrival struct {
	msg  []byte
	upTo uint64 // the number of its last frame
}

// budget bounds what several halves keep together.
type budget struct {
	owner, total       *atomic.Int64
	ownerMax, totalMax int64
}

func (b *budget) exceeded(n int64) bool {
	return b.owner.Load()+n > b.ownerMax || b.total.Load()+n > b.totalMax
}

func (b *budget) add(n int64) {
	b.owner.Add(n)
	b.total.Add(n)
}

// hold counts n bytes more as kept.
func (h *half) hold(n int64) {
	h.outBytes += n
	if h.budget != nil {
		h.budget.add(n)
	}
}

// last is the number of the newest message written.
func (h *half) last() uint64 { return h.first + uint64(len(h.out)) - 1 }

// Read implements [Stream].
func (h *half) Read(ctx context.Context) ([]byte, error) {
	for {
		msg, err := h.next()
		if msg != nil || err != nil {
			return msg, err
		}
		select {
		case <-h.readable:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// next takes the next message, if there is one.
func (h *half) next() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if len(h.in) == 0 {
		if h.ended != nil {
			h.wakeReader() // for the next Read
		}
		return nil, h.ended
	}
	msg, upTo := h.in[0].msg, h.in[0].upTo
	h.in[0] = arrival{}
	if h.in = h.in[1:]; len(h.in) == 0 {
		h.in = nil
	}
	n := int64(len(msg))
	h.inBytes -= n
	h.taken = upTo
	h.due += n
	// The peer is told now when much was taken; else soon, unless a message does.
	switch l := h.lk; {
	case l == nil:
	case h.ackUrgent():
		l.wake()
	case !l.soon:
		l.soon = true
		l.later.Reset(ackDelay)
	}
	return msg, nil
}

func (h *half) ackUrgent() bool { return h.taken-h.told >= ackMessages || h.due >= ackBytes }

func (h *half) wakeReader() {
	select {
	case h.readable <- struct{}{}:
	default:
	}
}

// Write implements [Stream]: the message is kept, and sent when there is a link.
func (h *half) Write(ctx context.Context, msg []byte) error {
	if len(msg) > MaxMessage {
		return ErrTooLarge
	}
	for {
		now, wait, err := h.put(msg)
		if now != nil {
			h.sendNow(now)
		}
		if wait == nil {
			return err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// put keeps msg, or returns a channel that is closed when it may be tried again.
// now is the link that the caller is to send it on.
func (h *half) put(msg []byte) (now *link, wait <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	cost := int64(len(msg)) + keepOverhead*int64(1+max(len(msg)-1, 0)/pieceBytes)
	switch {
	case h.closed:
		return nil, nil, ErrClosed
	case h.ended != nil:
		return nil, nil, h.ended
	case h.fits(cost):
		if h.budget == nil || h.lk != nil || !h.budget.exceeded(cost) {
			break
		}
		fallthrough
	case h.budget != nil && h.lk == nil:
		h.loseLocked("more happened while the client was away than is kept")
		return nil, nil, h.ended
	default:
		if h.room == nil {
			h.room = make(chan struct{})
		}
		if h.lk != nil {
			h.lk.wake() // what a batch holds back makes room by leaving
		}
		return nil, h.room, nil
	}
	h.hold(cost)
	h.carried = h.taken
	l := h.lk
	// A link that takes what it is given has room for a little more, and then
	// writing to it does not wait.
	direct := l != nil && !h.batching && h.outBytes <= directBytes && l.next > h.last()
	for ; len(msg) > pieceBytes; msg = msg[pieceBytes:] {
		h.out = append(h.out, messageFrame('c', h.last()+1, h.taken, msg[:pieceBytes]))
	}
	h.out = append(h.out, messageFrame('m', h.last()+1, h.taken, msg))
	if direct {
		return l, nil, nil
	}
	if l != nil && !h.batching {
		l.wake()
	}
	return nil, nil, nil
}

// Batch implements [Batcher].
func (h *half) Batch(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batching = on
	if !on && h.lk != nil {
		h.lk.wake()
	}
	return nil
}

// fits reports whether a message may be kept. With a link most of the room is
// left for the time without one. A message that is alone always fits.
func (h *half) fits(cost int64) bool {
	bytes, count := h.keepBytes, h.keepCount
	if h.lk != nil {
		bytes, count = bytes/4, max(count/4, 1)
	}
	return len(h.out) == 0 || len(h.out) < count && h.outBytes+cost <= bytes
}

func (h *half) makeRoom() {
	if h.room != nil {
		close(h.room)
		h.room = nil
	}
}

// acked forgets what the peer has taken.
func (h *half) acked(taken uint64) bool {
	if taken > h.sent {
		return false
	}
	if taken < h.first {
		return true // an old frame, sent again
	}
	n := int(taken - h.first + 1) //nolint:gosec // at most len(h.out)
	for i := range n {
		h.hold(-int64(len(payload(h.out[i]))) - keepOverhead)
		h.out[i] = nil
	}
	h.out = h.out[n:]
	if h.first = taken + 1; len(h.out) == 0 {
		h.out = nil
	}
	h.makeRoom()
	return true
}

// arrived takes a piece of a message in; whole says that it is the last. False
// means that the peer broke the rules.
func (h *half) arrived(number uint64, piece []byte, whole bool) bool {
	if number != h.received+1 || len(h.part)+len(piece) > MaxMessage {
		return false
	}
	h.received = number
	if h.closed {
		return true // nobody is going to read it
	}
	h.inBytes += int64(len(piece))
	if h.part != nil || !whole {
		h.part = append(h.part, piece...)
		piece = h.part
	}
	if whole {
		h.in, h.part = append(h.in, arrival{piece, number}), nil
		h.wakeReader()
	}
	return h.inBytes <= maxInBytes && len(h.in) <= maxInCount
}

// progress is what has arrived and what of it was taken.
func (h *half) progress() (received, taken uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.received, h.taken
}

// attach makes l the link and ends the one there was. The other end says that
// it has received and taken that much. What it is told of this end has to be
// true at that moment: either told was, while there was no link, or welcome
// makes l begin with it.
func (h *half) attach(l *link, received, taken, told uint64, welcome bool) error {
	h.mu.Lock()
	if h.over || h.lost != nil {
		h.mu.Unlock()
		return errOver
	}
	if taken > received || received < h.first-1 || received > h.sent || !h.acked(taken) {
		h.loseLocked("the two ends do not agree on what was sent")
		h.mu.Unlock()
		return errViolation
	}
	if welcome {
		l.hello, told = welcomeFrame(h.received, h.taken), h.taken
	}
	l.later = time.AfterFunc(ackDelay, func() { h.tellTaken(l) })
	l.later.Stop()
	old := h.lk
	h.lk, h.since = l, time.Now()
	h.unpark()
	l.next, h.heard = received+1, received
	h.told, h.due = told, 0
	h.makeRoom()
	h.mu.Unlock()
	l.wake()
	if old != nil {
		old.end(errReplaced)
	}
	return nil
}

// detach notes that l is over; it reports whether l was the link until now.
func (h *half) detach(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lk != l {
		return false
	}
	h.lk, h.since = nil, time.Now()
	h.makeRoom() // other bounds hold now
	h.park()
	return true
}

// park counts what an absent client has sent and nobody has read, as what is kept
// for it: half a message may wait for its other half as long as the session lives.
func (h *half) park() {
	if h.budget == nil || h.inBytes == 0 || h.ended != nil {
		return
	}
	if h.budget.exceeded(h.inBytes) {
		h.loseLocked("the client left too much unfinished")
		h.in, h.part, h.inBytes = nil, nil, 0
		return
	}
	h.parked = h.inBytes
	h.budget.add(h.parked)
}

func (h *half) unpark() {
	if h.parked != 0 {
		h.budget.add(-h.parked)
		h.parked = 0
	}
}

// mark grows when anything gets through.
func (h *half) mark() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.received + h.first + h.heard
}

// lose ends the stream as lost, unless it has ended already.
func (h *half) lose(why string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.loseLocked(why)
}

// expel is lose, and forgets what has arrived: whoever said it has lost the right
// to. Only over the link l; a later one has its own say.
func (h *half) expel(l *link, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lk != nil && h.lk != l {
		return
	}
	h.evictLocked(why)
}

// evict is expel whatever link there is.
func (h *half) evict(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.evictLocked(why)
}

func (h *half) evictLocked(why string) {
	h.loseLocked(why)
	h.in, h.part, h.inBytes = nil, nil, 0
	h.wakeReader()
}

func (h *half) loseLocked(why string) bool {
	if h.ended != nil {
		return false
	}
	h.unpark()
	h.lost = h.leftLocked(why)
	h.left, h.ended = h.lost, h.lost
	h.dropLocked()
	return true
}

// leftLocked is what was written and is not known to have been read.
func (h *half) leftLocked(why string) *LostError {
	e := &LostError{Why: why}
	if h.budget != nil {
		return e // a server has nothing to tell anybody
	}
	var msg []byte // in pieces
	for i, f := range h.out {
		if msg = append(msg, payload(f)...); f[0] == 'c' {
			continue
		}
		if h.first+uint64(i) <= h.sent { //nolint:gosec // small
			e.Unsure = append(e.Unsure, msg)
		} else {
			e.Unsent = append(e.Unsent, msg)
		}
		msg = nil
	}
	return e
}

// dropLocked forgets what is kept and wakes whoever waits.
func (h *half) dropLocked() {
	h.hold(-h.outBytes)
	h.first += uint64(len(h.out))
	h.out = nil
	h.makeRoom()
	h.wakeReader()
	if h.lk != nil {
		h.lk.wake()
	}
}

// farewell notes the peer's end. number is the last frame it has read or will.
func (h *half) farewell(code string, number uint64, text string) {
	h.over = true
	if h.ended != nil {
		return
	}
	_ = h.acked(min(number, h.sent)) // a wrong one costs nothing any more
	if text == "" {
		text = "the other end gave it up"
	}
	h.ended, h.left = io.EOF, h.leftLocked("the other end left before it had read everything")
	if code != endClosed {
		h.left.Why = text
		h.lost, h.ended = h.left, h.left
	}
	h.dropLocked()
}

// shut closes this end; what is in out is still sent. It reports whether there
// is a link to do that.
func (h *half) shut(reason error) (up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed, h.verdict = true, endClosed
		if errors.Is(reason, ErrSlow) {
			h.verdict, h.why = endLost, "this client did not read for too long"
		}
		h.in, h.part, h.inBytes = nil, nil, 0
		h.unpark()
		h.makeRoom()
		h.wakeReader()
		if h.lk != nil {
			h.lk.wake()
		}
	}
	return h.lk != nil
}

// isOver reports whether no further link can be of use.
func (h *half) isOver() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over || h.lost != nil
}

// fate is how the stream ended; nil while it goes on.
func (h *half) fate() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// leftover is nil when everything that was written has been read, or will be.
func (h *half) leftover() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.left
	if left == nil {
		left = h.leftLocked("this end was closed before the other had read everything")
	}
	if len(left.Unsent)+len(left.Unsure) == 0 {
		return nil
	}
	return left
}
