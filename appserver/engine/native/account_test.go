package native_test

import (
	"context"
	"encoding/json"
	"fmt"
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

	"towline/appserver/account"
	"towline/appserver/account/issuertest"
	"towline/appserver/engine/native"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/protocol"
	"towline/config/secret"
)

// canary is a part of every secret the issuer makes, and of those typed here.
const canary = "Canary7391"

// world is an issuer, a model's endpoint that believes it, and one host's login.
type world struct {
	t       testing.TB
	iss     *issuertest.Issuer
	manager *account.Manager
	url     string
	home    string
	log     *lines

	mu       sync.Mutex
	requests []*http.Request
	block    chan struct{} // when set, requests wait until it is closed
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, log: new(lines), home: t.TempDir()}
	srv := httptest.NewServer(w)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.iss = issuertest.New(issuertest.Options{URL: srv.URL, Canary: canary, DeviceInterval: time.Second})
	w.manager = w.login(w.home)
	return w
}

// login opens the login a home holds, as another program on the host would too.
func (w *world) login(home string) *account.Manager {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store, err := secret.Open(secret.Options{
		CodexHome: home, Kind: secret.KindFile, StateDir: filepath.Join(home, "state"), Log: log,
		Environ: func(string) string { return "" },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := account.New(account.Config{
		Store: store, Issuer: account.Issuer{URL: w.url}, Log: log, AuthAPI: w.url,
		RefreshURL: w.url + "/oauth/token", RevokeURL: w.url + "/oauth/revoke",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(m.Close)
	return m
}

// ServeHTTP is the issuer, and the model for bearers it knows.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/responses") {
		w.iss.ServeHTTP(rw, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.mu.Lock()
	w.requests = append(w.requests, r)
	block := w.block
	w.mu.Unlock()
	if block != nil {
		<-block
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !w.iss.Valid(token) && !strings.HasPrefix(token, "sk-good") {
		rw.WriteHeader(http.StatusUnauthorized)
		// Endpoints echo what they were sent.
		_, _ = fmt.Fprintf(rw, `{"error":{"message":"token %s is bad","code":"token_expired"}}`, token)
		return
	}
	rw.Header().Set("content-type", "text/event-stream")
	_, _ = io.WriteString(rw, `data: {"type":"response.output_item.done","item":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"done"}]}}

data: {"type":"response.completed","response":{"id":"r1"}}

`)
}

// sent lists the requests to the model, oldest first.
func (w *world) sent() []*http.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*http.Request(nil), w.requests...)
}

// freePorts are two that nobody listens on.
func freePorts(t testing.TB) []int {
	t.Helper()
	var ports []int
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		defer func() { _ = l.Close() }()
	}
	return ports
}

// host starts an engine that works with the world's login.
func (w *world) host(change func(*native.Config)) *host {
	w.t.Helper()
	return start(w.t, func(c *native.Config) {
		c.Accounts, c.NeedsLogin, c.ChatGPTOrigin, c.LoginPorts = w.manager, true, w.url, freePorts(w.t)
		c.Log = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Streamer = model.New(model.Config{Auth: w.manager, AccountURL: w.url + "/backend-api/codex", Log: c.Log})
		c.Models = []native.Model{{ID: rehearsal.Slug, ContextWindow: 200_000}}
		if change != nil {
			change(c)
		}
	})
}

// deviceLogin logs in with a device code, from c.
func (w *world) deviceLogin(c *client) {
	w.t.Helper()
	from := c.mark()
	code := protocol.StringField(c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginDevice}), "userCode")
	if !w.iss.EnterCode(code, true) {
		w.t.Fatalf("the issuer does not know the code %q", code)
	}
	n := c.method(from, protocol.AccountCompleted)
	if string(protocol.Field(n.Params, "success")) != "true" {
		w.t.Fatalf("login: %s", n.Params)
	}
	c.method(from, protocol.AccountUpdated)
}

// noSecrets looks for the canary where it must not be.
func (w *world) noSecrets(clients ...*client) {
	w.t.Helper()
	if i := strings.Index(w.log.String(), canary); i >= 0 {
		s := w.log.String()
		w.t.Errorf("the log holds a secret: …%s…", s[max(0, i-200):min(len(s), i+80)])
	}
	for _, c := range clients {
		c.mu.Lock()
		for _, n := range c.notes {
			if strings.Contains(string(n.Params), canary) {
				w.t.Errorf("%s holds a secret: %s", n.Method, n.Params)
			}
		}
		c.mu.Unlock()
	}
}

