package session

import (
	"bytes"
	"io"
	"sync"
)

// chunk is how much is read from or written to a channel at once: the size of
// an SSH packet.
const chunk = 32 << 10

// Input is the client's end of a session as a reader that can be closed. An SSH
// channel's own Read returns only when the client says so, which would keep
// whoever reads it alive for as long as the client likes.
//
// One goroutine reads it. At most one chunk is held, so a session that does not
// read makes the client wait and nobody else.
type Input struct {
	chunks chan []byte   // unbuffered: the pump hands over
	end    chan struct{} // closed by the pump when the client has no more
	closed chan struct{} // closed by close
	once   sync.Once
	onEOF  func() // called once, when the reader has seen everything
	eof    sync.Once
	rest   []byte // of the chunk handed over last
	stop   string // bytes at which the input ends
}

func newInput(stop string, onEOF func()) *Input {
	return &Input{
		chunks: make(chan []byte), end: make(chan struct{}), closed: make(chan struct{}), stop: stop, onEOF: onEOF,
	}
}

// pump moves bytes from r until it ends. Two buffers are enough: the second is
// handed over only after the reader is done with the first.
func (in *Input) pump(r io.Reader) {
	defer close(in.end)
	var bufs [2][chunk]byte
	for turn := 0; ; turn ^= 1 {
		n, err := r.Read(bufs[turn][:])
		if n > 0 {
			b, stopped := in.cut(bufs[turn][:n])
			select {
			case in.chunks <- b:
			case <-in.closed:
				return
			}
			if stopped {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (in *Input) cut(b []byte) (_ []byte, stopped bool) {
	if i := bytes.IndexAny(b, in.stop); in.stop != "" && i >= 0 {
		return b[:i], true
	}
	return b, false
}

// Read returns io.EOF when the client's input has ended and all of it was read,
// or when the session is over.
func (in *Input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(in.rest) == 0 {
		select {
		case in.rest = <-in.chunks:
		case <-in.closed:
			return 0, io.EOF
		case <-in.end:
			select {
			case <-in.closed: // both are true: a closed session is not one whose input ended
			default:
				in.eof.Do(in.onEOF)
			}
			return 0, io.EOF
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// Close ends Read, whatever the client does. It may be called from anywhere.
func (in *Input) Close() { in.once.Do(func() { close(in.closed) }) }

// Output is a writer to the client that can be closed while a Write waits for a
// client that does not read. Safe for use by many goroutines.
type Output struct {
	w      io.Writer
	crlf   bool
	mu     sync.Mutex // held during a Write, so that each stays in one piece
	todo   chan []byte
	done   chan error
	closed chan struct{}
	once   sync.Once
}

// newOutput makes an Output over w; the goroutine that writes is run. With crlf,
// "\n" goes out as "\r\n".
func newOutput(w io.Writer, crlf bool) *Output {
	return &Output{
		w: w, crlf: crlf,
		todo: make(chan []byte), done: make(chan error, 1), closed: make(chan struct{}),
	}
}

// run writes what Write hands over until the Output is closed.
func (o *Output) run() {
	for {
		select {
		case b := <-o.todo:
			_, err := o.w.Write(b)
			o.done <- err
		case <-o.closed:
			return
		}
	}
}

// Write blocks until the client's window took all of p, the client is gone, or
// the Output is closed (io.ErrClosedPipe).
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := 0; n < len(p); {
		part := p[n:min(n+chunk, len(p))]
		select {
		case o.todo <- o.render(part):
		case <-o.closed:
			return n, io.ErrClosedPipe
		}
		select {
		case err := <-o.done:
			if err != nil {
				return n, err
			}
		case <-o.closed:
			return n, io.ErrClosedPipe
		}
		n += len(part)
	}
	return len(p), nil
}

// render copies b, which the caller may change after a Write that was closed.
func (o *Output) render(b []byte) []byte {
	if !o.crlf {
		return bytes.Clone(b)
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
}

// Close ends Write, whatever the client does. It may be called from anywhere.
func (o *Output) Close() { o.once.Do(func() { close(o.closed) }) }
