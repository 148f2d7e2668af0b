package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// rawHelloTime is how long a client may take for its handshake on a byte stream
// that was opened for it: there is a network in between.
const rawHelloTime = 30 * time.Second

// ServeBytes serves one client that speaks the WebSocket protocol on rw, whose
// other end somebody else has proved to be p: a channel of an SSH connection. It
// is to such a client what a unix listener is to a local one. rw is closed when
// it returns, which is when the connection is over; accept may outlive that as
// for a Listener. An error is a handshake that was refused or broken off.
func ServeBytes(ctx context.Context, rw io.ReadWriteCloser, o Options, p access.Principal, via, remote string, accept AcceptFunc) error {
	o = o.withDefaults(false)
	c := &rawConn{ReadWriteCloser: rw, cork: rpc.NewCork(rw), remote: rawAddr(remote)}
	defer func() { _ = rw.Close() }()
	slow := time.AfterFunc(rawHelloTime, func() { _ = rw.Close() })
	defer slow.Stop()
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	defer stop()

	limit := &io.LimitedReader{R: c, N: maxHeaderBytes}
	br := bufio.NewReader(limit)
	r, err := http.ReadRequest(br)
	if err != nil {
		if limit.N <= 0 {
			err = errors.New("the header is too large")
		}
		return fmt.Errorf("handshake: %w", err)
	}
	w := &rawResponse{c: c, br: br, header: http.Header{}}
	if offersEgress(r) {
		c.plain = true
		err := o.acceptEgress(ctx, w, r, p, remote, func() { slow.Stop() })
		if err != nil {
			w.finish()
		}
		return err
	}
	ws, err := rawUpgrade(w, r, o)
	if err != nil {
		w.finish()
		return fmt.Errorf("handshake: %w", err)
	}
	slow.Stop()
	stop() // from here on the end of ctx is the stream's business
	if err := o.carry(ctx, rpc.NewWebSocketFrom(ws, c.cork), bearing{p: p, via: via, remote: remote}, accept); err != nil {
		o.Log.Debug("link ended", "via", via, "remote", remote, "err", err) // as links do
	}
	return nil
}

func rawUpgrade(w http.ResponseWriter, r *http.Request, o Options) (*websocket.Conn, error) {
	if _, ok := r.Header["Origin"]; ok {
		w.WriteHeader(http.StatusForbidden)
		return nil, errors.New("a web page")
	}
	if no := malformed(r); no != nil {
		no.write(w)
		return nil, errors.New(no.body)
	}
	w.Header().Set(frameHeader, strconv.Itoa(codexFrameBytes))
	return websocket.Accept(w, r, o.handshake())
}

// rawResponse answers the one request there is.
type rawResponse struct {
	c      *rawConn
	br     *bufio.Reader
	header http.Header
	status int
	body   bytes.Buffer // of a refusal
}

func (w *rawResponse) Header() http.Header { return w.header }

func (w *rawResponse) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.body.Write(b)
}

func (w *rawResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Hijack sends the answer, if there is one, and hands the bytes over.
func (w *rawResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.status != 0 {
		if err := w.send(); err != nil {
			return nil, nil, err
		}
	}
	return w.c, bufio.NewReadWriter(w.br, bufio.NewWriter(w.c)), nil
}

func (w *rawResponse) finish() {
	if w.status == 0 || w.status == http.StatusSwitchingProtocols {
		return
	}
	w.header.Set("Connection", "close")
	w.header.Set("Content-Length", strconv.Itoa(w.body.Len()))
	_ = w.send() // the client may be gone
}

func (w *rawResponse) send() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	_ = w.header.Write(&b)
	b.WriteString("\r\n")
	_, _ = w.body.WriteTo(&b)
	_, err := w.c.Write(b.Bytes())
	return err
}

// rawConn is a byte stream as far as the WebSocket library looks at a net.Conn.
type rawConn struct {
	io.ReadWriteCloser
	cork   *rpc.Cork // writes go through it
	remote rawAddr
	plain  bool // no WebSocket reads it
}

func (c *rawConn) Read(b []byte) (int, error) {
	if c.plain {
		return c.ReadWriteCloser.Read(b)
	}
	return rpc.UnderWebSocket(c.ReadWriteCloser).Read(b)
}

func (c *rawConn) Write(b []byte) (int, error)      { return c.cork.Write(b) }
func (c *rawConn) LocalAddr() net.Addr              { return rawAddr("") }
func (c *rawConn) RemoteAddr() net.Addr             { return c.remote }
func (c *rawConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *rawConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *rawConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

type rawAddr string

func (rawAddr) Network() string  { return "bytes" }
func (a rawAddr) String() string { return string(a) }
