package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// rig is a laptop and a host with one stream between them.
type rig struct {
	t      *testing.T
	server *Server
	outlet *Outlet

	mu     sync.Mutex
	events []Event
	own    atomic.Int64 // dials of the host's own
}

func newRig(t *testing.T, cfg ServerConfig) *rig {
	r := &rig{t: t}
	cfg.Events = func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}
	var err error
	if r.server, err = NewServer(cfg); err != nil {
		t.Fatal(err)
	}
	r.outlet = NewOutlet(func(context.Context, string, string) (net.Conn, error) {
		r.own.Add(1)
		return nil, errors.New("no route")
	}, nil)
	return r
}

// link connects the two, and returns what breaks it again.
func (r *rig) link() (cut func()) {
	laptop, host := socketPair(r.t)
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.server.Serve(r.t.Context(), laptop) })
	ready := make(chan struct{})
	wg.Go(func() {
		_, _ = r.outlet.Join(r.t.Context(), host, func(context.Context, Lease, func(Status)) { close(ready) })
	})
	select {
	case <-ready:
	case <-time.After(patience):
		r.t.Fatal("no lease")
	}
	cut = sync.OnceFunc(func() {
		_, _ = laptop.Close(), host.Close()
		wg.Wait()
	})
	r.t.Cleanup(cut)
	return cut
}

func (r *rig) told() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

// socketPair is a stream with buffers, as a channel of ssh has.
func socketPair(t *testing.T) (a, b net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err == nil {
		b, err = ln.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func named(t *testing.T, targets ...string) (l List) {
	for _, s := range targets {
		p, err := ParseTarget(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		l = l.Add(true, p)
	}
	return l
}

func (r *rig) dial(addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	return r.outlet.DialContext(ctx, "tcp", addr)
}

func TestTLSThroughALaptop(t *testing.T) {
	endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%d bytes from %s", len(body), r.Header.Get("X-Who"))
	}))
	defer endpoint.Close()
	addr := endpoint.Listener.Addr().String()
	r := newRig(t, ServerConfig{List: named(t, addr)})
	r.link()
	tr := endpoint.Client().Transport.(*http.Transport).Clone()
	tr.DialContext = r.outlet.DialContext
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint.URL, bytes.NewReader(make([]byte, 3<<20)))
	req.Header.Set("X-Who", "host")
	res, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if b, _ := io.ReadAll(res.Body); string(b) != "3145728 bytes from host" {
		t.Errorf("answered %q", b)
	}
	if n := r.own.Load(); n != 0 {
		t.Errorf("the host tried %d connections of its own", n)
	}
}

func TestBothWaysEndApart(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(c) // until the host ends its direction
		_, _ = fmt.Fprintf(c, "heard %d", len(all))
		_ = c.Close()
	}()
	r := newRig(t, ServerConfig{List: named(t, ln.Addr().String())})
	r.link()
	c, err := r.dial(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(make([]byte, 100_000))
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); string(b) != "heard 100000" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestDeadlineOnASilentEndpoint(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	r := newRig(t, ServerConfig{List: named(t, ln.Addr().String())})
	r.link()
	c, err := r.dial(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.Write(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
}

func TestWhatIsNotLentIsRefused(t *testing.T) {
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = secret.Close() }()
	touched := make(chan struct{}, 1)
	go func() {
		for {
			c, err := secret.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			touched <- struct{}{}
		}
	}()
	_, port, _ := net.SplitHostPort(secret.Addr().String())
	r := newRig(t, ServerConfig{
		List: append(named(t, "corp.example:"+port), List{}.Add(false, mustTarget(t, "api.example:"+port))...),
		lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil // a name somebody turned to loopback
		},
	})
	r.link()
	for _, target := range []string{
		"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port, "[::ffff:127.0.0.1]:" + port,
		"api.example:1", "api.example.evil:" + port, "evil.api.example:" + port, "corp.example:" + port, "api.example:" + port,
		"api.example\x00.evil:" + port, "api.example@127.0.0.1:" + port, "2130706433:" + port, "127.1:" + port, "0x7f.1:" + port, "0:" + port,
		"169.254.169.254:80", ":" + port, "api.example:0" + port, "api.example", "", "[fe80::1%25lo]:" + port,
	} {
		// A host that does not care for its own outlet's rules.
		o := r.outlet
		o.mu.Lock()
		u := o.ups[0]
		o.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "http://x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = target
		req.URL.Host = target
		res, err := u.cc.RoundTrip(req)
		if err == nil {
			if res.StatusCode == http.StatusOK {
				t.Errorf("%q was connected", target)
			}
			_ = res.Body.Close()
		}
		cancel()
	}
	select {
	case <-touched:
		t.Error("the host reached what is not lent")
	default:
	}
	for _, e := range r.told() {
		if !errors.Is(e.Err, ErrNotLent) {
			t.Errorf("told %+v", e)
		}
		if strings.ContainsFunc(e.Target, func(r rune) bool { return r < ' ' }) {
			t.Errorf("told %q with control characters", e.Target)
		}
	}
	if len(r.told()) == 0 {
		t.Error("nobody was told")
	}
}

