package sshd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"charm.land/ssh"
	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/access"
	"towline/sshd/auth"
	"towline/sshd/session"
)

// maxRefusals bounds how many kinds of refusal one connection can have logged.
const maxRefusals = 16

// revokeGrace is how long a session may take to leave the terminal in order
// when its key is gone.
const revokeGrace = time.Second

// conn is one connection, from accept to the last goroutine.
type conn struct {
	net.Conn
	s     *Server
	log   *slog.Logger
	place *place
	born  time.Time
	heard atomic.Int64 // when bytes last arrived, as time since born

	ctx    context.Context // of its sessions; this struct is its lifetime
	cancel context.CancelCauseFunc
	done   chan struct{}
	wg     sync.WaitGroup // sessions and keepalive

	mu       sync.Mutex  // guards what follows
	ssh      ssh.Context // the library's, once it has begun
	sessions int
	forwards int
	closed   bool          // no session may start any more
	idle     chan struct{} // closed when closed is set and no session is left
	refused  map[string]bool
	reached  map[uint64]bool // the logins, by their sockets, that were reached from here
	notices  []string        // for the person, before their next session
	attempt  attempt
}

// attempt is the last key that was refused, for the log.
type attempt struct {
	user, key string
	err       error
}

// identity is who a connection is: what the finished handshake proved.
type identity struct {
	key   gossh.PublicKey
	grant auth.Grant
}

type (
	connKey     struct{} // of the connection in the library's context
	identityKey struct{} // of the identity in Permissions.ExtraData
)

func connOf(ctx ssh.Context) *conn { return ctx.Value(connKey{}).(*conn) }

func newConn(ctx context.Context, s *Server, nc net.Conn, p *place) *conn {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true) // keys and their echo are small; Go's default, but relied upon
	}
	c := &conn{
		Conn: nc, s: s, place: p, born: time.Now(), log: s.log.With("remote", nc.RemoteAddr().String()),
		done: make(chan struct{}), idle: make(chan struct{}), refused: map[string]bool{}, reached: map[uint64]bool{},
	}
	// When the server stops, wind ends the sessions, and says why.
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return c
}

// attach is called by the library before the handshake.
func (c *conn) attach(ctx ssh.Context) {
	ctx.SetValue(connKey{}, c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ssh = ctx
}

// Read notes when the peer was last heard.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(int64(time.Since(c.born)))
	}
	return n, err
}

// identity is known once the handshake is over. It is read from the connection
// that resulted, never kept from a callback: a client may offer one key and log
// in with another.
func (c *conn) identity() (identity, bool) {
	sc := c.finished()
	if sc == nil {
		return identity{}, false
	}
	return identityOf(sc)
}

func (c *conn) finished() *gossh.ServerConn {
	c.mu.Lock()
	ctx := c.ssh
	c.mu.Unlock()
	if ctx == nil {
		return nil
	}
	sc, _ := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
	return sc
}

func identityOf(sc *gossh.ServerConn) (identity, bool) {
	if sc.Permissions == nil {
		return identity{}, false
	}
	id, ok := sc.Permissions.ExtraData[identityKey{}].(identity)
	return id, ok
}

// serve runs the connection and everything on it, and returns when all of that has.
func (c *conn) serve() {
	defer close(c.done)
	defer c.place.free()
	c.wg.Go(c.keepAlive)
	c.s.wish.HandleConn(c)
	c.cancel(session.ErrGone)
	_ = c.Conn.Close()
	c.shut()
	c.wg.Wait()
	if id, ok := c.identity(); ok {
		c.log.Info("connection closed", "principal", id.grant.Name, "after", time.Since(c.born).Round(time.Millisecond))
		c.audit(EventLogout, id.grant.Principal())
		return
	}
	c.mu.Lock()
	a := c.attempt
	c.mu.Unlock()
	if a.err == nil {
		return
	}
	ok, lost := c.s.refusals.take()
	if !ok {
		return
	}
	c.log.Info("login refused", "user", a.user, "key", a.key, "why", a.err, "not_told", lost)
	attrs := []slog.Attr{slog.String("key", a.key), slog.String("why", a.err.Error())}
	if lost > 0 {
		attrs = append(attrs, slog.Int("notTold", lost))
	}
	c.audit(EventDenied, access.Principal{}, attrs...)
}

