package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Limits on what strangers at the door can make us hold.
const (
	// defaultMaxConns is well above what one person opens and well below the
	// usual 1024 descriptors of a process next to what an engine needs.
	defaultMaxConns   = 400
	defaultMaxPending = 64
	// headerTimeout is for the whole request; a local client sends it at once.
	headerTimeout  = 5 * time.Second
	maxHeaderBytes = 16 << 10
	// codexFrameBytes is the largest frame Codex takes unfragmented, announced by
	// its unix listener in frameHeader. Ours takes more, but says the same so that
	// a stock client behaves as it does at home.
	codexFrameBytes = 16 << 20
	frameHeader     = "x-codex-websocket-max-unfragmented-message-bytes"
)

var errClosed = errors.New("listener closed")

// Options tune a Listener. The zero value is a safe default.
type Options struct {
	Log *slog.Logger // nil discards
	// RuntimeDir is where a unix socket really lives when its path is too long
	// for the kernel; a symlink stands at the path asked for. When it is empty or
	// too long itself, a private temporary folder serves.
	RuntimeDir string
	// MaxConns bounds connections in all, MaxPending those that have not
	// finished their handshake. Zero means the default of each.
	MaxConns, MaxPending int
	// Sessions, when not nil, lets clients have a stream that outlives their
	// connections (rpc.ResumeProtocol). It must run for longer than the listener.
	Sessions *rpc.Sessions
	// Egress, when not nil, is asked about clients that lend the host their network:
	// on the unix socket and through ServeBytes.
	Egress EgressFunc
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns <= 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.MaxPending <= 0 {
		o.MaxPending = defaultMaxPending
	}
	return o
}

// AcceptFunc serves one client and returns when it is over; the stream is closed
// afterwards. For a resumable stream it is called once, with the remote of the
// first connection, and outlives that. via is "unix" or "ws". remote is for
// people and logs.
type AcceptFunc func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string)

// Listener takes connections from clients.
type Listener struct {
	ln       net.Listener
	url      string
	via      string // "unix" or "ws"
	opts     Options
	self     access.Principal // the user this process runs as: the only one let in
	uid      uint32
	cleanup  func()
	patience time.Duration // for a whole request; headerTimeout but in tests

	once sync.Once

	mu             sync.Mutex // guards what follows
	conns, pending int
}

// Listen opens url: "unix://PATH" or "ws://IP:PORT" (port 0 lets the system
// choose). Errors are *config.Problem.
func Listen(ctx context.Context, url string, o Options) (*Listener, error) {
	a, err := parseListen(url)
	if err != nil {
		return nil, err
	}
	l := &Listener{via: a.via, opts: o.withDefaults(), patience: headerTimeout, uid: uint32(os.Geteuid())} //nolint:gosec // uids are 32 bits
	l.self = localUser(l.uid)
	if err := distinguishable(l.uid); err != nil {
		return nil, listenProblem(err, "run as a user that the kernel can tell from others")
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
	if a.addr.Addr().Is4() {
		network = "tcp4"
	}
	ln, err := lc.Listen(ctx, network, a.addr.String())
	if err != nil {
		return nil, listenProblem(fmt.Errorf("%s: %w", url, rootCause(err)),
			"use port 0 to let the system choose one that is free")
	}
	l.ln, l.cleanup, l.url = ln, func() {}, "ws://"+ln.Addr().String()
	return l, nil
}

// URL is the address clients dial, with the port that was chosen.
func (l *Listener) URL() string { return l.url }

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

// Serve runs accept for each connection, in a goroutine of its own, until ctx
// ends or the listener is closed, and returns when all of them have. The error
// is nil in those cases. It may be called once.
func (l *Listener) Serve(ctx context.Context, accept AcceptFunc) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	srv := &http.Server{
		Handler:           &door{l: l, ctx: ctx, accept: accept, running: &running},
		ReadHeaderTimeout: l.patience,
		ReadTimeout:       l.patience,
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
			switch s {
			case http.StateNew:
				running.Add(1)
			case http.StateClosed:
				running.Done()
			}
		},
	}
	srv.SetKeepAlivesEnabled(false)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	err := srv.Serve((*counted)(l))
	stop()
	_ = l.Close() // also waits for the one above
	cancel(errClosed)
	_ = srv.Close() // whoever is not upgraded yet
	running.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		return listenProblem(fmt.Errorf("%s: %w", l.url, err))
	}
	return nil
}

type connKey struct{}

