// Package sshclient is SSH in this process: what `ssh` would do for one host of
// the configuration, over golang.org/x/crypto/ssh, with the questions asked
// through the caller's Asker instead of a terminal.
//
// [Dial] walks a target's whole chain (ProxyJump hops of any length, each with its
// own host key check and login, or a ProxyCommand) and returns one [Client] with
// everything behind it. Progress is told as events of the stages "resolve" (of
// hops), "dial", "host key" and "authenticate"; every failure is a *config.Problem
// of one of these stages around a [HopError], with the next command to type.
//
// It honours what the library can do: see algorithms.go for the lists, auth.go for
// the login, hostkey.go for the rules about keys. What it cannot do (GSSAPI,
// PKCS#11, security keys without an agent, compression) is for launcher/systemssh.
// Nothing here reads ssh_config: that is config/sshconfig's work.
package sshclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// Config says whom to reach and how to ask. Only Target is required.
type Config struct {
	Target sshconfig.Target
	// Resolve resolves one entry of a ProxyJump list, as written there. Nil fails
	// the connections that have one.
	Resolve func(ctx context.Context, hop string) (sshconfig.Target, error)
	// Ask answers questions; nil is nobody.
	Ask remote.Asker
	// Events is told of progress, one call at a time; nil for nobody.
	Events func(remote.Event)
	// Secrets remembers what was typed. Give the same one to every Dial of one
	// session, and a reconnect asks nothing again. Nil remembers for this
	// connection only.
	Secrets *Secrets
	// Environ looks up a variable of the environment: SSH_AUTH_SOCK, SHELL, what
	// ForwardAgent and SendEnv name. Nil is os.Getenv.
	Environ func(string) string
	// Env is the whole environment as KEY=value, for SendEnv's patterns. Nil is
	// os.Environ.
	Env []string
	// Log gets details at debug level; never a secret. Nil is nowhere.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Ask == nil {
		c.Ask = nobody{}
	}
	if c.Events == nil {
		c.Events = func(remote.Event) {}
	}
	if c.Secrets == nil {
		c.Secrets = NewSecrets()
	}
	if c.Environ == nil {
		c.Environ = os.Getenv
	}
	if c.Env == nil {
		c.Env = os.Environ()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// HopError is the cause inside the *config.Problem of a failed connection: which
// machine it was about, and what was said by whom.
type HopError struct {
	Hop   string // as the person knows it: alias or jump host as written
	Host  string // the name or address dialed
	Port  int
	Words string // what the server or the proxy command said, stripped; "" for nothing
	Err   error  // the cause
}

func (e *HopError) Error() string {
	at := net.JoinHostPort(e.Host, strconv.Itoa(e.Port))
	if e.Hop != "" && e.Hop != e.Host {
		at = e.Hop + " (" + at + ")"
	}
	s := fmt.Sprintf("%s: %v", at, e.Err)
	if e.Words != "" {
		s += "; it said: " + e.Words
	}
	return printable(s, maxProblem)
}

// Unwrap gives the cause.
func (e *HopError) Unwrap() error { return e.Err }

// Client is an authenticated connection to the target, behind however many hops.
// It implements remote.Conn; all methods may be called concurrently.
type Client struct {
	hops  []*hop // first dialed first, the target last
	last  *link  // the target's
	done  chan struct{}
	close func()

	mu     sync.Mutex // guards what follows
	closed bool       // by Close
	err    error      // valid once done
}

var _ remote.Conn = (*Client)(nil)

// Dial connects and logs in. ctx bounds the whole attempt, the time a person takes
// included; the steps' own deadlines stand still while a person is waited for. The
// Client is the caller's to Close.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	r := &run{cfg: cfg.withDefaults(), last: make(map[string]time.Time)}
	hops, err := r.chain(ctx)
	if err != nil {
		return nil, err
	}
	for i, h := range hops {
		if i > 0 {
			h.via = hops[i-1]
		}
		err := h.login(ctx)
		r.cfg.Secrets.asked(h.label)
		if err != nil {
			closeHops(hops[:i])
			return nil, err
		}
	}
	c := &Client{hops: hops, last: hops[len(hops)-1].link, done: make(chan struct{})}
	c.close = sync.OnceFunc(func() { closeHops(c.hops) })
	go c.watch()
	return c, nil
}

// closeHops ends connections. The first carries the others, so it goes first: that
// cannot block, whatever state the network is in.
func closeHops(hops []*hop) {
	for _, h := range hops {
		h.link.fail(net.ErrClosed)
	}
	for _, h := range hops {
		h.link.close()
	}
}

// watch takes the whole chain down when the target's connection ends, whichever
// hop it was that broke.
func (c *Client) watch() {
	<-c.last.done
	c.mu.Lock()
	c.err = c.last.gone()
	if c.closed {
		c.err = net.ErrClosed
	}
	c.mu.Unlock()
	c.close()
	close(c.done)
}

// Exec implements remote.Conn.
func (c *Client) Exec(ctx context.Context, command string, o remote.ExecOptions) (remote.Process, error) {
	p, err := c.last.exec(ctx, command, o)
	if err != nil {
		return nil, err // not a nil *process in an interface
	}
	return p, nil
}

// DialUnix implements remote.Conn. The connection has a CloseWrite.
func (c *Client) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	s, err := c.last.dialUnix(ctx, path)
	if err != nil {
		return nil, c.refused(ctx, err, path, "AllowStreamLocalForwarding")
	}
	return s, nil
}

// DialTCP implements remote.Conn. The connection has a CloseWrite.
func (c *Client) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	s, err := c.last.dialTCP(ctx, addr)
	if err != nil {
		return nil, c.refused(ctx, err, addr, "AllowTcpForwarding")
	}
	return s, nil
}

// refused explains why a forwarded connection did not come about. It has no stage
// of connecting: the connection stands.
func (c *Client) refused(ctx context.Context, err error, what, option string) error {
	h := c.last.h
	var no *ssh.OpenChannelError
	switch {
	case errors.As(err, &no) && no.Reason == ssh.Prohibited:
		return h.problem(remote.StageReady, &described{"the server does not forward to " + printable(what, 300), err}, refusal(no), config.ExitDenied,
			"allow it there: `"+option+" yes` in its sshd_config")
	case errors.As(err, &no):
		return h.problem(remote.StageReady, &described{"the server could not connect to " + printable(what, 300), err}, refusal(no), config.ExitUnavailable,
			// For sockets sshd says the same whether it may not or cannot.
			"see whether something listens there: `ssh "+h.label+" ss -xtl`, and that its sshd_config does not say `"+option+" no`")
	case ctx.Err() != nil:
		return h.cut(remote.StageReady, ctx)
	}
	return err
}

// Done implements remote.Conn.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err implements remote.Conn: nil while the connection lives, net.ErrClosed after
// Close, and otherwise a *config.Problem of stage "ready" that says what broke.
func (c *Client) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Server implements remote.Conn.
func (c *Client) Server() string { return printable(string(c.last.conn.ServerVersion()), 255) }

// Close implements remote.Conn.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.close()
	<-c.done
	return nil
}
