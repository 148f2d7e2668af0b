package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"towline/appserver/access"
)

// maxLoopback bounds the connections of a [ListenLoopback] listener.
const maxLoopback = 256

// ListenLoopback listens on a free port of this machine's loopback for processes
// of this user alone: a port has no file mode, so each connection is looked up in
// the kernel's table. Anybody else's, and those of commands that an agent runs in
// a sandbox, end without a byte.
func ListenLoopback(ctx context.Context, log *slog.Logger) (net.Listener, error) {
	uid := uint32(os.Geteuid()) //nolint:gosec // uids are 32 bits
	if err := distinguishable(uid); err != nil {
		return nil, listenProblem(err, "run as a user that the kernel can tell from others")
	}
	if !tcpOwnerKnown {
		return nil, listenProblem(errors.New("this system does not tell whose a connection is"))
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // see Listen
	ln, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, listenProblem(fmt.Errorf("loopback: %w", rootCause(err)))
	}
	who := &Listener{via: viaWS, uid: uid, self: access.Principal{}}
	return &loopback{Listener: ln, who: who, log: log, places: make(chan struct{}, maxLoopback)}, nil
}

// loopback is a listener that asks whose each connection is.
type loopback struct {
	net.Listener
	who    *Listener // for its owned
	log    *slog.Logger
	places chan struct{}
	said   lines
}

func (l *loopback) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &ownedConn{Conn: c, l: l}, nil
		default:
			_ = c.Close()
		}
	}
}

// ownedConn is asked about when it is first read: looking takes a moment, which
// others at the door must not wait for.
type ownedConn struct {
	net.Conn
	l     *loopback
	ask   sync.Once
	err   error
	leave sync.Once
}

var errNotOurs = errors.New("a connection of somebody else's")

func (c *ownedConn) Read(p []byte) (int, error) {
	c.ask.Do(func() {
		if _, err := c.l.who.owned(c.Conn, false); err != nil {
			c.l.said.warn(c.l.log, "refused a connection", "via", "loopback", "remote", c.RemoteAddr().String(), "err", err)
			c.err = errNotOurs
			_ = c.Conn.Close()
		}
	})
	if c.err != nil {
		return 0, c.err
	}
	return c.Conn.Read(p)
}

// CloseWrite ends this direction.
func (c *ownedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (c *ownedConn) Close() error {
	c.leave.Do(func() { <-c.l.places })
	return c.Conn.Close()
}
