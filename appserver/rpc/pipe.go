package rpc

import (
	"context"
	"io"
	"sync"
)

// lane carries messages one way. It holds no more memory than what waits in it:
// a host keeps a pipe for every client, and most of them say nothing.
type lane struct {
	mu    sync.Mutex // guards what follows
	queue [][]byte
	next  int // of queue, the first not read
	bytes int64
	room  chan struct{} // not nil while a writer waits; closed when there is room
	ready chan struct{} // capacity 1: there may be something to read
	feed  func()        // not nil: takes what there is, in a goroutine of its own
	busy  bool          // one runs
	again bool          // and has to look once more
}

// kickLocked has what there is taken, where that is how the lane is read.
func (l *lane) kickLocked() {
	switch {
	case l.feed == nil:
	case l.busy:
		l.again = true
	default:
		l.busy = true
		go l.feed() // whoever fed the pipe waits for its end
	}
}

func (l *lane) kick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kickLocked()
}

// rest ends the taking for now, unless there is more to look at.
func (l *lane) rest() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.again || l.waiting() > 0 {
		l.again = false
		return false
	}
	l.busy = false
	return true
}

// smallQueue is what an empty lane keeps for the next messages.
const smallQueue = 4

func (l *lane) waiting() int { return len(l.queue) - l.next }

// add appends msg unless there are limit messages, or bytes beyond most, already.
// Without room it returns what is closed when there may be some.
func (l *lane) add(msg []byte, limit int, most int64) (wait chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.waiting(); n >= limit || n > 0 && l.bytes+int64(len(msg)) > most {
		if l.room == nil {
			l.room = make(chan struct{})
		}
		return l.room
	}
	l.queue = append(l.queue, msg)
	l.bytes += int64(len(msg))
	if l.feed != nil {
		l.kickLocked()
		return nil
	}
	select {
	case l.ready <- struct{}{}:
	default:
	}
	return nil
}

// take returns the next message, if there is one.
func (l *lane) take() (msg []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting() == 0 {
		return nil, false
	}
	msg, l.queue[l.next] = l.queue[l.next], nil
	l.next++
	l.bytes -= int64(len(msg))
	if l.next == len(l.queue) {
		if l.next = 0; cap(l.queue) > smallQueue {
			l.queue = nil
		} else {
			l.queue = l.queue[:0]
		}
	} else if l.next >= 64 && l.next*2 >= len(l.queue) {
		n := copy(l.queue, l.queue[l.next:])
		clear(l.queue[n:])
		l.queue, l.next = l.queue[:n], 0
	}
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	return msg, true
}

// pipeEnd is one end of a Pipe.
type pipeEnd struct {
	in, out      *lane
	depth        int
	mine, theirs chan struct{} // closed by this end's Close, and by the other's
	once         *sync.Once
}

// Pipe connects two Streams in memory. It holds up to depth messages each way;
// a writer beyond that waits. The receiver owns the bytes it reads, so a writer
// must not touch a message after writing it. Messages written before a Close
// are still read; then Read returns io.EOF.
func Pipe(depth int) (a, b Stream) {
	x, y := &lane{ready: make(chan struct{}, 1)}, &lane{ready: make(chan struct{}, 1)}
	ca, cb := make(chan struct{}), make(chan struct{})
	return &pipeEnd{in: x, out: y, depth: depth, mine: ca, theirs: cb, once: new(sync.Once)},
		&pipeEnd{in: y, out: x, depth: depth, mine: cb, theirs: ca, once: new(sync.Once)}
}

func (p *pipeEnd) Read(ctx context.Context) ([]byte, error) {
	for {
		select {
		case <-p.mine:
			return nil, ErrClosed
		default:
		}
		if m, ok := p.in.take(); ok {
			return m, nil
		}
		select {
		case <-p.in.ready:
		case <-p.mine:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-p.theirs:
			if m, ok := p.in.take(); ok { // written before the close
				return m, nil
			}
			return nil, io.EOF
		}
	}
}

func (p *pipeEnd) Write(ctx context.Context, msg []byte) error {
	for {
		if err := p.ended(); err != nil {
			return err
		}
		wait := p.out.add(msg, p.depth, QueueBytes)
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-p.mine:
			return ErrClosed
		case <-p.theirs:
			return io.EOF
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Queue implements [Queuer]: memory can take what an Outbox would hold.
func (p *pipeEnd) Queue(msg []byte) error {
	if err := p.ended(); err != nil {
		return err
	}
	if p.out.add(msg, QueueMessages, QueueBytes) != nil {
		_ = p.Close(ErrSlow)
		return ErrSlow
	}
	return nil
}

func (p *pipeEnd) ended() error {
	select {
	case <-p.mine:
		return ErrClosed
	case <-p.theirs:
		return io.EOF
	default:
		return nil
	}
}

func (p *pipeEnd) Close(error) error {
	p.once.Do(func() {
		close(p.mine)
		p.in.kick()
		p.out.kick()
	})
	return nil
}

// Feed implements [Feeder].
func (p *pipeEnd) Feed(each func(msg []byte) error, over func(error)) {
	finish := func(err error) {
		p.in.mu.Lock()
		p.in.feed = nil
		p.in.mu.Unlock()
		over(err)
	}
	take := func() {
		for {
			select {
			case <-p.mine:
				finish(ErrClosed)
				return
			default:
			}
			m, ok := p.in.take()
			if !ok {
				select {
				case <-p.theirs:
					if m, ok = p.in.take(); !ok { // nothing was written before the close
						finish(io.EOF)
						return
					}
				default:
					if p.in.rest() {
						return
					}
					continue
				}
			}
			if err := each(m); err != nil {
				_ = p.Close(err)
				finish(err)
				return
			}
		}
	}
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	p.in.feed = take
	p.in.kickLocked() // for what came before
}

// Feeder is a Stream that can hand over what arrives instead of being read: then
// nobody has to wait for it, which is most of what an idle connection costs. each
// is called with one message after the other; its error ends the stream. over is
// called once, last, with what Read would have returned, or with that error.
type Feeder interface {
	Feed(each func(msg []byte) error, over func(error))
}

// Feed has s hand over what arrives, if it can.
func Feed(s Stream, each func(msg []byte) error, over func(error)) bool {
	f, ok := s.(Feeder)
	if ok {
		f.Feed(each, over)
	}
	return ok
}

// Queuer is a Stream that takes messages without waiting, up to what an [Outbox]
// would hold; beyond that it is closed, and ErrSlow. A Peer on one needs no
// goroutine of its own to write.
type Queuer interface{ Queue(msg []byte) error }

// queuer is s as a Queuer, or what s says it is laid over.
func queuer(s Stream) Queuer {
	for s != nil {
		if q, ok := s.(Queuer); ok {
			return q
		}
		over, ok := s.(interface{ Over() Stream })
		if !ok {
			break
		}
		s = over.Over()
	}
	return nil
}
