package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestBrowserLoginIsCodexsOwn goes all the way and compares what the issuer saw and
// what is stored with what Codex 0.169.0 sends and stores.
func TestBrowserLoginIsCodexsOwn(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{ClientID: "client-tow"})
	iss.SetAPIKey("sk-from-the-exchange")
	r := newRig(t, iss, t.TempDir())
	ports := freePorts(t, 2)
	changed := r.Changed()
	a := r.begin(t, t.Context(), BrowserOptions{Ports: ports})
	u, err := url.Parse(a.url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if len(q.Get("state")) != 43 || len(q.Get("code_challenge")) != 43 {
		t.Errorf("state %q or challenge %q is not 32 bytes", q.Get("state"), q.Get("code_challenge"))
	}
	q.Del("state")
	q.Del("code_challenge")
	want := url.Values{
		"response_type": {"code"}, "client_id": {"client-tow"}, "redirect_uri": {"http://127.0.0.1:" + itoa(ports[0]) + "/auth/callback"},
		"code_challenge_method": {"S256"}, "scope": {"openid profile email offline_access api.connectors.read api.connectors.invoke"},
		"id_token_add_organizations": {"true"}, "codex_cli_simplified_flow": {"true"}, "originator": {"codex_cli_rs"},
	}
	if diff := cmp.Diff(want, q); diff != "" {
		t.Errorf("authorize URL (-codex +ours):\n%s", diff)
	}
	p, err := iss.Visit(t.Context(), a.url, true)
	if err != nil {
		t.Fatal(err)
	}
	if p.Status != http.StatusOK || p.URL.Path != "/success" || p.URL.RawQuery != "" || !strings.Contains(p.Body, "Logged in") || !strings.Contains(p.Body, "grace@example.com") {
		t.Errorf("the browser ended at %s with %d: %s", p.URL, p.Status, p.Body)
	}
	st, err := a.wait(t)
	if err != nil {
		t.Fatal(err)
	}
	if st.Email != "grace@example.com" || st.AccountID != "acct-tow" || st.Plan != "pro" || !st.Renews || st.Where.Kind != secret.KindFile {
		t.Errorf("status %+v", st)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the login")
	}
	got := r.stored(t)
	if got.APIKey != "sk-from-the-exchange" || got.Tokens.Issuer != iss.URL || got.Tokens.ClientID != "client-tow" || len(got.Tokens.LoginOwnerID) != 43 || got.LastRefresh.IsZero() {
		t.Errorf("stored %v", got)
	}
	info, err := os.Stat(filepath.Join(r.home, "auth.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("auth.json: %v %v", info, err)
	}
	ex := iss.Requests("/oauth/token")
	if len(ex) != 2 || ex[0].Form.Get("grant_type") != "authorization_code" || ex[0].Form.Get("code_verifier") == "" ||
		ex[1].Form.Get("requested_token") != "openai-api-key" || ex[1].Form.Get("subject_token") == "" {
		t.Errorf("token requests: %d", len(ex))
	}
	nobodyListens(t, ports[0])
	if !strings.Contains(r.audited(), "credential.login") {
		t.Errorf("audited %q", r.audited())
	}
}

func TestBrowserWithoutAPIKeyExchange(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.wait(t); err != nil {
		t.Fatal(err)
	}
	if got := r.stored(t); got.APIKey != "" || got.Tokens == nil {
		t.Errorf("stored %v", got)
	}
}

// TestCallbackTurnsStrangersAway shows what the port answers to all that is not this
// login's browser, and that it keeps waiting.
func TestCallbackTurnsStrangersAway(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	base := "http://127.0.0.1:" + itoa(a.port)
	good, err := iss.Decide(t.Context(), a.url, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, url, host string
		status          int
		body            string
	}{
		{"wrong state", base + "/auth/callback?code=x&state=wrong", "", 400, "State mismatch"},
		{"no state", base + "/auth/callback?code=x", "", 400, "State mismatch"},
		{"good code, no state", base + "/auth/callback?code=" + mustQuery(t, good).Get("code"), "", 400, "State mismatch"},
		{"unknown path", base + "/nope", "", 404, "Not Found"},
		{"success too early", base + "/success", "", 404, "Not Found"},
		{"failure too early", base + "/failed", "", 404, "Not Found"},
		{"a name that was made to point here", good, "evil.example:" + itoa(a.port), 400, "Bad Request"},
		{"a name that looks like this machine", good, "127.0.0.1.evil.example", 400, "Bad Request"},
	} {
		status, body, h := get(t, tc.url, tc.host)
		if status != tc.status || strings.TrimSpace(body) != tc.body {
			t.Errorf("%s: %d %q", tc.name, status, body)
		}
		if h.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: headers %v", tc.name, h)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/auth/callback?"+mustQuery(t, good).Encode(), nil)
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
	cross, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/cancel", nil)
	cross.Header.Set("Sec-Fetch-Site", "cross-site")
	if resp, err = tr.RoundTrip(cross); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a page that cancels: %v %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
	if n := iss.Count("/oauth/token"); n != 0 {
		t.Errorf("%d requests were made for strangers", n)
	}
	if status, _, h := get(t, good, ""); status != http.StatusFound || h.Get("Location") != "/success" {
		t.Errorf("the right redirect: %d %v", status, h)
	}
	if status, body, _ := get(t, good, ""); status != http.StatusConflict {
		t.Errorf("the same code again: %d %q", status, body)
	}
	get(t, base+"/success", "")
	if _, err := a.wait(t); err != nil {
		t.Fatal(err)
	}
}

func mustQuery(t testing.TB, s string) url.Values {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

// TestCallbackIsBounded holds connections open and sends what is too large; the
// browser still gets through.
func TestCallbackIsBounded(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	addr := "127.0.0.1:" + itoa(a.port)
	for range 3 * maxCallbackConns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET /auth/callback?code=") // and never goes on
	}
	big, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	_ = big.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(big, "GET /auth/callback?state="+strings.Repeat("x", 4*maxCallbackHeader)) // cut off is as good
	if answer, _ := io.ReadAll(big); len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
		t.Errorf("an oversized request: %.60q", answer)
	}
	if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
		t.Fatalf("the browser: %v", err)
	}
	if _, err := a.wait(t); err != nil {
		t.Fatal(err)
	}
}

