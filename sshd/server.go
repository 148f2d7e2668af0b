// Package sshd is the SSH front door: `ssh host` is the UI, `ssh host
// app-server` the protocol. It says who somebody is (package auth) and gives
// them a terminal or a pipe (package session); what they may do behind it is the
// app-server's business.
//
// Only public keys of the authorized_keys file log in. Forwards, agents and X11
// are refused by policy, but for one: while a login waits for a browser on this
// host, an admin may reach its port (forward.go, package loginport). Everything a stranger or a client can make the host
// hold is bounded, see [Limits].
//
// Wish and its SSH library run the sessions; connections, limits and waiting are
// this package's, because the library neither bounds nor waits. Every defect of
// it that is worked around has a test named TestDefectNN….
//
// Start with [Listen], then [Server.Serve].
package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"charm.land/ssh"
	"charm.land/wish/v2"
	gossh "golang.org/x/crypto/ssh"

	"towline/appserver/rpc"
	"towline/config"
	"towline/sshd/auth"
	"towline/sshd/loginport"
	"towline/sshd/session"
)

// version is all that is told about the software before login.
const version = "Towline"

// maxRefusedLogins is how many refused logins a minute are logged and audited
// one by one; anybody who reaches the port can cause them.
const maxRefusedLogins = 60

// Why the server ends a session, for context.Cause. The client reads them.
var (
	ErrStopping = errors.New("the host is stopping")
	ErrRevoked  = error(revokedError{})
	ErrSilent   = errors.New("nothing was heard from the client")
)

// revokedError ends what outlives connections, too.
type revokedError struct{}

func (revokedError) Error() string        { return "your access to this host was changed or removed" }
func (revokedError) Is(target error) bool { return target == rpc.ErrExpelled }

// Server is an open SSH front door.
type Server struct {
	cfg      Config
	log      *slog.Logger
	ln       net.Listener
	wish     *ssh.Server
	keys     *auth.Keys
	host     gossh.PublicKey
	startups *startups
	turned   turnedAway
	valve    valve // see handover.go
	refusals quota // of lines about logins refused

	forwards places // connections to a login's port
	errands  places // commands that are processes

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

// Listen opens the door: it reads or makes the host key, checks the
// authorized_keys file and binds the address. Nothing is accepted until Serve.
// Its errors are for people, see config.Problem.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, &config.Problem{Err: err, Exit: config.ExitConfig}
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.LoginPorts == nil {
		cfg.LoginPorts = loginport.Ports()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, startups: newStartups(cfg.Limits), conns: map[*conn]struct{}{},
		refusals: quota{most: maxRefusedLogins, now: time.Now},
		forwards: newPlaces(cfg.Limits.AllForwards), errands: newPlaces(cfg.Limits.Errands),
	}
	pem, public, err := hostKey(cfg.HostKeyFile)
	if err != nil {
		return nil, err
	}
	s.host = public
	if s.keys, err = auth.Open(cfg.AuthorizedKeysFile, cfg.Log); err != nil {
		return nil, err
	}
	if s.wish, err = s.library(pem); err != nil {
		return nil, fmt.Errorf("set up ssh: %w", err)
	}
	if cfg.Socket != nil {
		if s.ln, err = adopt(cfg.Socket, cfg.Listen); err != nil {
			return nil, &config.Problem{Err: err, Exit: config.ExitFailure}
		}
		return s, nil
	}
	lc := net.ListenConfig{KeepAliveConfig: s.keepAlive()}
	if s.ln, err = lc.Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, &config.Problem{
			Err: err, Exit: config.ExitFailure,
			Hints: []string{"choose another address with --ssh-listen, or port 0 for any free one"},
		}
	}
	return s, nil
}

// keepAlive has the kernel notice dead peers too, before login and without a
// session.
func (s *Server) keepAlive() net.KeepAliveConfig {
	l := s.cfg.Limits
	return net.KeepAliveConfig{Enable: true, Idle: l.KeepAlive, Interval: l.KeepAlive, Count: l.KeepAliveMissed}
}

