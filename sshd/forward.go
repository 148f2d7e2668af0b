package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"charm.land/ssh"
	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/protocol"
	"towline/forward/pipe"
	"towline/sshd/auth"
	"towline/sshd/loginport"
)

const (
	// forwardDial bounds the connection to a listener on this machine.
	forwardDial = 5 * time.Second
	// loginWatch is how often an open connection is held against the login it leads
	// to, and loginGrace how long it may last once that is over: the browser is
	// still reading that all went well.
	loginWatch = time.Second
	loginGrace = 5 * time.Second
)

// places is a number of things that may exist at once.
type places chan struct{}

func newPlaces(n int) places { return make(places, n) }

func (p places) take() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
	}
}

func (p places) free() { <-p }

// serveForward serves one direct-tcpip channel (RFC 4254 section 7.2): `ssh -L`,
// whose client opens one for each connection to its end. The one thing to be
// reached is the port of a login that waits for its browser.
func serveForward(_ *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	c := connOf(ctx)
	var where struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	id, ok := identityOf(sc)
	if err := gossh.Unmarshal(nc.ExtraData(), &where); err != nil || !ok {
		_ = nc.Reject(gossh.ConnectionFailed, "no such address") // a dead connection needs no answer
		return
	}
	l, err := c.mayReach(id, where.Host, where.Port)
	if err != nil {
		_ = nc.Reject(gossh.Prohibited, err.Error())
		return
	}
	if err := c.beginForward(); err != nil {
		_ = nc.Reject(gossh.ResourceShortage, err.Error())
		return
	}
	defer c.endForward()
	d := net.Dialer{Timeout: forwardDial}
	up, err := d.DialContext(c.ctx, "tcp", l.Addr.String())
	if err != nil {
		_ = nc.Reject(gossh.ConnectionFailed, "the login does not answer on port "+fmt.Sprint(where.Port))
		return
	}
	defer func() { _ = up.Close() }() // carry has ended both ways
	if !loginport.Waits(l) {          // it was somebody else who answered
		_ = nc.Reject(gossh.Prohibited, noLogin(loginport.ErrNone).Error())
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	c.reach(id, l)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { gossh.DiscardRequests(reqs) })
	c.carry(ch, up, l)
}

// mayReach decides by the role, the key's line, the address, and what listens
// there now, and gives the reason that ssh prints.
func (c *conn) mayReach(id identity, host string, port uint32) (loginport.Login, error) {
	none := loginport.Login{}
	to := net.JoinHostPort(auth.Printable(host, 60), fmt.Sprint(port))
	switch {
	case !loginport.Names(host) || !slices.Contains(c.s.cfg.LoginPorts, uint16(min(port, 65535))): //nolint:gosec // bounded
		c.refuse("port forwarding")
		return none, errors.New("port forwarding is " + policy + ", except to the port of a pending login")
	case id.grant.Role < protocol.RoleAdmin:
		c.refuse("port forwarding to a login")
		return none, fmt.Errorf("reaching a login needs the role %q; %s has %q", protocol.RoleAdmin, id.grant.Name, id.grant.Role)
	case !id.grant.MayOpen(host, port):
		c.refuse("port forwarding to " + to)
		return none, errors.New("this key may not forward to " + to + " (its line in authorized_keys)")
	}
	l, err := loginport.Find(host, uint16(port), c.s.cfg.Listens) //nolint:gosec // it is one of LoginPorts
	if err != nil {
		c.refuse("port forwarding without a login")
		return none, noLogin(err)
	}
	return l, nil
}

// noLogin says what to do about it, too.
func noLogin(why error) error {
	return fmt.Errorf("%w; start one with `ssh -t HOST login`, or `towline login HOST`", why)
}

func (c *conn) beginForward() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errors.New("the connection is closing")
	case c.forwards >= c.s.cfg.Limits.Forwards, !c.s.forwards.take():
		return errors.New("too many connections to a login at once")
	}
	c.forwards++
	c.wg.Add(1)
	return nil
}

func (c *conn) endForward() {
	c.s.forwards.free()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forwards--
	c.wg.Done()
}

// reach records that a login was reached, once each.
func (c *conn) reach(id identity, l loginport.Login) {
	c.mu.Lock()
	told := c.reached[l.Inode] || len(c.reached) >= maxRefusals
	if !told {
		c.reached[l.Inode] = true
	}
	c.mu.Unlock()
	if told {
		return
	}
	c.log.Info("a login's port is reached", "principal", id.grant.Name, "addr", l.Addr.String(), "login", l.What, "pid", l.PID)
	c.audit(EventForward, id.grant.Principal(), slog.String("addr", l.Addr.String()), slog.String("login", l.What))
}

// carry moves bytes both ways until both have ended, the login is over, time is
// up, or the connection ends. The end of one way is passed on and leaves the
// other open.
func (c *conn) carry(ch gossh.Channel, up net.Conn, l loginport.Login) {
	ctx, cancel := context.WithTimeout(c.ctx, c.s.cfg.Limits.ForwardTime)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { watchLogin(ctx, cancel, l) })
	_, _ = pipe.Join(ctx, ch, up, pipe.Options{}) // either end may break; both are closed now
}

// watchLogin calls end some time after the login does.
func watchLogin(ctx context.Context, end func(), l loginport.Login) {
	t := time.NewTicker(loginWatch)
	defer t.Stop()
	for loginport.Waits(l) {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(loginGrace):
		end()
	}
}