func TestDeniedConsent(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	p, err := iss.Visit(t.Context(), a.url, false)
	if err != nil || p.URL.Path != "/failed" || p.URL.RawQuery != "" || !strings.Contains(p.Body, "Not logged in") || !strings.Contains(p.Body, "the person said no") {
		t.Errorf("page: %v %s", err, p.Body)
	}
	_, err = a.wait(t)
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "access_denied") || len(config.Hints(err)) == 0 {
		t.Errorf("error %v, hints %q", err, config.Hints(err))
	}
	if got := r.stored(t); !got.Empty() {
		t.Errorf("stored %v", got)
	}
}

// TestFailedExchange: what an issuer answers may hold anything, and is not quoted.
func TestFailedExchange(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	r := newRig(t, iss, t.TempDir())
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	iss.Fail("/oauth/token", 1, 500, `{"error":"server_error","error_description":"lost \u001b[31m tok_canarycanarycanarycanary","access_token":"canary"}`)
	if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
		t.Fatal(err)
	}
	_, err := a.wait(t)
	var p *config.Problem
	if !errors.As(err, &p) || p.Stage != "exchange" || !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "canary") || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("error %q", err)
	}
	if !strings.Contains(err.Error(), "server_error") || len(p.Hints) == 0 {
		t.Errorf("error %q, hints %q", err, p.Hints)
	}
}

func TestSecondLoginTakesThePort(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	r, other := newRig(t, iss, t.TempDir()), newRig(t, iss, t.TempDir())
	ports := freePorts(t, 2)
	old := r.begin(t, t.Context(), BrowserOptions{Ports: ports})
	now := other.begin(t, t.Context(), BrowserOptions{Ports: ports})
	if _, err := old.wait(t); !errors.Is(err, ErrCancelled) {
		t.Errorf("the older login ended with %v", err)
	}
	if now.port != ports[0] || !strings.Contains(now.steps.String(), "another login was waiting on port") {
		t.Errorf("port %d, steps %q", now.port, now.steps)
	}
	if _, err := iss.Visit(t.Context(), now.url, true); err != nil {
		t.Fatal(err)
	}
	if _, err := now.wait(t); err != nil {
		t.Fatal(err)
	}
}

