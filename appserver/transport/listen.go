package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

var errClosed = errors.New("listener closed")

// Listener takes connections from clients.
type Listener struct {
	ln      net.Listener
	asked   string // the address as it was configured
	url     string
	via     string // "unix", "ws" or "wss"
	remote  bool   // other machines reach it
	opts    Options
	tls     *tls.Config      // of wss
	self    access.Principal // the user this process runs as
	uid     uint32
	cleanup func()
	holders holders // of connections by loopback

	once     sync.Once
	released atomic.Bool  // somebody else listens on the socket now
	warned   atomic.Int64 // Unix time of the last line about refusals
	said     lines

	mu             sync.Mutex // guards what follows
	conns, pending int
}

// Listen opens url: "unix://PATH", "ws://IP:PORT" or "wss://IP:PORT" (port 0 lets
// the system choose). Errors are *config.Problem.
func Listen(ctx context.Context, url string, o Options) (*Listener, error) {
	l, a, err := prepare(url, o)
	if err != nil {
		return nil, err
	}
	if a.via == viaUnix {
		b, err := bindUnix(ctx, a.path, l.opts.RuntimeDir)
		if err != nil {
			return nil, err
		}
		l.ln, l.cleanup, l.url = b.ln, b.remove, "unix://"+b.path
		return l, nil
	}
	var lc net.ListenConfig
	// The kernel's table shows who owns a TCP socket. Multipath TCP, which Go
	// would offer, puts sockets of the kernel's own there.
	lc.SetMultipathTCP(false)
	network := "tcp6"
	switch ip := a.addr.Addr(); {
	case ip.Is4():
		network = "tcp4"
	case ip.IsUnspecified():
		network = "tcp" // both families, as the system's own default is
	}
	ln, err := lc.Listen(ctx, network, a.addr.String())
	if err != nil {
		return nil, listenProblem(fmt.Errorf("%s: %w", url, rootCause(err)),
			"use port 0 to let the system choose one that is free")
	}
	l.ln, l.cleanup, l.url = ln, func() {}, a.via+"://"+ln.Addr().String()
	return l, nil
}

// prepare is a Listener without its socket.
func prepare(url string, o Options) (*Listener, address, error) {
	a, err := parseListen(url)
	if err != nil {
		return nil, a, usageProblem("", err, "listen on unix:///PATH, ws://127.0.0.1:PORT or wss://IP:PORT (port 0 picks one)")
	}
	if err := a.permitted(o); err != nil {
		return nil, a, err
	}
	l := &Listener{asked: url, via: a.via, remote: a.remote(), opts: o.withDefaults(a.remote()), uid: uint32(os.Geteuid())} //nolint:gosec // uids are 32 bits
	l.self = localUser(l.uid)
	if err := distinguishable(l.uid); err != nil {
		return nil, a, listenProblem(err, "run as a user that the kernel can tell from others")
	}
	if most := maxFilesOpen() - reservedFiles; l.opts.Limits.MaxConns > most {
		l.opts.Log.Warn("more connections are allowed than there are descriptors for", "connections", l.opts.Limits.MaxConns,
			"descriptors", maxFilesOpen(), "raise", "ulimit -Hn, or LimitNOFILE of the service")
	}
	if a.via == viaWSS {
		l.tls = o.Certificates.Config()
	}
	return l, a, nil
}

// URL is the address clients dial, with the port that was chosen.
func (l *Listener) URL() string { return l.url }

// Asked is the address as it was configured.
func (l *Listener) Asked() string { return l.asked }

// Remote reports whether other machines reach the listener.
func (l *Listener) Remote() bool { return l.remote }

// class sets sessions of clients of other machines apart, see carry.
func (l *Listener) class() string {
	if l.remote {
		return classRemote
	}
	return ""
}

// Close stops listening and removes the socket file. It is idempotent. Serve
// then ends its connections and returns.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		err = l.ln.Close()
		l.cleanup()
	})
	return err
}

// ended is called when nobody is accepted any more.
func (l *Listener) ended() error {
	if l.released.Load() {
		return nil
	}
	return l.Close()
}

// Serve runs accept for each connection, in a goroutine of its own, until ctx
// ends or the listener is closed, and returns when all of them have. The error
// is nil in those cases. After [Listener.Release] it serves those who are there
// until they leave. It may be called once. With rpc.ErrExpelled as the cause of
// ctx's end, resumable sessions end with their connections.
func (l *Listener) Serve(ctx context.Context, accept AcceptFunc) error {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	patience := l.opts.Limits.Handshake
	d := &door{
		l: l, ctx: ctx, accept: accept, running: &running, unusual: newUnusual(l.ln.Addr()), greeting: make(map[*countedConn]struct{}),
	}
	srv := &http.Server{
		Handler:           d,
		ReadHeaderTimeout: patience,
		ReadTimeout:       patience,
		// No WriteTimeout: answers fit the socket's buffer, and one that ran out
		// during the upgrade would lose the answer without a word.
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(l.opts.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		// A connection counts as running from the accept to the end of its
		// goroutine; once it is upgraded, the door says when that is.
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				running.Done()
			}
		},
	}
	srv.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d.unusual) }()
	err := l.acceptAll(ctx, func(c *countedConn) {
		running.Add(1)
		d.begin(c)
	})
	_ = l.ended()
	if l.released.Load() && outer.Err() == nil {
		left := make(chan struct{})
		go func() { running.Wait(); close(left) }()
		select {
		case <-left:
		case <-ctx.Done():
		}
	}
	stop()
	_ = l.Close() // also waits for the one above
	cancel(errClosed)
	_ = d.unusual.Close()
	<-served
	_ = srv.Close() // whoever is not upgraded yet
	d.hush()
	running.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return listenProblem(fmt.Errorf("%s: %w", l.url, err))
	}
	return nil
}

// acceptAll takes connections until the listener ends. When the system has no more
// to give, it waits and goes on.
func (l *Listener) acceptAll(ctx context.Context, begin func(*countedConn)) error {
	const least, most = 5 * time.Millisecond, time.Second
	pause := least
	for {
		c, err := (*counted)(l).Accept()
		if err == nil {
			pause = least
			begin(c)
			continue
		}
		if !exhausted(err) {
			return err
		}
		l.opts.Log.Debug("nobody can be let in for the moment", "via", l.via, "err", err)
		select {
		case <-time.After(pause):
			pause = min(2*pause, most)
		case <-ctx.Done():
			return nil
		}
	}
}

// exhausted reports whether an accept that failed may work again.
func exhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// localUser is the principal for the user this process runs as.
func localUser(uid uint32) access.Principal {
	id := strconv.FormatUint(uint64(uid), 10)
	p := access.Principal{Kind: access.KindLocal, ID: "uid:" + id, Name: "uid " + id, Role: protocol.RoleAdmin}
	if u, err := user.LookupId(id); err == nil && u.Username != "" {
		p.Name = u.Username
	}
	return p
}

// LocalUser is the principal for the user this process runs as.
func LocalUser() access.Principal {
	return localUser(uint32(os.Geteuid())) //nolint:gosec // uids are 32 bits
}
