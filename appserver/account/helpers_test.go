package account

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/account/issuertest"
	"towline/config/managed"
	"towline/config/secret"
)

// patience bounds waits for what certainly happens, on a loaded machine.
const patience = 45 * time.Second

func TestMain(m *testing.M) {
	if helper := os.Getenv("ACCOUNT_TEST_HELPER"); helper != "" {
		os.Exit(runHelper(helper))
	}
	goleak.VerifyTestMain(m)
}

// rig is a Manager over a file store of its own, before an issuer.
type rig struct {
	*Manager
	iss  *issuertest.Issuer
	home string
	log  *lockedBuffer

	mu     sync.Mutex
	events []string
}

type rigOption func(*Config)

func withPolicy(p managed.Policy) rigOption { return func(c *Config) { c.Policy = p } }
func withKind(k IssuerKind) rigOption       { return func(c *Config) { c.Issuer.Kind = k } }

// newRig makes one. Its home stays when another is made over it.
func newRig(t testing.TB, iss *issuertest.Issuer, home string, opts ...rigOption) *rig {
	t.Helper()
	r := &rig{iss: iss, home: home, log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := Config{
		Store: openStore(t, home), CodexHome: home, Log: log, AuthAPI: iss.URL, AgentKeys: iss.URL,
		Issuer: Issuer{URL: iss.URL, ClientID: "client-tow", Kind: KindOpenAI},
		Audit: func(event string, facts ...any) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, event)
			for _, f := range facts {
				if s, ok := f.(string); ok {
					r.events = append(r.events, s)
				}
			}
		},
	}
	for _, o := range opts {
		o(&c)
	}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	r.Manager = m
	return r
}

func openStore(t testing.TB, home string) *secret.Store {
	t.Helper()
	s, err := secret.Open(secret.Options{
		CodexHome: home, Kind: secret.KindFile, StateDir: filepath.Join(home, "towline"), Environ: func(string) string { return "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// audited is what was recorded, in one text.
func (r *rig) audited() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.events, " ")
}

// seed stores a login as the issuer gives it.
func (r *rig) seed(t testing.TB) secret.Auth {
	t.Helper()
	tok := r.iss.Login(issuertest.User{})
	a := secret.Auth{Mode: secret.ModeChatGPT, LastRefresh: time.Now().UTC(), Tokens: &secret.Tokens{
		IDToken: tok.ID, AccessToken: tok.Access, RefreshToken: tok.Refresh, AccountID: tok.AccountID,
		Issuer: r.iss.URL, ClientID: "client-tow", LoginOwnerID: "owner-of-this-login",
	}}
	if _, err := r.cfg.Store.Save(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

func (r *rig) stored(t testing.TB) secret.Auth {
	t.Helper()
	a, _, err := r.cfg.Store.Load(t.Context())
	if err != nil && !errors.Is(err, secret.ErrNone) {
		t.Fatal(err)
	}
	return a
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// direct carries requests to an issuer without a network, so that time may be
// synctest's.
type direct struct{ iss *issuertest.Issuer }

func (d direct) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	defer func() {
		if recover() != nil { // the issuer broke the connection
			resp, err = nil, io.ErrUnexpectedEOF
		}
	}()
	in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), r.Body)
	in.Header = r.Header.Clone()
	w := httptest.NewRecorder()
	d.iss.ServeHTTP(w, in)
	return w.Result(), nil
}

func (d direct) client() *http.Client { return &http.Client{Transport: d} }

// freePorts finds ports nobody holds now.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var out []int
	for range n {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// attempt is a browser login under way.
type attempt struct {
	url   string
	port  int
	steps *lockedBuffer
	done  chan struct{}
	st    Status
	err   error
}

// begin starts a browser login and waits until it is ready.
func (r *rig) begin(t testing.TB, ctx context.Context, o BrowserOptions) *attempt { //nolint:revive // t first reads better here
	t.Helper()
	a := &attempt{steps: &lockedBuffer{}, done: make(chan struct{})}
	ready := make(chan struct{})
	o.Ready = func(url string, port int) { a.url, a.port = url, port; close(ready) }
	o.Step = func(s string) { _, _ = a.steps.Write([]byte(s + "\n")) }
	go func() {
		defer close(a.done)
		a.st, a.err = r.Browser(ctx, o)
	}()
	select {
	case <-ready:
	case <-a.done:
		t.Fatalf("the login ended before it began: %v", a.err)
	case <-time.After(patience):
		t.Fatal("the login never began")
	}
	return a
}

func (a *attempt) wait(t testing.TB) (Status, error) {
	t.Helper()
	select {
	case <-a.done:
		return a.st, a.err
	case <-time.After(patience):
		t.Fatal("the login never ended")
		return Status{}, nil
	}
}

// get fetches without following, over a connection of its own.
func get(t testing.TB, url, host string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	c := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: patience,
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// nobodyListens fails when a port is still held.
func nobodyListens(t testing.TB, port int) {
	t.Helper()
	for _, addr := range []string{"127.0.0.1", "::1"} {
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, itoa(port)), patience); err == nil {
			_ = c.Close()
			t.Errorf("something still listens on %s port %d", addr, port)
		}
	}
}
