package metrics

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"towline/appserver/transport"
	"towline/config"
)

const (
	// maxScrapers bounds connections: one or two programs ask, every few seconds.
	maxScrapers   = 16
	scrapeTime    = 10 * time.Second
	maxHeader     = 8 << 10
	minTokenBytes = 16
)

// ServerConfig says where metrics are told, and to whom.
type ServerConfig struct {
	// Listen is IP:PORT, or https://IP:PORT; port 0 picks one.
	Listen string
	// TokenFile holds what a bearer token must be; it is read at each request. Other
	// machines are told nothing without one.
	TokenFile string
	// Certificates are for https.
	Certificates *transport.Certificates
	Metrics      *Metrics
	Log          *slog.Logger
}

// Server tells metrics. It answers GET /metrics and nothing else.
type Server struct {
	cfg   ServerConfig
	ln    net.Listener
	url   string
	local bool
}

// Listen opens the listener. Errors are *config.Problem.
func Listen(ctx context.Context, cfg ServerConfig) (*Server, error) {
	addr, secure, err := ParseListen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, local: addr.Addr().Unmap().IsLoopback()}
	switch {
	case !s.local && cfg.TokenFile == "":
		return nil, problem(config.ExitFailure, fmt.Errorf("refusing to tell metrics on %s, which other machines reach, without a token", addr),
			"make one: `(umask 077; openssl rand -hex 32 > FILE)`, then add `--metrics-token-file FILE`",
			"or listen on loopback: `--metrics-listen 127.0.0.1:9464`")
	case secure && cfg.Certificates == nil:
		return nil, problem(config.ExitFailure, fmt.Errorf("https://%s needs a certificate", addr), "add `--ws-tls-cert FILE --ws-tls-key FILE`")
	}
	if cfg.TokenFile != "" {
		if _, err := s.token(); err != nil {
			return nil, problem(config.ExitConfig, err)
		}
	}
	var lc net.ListenConfig
	if s.ln, err = lc.Listen(ctx, "tcp", addr.String()); err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, problem(config.ExitFailure, fmt.Errorf("%s: %w", cfg.Listen, err), "use port 0 to let the system choose one that is free")
	}
	scheme := "http"
	s.ln = bounded(s.ln)
	if secure {
		scheme = "https"
		s.ln = tls.NewListener(s.ln, cfg.Certificates.Config())
	}
	s.url = scheme + "://" + s.ln.Addr().String() + "/metrics"
	return s, nil
}

// ParseListen reads the address of the listener. Errors are *config.Problem.
func ParseListen(raw string) (addr netip.AddrPort, secure bool, err error) {
	rest, secure := strings.CutPrefix(raw, "https://")
	if !secure {
		rest = strings.TrimPrefix(raw, "http://")
	}
	addr, err = netip.ParseAddrPort(rest)
	if err != nil {
		err = problem(config.ExitUsage, fmt.Errorf("%q is neither IP:PORT nor https://IP:PORT", config.OneLine(raw)), "use 127.0.0.1:9464")
	}
	return addr, secure, err
}

func problem(exit int, err error, hints ...string) error {
	return &config.Problem{Stage: "metrics", Err: err, Hints: hints, Exit: exit}
}

// URL is where Prometheus asks.
func (s *Server) URL() string { return s.url }

// Close stops listening.
func (s *Server) Close() error { return s.ln.Close() }

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	srv := &http.Server{
		Handler: http.HandlerFunc(s.answer), ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var closing sync.WaitGroup
	closing.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer closing.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(s.ln)
	if !stop() {
		closing.Wait()
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return problem(config.ExitFailure, err)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	_, page := r.Header["Origin"]
	switch {
	case page, s.local && !transport.LoopbackName(r.Host):
		w.WriteHeader(http.StatusForbidden) // a page of some site, or a name that was bent to lead here
		return
	case r.URL.Path != "/metrics":
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if status := s.may(r); status != http.StatusOK {
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		w.WriteHeader(status)
		return
	}
	var b bytes.Buffer
	s.cfg.Metrics.writeTo(&b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = b.WriteTo(w) // whoever asked may be gone
}

func (s *Server) may(r *http.Request) (status int) {
	if s.cfg.TokenFile == "" {
		return http.StatusOK
	}
	want, err := s.token()
	if err != nil {
		s.cfg.Log.Error("metrics: nobody is told anything", "err", err)
		return http.StatusServiceUnavailable
	}
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(got)))
	if !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
		return http.StatusUnauthorized
	}
	return http.StatusOK
}

// token is a digest of the one that counts.
func (s *Server) token() (sum [sha256.Size]byte, err error) {
	raw, err := transport.ReadPrivate(s.cfg.TokenFile)
	if err != nil {
		return sum, err
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) < minTokenBytes {
		return sum, fmt.Errorf("%s: a token has at least %d characters", s.cfg.TokenFile, minTokenBytes)
	}
	return sha256.Sum256(raw), nil
}

// bounded lets few in at once; more wait in the kernel's queue.
func bounded(ln net.Listener) net.Listener {
	return &boundedListener{Listener: ln, places: make(chan struct{}, maxScrapers), over: make(chan struct{})}
}

type boundedListener struct {
	net.Listener
	places chan struct{}
	once   sync.Once
	over   chan struct{}
}

func (b *boundedListener) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.over:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &placedConn{Conn: c, places: b.places}, nil
}

func (b *boundedListener) Close() error {
	b.once.Do(func() { close(b.over) })
	return b.Listener.Close()
}

type placedConn struct {
	net.Conn
	places chan struct{}
	once   sync.Once
}

func (c *placedConn) Close() error {
	c.once.Do(func() { <-c.places })
	return c.Conn.Close()
}