// begin takes a session's place; its reason is told to the client.
func (c *conn) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errors.New("no more sessions on this connection")
	case c.sessions >= c.s.cfg.Limits.Sessions:
		return errors.New("too many sessions on this connection")
	}
	c.sessions++
	c.wg.Add(1)
	return nil
}

func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions--
	if c.closed && c.sessions == 0 {
		close(c.idle)
	}
	c.wg.Done()
}

// shut lets no further session start.
func (c *conn) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		if c.sessions == 0 {
			close(c.idle)
		}
	}
}

// wind ends the connection in good order: sessions are told why and have grace
// to end, then the client sees the end of the stream, then the socket closes.
func (c *conn) wind(why error, grace time.Duration) {
	if _, in := c.identity(); !in {
		_ = c.Conn.Close()
		return
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	c.cancel(why)
	c.shut()
	select {
	case <-c.idle:
	case <-c.done:
	case <-t.C:
	}
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.CloseWrite() // a close with unread input would be a reset, and could destroy the exit status
	}
	select {
	case <-c.done:
	case <-time.After(min(grace, time.Second)):
	}
	_ = c.Conn.Close()
}

// revoke ends a connection whose key no longer has what it logged in with.
func (c *conn) revoke(why error) {
	id, _ := c.identity()
	if why == nil {
		why = errors.New("what the key may do was changed")
	}
	c.log.Warn("connection ended by authorized_keys", "principal", id.grant.Name, "why", why)
	c.audit(EventRevoked, id.grant.Principal(), slog.String("why", why.Error()))
	c.wind(ErrRevoked, revokeGrace)
}

// keepAlive asks a silent client for a sign of life and ends the connection when
// none comes: one that vanished would otherwise be attached for ever. Whatever
// the client sends counts.
func (c *conn) keepAlive() {
	every := c.s.cfg.Limits.KeepAlive
	limit := every * time.Duration(c.s.cfg.Limits.KeepAliveMissed)
	var asking atomic.Bool
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
		}
		silent := time.Since(c.born) - time.Duration(c.heard.Load())
		sc := c.finished()
		switch {
		case sc == nil: // the login grace ends it
		case silent >= limit:
			c.log.Info("client went silent", "for", silent.Round(time.Second))
			c.cancel(ErrSilent)
			_ = c.Conn.Close()
			return
		case silent >= every && asking.CompareAndSwap(false, true):
			// It waits for the answer, and for the socket to take the question.
			c.wg.Go(func() {
				_, _, _ = sc.SendRequest("keepalive@openssh.com", true, nil) // a refusal is an answer
				asking.Store(false)
			})
		}
		t.Reset(every - silent%every)
	}
}

// refuse records what was asked for in vain, once a kind.
func (c *conn) refuse(what string) {
	id, _ := c.identity()
	c.mu.Lock()
	told := c.refused[what] || len(c.refused) >= maxRefusals
	if !told {
		c.refused[what] = true
	}
	c.mu.Unlock()
	if told {
		return
	}
	c.log.Info("refused by policy", "principal", id.grant.Name, "what", what)
	c.audit(EventRefused, id.grant.Principal(), slog.String("what", what))
}

// notice keeps a sentence for the person's next session: some requests can only
// be refused without a reason.
func (c *conn) notice(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.notices) < maxRefusals {
		c.notices = append(c.notices, text)
	}
}

func (c *conn) takeNotices() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.notices
	c.notices = nil
	return n
}

func (c *conn) audit(event string, p access.Principal, attrs ...slog.Attr) {
	if c.s.cfg.Audit != nil {
		c.s.cfg.Audit(event, p, append(attrs, slog.String("remote", c.RemoteAddr().String()))...)
	}
}