// foreign holds a port as some other program does.
func foreign(t testing.TB, port int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:"+itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "I am an IDE") })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
}

func TestBusyPorts(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	busy := func(port int) string { return fmt.Sprintf("idea (pid %d)", port) }

	t.Run("one: the next", func(t *testing.T) {
		r, ports := newRig(t, iss, t.TempDir()), freePorts(t, 2)
		foreign(t, ports[0])
		a := r.begin(t, t.Context(), BrowserOptions{Ports: ports, Busy: busy})
		if a.port != ports[1] || !strings.Contains(a.url, url.QueryEscape("http://127.0.0.1:"+itoa(ports[1])+"/auth/callback")) {
			t.Errorf("port %d, url %s", a.port, a.url)
		}
		if want := fmt.Sprintf("port %d is taken by idea (pid %d); trying port %d", ports[0], ports[0], ports[1]); !strings.Contains(a.steps.String(), want) {
			t.Errorf("steps %q, want %q", a.steps, want)
		}
		if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
			t.Fatal(err)
		}
		if _, err := a.wait(t); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("both: a problem that names them", func(t *testing.T) {
		r, ports := newRig(t, iss, t.TempDir()), freePorts(t, 2)
		foreign(t, ports[0])
		foreign(t, ports[1])
		_, err := r.Browser(t.Context(), BrowserOptions{Ports: ports, Busy: busy})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("idea (pid %d)", ports[1])) || !strings.Contains(strings.Join(config.Hints(err), " "), "--device-auth") {
			t.Errorf("error %v, hints %q", err, config.Hints(err))
		}
	})
	t.Run("both: pasted", func(t *testing.T) {
		r, ports := newRig(t, iss, t.TempDir()), freePorts(t, 2)
		foreign(t, ports[0])
		foreign(t, ports[1])
		paste := make(chan string)
		a := r.begin(t, t.Context(), BrowserOptions{Ports: ports, Paste: paste})
		if a.port != 0 {
			t.Errorf("port %d", a.port)
		}
		good, err := iss.Decide(t.Context(), a.url, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"what?", "http://127.0.0.1:1455/auth/callback?code=a&state=b", "  " + good + "#x \n"} {
			select {
			case paste <- line:
			case <-a.done:
				t.Fatalf("ended early: %v", a.err)
			case <-time.After(patience):
				t.Fatal("nobody takes what is pasted")
			}
		}
		if _, err := a.wait(t); err != nil {
			t.Fatal(err)
		}
		if s := a.steps.String(); !strings.Contains(s, "not the address a login ends at") || !strings.Contains(s, "another login") {
			t.Errorf("steps %q", s)
		}
	})
}

// TestGivingUpLeavesNothing cancels half-way.
func TestGivingUpLeavesNothing(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	a := r.begin(t, ctx, BrowserOptions{Ports: freePorts(t, 1)})
	half, err := net.Dial("tcp", "127.0.0.1:"+itoa(a.port))
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	cancel()
	_, err = a.wait(t)
	var p *config.Problem
	if !errors.Is(err, ErrCancelled) || !errors.As(err, &p) || p.Exit != config.ExitInterrupted {
		t.Errorf("error %v", err)
	}
	nobodyListens(t, a.port)
	if _, err := os.Stat(filepath.Join(r.home, "auth.json")); err == nil {
		t.Error("something was stored")
	}
}

