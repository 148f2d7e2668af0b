package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
)

// lines frames messages as one JSON object per "\n".
type lines struct {
	r      *bufio.Reader
	rw     io.ReadWriteCloser
	wmu    sync.Mutex // held while a message is written
	once   sync.Once
	closed chan struct{}
}

// NewLines makes a Stream of rw with one message a line, the framing of stdio.
// Blank lines are skipped. Read and Write honour their context by closing rw,
// because a pipe cannot be interrupted otherwise; the caller gives rw away.
func NewLines(rw io.ReadWriteCloser) Stream {
	return &lines{r: bufio.NewReaderSize(rw, 64<<10), rw: rw, closed: make(chan struct{})}
}

func (l *lines) Read(ctx context.Context) ([]byte, error) {
	defer context.AfterFunc(ctx, func() { _ = l.Close(context.Cause(ctx)) })()
	for {
		msg, err := l.line()
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			select {
			case <-l.closed:
				if !errors.Is(err, ErrTooLarge) {
					return nil, ErrClosed
				}
			default:
			}
			return nil, err
		}
		if msg = bytes.TrimSpace(msg); len(msg) > 0 {
			return msg, nil
		}
	}
}

// line reads up to and including "\n" into memory of its own.
func (l *lines) line() ([]byte, error) {
	var out []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(out)+len(part) > MaxMessage {
			_ = l.Close(ErrTooLarge)
			return nil, ErrTooLarge
		}
		out = append(out, part...)
		switch {
		case err == nil:
			return out, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(out)) > 0:
			return out, nil // a last line without its end
		default:
			return nil, err
		}
	}
}

func (l *lines) Write(ctx context.Context, msg []byte) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	select {
	case <-l.closed:
		return ErrClosed
	default:
	}
	ctx, cancel := context.WithTimeoutCause(ctx, WriteTimeout, ErrSlow)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close(context.Cause(ctx)) })()
	buf := make([]byte, 0, len(msg)+1)
	buf = append(append(buf, msg...), '\n')
	if _, err := l.rw.Write(buf); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

func (l *lines) Close(error) error {
	l.once.Do(func() {
		close(l.closed)
		_ = l.rw.Close() // nobody is left to tell
	})
	return nil
}
