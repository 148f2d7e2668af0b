package rpc

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// wsStream frames messages as WebSocket text frames (RFC 6455).
type wsStream struct {
	c      *websocket.Conn
	cork   *Cork    // may be nil
	from   Lingerer // may be nil
	frame  int      // longer messages go out in several frames of this size; 0: never
	strict bool     // text is looked at
	once   sync.Once
	done   chan struct{}
	slow   atomic.Bool // a write took longer than WriteTimeout

	mu      sync.Mutex // guards what follows
	writing int
	since   time.Time   // when the first of these began, or another ended
	watch   *time.Timer // looks after them while armed
	armed   bool
}

// NewWebSocket makes a Stream of an open WebSocket, either end, and takes the
// connection over. What is under it must be as from [UnderWebSocket]. Binary
// frames are ignored as Codex ignores them; a peer that closes, in whatever way,
// ends Read with io.EOF.
func NewWebSocket(c *websocket.Conn) Stream { return NewWebSocketOn(c, nil) }

// NewWebSocketOn is [NewWebSocket] for a connection whose bytes go out through
// cork, which makes the Stream a [Batcher]. A nil cork is none.
func NewWebSocketOn(c *websocket.Conn, cork *Cork) Stream { return newWebSocket(c, cork, 0) }

// NewWebSocketFrom is [NewWebSocketOn] for the connection of a client: text that
// is not UTF-8 ends it, as RFC 6455 8.1 wants. The pieces of a resumable stream
// may end within a character.
func NewWebSocketFrom(c *websocket.Conn, cork *Cork) Stream {
	w := newWebSocket(c, cork, 0)
	w.strict = c.Subprotocol() != ResumeProtocol
	return w
}

var errText = errors.New("a text frame does not hold UTF-8")

// errCut is the end of the bytes under a WebSocket, see [UnderWebSocket].
var errCut = errors.New("the connection ended")

// UnderWebSocket makes the end of r an error other than io.EOF, which every
// connection given to the WebSocket library needs: version 1.8.15 takes an
// io.EOF between two of its reads within a message for the end of that message,
// and hands out the part that came as the whole.
func UnderWebSocket(r io.Reader) io.Reader { return cutReader{r} }

type cutReader struct{ r io.Reader }

func (c cutReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

func newWebSocket(c *websocket.Conn, cork *Cork, frame int) *wsStream {
	limit := int64(MaxMessage)
	if c.Subprotocol() == ResumeProtocol {
		limit = pieceBytes + headRoom
	}
	c.SetReadLimit(limit)
	return &wsStream{c: c, cork: cork, frame: frame, done: make(chan struct{})}
}

// Resumes reports whether both ends of a WebSocket agreed to [ResumeProtocol].
func Resumes(s Stream) bool {
	w, ok := s.(*wsStream)
	return ok && w.c.Subprotocol() == ResumeProtocol
}

// Lingerer is a byte stream whose next read may give more bytes a moment to
// arrive.
type Lingerer interface{ Linger() }

// Linger tells a Stream that what was read last is one of many small messages:
// when nothing more has arrived yet, the next Read may wait a fraction of a
// millisecond and then take several with one system call and one wake-up, which
// is most of what carrying a word costs. Streams made by [DialWebSocket] on a
// Lingerer do so; others ignore it.
func Linger(s Stream) {
	if w, ok := s.(*wsStream); ok && w.from != nil {
		w.from.Linger()
	}
}

// Batch implements [Batcher].
func (w *wsStream) Batch(on bool) error {
	if w.cork == nil {
		return nil
	}
	w.began()
	defer w.ended()
	err := w.cork.Batch(on)
	if err != nil && w.slow.Load() {
		return ErrSlow
	}
	return err
}

// Room implements [Roomy].
func (w *wsStream) Room(n int) bool {
	const header = 14 // at most, of a frame
	return w.cork != nil && w.cork.Room(n+header)
}

// began is called before something is written, and ended after it. One timer
// outlasts many writes: starting one for each may wake the thread that waits in
// the poller, which costs more than writing a short message does.
func (w *wsStream) began() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing++; w.writing == 1 {
		w.since = time.Now()
	}
	switch {
	case w.armed:
		return
	case w.watch == nil:
		w.watch = time.AfterFunc(WriteTimeout, w.look)
	default:
		w.watch.Reset(WriteTimeout)
	}
	w.armed = true
}

func (w *wsStream) ended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing--; w.writing > 0 {
		w.since = time.Now() // the peer reads
	}
}

// look gives the stream up when the peer has not read for WriteTimeout.
func (w *wsStream) look() {
	w.mu.Lock()
	left := WriteTimeout - time.Since(w.since)
	w.armed = w.writing > 0
	if w.armed && left > 0 {
		w.watch.Reset(left)
	}
	slow := w.armed && left <= 0
	w.mu.Unlock()
	if slow {
		w.slow.Store(true)
		_ = w.c.CloseNow() // waits for the write, and that for mu
	}
}

func (w *wsStream) Read(ctx context.Context) ([]byte, error) {
	for {
		typ, msg, err := w.c.Read(ctx)
		if err != nil {
			return nil, w.fault(ctx, err)
		}
		if typ != websocket.MessageText {
			continue
		}
		if w.strict && !utf8.Valid(msg) {
			return nil, errText
		}
		return msg, nil
	}
}

func (w *wsStream) Write(ctx context.Context, msg []byte) error {
	w.began() // a context with a deadline would cost a quarter of what writing does
	defer w.ended()
	var err error
	if w.frame > 0 && len(msg) > w.frame {
		if err = w.writeFrames(ctx, msg); err != nil {
			defer func() { _ = w.c.CloseNow() }() // half a message is out
		}
	} else {
		err = w.c.Write(ctx, websocket.MessageText, msg)
	}
	if err != nil {
		if w.slow.Load() {
			return ErrSlow
		}
		return w.fault(ctx, err)
	}
	return nil
}

func (w *wsStream) writeFrames(ctx context.Context, msg []byte) error {
	m, err := w.c.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	for len(msg) > 0 {
		n := min(len(msg), w.frame)
		if _, err := m.Write(msg[:n]); err != nil {
			return err
		}
		msg = msg[n:]
	}
	return m.Close()
}

func (w *wsStream) fault(ctx context.Context, err error) error {
	select {
	case <-w.done:
		return ErrClosed
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if websocket.CloseStatus(err) == websocket.StatusMessageTooBig || strings.Contains(err.Error(), "read limited at") {
		return ErrTooLarge
	}
	var ce websocket.CloseError
	if errors.As(err, &ce) || errors.Is(err, errCut) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// Close sends a Close frame with the reason when there is one worth telling,
// and never waits for the peer's: Codex does not send one.
func (w *wsStream) Close(reason error) error {
	w.once.Do(func() {
		close(w.done)
		w.mu.Lock()
		if w.watch != nil && w.writing == 0 {
			w.watch.Stop() // it would keep the stream in memory
		}
		w.mu.Unlock()
		if errors.Is(reason, ErrTooLarge) {
			_ = w.c.Close(websocket.StatusMessageTooBig, reason.Error())
			return
		}
		_ = w.c.CloseNow()
	})
	return nil
}
