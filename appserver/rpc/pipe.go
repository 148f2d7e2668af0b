package rpc

import (
	"context"
	"io"
	"sync"
)

// pipeEnd is one end of a Pipe. Each end owns the channel it writes to.
type pipeEnd struct {
	in, out chan []byte
	mine    chan struct{} // closed by this end's Close
	theirs  chan struct{} // closed by the other end's
	once    *sync.Once
}

// Pipe connects two Streams in memory. It holds up to depth messages each way;
// a writer beyond that waits. The receiver owns the bytes it reads, so a writer
// must not touch a message after writing it. Messages written before a Close
// are still read; then Read returns io.EOF.
func Pipe(depth int) (a, b Stream) {
	x, y := make(chan []byte, depth), make(chan []byte, depth)
	ca, cb := make(chan struct{}), make(chan struct{})
	return &pipeEnd{in: x, out: y, mine: ca, theirs: cb, once: new(sync.Once)},
		&pipeEnd{in: y, out: x, mine: cb, theirs: ca, once: new(sync.Once)}
}

func (p *pipeEnd) Read(ctx context.Context) ([]byte, error) {
	select {
	case <-p.mine:
		return nil, ErrClosed
	default:
	}
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	select {
	case m := <-p.in:
		return m, nil
	case <-p.mine:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-p.theirs:
		select {
		case m := <-p.in: // written before the close
			return m, nil
		default:
			return nil, io.EOF
		}
	}
}

func (p *pipeEnd) Write(ctx context.Context, msg []byte) error {
	select {
	case <-p.mine:
		return ErrClosed
	case <-p.theirs:
		return io.EOF
	default:
	}
	select {
	case p.out <- msg:
		return nil
	case <-p.mine:
		return ErrClosed
	case <-p.theirs:
		return io.EOF
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pipeEnd) Close(error) error {
	p.once.Do(func() { close(p.mine) })
	return nil
}
