//go:build unix

package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

const dialSecret = "tok-4f1c-of-this-test-only"

func TestRemoteAddresses(t *testing.T) {
	for raw, want := range map[string]struct {
		name, hint string
		token      bool
	}{
		"ws://127.0.0.1:4500":           {name: "ws://127.0.0.1:4500", token: true},
		"ws://127.99.0.1:4500/":         {name: "ws://127.99.0.1:4500", token: true},
		"WS://LOCALHOST:4500":           {name: "ws://LOCALHOST:4500", token: true},
		"ws://[::1]:4500":               {name: "ws://[::1]:4500", token: true},
		"ws://[::ffff:127.0.0.1]:1":     {name: "ws://[::ffff:127.0.0.1]:1", token: true},
		"ws://10.0.0.1:80":              {name: "ws://10.0.0.1:80"},
		"ws://localhost.example:80":     {name: "ws://localhost.example:80"},
		"ws://127.0.0.1.example:80":     {name: "ws://127.0.0.1.example:80"},
		"wss://dev.example:443":         {name: "wss://dev.example:443", token: true},
		"wss://ana:s3cret@dev:1":        {name: "wss://dev:1", token: true},
		" ws://127.0.0.1:0 ":            {name: "ws://127.0.0.1:0", token: true},
		"unix:///tmp/x.sock":            {name: "unix:///tmp/x.sock"},
		"unix://":                       {name: "unix://"},
		"ws://127.0.0.1":                {hint: "ws://127.0.0.1:PORT"},
		"ws://127.0.0.1:":               {hint: "PORT"},
		"ws://127.0.0.1:99999":          {},
		"ws://127.0.0.1:1/rpc":          {hint: "did you mean `ws://127.0.0.1:1`"},
		"ws://127.0.0.1:1?":             {hint: "did you mean `ws://127.0.0.1:1`"},
		"ws://127.0.0.1:1?token=s3cret": {hint: "did you mean `ws://127.0.0.1:1`"},
		"ws://127.0.0.1:1#":             {},
		"ws://:4500":                    {},
		"http://127.0.0.1:1":            {hint: "did you mean `ws://127.0.0.1:1`"},
		"https://dev:1":                 {hint: "did you mean `wss://dev:1`"},
		"127.0.0.1:4500":                {hint: "did you mean `ws://127.0.0.1:4500`"},
		"unix:/tmp/x":                   {hint: "did you mean `unix:///tmp/x`"},
		"tcp://127.0.0.1:1":             {},
		"":                              {},
		"ws://a b:1":                    {},
		"ws://\x1b[31m:1":               {},
		"http://ana:s3cret@dev/x":       {},
	} {
		got, err := ParseRemote(raw)
		if TokenFits(raw) != want.token {
			t.Errorf("%q: a token may go there: %v", raw, !want.token)
		}
		if want.name != "" {
			if err != nil || got != want.name {
				t.Errorf("%q = %q, %v; want %q", raw, got, err, want.name)
			}
			continue
		}
		if err == nil || config.ExitCode(err) != config.ExitUsage || !strings.Contains(err.Error(), "expected `ws://host:port`, `wss://host:port`, `unix://`, or `unix://PATH`") {
			t.Errorf("%q = %q, %v", raw, got, err)
			continue
		}
		said := config.Explain(err)
		if !strings.Contains(said, want.hint) || strings.Contains(said, "ana:s3cret") || strings.ContainsRune(said, 0x1b) {
			t.Errorf("%q: %s", raw, said)
		}
	}
}

func FuzzRemoteAddress(f *testing.F) {
	for _, s := range []string{"ws://127.0.0.1:1", "wss://u:p@[::1]:2/", "unix:///x", "ws://h", "://", "ws://h:1#", "unix:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := ParseRemote(raw)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%q can act on a terminal", err)
			}
			return
		}
		if strings.HasPrefix(name, "unix://") {
			return
		}
		if again, err := ParseRemote(name); err != nil || again != name || strings.Contains(name, "@") {
			t.Errorf("%q is %q, and that is %q, %v", raw, name, again, err)
		}
		if TokenFits(raw) != TokenFits(name) {
			t.Errorf("%q and %q differ in where a token may go", raw, name)
		}
	})
}

