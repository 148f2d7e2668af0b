package rpc

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coder/websocket"
)

const (
	// maxAnswer bounds the server's answer to a handshake, in bytes of header.
	maxAnswer = 64 << 10
	// maxFrame is the largest frame Codex takes; it resets a connection that
	// sends a larger one. Longer messages go out in several.
	maxFrame = 16 << 20
)

// WebSocketOptions are what a client's handshake says. The zero value is good.
type WebSocketOptions struct {
	Host   string      // the Host header; empty is "localhost"
	Header http.Header // further headers
	Resume bool        // offer ResumeProtocol
	// Alive, when not zero, is how often the peer is asked for a sign of life while
	// somebody reads and nothing is written. Two that stay away end the stream. A
	// resumable stream looks after that itself.
	Alive time.Duration
}

// HandshakeError is a server's answer that is no WebSocket.
type HandshakeError struct {
	Status int    // of HTTP
	Text   string // what the server said: one line without control characters
	// RetryAfter is when the server wants to be asked again, from now on and at most
	// MaxRetryAfter; zero when it did not say.
	RetryAfter time.Duration
}

// MaxRetryAfter is how long a server may make a client wait.
const MaxRetryAfter = 15 * time.Minute

// RetryAfter is when a server that refused wants to be asked again, zero when err
// is something else.
func RetryAfter(err error) time.Duration {
	var no *HandshakeError
	if errors.As(err, &no) {
		return no.RetryAfter
	}
	return 0
}

// retryAfter reads the header of that name (RFC 9110 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, MaxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), MaxRetryAfter)
	}
	return 0
}

// Error names the status and what was said.
func (e *HandshakeError) Error() string {
	s := fmt.Sprintf("HTTP %d", e.Status)
	if t := http.StatusText(e.Status); t != "" {
		s += " " + t
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// DialWebSocket makes the client's half of a WebSocket handshake on a byte
// stream that is open already, which it then owns; on an error it is closed. ctx
// bounds the handshake only. With o.Resume, [Resumes] tells whether the server
// agreed; if so the Stream is a link for [NewResumable], and nothing else. A
// refusal is a *HandshakeError.
func DialWebSocket(ctx context.Context, rw io.ReadWriteCloser, o WebSocketOptions) (Stream, error) {
	host := o.Host
	if host == "" {
		host = "localhost"
	}
	var beat *pulse
	var in io.Reader = rw
	if o.Alive > 0 {
		beat = newPulse(rw)
		in = beat
	}
	limit := &io.LimitedReader{R: in, N: maxAnswer}
	k := &knock{rw: &corked{r: bufio.NewReaderSize(limit, 4096), cork: NewCork(rw), c: rw, beat: beat}, limit: limit}
	d := &websocket.DialOptions{HTTPClient: &http.Client{
		Transport:     k,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, HTTPHeader: o.Header, Host: host}
	if o.Resume {
		d.Subprotocols = []string{ResumeProtocol}
	}
	stop := context.AfterFunc(ctx, func() { _ = k.rw.Close() })
	c, resp, err := websocket.Dial(ctx, "ws://"+host+"/", d)
	if !stop() && err == nil {
		_ = c.CloseNow()
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = k.rw.Close()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
			b, _ := io.ReadAll(resp.Body) // what the library kept, at most a kilobyte
			return nil, &HandshakeError{Status: resp.StatusCode, Text: oneLine(string(b)), RetryAfter: retryAfter(resp.Header, time.Now())}
		case k.err != nil:
			return nil, k.err // without the library's wrapping
		}
		return nil, err
	}
	ws := newWebSocket(c, k.rw.cork, maxFrame)
	ws.from, _ = rw.(Lingerer)
	if beat != nil && !Resumes(ws) {
		go beat.watch(c, o.Alive, func() { _ = rw.Close() }) // the reader learns it and ends the rest
	}
	return ws, nil
}

// knock is an http.RoundTripper for the one request of a handshake, on a byte
// stream that is there already.
type knock struct {
	rw    *corked
	limit *io.LimitedReader // of the answer
	err   error
}

// ErrNoHTTP is an answer that is none.
var ErrNoHTTP = errors.New("what answers there does not speak HTTP")

func (k *knock) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := k.talk(req)
	k.err = err
	return resp, err
}

func (k *knock) talk(req *http.Request) (*http.Response, error) {
	wrote := req.Write(k.rw)
	// The first bytes tell another protocol, or a banner, from a slow server; also
	// one that said its piece and left before it was asked.
	const begin = "HTTP/"
	b, err := k.rw.r.Peek(len(begin))
	if !strings.HasPrefix(begin, string(b)) {
		return nil, ErrNoHTTP
	}
	if err = cmp.Or(wrote, err); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(k.rw.r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &refusal{Reader: resp.Body, c: k.rw}
		return resp, nil
	}
	k.limit.N = math.MaxInt64 // from here on frames are bounded
	resp.Body = k.rw
	return resp, nil
}

// refusal is the body of a refusal. Closing the one of net/http would read on
// until the server ends it.
type refusal struct {
	io.Reader
	c io.Closer
}

func (r *refusal) Close() error { return r.c.Close() }

// corked is the byte stream as the WebSocket library uses it: reads begin with
// what came along with the answer, writes go through the cork.
type corked struct {
	r    *bufio.Reader
	cork *Cork
	c    io.Closer
	beat *pulse // may be nil
	once sync.Once
	err  error
}

func (c *corked) Read(p []byte) (int, error)  { return cutReader{c.r}.Read(p) }
func (c *corked) Write(p []byte) (int, error) { return c.cork.Write(p) }

func (c *corked) Close() error {
	c.once.Do(func() {
		if c.beat != nil {
			c.beat.stop()
		}
		c.err = c.c.Close()
	})
	return c.err
}

// oneLine makes text from elsewhere fit for a terminal.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s))
}