func TestRequestsCarryTheLogin(t *testing.T) {
	w := newWorld(t)
	h := w.host(nil)
	c := h.connect()
	w.deviceLogin(c)
	id := c.begin(nil)
	if turn := c.finish(c.say(id, "hi")); turn.Status != protocol.TurnCompleted {
		t.Fatalf("turn: %+v", turn)
	}
	sent := w.sent()
	r := sent[len(sent)-1]
	if r.URL.Path != "/backend-api/codex/responses" || r.Header.Get("ChatGPT-Account-Id") != "acct-tow" ||
		r.Header.Get("originator") == "" || r.Header.Get("thread-id") != string(id) {
		t.Errorf("the request went to %s with %v", r.URL.Path, r.Header)
	}
	// The token stops working though it does not say so: one refresh, one more try.
	w.iss.ExpireAccess()
	if turn := c.finish(c.say(id, "again")); turn.Status != protocol.TurnCompleted {
		t.Fatalf("after a 401: %+v", turn)
	}
	if n := w.iss.Rotated(); n != 1 {
		t.Errorf("refreshed %d times", n)
	}
	if n := len(w.sent()) - len(sent); n != 2 {
		t.Errorf("%d requests for one turn", n)
	}
	w.noSecrets(c)
}

func TestAPIKeyGoesToItsOwnEndpoint(t *testing.T) {
	w := newWorld(t)
	h := w.host(func(c *native.Config) {
		c.Streamer = model.New(model.Config{Auth: w.manager, BaseURL: w.url + "/v1"})
	})
	c := h.connect()
	c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginAPIKey, "apiKey": "sk-good" + canary})
	if turn := c.finish(c.say(c.begin(nil), "hi")); turn.Status != protocol.TurnCompleted {
		t.Fatalf("turn: %+v", turn)
	}
	r := w.sent()[0]
	if r.Header.Get("Authorization") != "Bearer sk-good"+canary || r.Header.Get("ChatGPT-Account-Id") != "" || r.Header.Get("originator") != "" {
		t.Errorf("sent %v", r.Header)
	}
	w.noSecrets(c)
}

// ux 52: the login runs out on an unattended host, and work is paused, not lost.
func TestTurnWaitsForALogin(t *testing.T) {
	for name, login := range map[string]func(w *world, c *client){
		"from another client": func(w *world, c *client) { w.deviceLogin(c) },
		"by another program on the host": func(w *world, _ *client) {
			other := w.login(w.home)
			if _, err := other.Device(t.Context(), func(d account.DeviceCode) { w.iss.EnterCode(d.Code, true) }); err != nil {
				t.Error(err)
			}
		},
		"with a key": func(_ *world, c *client) {
			c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginAPIKey, "apiKey": "sk-good"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host(func(c *native.Config) {
				c.Streamer = model.New(model.Config{Auth: w.manager, BaseURL: w.url + "/v1"})
			})
			c := h.connect()
			w.deviceLogin(c)
			id := c.begin(nil)
			w.iss.RevokeAll()
			from := c.mark()
			turn := c.say(id, "hi")
			warning := c.method(from, "warning")
			if s := string(warning.Params); !strings.Contains(s, "login has expired") || !strings.Contains(s, "towline login") {
				t.Errorf("told %s", s)
			}
			note := c.method(from, "error")
			if string(protocol.Field(note.Params, "willRetry")) != "true" {
				t.Errorf("told %s", note.Params)
			}
			if n := c.method(from, protocol.AccountUpdated); string(protocol.Field(n.Params, "authMode")) != "null" {
				t.Errorf("account/updated %s", n.Params)
			}
			if raw := c.call(protocol.AccountRead, map[string]any{}); string(protocol.Field(raw, "account")) != "null" || string(protocol.Field(raw, "requiresOpenaiAuth")) != "true" {
				t.Errorf("account/read %s", raw)
			}
			late := h.connect()
			raw := late.call("thread/resume", map[string]any{"threadId": id})
			if !strings.Contains(string(raw), protocol.FlagWaitingOnUserInput) {
				t.Errorf("the thread's status does not say that it waits: %s", raw)
			}
			late.method(0, "warning") // who comes meanwhile is told
			login(w, late)
			if done := c.finish(turn); done.Status != protocol.TurnCompleted {
				t.Fatalf("the turn ended as %+v", done)
			}
			if n := w.iss.Reused(); n != 0 {
				t.Errorf("a used refresh token was tried %d times", n)
			}
			w.noSecrets(c, late)
		})
	}
}

