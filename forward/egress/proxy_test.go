package egress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// proxyOf serves an outlet's proxy and returns its URL.
func proxyOf(t *testing.T, o *Outlet) *url.URL {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.ServeProxy(ctx, ln, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}
}

func hello(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %s", r.Host, body)
}

func TestTheProxySendsWhatIsLentThroughTheLaptop(t *testing.T) {
	plainEnd := httptest.NewServer(http.HandlerFunc(hello))
	defer plainEnd.Close()
	tlsEnd := httptest.NewTLSServer(http.HandlerFunc(hello))
	defer tlsEnd.Close()
	r := newRig(t, ServerConfig{List: named(t, plainEnd.Listener.Addr().String(), tlsEnd.Listener.Addr().String())})
	r.link()
	tr := tlsEnd.Client().Transport.(*http.Transport).Clone()
	tr.Proxy = http.ProxyURL(proxyOf(t, r.outlet))
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: patience}
	for _, u := range []string{plainEnd.URL, tlsEnd.URL} {
		res, err := c.Post(u+"/v1/responses", "text/plain", strings.NewReader("question"))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if want := strings.SplitN(u, "//", 2)[1] + " question"; string(got) != want {
			t.Errorf("%s answered %q, not %q", u, got, want)
		}
	}
	if r.own.Load() != 0 {
		t.Error("the host went out by itself")
	}
	// What is not lent the host tries itself, and its failure is told.
	res, err := c.Get("http://intranet.example/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadGateway || r.own.Load() != 1 {
		t.Errorf("answered %d after %d dials", res.StatusCode, r.own.Load())
	}
	if _, err := c.Get("https://intranet.example/"); err == nil || r.own.Load() != 2 {
		t.Errorf("got %v after %d dials", err, r.own.Load())
	}
}

func TestTheProxyIsAProxyOnly(t *testing.T) {
	r := newRig(t, ServerConfig{})
	res, err := http.Get(proxyOf(t, r.outlet).String() + "/lease")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %d", res.StatusCode)
	}
}

func TestAStreamedAnswerIsNotHeldBack(t *testing.T) {
	more := make(chan struct{})
	end := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: one\n")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "data: two\n")
	}))
	defer end.Close()
	r := newRig(t, ServerConfig{List: named(t, end.Listener.Addr().String())})
	r.link()
	tr := &http.Transport{Proxy: http.ProxyURL(proxyOf(t, r.outlet))}
	defer tr.CloseIdleConnections()
	res, err := (&http.Client{Transport: tr, Timeout: patience}).Get(end.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	for i, want := range []string{"data: one", "data: two"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("line %d is %q, %v", i, lines.Text(), lines.Err())
		}
		if i == 0 {
			close(more)
		}
	}
}

func TestAHostWithAProxyOfItsOwnUsesItForTheRest(t *testing.T) {
	end := httptest.NewServer(http.HandlerFunc(hello))
	defer end.Close()
	asked := make(chan string, 8)
	corporate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host + " " + r.Header.Get("Proxy-Authorization")
		http.Error(w, "no", http.StatusTeapot)
	}))
	defer corporate.Close()
	env := map[string]string{"HTTPS_PROXY": strings.Replace(corporate.URL, "//", "//ann:canary@", 1), "no_proxy": "direct.example"}
	via := Via(func(k string) string { return env[k] })
	if via(mustTarget(t, "direct.example:443")) != nil || via(mustTarget(t, "localhost:443")) != nil {
		t.Error("what needs no proxy goes through it")
	}
	_, err := via(mustTarget(t, "far.example:443"))(t.Context(), "tcp", "far.example:443")
	if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "418") {
		t.Errorf("got %v", err)
	}
	if got := <-asked; got != "far.example:443 Basic YW5uOmNhbmFyeQ==" {
		t.Errorf("it was asked %q", got)
	}
	o := NewOutlet(nil, via)
	tr := &http.Transport{Proxy: http.ProxyURL(proxyOf(t, o))}
	defer tr.CloseIdleConnections()
	if _, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://far.example/"); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("got %v", err)
	}
	<-asked
}

func TestThroughThisMachinesProxy(t *testing.T) {
	end := httptest.NewServer(http.HandlerFunc(hello))
	defer end.Close()
	// An outlet that is lent nothing is a plain proxy.
	p := proxyOf(t, NewOutlet(nil, nil))
	env := map[string]string{"https_proxy": p.String()}
	via := Via(func(k string) string { return env[k] })
	target := mustTarget(t, "endpoint.example:443")
	c, err := via(target)(t.Context(), "tcp", end.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
	if got, _ := io.ReadAll(c); !strings.HasSuffix(string(got), "x ") {
		t.Errorf("answered %q", got)
	}
}

func TestBypass(t *testing.T) {
	r := newRig(t, ServerConfig{List: named(t, "127.0.0.1:11434", "api.example:443")})
	if got := r.outlet.Bypass("corp.example, *"); got != "localhost,127.0.0.1,::1,corp.example" {
		t.Errorf("before: %s", got)
	}
	r.link()
	if got := r.outlet.Bypass(""); got != "localhost,::1" {
		t.Errorf("a lent address is kept from the proxy: %s", got)
	}
}

func TestAStatusReachesTheLaptop(t *testing.T) {
	got := make(chan Status, 1)
	r := newRig(t, ServerConfig{List: named(t, "192.0.2.1:443"), Status: func(s Status) { got <- s }})
	laptop, host := socketPair(t)
	over := make(chan struct{}, 2)
	go func() { _ = r.server.Serve(t.Context(), laptop); over <- struct{}{} }()
	go func() {
		_, _ = r.outlet.Join(t.Context(), host, func(ctx context.Context, l Lease, tell func(Status)) {
			tell(Status{Ready: true, Text: "with \x1b[1mcare\n" + l.Allow[0]})
			<-ctx.Done()
		})
		over <- struct{}{}
	}()
	select {
	case s := <-got:
		if !s.Ready || s.Text != "with [1mcare 192.0.2.1:443" {
			t.Errorf("heard %+v", s)
		}
	case <-time.After(patience):
		t.Fatal("heard nothing")
	}
	r.server.Leave()
	<-over
	<-over
}
