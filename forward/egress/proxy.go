package egress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Times of the proxy on a host.
const (
	proxyHeaderTime = 20 * time.Second
	proxyIdleTime   = 2 * time.Minute
)

// lends reports whether a connection to addr would go through a laptop.
func (o *Outlet) lends(addr string) bool {
	t, err := ParseTarget(addr)
	if err != nil {
		return false
	}
	u, wait, _ := o.way(t)
	return u != nil || wait
}

// Transport makes base dial through the outlet. What is lent asks no other proxy.
func (o *Outlet) Transport(base *http.Transport) *http.Transport {
	tr := base.Clone()
	ask := tr.Proxy
	tr.DialContext = o.DialContext
	if ask != nil {
		tr.Proxy = func(r *http.Request) (*url.URL, error) {
			if t, err := TargetOf(r.URL.String()); err == nil && o.lends(t.String()) {
				return nil, nil
			}
			return ask(r)
		}
	}
	return tr
}

// Bypass is what programs that are told to use the proxy should reach without it:
// this machine itself, except for what is lent in its name, and what env's
// NO_PROXY says.
func (o *Outlet) Bypass(noProxy string) string {
	l, _ := o.Loan()
	out := slices.DeleteFunc([]string{"localhost", "127.0.0.1", "::1"}, func(h string) bool {
		return slices.ContainsFunc(l.Targets, func(t Target) bool { return t.Host == h })
	})
	for h := range strings.SplitSeq(noProxy, ",") {
		if h = strings.TrimSpace(h); h != "" && h != "*" && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return strings.Join(out, ",")
}

// ServeProxy is an HTTP proxy for programs of this machine that know no other way
// to be sent through the outlet. Whoever can connect to ln may use it, so ln must
// know whom it lets in. It returns when ctx ends and everything that ran has.
func (o *Outlet) ServeProxy(ctx context.Context, ln net.Listener, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	tr := o.Transport(&http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: dialTime, IdleConnTimeout: proxyIdleTime,
		MaxIdleConnsPerHost: 4, DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
	})
	defer tr.CloseIdleConnections()
	plainHTTP := &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // as it is, but for what is between us
		Transport:     tr,
		FlushInterval: -1, // a model's words are not kept back
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, proxyError(err), proxyStatus(err))
		},
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			switch {
			case r.Method == http.MethodConnect:
				o.tunnel(ctx, w, r)
			case r.URL.Scheme != "http" || r.URL.Host == "":
				http.Error(w, "this is a proxy: ask for a whole http URL, or CONNECT", http.StatusBadRequest)
			default:
				plainHTTP.ServeHTTP(w, r)
			}
		}),
		ReadHeaderTimeout: proxyHeaderTime, IdleTimeout: proxyIdleTime, MaxHeaderBytes: 1 << 20,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(ln)
	cancel()
	_ = srv.Close()
	running.Wait()
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func proxyError(err error) string { return plain(err.Error()) }

func proxyStatus(err error) int {
	if errors.Is(err, ErrNotLent) {
		return http.StatusForbidden
	}
	return http.StatusBadGateway
}

// tunnel carries one CONNECT.
func (o *Outlet) tunnel(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	dial := o.DialContext
	if t, err := ParseTarget(r.Host); err == nil && o.via != nil && !o.lends(t.String()) {
		if through := o.via(t); through != nil {
			dial = through
		}
	}
	far, err := dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, proxyError(err), proxyStatus(err))
		return
	}
	defer func() { _ = far.Close() }()
	near, ahead, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot carry another", http.StatusHTTPVersionNotSupported)
		return
	}
	defer func() { _ = near.Close() }()
	_ = near.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
	defer stop()
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	join(near, ahead.Reader, far)
}

// join carries bytes both ways until both are over. One that breaks ends both.
func join(near net.Conn, ahead *bufio.Reader, far net.Conn) {
	var up sync.WaitGroup
	up.Go(func() { copyWay(far, io.MultiReader(io.LimitReader(ahead, int64(ahead.Buffered())), near), near) })
	copyWay(near, far, far)
	up.Wait()
}

// copyWay carries one direction and passes its end on.
func copyWay(to net.Conn, from io.Reader, source net.Conn) {
	_, err := io.Copy(to, from)
	hc, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok {
		_ = hc.CloseWrite()
		return
	}
	_, _ = to.Close(), source.Close()
}