func TestWaitingTurnCanBeInterrupted(t *testing.T) {
	w := newWorld(t)
	c := w.host(nil).connect()
	id := c.begin(nil)
	turn := c.say(id, "hi") // nobody has ever logged in
	c.method(0, "warning")
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": turn})
	if done := c.finish(turn); done.Status != protocol.TurnInterrupted {
		t.Fatalf("the turn ended as %+v", done)
	}
}

func TestWaitingForALoginEnds(t *testing.T) {
	w := newWorld(t)
	c := w.host(func(c *native.Config) { c.LoginWait = 30 * time.Millisecond }).connect()
	done := c.finish(c.say(c.begin(nil), "hi"))
	if done.Status != protocol.TurnFailed || !strings.Contains(done.Error.Message, "not logged in") || !strings.Contains(done.Error.Message, "nobody logged in within 30ms") {
		t.Fatalf("the turn ended as %+v, %+v", done, done.Error)
	}
	if string(done.Error.CodexErrorInfo) != `"unauthorized"` {
		t.Errorf("its error is of the kind %s", done.Error.CodexErrorInfo)
	}
}

func TestLoginsReplaceEachOther(t *testing.T) {
	w := newWorld(t)
	h := w.host(nil)
	c, other := h.connect(), h.connect()
	first := c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginBrowser})
	if url := protocol.StringField(first, "authUrl"); !strings.HasPrefix(url, w.url+"/oauth/authorize?") {
		t.Fatalf("the URL is %q", url)
	}
	failed := func(from int, raw json.RawMessage, text string) {
		t.Helper()
		n := other.wait(from, "the end of a login", func(n note) bool {
			return n.Method == protocol.AccountCompleted && protocol.StringField(n.Params, "loginId") == protocol.StringField(raw, "loginId")
		})
		if got := protocol.StringField(n.Params, "error"); got != text {
			t.Errorf("it ended with %q, want %q", got, text)
		}
	}
	second := other.call(protocol.AccountStart, map[string]any{"type": protocol.LoginBrowser})
	failed(0, first, "Login server error: Login cancelled")
	if raw := c.call(protocol.AccountCancel, map[string]any{"loginId": protocol.StringField(second, "loginId")}); protocol.StringField(raw, "status") != "canceled" {
		t.Errorf("cancel: %s", raw)
	}
	failed(0, second, "Login server error: Login was not completed")
	third := c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginBrowser})
	if _, err := w.iss.Visit(t.Context(), protocol.StringField(third, "authUrl"), false); err != nil {
		t.Fatal(err)
	}
	n := other.wait(0, "the end of the third", func(n note) bool {
		return n.Method == protocol.AccountCompleted && protocol.StringField(n.Params, "loginId") == protocol.StringField(third, "loginId")
	})
	if got := protocol.StringField(n.Params, "error"); !strings.HasPrefix(got, "Login server error: Sign-in failed: ") {
		t.Errorf("a denied login ended with %q", got)
	}
	from := other.mark()
	fourth := c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginBrowser})
	if _, err := w.iss.Visit(t.Context(), protocol.StringField(fourth, "authUrl"), true); err != nil {
		t.Fatal(err)
	}
	other.method(from, protocol.AccountUpdated)
	if raw := other.call(protocol.AccountRead, map[string]any{}); protocol.StringField(protocol.Field(raw, "account"), "email") != "grace@example.com" {
		t.Errorf("account/read %s", raw)
	}
	c.call(protocol.AccountLogout, nil)
	if _, err := os.Stat(filepath.Join(w.home, "auth.json")); err == nil {
		t.Error("logged out, and auth.json is still there")
	}
	w.noSecrets(c, other)
}