// library sets up Wish. All of its defaults that admit somebody are replaced.
func (s *Server) library(hostKeyPEM []byte) (*ssh.Server, error) {
	return wish.NewServer(append(session.Options(),
		wish.WithVersion(version),
		wish.WithHostKeyPEM(hostKeyPEM),
		func(srv *ssh.Server) error {
			srv.HandshakeTimeout = s.cfg.Limits.LoginGrace
			srv.ConnCallback = func(ctx ssh.Context, nc net.Conn) net.Conn {
				nc.(*conn).attach(ctx)
				return nc
			}
			srv.ServerConfigCallback = func(ctx ssh.Context) *gossh.ServerConfig { return connOf(ctx).loginConfig() }
			srv.ConnectionFailedCallback = s.failed
			srv.ChannelHandlers = channelHandlers()
			srv.RequestHandlers = requestHandlers()
			return nil
		})...)
}

// Addr is the address bound, host:port.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Fingerprint is the host key's, as ssh prints it: "SHA256:…".
func (s *Server) Fingerprint() string { return gossh.FingerprintSHA256(s.host) }

// Serve accepts until ctx ends, or Release; then it waits until those who are
// connected have left. When ctx ends it tells every session, gives them
// Limits.Drain to finish, closes what is left and waits for all of it. It
// returns nil when ctx ended it, and may be called once.
func (s *Server) Serve(ctx context.Context) error {
	var wg, guests sync.WaitGroup
	inner, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(inner, func() { _ = s.ln.Close() })()
	wg.Go(func() { s.recheck(inner) })
	err := s.accept(inner, &guests)
	if _, released, _ := s.valve.state(); released {
		_ = s.ln.Close()
		left := make(chan struct{})
		go func() { guests.Wait(); close(left) }() // ends below at the latest
		select {
		case <-left:
		case <-ctx.Done():
		}
	}
	cancel()
	_ = s.ln.Close() // accept may have ended by itself
	for _, c := range s.open() {
		wg.Go(func() { c.wind(ErrStopping, s.cfg.Limits.Drain) })
	}
	wg.Wait()
	guests.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) accept(ctx context.Context, wg *sync.WaitGroup) error {
	const most = time.Second
	delay := 5 * time.Millisecond
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if was, over := s.held(ctx); over {
				return nil
			} else if was || errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, mostly: others will give some back.
			s.log.Error("accept", "err", err, "again_in", delay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			delay = min(2*delay, most)
			continue
		}
		delay = 5 * time.Millisecond
		if t, ok := nc.(*net.TCPConn); ok && s.cfg.Socket != nil {
			_ = t.SetKeepAliveConfig(s.keepAlive()) // the kernel's own way is a poor one, and no reason to refuse
		}
		p, err := s.startups.enter(nc.RemoteAddr())
		if err != nil {
			s.turnAway(nc, err)
			continue
		}
		c := newConn(ctx, s, nc, p)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		wg.Go(func() {
			c.serve()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

func (s *Server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		out = append(out, c)
	}
	return out
}

// recheck holds every open connection against the authorized_keys file. It
// takes two failures in a row, since an editor may be halfway through writing;
// and a file that cannot be used ends nobody, or the person about to repair it
// would be thrown out first.
func (s *Server) recheck(ctx context.Context) {
	t := time.NewTicker(s.cfg.Limits.Recheck)
	defer t.Stop()
	strikes := map[*conn]int{}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		again := map[*conn]int{}
		for _, c := range s.open() {
			id, ok := c.identity()
			if !ok {
				continue
			}
			now, err := s.keys.Check(id.key, addrOf(c.RemoteAddr()))
			if errors.Is(err, auth.ErrUnusable) || err == nil && now.Same(id.grant) {
				continue
			}
			if again[c] = strikes[c] + 1; again[c] == 2 {
				wg.Go(func() { c.revoke(err) })
			}
		}
		strikes = again
	}
}

// turnedAway counts refusals between two lines of the log, so that a flood of
// connections is not a flood of lines. Only the accept loop uses it.
type turnedAway struct {
	n    int
	last time.Time
}

// turnAway says why in a line before the version exchange, where RFC 4253
// section 4.2 allows one (ssh -v shows it), and hangs up.
func (s *Server) turnAway(nc net.Conn, why error) {
	_ = nc.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)) // an empty socket buffer needs none
	_, _ = nc.Write([]byte("towline: " + why.Error() + ", try again shortly\r\n"))
	_ = nc.Close()
	s.turned.n++
	if time.Since(s.turned.last) >= 10*time.Second {
		s.log.Warn("connection turned away", "remote", nc.RemoteAddr().String(), "why", why, "since_last_line", s.turned.n)
		s.turned.n, s.turned.last = 0, time.Now()
	}
}