// secureServer listens with a certificate of a's and takes dialSecret.
func secureServer(t *testing.T, a *authority, until time.Time, o Options, names ...string) (*Listener, *prover) {
	t.Helper()
	cert, key := a.pair(t, 7, until, names...)
	k := knows(dialSecret, access.Principal{Kind: access.KindToken, ID: "x", Name: "x", Role: protocol.RoleOperator})
	o.Auth, o.RequireAuth, o.Certificates = k, true, newCertFiles(t, cert, key).open(t, nil)
	return open(t, "wss://127.0.0.1:0", o, echo), k
}

func TestDialOverTLS(t *testing.T) {
	a := newAuthority(t)
	l, _ := secureServer(t, a, time.Now().Add(time.Hour), Options{Sessions: sessions(t, rpc.SessionsConfig{})}, "127.0.0.1")
	s, err := DialWith(t.Context(), l.URL(), DialOptions{Token: dialSecret, CA: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	if got := roundTrip(t, s, `"hello"`); got != `"hello"` {
		t.Errorf("%q", got)
	}
	_ = s.Close(nil)
	s, err = Connect(t.Context(), l.URL(), DialOptions{Token: dialSecret, CA: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(nil) }()
	if _, ok := s.(*rpc.Resumable); !ok {
		t.Errorf("a server with sessions gives a %T", s)
	}
	roundTrip(t, s, `"again"`)
	for _, token := range []string{"", "another"} {
		_, err := Connect(t.Context(), l.URL(), DialOptions{Token: token, TokenName: "$TOK", CA: a.pool})
		if !errors.Is(err, rpc.ErrRefused) || config.ExitCode(err) != config.ExitDenied || token != "" && !strings.Contains(config.Explain(err), "$TOK ") {
			t.Errorf("with the token %q: %v", token, err)
		}
	}
}

func TestConnectToAServerWithoutSessions(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{}, echo)
	s, err := Connect(t.Context(), l.URL(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(nil) }()
	if _, ok := s.(*rpc.Resumable); ok {
		t.Error("it resumes")
	}
	roundTrip(t, s, "1")
}

// What is wrong with a certificate is said, with what to do; the token stays here.
func TestCertificatesThatDoNotCount(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	self := func(t *testing.T) string {
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return "wss://" + srv.Listener.Addr().String()
	}
	listen := func(until time.Time, names ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			l, k := secureServer(t, a, until, Options{}, names...)
			t.Cleanup(func() {
				if n := len(k.seen()); n > 0 {
					t.Errorf("the server was asked to let somebody in %d times", n)
				}
			})
			return l.URL()
		}
	}
	for name, tc := range map[string]struct {
		url   func(t *testing.T) string
		ca    *x509.CertPool
		wants []string
	}{
		"unknown authority": {listen(hour, "127.0.0.1"), other.pool, []string{`signed by "test authority", which this machine does not trust`, "--remote-ca FILE", "SSL_CERT_FILE"}},
		"by itself":         {self, a.pool, []string{"of example.com is signed by itself", "--remote-ca"}},
		"ended":             {listen(time.Now().Add(-time.Hour), "127.0.0.1"), a.pool, []string{"of 127.0.0.1 has ended on 20", "renewed"}},
		"other names": {
			listen(hour, "dev.example", "10.1.2.3"), a.pool,
			[]string{"is for dev.example, 10.1.2.3, not for 127.0.0.1", "wss://dev.example:"},
		},
		"a name that acts": {listen(hour, "dev.\x1b[31mexample"), a.pool, []string{"not for 127.0.0.1"}},
		"no name":          {listen(hour), a.pool, []string{"has no name in it, so it is not for 127.0.0.1"}},
		"nothing but plain": {func(t *testing.T) string {
			return "wss" + strings.TrimPrefix(open(t, "ws://127.0.0.1:0", Options{}, echo).URL(), "ws")
		}, a.pool, []string{"does not speak TLS", "ws://127.0.0.1:"}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := tc.url(t)
			_, err := DialWith(t.Context(), addr, DialOptions{Token: dialSecret, CA: tc.ca})
			said := ""
			if err != nil {
				said = config.Explain(err)
			}
			for _, w := range tc.wants {
				if !strings.Contains(said, w) {
					t.Errorf("it says %q; want %q", said, w)
				}
			}
			if strings.ContainsRune(said, 0x1b) || strings.Contains(said, dialSecret) {
				t.Errorf("%q", said)
			}
			if name != "nothing but plain" && !errors.Is(err, rpc.ErrRefused) {
				t.Errorf("%v would be tried again", err)
			}
		})
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.pair(t, 9, time.Now().Add(time.Hour), "127.0.0.1")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := ln.Accept(); err == nil {
			_ = c.(*tls.Conn).Handshake() // it fails
			_ = c.Close()
		}
	})
	_, err = DialWith(t.Context(), "wss://"+ln.Addr().String(), DialOptions{CA: a.pool})
	_ = ln.Close()
	wg.Wait()
	if err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("DialWith = %v", err)
	}
}