// door decides who becomes a connection. Refusals follow Codex's status codes.
type door struct {
	l       *Listener
	ctx     context.Context // of Serve: the request's own ends with the upgrade
	accept  AcceptFunc
	running *sync.WaitGroup
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	log := d.l.opts.Log
	upgraded := false
	defer func() {
		if v := recover(); v != nil {
			log.Error("connection panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
		if upgraded {
			d.running.Done()
		}
	}()
	conn, ok := r.Context().Value(connKey{}).(*countedConn)
	if !ok {
		panic("connection without its own")
	}
	if _, ok := r.Header["Origin"]; ok {
		log.Warn("refused a web page", "remote", r.RemoteAddr)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if d.l.via == viaWS && (r.URL.Path == "/readyz" || r.URL.Path == "/healthz") &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead) {
		w.WriteHeader(http.StatusOK)
		return
	}
	if d.l.via == viaUnix && offersEgress(r) {
		d.egress(w, r, conn, func() { upgraded = true })
		return
	}
	if status, why := malformed(r); status != 0 {
		http.Error(w, why, status)
		return
	}
	if d.l.via == viaWS && !loopbackName(r.Host) {
		log.Warn("refused a name that is not loopback", "host", r.Host, "remote", r.RemoteAddr)
		http.Error(w, "refused: the Host header names something else than this machine's loopback", http.StatusForbidden)
		return
	}
	remote, err := d.l.owned(conn.Conn)
	if err != nil {
		log.Warn("refused a connection", "via", d.l.via, "remote", r.RemoteAddr, "err", err)
		http.Error(w, "refused: "+err.Error(), http.StatusForbidden)
		return
	}
	if d.l.via == viaUnix {
		w.Header().Set(frameHeader, strconv.Itoa(codexFrameBytes))
	}
	conn.ws.Store(true)
	conn.admitted() // before the client can know it, so that its place is free when it does
	ws, err := websocket.Accept(w, r, d.l.opts.handshake())
	if err != nil {
		log.Debug("upgrade", "err", err)
		return // Accept has answered
	}
	upgraded = true // ConnState never hears of this connection again
	err = d.l.opts.carry(d.ctx, rpc.NewWebSocketOn(ws, conn.cork), d.l.self, d.l.via, remote, d.accept)
	if err != nil {
		log.Debug("link ended", "via", d.l.via, "remote", remote, "err", err)
	}
}

// egress serves a client that lends its network; taken is called when the
// connection is net/http's no more.
func (d *door) egress(w http.ResponseWriter, r *http.Request, conn *countedConn, taken func()) {
	log := d.l.opts.Log
	remote, err := d.l.owned(conn.Conn)
	if err != nil {
		log.Warn("refused a connection", "via", d.l.via, "remote", r.RemoteAddr, "err", err)
		http.Error(w, "refused: "+err.Error(), http.StatusForbidden)
		return
	}
	conn.admitted()
	if err := d.l.opts.acceptEgress(d.ctx, w, r, d.l.self, remote, taken); err != nil {
		log.Info("a network was not taken", "remote", remote, "err", err)
	}
}

// handshake is what a client may choose.
func (o Options) handshake() *websocket.AcceptOptions {
	if o.Sessions == nil {
		return nil
	}
	return &websocket.AcceptOptions{Subprotocols: []string{rpc.ResumeProtocol}}
}

// carry serves an open connection and closes it. The error is a link's.
func (o Options) carry(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string, accept AcceptFunc) error {
	if rpc.Resumes(s) {
		// With another role somebody is not who began the session.
		owner := p.Key() + " " + p.Role.String()
		return o.Sessions.Serve(ctx, s, owner, func(ctx context.Context, s rpc.Stream) { accept(ctx, s, p, via, remote) })
	}
	defer func() { _ = s.Close(nil) }()
	accept(ctx, s, p, via, remote)
	return nil
}

// malformed says why r is no WebSocket handshake, in the order Codex looks.
func malformed(r *http.Request) (status int, why string) {
	switch {
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "this is a WebSocket: the method must be GET"
	case !hasToken(r.Header.Values("Connection"), "upgrade"):
		return http.StatusBadRequest, "this is a WebSocket: the Connection header must hold upgrade"
	case !hasToken(r.Header.Values("Upgrade"), "websocket"):
		return http.StatusBadRequest, "this is a WebSocket: the Upgrade header must hold websocket"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusBadRequest, "the Sec-WebSocket-Version header must be 13"
	case r.Header.Get("Sec-WebSocket-Key") == "":
		return http.StatusBadRequest, "the Sec-WebSocket-Key header is missing"
	}
	return 0, ""
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

// counted is a Listener as http.Server sees it: it keeps the limits.
type counted Listener

func (l *counted) Accept() (net.Conn, error) {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		crowded := l.pending >= l.opts.MaxPending/4
		l.mu.Unlock()
		if crowded && !(*Listener)(l).ours(c) {
			l.opts.Log.Warn("refused a stranger's connection: there are many", "via", l.via)
			_ = c.Close()
			continue
		}
		l.mu.Lock()
		full := l.conns >= l.opts.MaxConns || l.pending >= l.opts.MaxPending
		if !full {
			l.conns++
			l.pending++
		}
		l.mu.Unlock()
		if !full {
			return &countedConn{Conn: c, cork: rpc.NewCork(c), l: l, pending: true}, nil
		}
		l.opts.Log.Warn("refused a connection: too many", "via", l.via)
		// A fresh socket's buffer takes this without waiting.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		_ = c.Close()
	}
}

func (l *counted) Close() error   { return (*Listener)(l).Close() }
func (l *counted) Addr() net.Addr { return l.ln.Addr() }

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn
	cork    *rpc.Cork // writes go through it
	l       *counted
	once    sync.Once
	pending bool // guarded by l.mu
	ws      atomic.Bool
}

// Read is that of a WebSocket once it is one; net/http wants to see io.EOF.
func (c *countedConn) Read(p []byte) (int, error) {
	if c.ws.Load() {
		return rpc.UnderWebSocket(c.Conn).Read(p)
	}
	return c.Conn.Read(p)
}

func (c *countedConn) Write(p []byte) (int, error) { return c.cork.Write(p) }

func (c *countedConn) admitted() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.pending {
		c.pending = false
		c.l.pending--
	}
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.admitted()
		c.l.mu.Lock()
		c.l.conns--
		c.l.mu.Unlock()
	})
	return c.Conn.Close()
}

// LocalUser is the principal for the user this process runs as.
func LocalUser() access.Principal {
	return localUser(uint32(os.Geteuid())) //nolint:gosec // uids are 32 bits
}
