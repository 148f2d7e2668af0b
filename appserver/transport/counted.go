package transport

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"

	"towline/appserver/rpc"
)

// counted is a Listener that keeps the limits.
type counted Listener

func (l *counted) Accept() (*countedConn, error) {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return nil, err
		}
		if cc := l.take(c); cc != nil {
			return cc, nil
		}
	}
}

// take counts c, or ends it.
func (l *counted) take(c net.Conn) *countedConn {
	limits := l.opts.Limits
	l.mu.Lock()
	places := limits.MaxPending / 4 // for others than this user, who alone needs no credential
	if l.opts.RequireAuth {
		places *= 3
	}
	crowded := l.pending >= places
	l.mu.Unlock()
	if crowded && !l.remote && !(*Listener)(l).ours(c) {
		l.refuse(c, false, "refused a stranger's connection: there are many")
		return nil
	}
	var from netip.Prefix
	if l.remote {
		if from = sourceOf(addrOf(c.RemoteAddr())); !l.opts.Crowd.arrive(from, limits) {
			l.refuse(c, true, "refused a connection: too many from one source")
			return nil
		}
	}
	l.mu.Lock()
	full := l.conns >= limits.MaxConns || l.pending >= limits.MaxPending
	if !full {
		l.conns++
		l.pending++
	}
	l.mu.Unlock()
	if full {
		if l.remote {
			l.opts.Crowd.admit(from)
			l.opts.Crowd.leave(from)
		}
		l.refuse(c, true, "refused a connection: too many")
		return nil
	}
	cc := &countedConn{Conn: c, l: l, pending: true, from: from}
	if l.tls != nil {
		// net/http bounds the reading only.
		_ = c.SetWriteDeadline(time.Now().Add(2 * limits.Handshake))
		cc.tls = tls.Server(c, l.tls)
		cc.Conn = cc.tls
	}
	cc.cork = rpc.NewCork(cc.Conn)
	return cc
}

// refuse ends a connection there is no place for.
func (l *counted) refuse(c net.Conn, answer bool, why string) {
	l.opts.Meter.Connection(l.via, OutcomeCrowded)
	if now := time.Now().Unix(); l.warned.Swap(now) != now { // a flood is one line a second
		l.opts.Log.Warn(why, "via", l.via, "remote", c.RemoteAddr().String())
	}
	if answer && l.tls == nil {
		// A fresh socket's buffer takes this without waiting.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	}
	_ = c.Close()
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn            // what is in TLS, where there is TLS
	tls      *tls.Conn  // nil without
	cork     *rpc.Cork  // writes go through it
	guard    frameGuard // of whoever reads, as what follows
	bad      error      // what the client sent after what may still be read
	l        *counted
	from     netip.Prefix // valid on listeners that other machines reach
	once     sync.Once
	until    time.Time // what is read of a handshake is read by then; zero: TLS
	ahead    []byte    // read already, and net/http's to read again
	decided  *refusal  // what net/http is to answer, whatever was asked
	pending  bool      // guarded by l.mu
	shook    bool      // TLS is agreed on; of whoever reads
	told     atomic.Bool
	ws       atomic.Bool
}

// Read is that of a WebSocket once it is one; net/http wants to see io.EOF.
func (c *countedConn) Read(p []byte) (int, error) {
	if c.tls != nil && !c.shook {
		if err := c.shakeHands(); err != nil {
			return 0, err
		}
	}
	if len(c.ahead) > 0 { // never of a WebSocket: the handshake took it
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if !c.ws.Load() {
		return c.Conn.Read(p)
	}
	if c.bad != nil {
		return 0, c.bad
	}
	n, err := rpc.UnderWebSocket(c.Conn).Read(p)
	if n, c.bad = c.guard.see(p[:n]); c.bad != nil && n == 0 {
		return 0, c.bad
	}
	return n, err
}

func (c *countedConn) shakeHands() error {
	if err := c.tls.Handshake(); err != nil {
		c.outcome(OutcomeTLS)
		c.l.opts.Log.Debug("tls handshake", "remote", c.RemoteAddr().String(), "err", err)
		return err
	}
	c.shook = true
	if c.tls.ConnectionState().NegotiatedProtocol == acme.ALPNProto {
		c.outcome(OutcomeProbe) // an authority that looks whether the name is ours
		return io.EOF
	}
	return nil
}

// SetReadDeadline gives nobody more time for a handshake by looking at it again.
func (c *countedConn) SetReadDeadline(t time.Time) error {
	if !c.until.IsZero() && t.After(c.until) {
		t = c.until
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *countedConn) Write(p []byte) (int, error) { return c.cork.Write(p) }

// outcome tells the meter, once, what became of the attempt.
func (c *countedConn) outcome(o string) {
	if !c.told.Swap(true) {
		c.l.opts.Meter.Connection(c.l.via, o)
	}
}

func (c *countedConn) admitted() {
	c.l.mu.Lock()
	was := c.pending
	if was {
		c.pending = false
		c.l.pending--
	}
	c.l.mu.Unlock()
	if was && c.from.IsValid() {
		c.l.opts.Crowd.admit(c.from)
	}
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.outcome(OutcomeSilent)
		c.admitted()
		c.l.mu.Lock()
		c.l.conns--
		c.l.mu.Unlock()
		if c.from.IsValid() {
			c.l.opts.Crowd.leave(c.from)
		}
	})
	return c.Conn.Close()
}

// addrOf is the address of one end of a TCP connection.
func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
