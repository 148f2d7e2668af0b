package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// conn is one connection through a loan: a stream of HTTP/2 that looks like a
// TCP connection, with deadlines and both ways ending apart.
type conn struct {
	in, out net.Conn // near ends of two pipes, one a direction
	target  string
	end     context.CancelCauseFunc
	once    sync.Once
	over    chan struct{} // closed when the answer's bytes have ended
	broken  error         // why, when not by the endpoint's will; set before that
}

// connect asks the other end for a connection. ctx bounds that only.
func connect(ctx context.Context, rt http.RoundTripper, t Target) (net.Conn, error) {
	// The stream lives longer than the dialing.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	nearIn, farIn := net.Pipe()
	nearOut, farOut := net.Pipe()
	c := &conn{in: nearIn, out: nearOut, target: t.String(), end: end, over: make(chan struct{})}
	req, err := http.NewRequestWithContext(life, http.MethodConnect, "http://"+t.String(), farOut)
	if err == nil {
		req.Host = t.String()
		var res *http.Response
		if res, err = rt.RoundTrip(req); err == nil {
			if !stop() && ctx.Err() != nil {
				_ = res.Body.Close()
				err = context.Cause(ctx)
			} else if err = refusal(res, t); err == nil {
				go c.receive(farIn, res.Body)
				return c, nil
			}
		}
	}
	stop()
	end(err)
	_, _, _, _ = nearIn.Close(), farIn.Close(), nearOut.Close(), farOut.Close()
	if cause := context.Cause(life); ctx.Err() != nil && cause != nil {
		err = cause
	}
	return nil, err
}

// refusal is what an answer other than 200 means. The text is the laptop's.
func refusal(res *http.Response, t Target) error {
	if res.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxText))
	_ = res.Body.Close()
	kind := ErrUnreached
	if res.StatusCode == http.StatusForbidden {
		kind = ErrNotLent
	}
	return &dialError{kind: kind, target: t.String(), why: plain(string(text))}
}

// dialError is a connection that did not come about.
type dialError struct {
	kind        error
	target, why string
}

func (e *dialError) Error() string {
	s := e.target + ": " + e.kind.Error()
	if e.why != "" {
		s += " (" + e.why + ")"
	}
	return s
}

func (e *dialError) Unwrap() error { return e.kind }

// plain is one line of somebody else's text, without control characters.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// receive carries what the endpoint says. It ends with the stream, or with the
// near end, which is a write that fails.
func (c *conn) receive(far net.Conn, body io.ReadCloser) {
	_, err := io.Copy(far, body)
	_ = body.Close()
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		// A broken stream must not read like an end of the endpoint's.
		c.broken = fmt.Errorf("%w: %w", ErrGone, err)
		c.end(err)
		_ = c.out.Close()
	}
	close(c.over)
	_ = far.Close()
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if err == io.EOF { //nolint:errorlint // net.Pipe's own
		<-c.over
		if c.broken != nil {
			err = c.broken
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) { return c.out.Write(p) }

// CloseWrite ends this direction, and leaves the other.
func (c *conn) CloseWrite() error { return c.out.Close() }

// Close ends both, and waits for what carries the bytes.
func (c *conn) Close() error {
	c.once.Do(func() {
		_, _ = c.out.Close(), c.in.Close()
		c.end(net.ErrClosed)
		<-c.over
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return addr("lent") }
func (c *conn) RemoteAddr() net.Addr               { return addr(c.target) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.in.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.in.SetDeadline(t), c.out.SetDeadline(t))
}

type addr string

func (addr) Network() string  { return "egress" }
func (a addr) String() string { return string(a) }

// stream makes a byte stream what net/http takes. Deadlines do nothing: whoever
// must not wait closes it.
type stream struct {
	io.ReadWriteCloser
	once sync.Once
	gone chan struct{} // closed by Close
}

func newStream(rw io.ReadWriteCloser) *stream {
	return &stream{ReadWriteCloser: rw, gone: make(chan struct{})}
}

func (s *stream) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		close(s.gone)
		err = s.ReadWriteCloser.Close()
	})
	return err
}

func (s *stream) LocalAddr() net.Addr              { return addr("here") }
func (s *stream) RemoteAddr() net.Addr             { return addr("there") }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

// single is a listener that has one connection and ends with it.
type single struct {
	c    *stream
	once sync.Once
	left chan struct{}
}

func newSingle(c *stream) *single { return &single{c: c, left: make(chan struct{})} }

func (l *single) Accept() (net.Conn, error) {
	var first bool
	l.once.Do(func() { first = true })
	if first {
		return l.c, nil
	}
	select {
	case <-l.c.gone:
	case <-l.left:
	}
	return nil, net.ErrClosed
}

func (l *single) Close() error {
	select {
	case <-l.left:
	default:
		close(l.left)
	}
	return nil
}

func (l *single) Addr() net.Addr { return addr("here") }