// What is lent is above the host's own login, lasts as long as its lender, and is
// asked for where it came from.
func TestLoan(t *testing.T) {
	w := newWorld(t)
	h := w.host(nil)
	own := h.connect()
	w.deviceLogin(own)
	before, err := os.ReadFile(filepath.Join(w.home, "auth.json"))
	if err != nil {
		t.Fatal(err)
	}
	lender := h.connect()
	u := issuertest.User{Email: "ann@example.com", Subject: "user-ann", AccountID: "acct-ann", Plan: "plus"}
	lend := func(tk issuertest.Tokens) map[string]any {
		return map[string]any{"type": protocol.LoginLend, "accessToken": tk.Access, "chatgptAccountId": tk.AccountID}
	}
	from := own.mark()
	lender.call(protocol.AccountStart, lend(w.iss.Login(u)))
	if n := own.method(from, protocol.AccountUpdated); protocol.StringField(n.Params, "authMode") != protocol.AuthModeLent {
		t.Errorf("account/updated %s", n.Params)
	}
	own.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginDevice}, "External auth is active")
	id := own.begin(nil)
	if turn := own.finish(own.say(id, "hi")); turn.Status != protocol.TurnCompleted {
		t.Fatalf("turn: %+v", turn)
	}
	if r := w.sent()[0]; r.Header.Get("ChatGPT-Account-Id") != "acct-ann" {
		t.Errorf("the host's own account was used: %v", r.Header)
	}

	// 401: the lender is asked, and nobody else.
	w.iss.ExpireAccess()
	from = lender.mark()
	turn := own.say(id, "again")
	ask := lender.method(from, protocol.ReqTokensRefresh)
	if string(ask.Params) != `{"reason":"unauthorized","previousAccountId":"acct-ann"}` {
		t.Errorf("asked with %s", ask.Params)
	}
	fresh := w.iss.Login(u)
	lender.reply(ask, map[string]any{"accessToken": fresh.Access, "chatgptAccountId": "acct-ann", "chatgptPlanType": nil})
	if done := own.finish(turn); done.Status != protocol.TurnCompleted {
		t.Fatalf("turn: %+v", done)
	}
	own.mu.Lock()
	for _, n := range own.notes {
		if n.Method == protocol.ReqTokensRefresh {
			t.Error("somebody else was asked for a token")
		}
	}
	own.mu.Unlock()

	from = own.mark()
	lender.close()
	if n := own.method(from, protocol.AccountUpdated); protocol.StringField(n.Params, "authMode") != "chatgpt" {
		t.Errorf("the lender left: %s", n.Params)
	}
	after, err := os.ReadFile(filepath.Join(w.home, "auth.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's own login changed (err %v)", err)
	}

	// Taken back by anyone, and the host's own is still there.
	again := h.connect()
	again.call(protocol.AccountStart, lend(fresh))
	own.call(protocol.AccountLogout, nil)
	if raw := own.call(protocol.AuthStatus, map[string]any{"includeToken": true}); protocol.StringField(raw, "authMethod") != "chatgpt" || string(protocol.Field(raw, "authToken")) != "null" {
		t.Errorf("getAuthStatus %s", raw)
	}
	w.noSecrets(own, lender, again)
}

// A lender that leaves in the middle of a turn pauses it; whoever lends or logs in
// next lets it go on.
func TestTurnOutlivesItsLender(t *testing.T) {
	w := newWorld(t)
	h := w.host(nil)
	lend := func(c *client) {
		tk := w.iss.Login(issuertest.User{})
		c.call(protocol.AccountStart, map[string]any{"type": protocol.LoginLend, "accessToken": tk.Access, "chatgptAccountId": tk.AccountID})
	}
	lender, c := h.connect(), h.connect()
	lend(lender)
	id := c.begin(nil)
	w.iss.ExpireAccess()
	from := lender.mark()
	turn := c.say(id, "hi")
	lender.method(from, protocol.ReqTokensRefresh)
	lender.close()
	c.method(0, "warning")
	lend(h.connect())
	if done := c.finish(turn); done.Status != protocol.TurnCompleted {
		t.Fatalf("the turn ended as %+v", done)
	}
}

func TestLoginsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.host(nil).connect()
	plain := w.host(nil).dial()
	plain.call("initialize", map[string]any{"clientInfo": map[string]any{"name": "t", "version": "1"}})
	tk := w.iss.Login(issuertest.User{})
	plain.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginLend, "accessToken": tk.Access, "chatgptAccountId": "a"},
		"account/login/start.chatgptAuthTokens requires experimentalApi capability")
	c.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginLend, "accessToken": "nonsense", "chatgptAccountId": "a"}, "invalid ID token format")
	c.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginLend, "accessToken": tk.Access}, "missing field `chatgptAccountId`")
	c.refused(protocol.AccountStart, map[string]any{"type": "zzz"}, "unknown variant `zzz`, expected one of `apiKey`, `chatgpt`")
	c.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginAPIKey}, "missing field `apiKey`")
	w.iss.Down(true)
	c.refused(protocol.AccountStart, map[string]any{"type": protocol.LoginDevice}, "")
	w.iss.Down(false)
	w.noSecrets(c, plain)
}

// A host that stops in the middle of a login leaves no port and no goroutine.
func TestStopInTheMiddleOfALogin(t *testing.T) {
	w := newWorld(t)
	ports := freePorts(t)
	h := w.host(func(c *native.Config) { c.LoginPorts = ports })
	h.connect().call(protocol.AccountStart, map[string]any{"type": protocol.LoginBrowser})
	h.stop()
	for _, p := range ports {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			t.Errorf("port %d is still taken: %v", p, err)
			continue
		}
		_ = l.Close()
	}
}