func mustTarget(t *testing.T, s string) Target {
	p, err := ParseTarget(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return p
}

func TestALaptopIsNoGeneralServer(t *testing.T) {
	r := newRig(t, ServerConfig{List: named(t, "192.0.2.1:443")})
	r.link()
	r.outlet.mu.Lock()
	u := r.outlet.ups[0]
	r.outlet.mu.Unlock()
	for _, method := range []string{"GET", "POST", "PUT"} {
		req, _ := http.NewRequestWithContext(t.Context(), method, "http://192.0.2.1:443/", nil)
		res, err := u.cc.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s was answered %d", method, res.StatusCode)
		}
	}
}

func TestWhatIsNotLentTheHostReachesItself(t *testing.T) {
	r := newRig(t, ServerConfig{List: named(t, "192.0.2.1:443")})
	r.link()
	if _, err := r.dial("intranet.example:443"); err == nil || r.own.Load() != 1 {
		t.Errorf("dialled %d times, %v", r.own.Load(), err)
	}
}

func TestALinkThatReturns(t *testing.T) {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	defer endpoint.Close()
	addr := endpoint.Listener.Addr().String()
	r := newRig(t, ServerConfig{List: named(t, addr)})
	cut := r.link()
	c, err := r.dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	cut()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrGone) {
		t.Errorf("a connection through a lost link reads %v", err)
	}
	_ = c.Close()
	if l, _ := r.outlet.Loan(); l.Active || !l.Waiting {
		t.Errorf("the loan is %+v", l)
	}
	got := make(chan error, 1)
	go func() {
		c, err := r.dial(addr)
		if err == nil {
			_ = c.Close()
		}
		got <- err
	}()
	r.link()
	if err := <-got; err != nil {
		t.Errorf("who waited: %v", err)
	}
	if r.own.Load() != 0 {
		t.Error("the host went out by itself meanwhile")
	}
}

func TestGoodbye(t *testing.T) {
	r := newRig(t, ServerConfig{List: named(t, "192.0.2.1:443")})
	laptop, host := socketPair(t)
	done := make(chan bool, 1)
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.server.Serve(t.Context(), laptop) })
	ready := make(chan struct{})
	wg.Go(func() {
		bye, err := r.outlet.Join(t.Context(), host, func(context.Context, Lease, func(Status)) { close(ready) })
		done <- bye && err == nil
	})
	<-ready
	r.server.Leave()
	if !<-done {
		t.Error("the host did not hear the goodbye")
	}
	wg.Wait()
	if l, _ := r.outlet.Loan(); l.Active || l.Waiting {
		t.Errorf("the loan is %+v", l)
	}
	if _, err := r.dial("192.0.2.1:443"); err == nil || r.own.Load() != 1 {
		t.Error("the host does not go out by itself after a goodbye")
	}
}

func TestOffer(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		want   string
	}{
		"taken":          {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: towline-egress.v1\r\n\r\nafter", ""},
		"refused":        {"HTTP/1.1 403 Forbidden\r\nContent-Length: 13\r\n\r\nnot \x1bfor you\n", "not for you"},
		"not upgraded":   {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "another protocol"},
		"no http":        {"SSH-2.0-x\r\n\r\n\r\n", "does not speak HTTP"},
		"endless header": {"HTTP/1.1 101 Switching Protocols\r\nX: " + strings.Repeat("x", 2*maxAnswer), "does not speak HTTP"},
		"gone":           {"", "does not speak HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			laptop, host := socketPair(t)
			defer func() { _ = host.Close() }()
			go func() {
				_, _ = io.ReadFull(host, make([]byte, 20))
				_, _ = io.WriteString(host, tc.answer)
				_ = host.(*net.TCPConn).CloseWrite()
			}()
			rw, err := Offer(t.Context(), laptop)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rw.Close() }()
			if b, _ := io.ReadAll(rw); string(b) != "after" {
				t.Errorf("the stream goes on with %q", b)
			}
		})
	}
}