// TestGivingUpTooLate: a code that was sent is spent, so the login it made is stored
// although its person left.
func TestGivingUpTooLate(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	r := newRig(t, iss, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	a := r.begin(t, ctx, BrowserOptions{Ports: freePorts(t, 1)})
	iss.Hold("/oauth/token")
	browser := make(chan error, 1)
	go func() { _, err := iss.Visit(t.Context(), a.url, true); browser <- err }()
	await(t, func() bool { return iss.Count("/oauth/token") > 0 })
	cancel()
	iss.Release("/oauth/token")
	if _, err := a.wait(t); err != nil {
		t.Errorf("the login that was made is reported as %v", err)
	}
	<-browser
	if r.stored(t).Empty() {
		t.Error("nothing was stored")
	}
}

// await polls for what another goroutine brings about.
func await(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never happened")
		}
	}
}

func TestLoginTimesOut(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	_, err := r.Browser(t.Context(), BrowserOptions{Ports: freePorts(t, 1), Timeout: 10 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "nobody logged in within") || errors.Is(err, ErrCancelled) {
		t.Errorf("error %v", err)
	}
}

// TestMandates: what a mandate forbids fails before a browser is opened, or after
// with the login handed back.
func TestMandates(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	const from = "/etc/towline/requirements.toml"
	list := func(v ...string) managed.Mandate[[]string] {
		return managed.Mandate[[]string]{Set: true, Value: v, From: from}
	}
	denied := func(t *testing.T, err error) {
		t.Helper()
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage != "policy" || p.Exit != config.ExitDenied || !strings.Contains(err.Error(), from) {
			t.Errorf("error %v", err)
		}
	}
	t.Run("method", func(t *testing.T) {
		r := newRig(t, iss, t.TempDir(), withPolicy(managed.Policy{LoginMethods: list("api")}))
		_, err := r.Browser(t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
		denied(t, err)
		_, err = r.Device(t.Context(), nil)
		denied(t, err)
		_, err = r.Lend(t.Context(), LentTokens{AccessToken: "x", AccountID: "y"}, nil)
		denied(t, err)
		_, err = r.SetAccessToken(t.Context(), "at-x")
		denied(t, err)
		if _, err := r.SetAPIKey(t.Context(), "sk-allowed"); err != nil {
			t.Error(err)
		}
	})
	t.Run("key", func(t *testing.T) {
		r := newRig(t, iss, t.TempDir(), withPolicy(managed.Policy{LoginMethods: list("chatgpt")}))
		_, err := r.SetAPIKey(t.Context(), "sk-x")
		denied(t, err)
	})
	t.Run("workspace", func(t *testing.T) {
		r := newRig(t, iss, t.TempDir(), withPolicy(managed.Policy{Workspaces: list("acct-a", "acct-b")}))
		before, err := r.Before(t.Context())
		if err != nil || !cmp.Equal(before.Workspaces, []string{"acct-a", "acct-b"}) || before.Source != from {
			t.Errorf("before: %+v, %v", before, err)
		}
		a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
		if got := mustQuery(t, a.url).Get("allowed_workspace_id"); got != "acct-a,acct-b" {
			t.Errorf("allowed_workspace_id %q", got)
		}
		p, err := iss.Visit(t.Context(), a.url, true)
		if err != nil || !strings.Contains(p.Body, "acct-tow") {
			t.Errorf("page: %v %s", err, p.Body)
		}
		_, err = a.wait(t)
		denied(t, err)
		if !r.stored(t).Empty() {
			t.Error("it was stored all the same")
		}
		if len(iss.Revoked()) != 1 {
			t.Error("it was not handed back")
		}
	})
	t.Run("a token in the environment", func(t *testing.T) {
		iss.AddPAT("at-env", issuertest.User{Email: "env@example.com", AccountID: "acct-env"})
		for _, p := range []managed.Policy{{Workspaces: list("acct-a")}, {LoginMethods: list("api")}} {
			r := newRig(t, iss, t.TempDir(), withPolicy(p), func(c *Config) { c.AccessToken = "at-env" })
			_, err := r.Token(t.Context())
			denied(t, err)
		}
	})
	t.Run("a login older than the mandate", func(t *testing.T) {
		home := t.TempDir()
		newRig(t, iss, home).seed(t)
		r := newRig(t, iss, home, withPolicy(managed.Policy{Workspaces: list("acct-a")}))
		_, err := r.Token(t.Context())
		denied(t, err)
	})
}
