package native_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/account"
	"towline/appserver/account/issuertest"
	"towline/appserver/engine/native"
	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config/secret"
)

// codexes are the real binaries to compare with.
func codexes(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX is not set: CI must compare with the real codex")
		}
		t.Skip("SKIPPED: set TOWLINE_TEST_CODEX to one or more codex binaries (colon-separated) to compare with the real codex")
	}
	return filepath.SplitList(list)
}

// tlsWorld is a world behind TLS, without which Codex completes no ChatGPT login.
// ca is the authority of its certificate.
func tlsWorld(t *testing.T) (w *world, client *http.Client, ca string) {
	t.Helper()
	w = &world{t: t, log: new(lines), home: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make1 := func(n int64, parent *x509.Certificate, change func(*x509.Certificate)) (*x509.Certificate, []byte) {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: fmt.Sprint("test ", n)}, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
		change(c)
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, der
	}
	root, rootDER := make1(1, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign })
	_, leaf := make1(2, root, func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	srv := httptest.NewUnstartedServer(w)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.iss = issuertest.New(issuertest.Options{URL: srv.URL, Canary: canary, DeviceInterval: time.Second})
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	return w, &http.Client{Transport: tr, Timeout: 30 * time.Second}, ca
}

// startCodex runs the real app-server with a home of its own and returns how to
// connect to it.
func startCodex(t *testing.T, bin string, w *world, ca string) func(context.Context) (rpc.Stream, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "acct") // unix socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{"home", "tmp", "project"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cfg := fmt.Sprintf("model = \"gpt-5.5\"\ncheck_for_update_on_startup = false\nchatgpt_base_url = %q\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n",
		w.url+"/backend-api")
	if err := os.WriteFile(filepath.Join(dir, "home", "config.toml"), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(bin, "app-server", "--listen", "unix://"+socket)
	cmd.Dir = filepath.Join(dir, "project")
	cmd.Env = []string{
		"CODEX_HOME=" + filepath.Join(dir, "home"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "PATH=" + os.Getenv("PATH"),
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
		"CODEX_APP_SERVER_LOGIN_ISSUER=" + w.url, "CODEX_REFRESH_TOKEN_URL_OVERRIDE=" + w.url + "/oauth/token",
		"CODEX_REVOKE_TOKEN_URL_OVERRIDE=" + w.url + "/oauth/revoke", "CODEX_CA_CERTIFICATE=" + ca, "SSL_CERT_FILE=" + ca,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it holds nothing anybody wants
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("codex said: %s", stderr.String())
		}
	})
	connect := func(ctx context.Context) (rpc.Stream, error) { return transport.DialEngine(ctx, socket) }
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s, err := connect(t.Context())
		if err == nil {
			_ = s.Close(nil)
			return connect
		}
		if time.Now().After(end) {
			t.Fatalf("codex does not listen: %v", err)
		}
	}
}

// TestAccountsAreCodexs runs one script against the real app-server and against
// ours, and compares every answer and every notification about the account, word
// for word where nothing is random.
func TestAccountsAreCodexs(t *testing.T) {
	bins := codexes(t)
	w, hc, _ := tlsWorld(t)
	ours := accountScript(t, w, connector(t, w, hc))
	for _, bin := range bins {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) {
			w, _, ca := tlsWorld(t)
			theirs := accountScript(t, w, startCodex(t, bin, w, ca))
			ours := slices.Clone(ours)
			if !strings.Contains(strings.Join(theirs, ""), `"userId"`) { // an older one
				for i := range ours {
					ours[i] = userID.ReplaceAllString(ours[i], "")
				}
			}
			if diff := cmp.Diff(theirs, ours); diff != "" {
				t.Errorf("the native engine does not answer as codex does (-codex +native):\n%s", diff)
			}
		})
	}
}