func TestATokenGoesOnlyWhereNobodyReadsIt(t *testing.T) {
	for _, addr := range []string{"ws://192.0.2.1:4500", "ws://dev.example:4500"} {
		_, err := DialWith(t.Context(), addr, DialOptions{Token: dialSecret})
		if err == nil || config.ExitCode(err) != config.ExitUsage || !strings.Contains(config.Explain(err), "wss://") || strings.Contains(config.Explain(err), dialSecret) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestAServerSaysWhenToComeBack(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "37")
		http.Error(w, "too many failed attempts", http.StatusTooManyRequests)
	}))
	defer srv.Close()
	_, err := DialWith(t.Context(), "ws://"+srv.Listener.Addr().String(), DialOptions{Token: dialSecret})
	if rpc.RetryAfter(err) != 37*time.Second || errors.Is(err, rpc.ErrRefused) || !strings.Contains(config.Explain(err), "try again in 37s") {
		t.Errorf("%v: %s", err, rpc.RetryAfter(err))
	}
}

// proxyServer is an HTTP proxy that connects everybody to target.
func proxyServer(t *testing.T, target string) (addr string, asked <-chan *http.Request) {
	t.Helper()
	got := make(chan *http.Request, 10)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				got <- r
				up, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer func() { _ = up.Close() }()
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				back := make(chan struct{})
				go func() { defer close(back); _, _ = io.Copy(c, up); _ = c.Close() }()
				_, _ = io.Copy(up, br)
				_ = up.Close()
				<-back
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String(), got
}

func TestDialThroughAProxy(t *testing.T) {
	a := newAuthority(t)
	l, _ := secureServer(t, a, time.Now().Add(time.Hour), Options{Hosts: []string{"dev.example"}}, "dev.example")
	proxy, asked := proxyServer(t, strings.TrimPrefix(l.URL(), "wss://"))
	through := func(u string) func(*url.URL) (*url.URL, error) {
		return func(to *url.URL) (*url.URL, error) {
			if to.Scheme != "https" || to.Host != "dev.example:4500" {
				t.Errorf("asked about %s", to)
			}
			return url.Parse(u)
		}
	}
	s, err := DialWith(t.Context(), "wss://dev.example:4500", DialOptions{Token: dialSecret, CA: a.pool, Proxy: through("http://ana:pw@" + proxy)})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s, "1")
	_ = s.Close(nil)
	r := <-asked
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ana:pw")); r.Method != http.MethodConnect || r.Host != "dev.example:4500" || r.Header.Get("Proxy-Authorization") != want || r.Header.Get("Authorization") != "" {
		t.Errorf("the proxy got %s %s %v", r.Method, r.Host, r.Header)
	}

	// This machine is reached without one.
	plain := open(t, "ws://127.0.0.1:0", Options{}, echo)
	s, err = DialWith(t.Context(), plain.URL(), DialOptions{Proxy: func(*url.URL) (*url.URL, error) {
		t.Error("a proxy was asked for")
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close(nil)

	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer refusing.Close()
	for name, tc := range map[string]struct {
		proxy, want string
	}{
		"wants a login": {"http://ana:pw@" + refusing.Listener.Addr().String(), "HTTP 407"},
		"not there":     {"http://127.0.0.1:1", "connection refused"},
		"another kind":  {"socks5://127.0.0.1:1", "not supported"},
	} {
		_, err := DialWith(t.Context(), "wss://dev.example:4500", DialOptions{Token: dialSecret, Proxy: through(tc.proxy)})
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(config.Explain(err), "NO_PROXY") || strings.Contains(config.Explain(err), "pw") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAProxyThatSaysNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("the caller has had enough"))
	defer cancel()
	_, err = DialWith(ctx, "wss://dev.example:4500", DialOptions{Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("http://" + ln.Addr().String()) }})
	if err == nil || !strings.Contains(err.Error(), "the caller has had enough") {
		t.Errorf("DialWith = %v", err)
	}
}
