package egress

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DialFunc opens a connection, as net.Dialer's DialContext does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Event is one thing a host did with a loan, for people and logs.
type Event struct {
	// Target is what it asked for, cleaned of control characters.
	Target string
	// Err is why it did not get it; nil when it did. It is ErrNotLent for an
	// address that is not on the list.
	Err error
}

// ServerConfig says what a laptop lends. The zero value lends nothing.
type ServerConfig struct {
	List List
	// From is what this machine is called, for the other's person.
	From string
	// Via is how this machine itself gets out where it has to ask a proxy; nil
	// connects directly. A name goes through it unresolved.
	Via func(t Target) DialFunc
	// Events hears of connections, from any goroutine; it must not block. Nil is
	// fine. What is refused again and again is told once.
	Events func(Event)
	// Status hears how far a host is with using the loan, likewise. Its text is one
	// line without control characters.
	Status func(Status)
	Log    *slog.Logger

	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error) // tests have names of their own
}

// Server is the laptop's end. One may serve several streams, one after the other
// when a link returns.
type Server struct {
	cfg ServerConfig

	mu      sync.Mutex // guards what follows
	leaving bool
	left    chan struct{} // closed when leaving
	refused map[string]bool
}

// NewServer makes a server.
func NewServer(cfg ServerConfig) (*Server, error) {
	if len(cfg.List) > maxTargets {
		return nil, errTooMany
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Events == nil {
		cfg.Events = func(Event) {}
	}
	if cfg.Status == nil {
		cfg.Status = func(Status) {}
	}
	return &Server{cfg: cfg, left: make(chan struct{}), refused: make(map[string]bool)}, nil
}

// RefusedError is a host that does not take a loan.
type RefusedError struct {
	Status int
	Text   string // the host's reason, one line without control characters
}

func (e *RefusedError) Error() string {
	return cmp.Or(e.Text, fmt.Sprintf("the host answered %d %s", e.Status, http.StatusText(e.Status)))
}

// Offer makes the handshake on a fresh stream to a daemon, and returns the stream
// for [Server.Serve]. On an error rw is closed. A *RefusedError is a host that
// answered something else than yes.
func Offer(ctx context.Context, rw io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, offerTime, fmt.Errorf("no answer within %v", offerTime))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	out, err := offer(rw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = rw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return out, nil
}

func offer(rw io.ReadWriteCloser) (io.ReadWriteCloser, error) {
	const hello = "GET /egress HTTP/1.1\r\nHost: towline\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"
	if _, err := io.WriteString(rw, hello); err != nil {
		return nil, err
	}
	limit := &io.LimitedReader{R: rw, N: maxAnswer}
	br := bufio.NewReader(limit)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, errors.New("the host's end does not speak HTTP")
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxText))
		_ = res.Body.Close()
		return nil, &RefusedError{Status: res.StatusCode, Text: plain(string(text))}
	}
	if !strings.EqualFold(res.Header.Get("Upgrade"), Protocol) {
		return nil, errors.New("the host's end switched to another protocol")
	}
	limit.N = 1<<63 - 1
	return &buffered{ReadWriteCloser: rw, r: br}, nil
}

// buffered is a stream of which something was read ahead.
type buffered struct {
	io.ReadWriteCloser
	r io.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Serve lends over one stream until it ends, ctx ends, or Leave is called, and
// returns when everything that ran for it has. It closes rw.
func (s *Server) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := newStream(rw)
	var running sync.WaitGroup
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			s.handle(ctx, w, r)
		}),
		Protocols:         &protocols,
		ReadHeaderTimeout: offerTime,
		MaxHeaderBytes:    maxAnswer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: connWindow, MaxReceiveBufferPerStream: streamWindow,
			SendPingTimeout: pingAfter, PingTimeout: pingTime,
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	over := make(chan struct{})
	srv.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateClosed {
			_ = c.Close()
			close(over)
		}
	}
	if err := srv.Serve(newSingle(c)); err != nil && !errors.Is(err, net.ErrClosed) {
		s.cfg.Log.Debug("egress stream", "err", err)
	}
	cancel(ErrGone)
	_ = srv.Close()
	<-over
	running.Wait()
	return nil
}

// Leave tells the hosts that this laptop will not come back, and ends Serve once
// they have heard it or ctx ended. It is idempotent.
func (s *Server) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leaving {
		s.leaving = true
		close(s.left)
	}
}