// connector starts the native engine on a TLS world.
func connector(t *testing.T, w *world, hc *http.Client) func(context.Context) (rpc.Stream, error) {
	t.Helper()
	store, err := secret.Open(secret.Options{
		CodexHome: w.home, Kind: secret.KindFile, StateDir: filepath.Join(w.home, "state"), Environ: func(string) string { return "" },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.manager, err = account.New(account.Config{
		Store: store, Issuer: account.Issuer{URL: w.url}, HTTP: hc, RefreshURL: w.url + "/oauth/token", RevokeURL: w.url + "/oauth/revoke",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.manager.Close)
	h := w.host(func(c *native.Config) {
		c.Streamer = model.New(model.Config{Auth: w.manager, AccountURL: w.url + "/backend-api/codex", HTTPClient: hc})
	})
	return h.eng.Connect
}

// scribe writes down what is said about the account.
type scribe struct {
	t       *testing.T
	c       *client
	said    []string
	at      int
	replace []string // pairs: what varies, and what to write in its place
}

var (
	uuidLike = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	userID   = regexp.MustCompile(`,"userId":"[^"]*"`)
	variants = regexp.MustCompile("(unknown variant `zzz`, expected one of).*")
)

// write normalises and keeps one line. Members that are null are left out: Codex
// leaves some of its own out, too.
func (s *scribe) write(what string, raw json.RawMessage) {
	s.t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		s.t.Fatalf("%s: %v in %s", what, err, raw)
	}
	b, _ := json.Marshal(withoutNull(v))
	line := variants.ReplaceAllString(uuidLike.ReplaceAllString(strings.NewReplacer(s.replace...).Replace(string(b)), "UUID"), "$1")
	s.said = append(s.said, what+" "+line)
}

func withoutNull(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for k, x := range m {
		if x == nil {
			delete(m, k)
			continue
		}
		m[k] = withoutNull(x)
	}
	return m
}

// call writes the answer down and returns it.
func (s *scribe) call(c *client, method string, params any) json.RawMessage {
	s.t.Helper()
	raw, err := c.try(method, params)
	if err != nil {
		b, _ := json.Marshal(err)
		s.write("✘ "+method, b)
		return nil
	}
	s.write("→ "+method, raw)
	return raw
}

// hears waits for the next notifications about the account, in their order.
func (s *scribe) hears(methods ...string) {
	s.t.Helper()
	for _, m := range methods {
		n := s.c.wait(s.at, m, func(n note) bool {
			return strings.HasPrefix(n.Method, "account/") && n.Method != "account/rateLimits/updated"
		})
		s.c.mu.Lock()
		s.at += slices.IndexFunc(s.c.notes[s.at:], func(x note) bool { return x.Method == n.Method && string(x.Params) == string(n.Params) }) + 1
		s.c.mu.Unlock()
		s.write("← "+n.Method, n.Params)
	}
}

func accountScript(t *testing.T, w *world, connect func(context.Context) (rpc.Stream, error)) []string {
	t.Helper()
	open := func(trial bool) *client {
		s, err := connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, done: make(chan struct{}), heard: make(chan struct{}), asked: make(map[string]*rpc.Request)}
		c.peer = rpc.NewPeer(s, c)
		go func() { defer close(c.done); _ = c.peer.Serve(context.Background()) }()
		t.Cleanup(c.close)
		c.call("initialize", map[string]any{"clientInfo": map[string]any{"name": "tester", "version": "0.1"}, "capabilities": map[string]any{"experimentalApi": trial}})
		return c
	}
	c, listener, plain := open(true), open(true), open(false)
	s := &scribe{t: t, c: listener, replace: []string{w.url, "URL"}}
	done, updated := protocol.AccountCompleted, protocol.AccountUpdated
	read := func() {
		s.call(c, protocol.AccountRead, map[string]any{})
		s.call(c, protocol.AuthStatus, map[string]any{})
	}

	read()
	s.call(c, protocol.AccountRead, map[string]any{"refreshToken": true})
	s.call(c, "accountSession/list", map[string]any{})
	s.call(c, "account/rateLimits/read", nil)
	s.call(c, "account/usage/read", nil)

	// What is refused.
	for _, p := range []map[string]any{
		{},
		{"type": "zzz"},
		{"type": "apiKey"},
		{"type": "chatgptAuthTokens", "accessToken": "a.b.c"},
		{"type": "chatgptAuthTokens", "accessToken": "zzz", "chatgptAccountId": "a"},
	} {
		s.call(c, protocol.AccountStart, p)
	}
	s.call(plain, protocol.AccountStart, map[string]any{"type": "chatgptAuthTokens", "accessToken": "a.b.c", "chatgptAccountId": "a"})
	s.call(c, protocol.AccountCancel, map[string]any{})
	s.call(c, protocol.AccountCancel, map[string]any{"loginId": "nope"})
	s.call(c, protocol.AccountCancel, map[string]any{"loginId": "01a203b0-4d52-79c3-aba2-7f3e09f93dbf"})

	// A key.
	s.call(c, protocol.AccountStart, map[string]any{"type": "apiKey", "apiKey": "sk-test-" + canary})
	s.hears(done, updated)
	read()
	s.call(c, protocol.AccountLogout, nil)
	s.hears(updated)
	read()

	// A device code: cancelled, replaced, completed.
	device := func() json.RawMessage {
		r, err := c.try(protocol.AccountStart, map[string]any{"type": "chatgptDeviceCode"})
		if err != nil {
			t.Fatal(err)
		}
		s.replace = append(s.replace, protocol.StringField(r, "userCode"), "CODE")
		s.write("→ device", r)
		return r
	}
	r := device()
	s.call(c, protocol.AccountCancel, map[string]any{"loginId": protocol.StringField(r, "loginId")})
	s.hears(done)
	device()
	r = device()
	s.hears(done)
	if !w.iss.EnterCode(protocol.StringField(r, "userCode"), true) {
		t.Fatal("the issuer does not know the code")
	}
	s.hears(done, updated)
	read()
	s.call(c, protocol.AccountRead, map[string]any{"refreshToken": true})
	if n := w.iss.Rotated(); n != 1 {
		t.Errorf("account/read with refreshToken refreshed %d times", n)
	}
	s.call(c, protocol.AccountLogout, nil)
	s.hears(updated)
	if n := len(w.iss.Revoked()); n == 0 {
		t.Error("logged out, and nothing was revoked")
	}

	// Lent tokens.
	u := issuertest.User{Email: "ann@example.com", Subject: "user-ann", AccountID: "acct-ann", Plan: "plus"}
	tk := w.iss.Login(u)
	s.call(c, protocol.AccountStart, map[string]any{"type": "chatgptAuthTokens", "accessToken": tk.Access, "chatgptAccountId": "acct-ann"})
	s.hears(done, updated)
	read()
	for _, kind := range []string{"apiKey", "chatgpt", "chatgptDeviceCode"} {
		s.call(c, protocol.AccountStart, map[string]any{"type": kind, "apiKey": "sk-x"})
	}
	s.call(c, protocol.AccountLogout, nil)
	s.hears(updated)
	read()
	s.call(c, protocol.AccountLogout, nil) // of nothing
	s.hears(updated)
	return s.said
}