func (s *Server) handle(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/lease":
		s.lease(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/status":
		var st Status
		if json.NewDecoder(io.LimitReader(r.Body, maxLine)).Decode(&st) != nil {
			http.Error(w, "no status", http.StatusBadRequest)
			return
		}
		st.Text = plain(st.Text)
		s.cfg.Status(st)
	case r.Method == http.MethodConnect:
		s.connect(ctx, w, r)
	default:
		http.Error(w, "this lends connections only", http.StatusMethodNotAllowed)
	}
}

// lease says what is lent, and that it is over.
func (s *Server) lease(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	if enc.Encode(Lease{Allow: s.cfg.List.Strings(), From: s.cfg.From}) != nil || rc.Flush() != nil {
		return
	}
	select {
	case <-s.left:
		_ = enc.Encode(Lease{Bye: true}) // the host may be gone
	case <-r.Context().Done():
	}
}

// connect carries one connection until both ways are over.
func (s *Server) connect(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	c, err := s.dial(r.Context(), r.Host)
	if err != nil {
		status := http.StatusBadGateway
		if errors.Is(err, ErrNotLent) {
			status = http.StatusForbidden
		}
		http.Error(w, plain(err.Error()), status)
		return
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(r.Context(), func() { _ = c.Close() })
	defer stop()
	w.WriteHeader(http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, err := io.Copy(c, r.Body)
		if hc, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
			_ = hc.CloseWrite()
			return
		}
		_ = c.Close() // the stream broke, or the endpoint does not listen
	})
	_, _ = io.Copy(flushing{w, http.NewResponseController(w)}, c) // whichever broke, the stream is over
	_ = c.Close()
	_ = r.Body.Close() // the request's direction ends with the answer's
	up.Wait()
}

// flushing sends every write at once: a model's words are not kept back.
type flushing struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// dial connects to what a host asked for, if it is lent.
func (s *Server) dial(ctx context.Context, asked string) (net.Conn, error) {
	t, err := ParseTarget(asked)
	if err != nil {
		return nil, s.refuse(plain(asked), err)
	}
	rule, ok := s.cfg.List.Find(t)
	if !ok {
		return nil, s.refuse(t.String(), nil)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	dial := DialFunc(nil)
	if s.cfg.Via != nil {
		dial = s.cfg.Via(t)
	}
	if dial == nil {
		dial = s.direct(rule)
	}
	c, err := dial(ctx, "tcp", t.String())
	if errors.Is(err, errPrivate) {
		return nil, s.refuse(t.String(), errPrivate)
	}
	if err != nil {
		err = rootCause(err)
		s.cfg.Events(Event{Target: t.String(), Err: err})
		return nil, err
	}
	s.cfg.Log.Debug("a connection for the host", "target", t.String(), "address", c.RemoteAddr().String(), "named", rule.Named)
	s.cfg.Events(Event{Target: t.String()})
	return c, nil
}

var errPrivate = errors.New("the name leads to an address of a private network")

// refuse says no, and tells the person here once an address.
func (s *Server) refuse(target string, why error) error {
	err := ErrNotLent
	if why != nil {
		err = fmt.Errorf("%w: %w", ErrNotLent, why)
	}
	s.mu.Lock()
	known := s.refused[target] || len(s.refused) >= maxTargets
	if !known {
		s.refused[target] = true
	}
	s.mu.Unlock()
	if !known {
		s.cfg.Log.Warn("the host asked for an address that is not lent", "target", target, "why", why)
		s.cfg.Events(Event{Target: target, Err: err})
	}
	return err
}

// direct connects from here, to addresses that the rule permits. That is asked
// of each address as it is dialled: what a name means may change in between.
func (s *Server) direct(rule Rule) DialFunc {
	d := &net.Dialer{
		Timeout: dialTime, KeepAlive: 30 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil || !rule.permits(a.Addr()) || a.Port() != rule.Port {
				return errPrivate
			}
			return nil
		},
	}
	if s.cfg.lookup == nil {
		return d.DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ips, err := s.cfg.lookup(ctx, "ip", rule.Host)
		for _, ip := range ips {
			var c net.Conn
			if c, err = d.DialContext(ctx, network, netip.AddrPortFrom(ip, rule.Port).String()); err == nil {
				return c, nil
			}
		}
		return nil, err
	}
}

// rootCause leaves out what a dial error repeats of addresses.
func rootCause(err error) error {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return errors.New("no such name")
	case errors.As(err, &dns):
		return errors.New("the name cannot be looked up")
	case errors.As(err, &op) && op.Err != nil:
		return op.Err
	}
	return err
}
