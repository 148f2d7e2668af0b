package lend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// laptop is a login of this machine.
type laptop struct {
	mu        sync.Mutex
	n         int // of the token
	err       error
	refreshed int
	expires   time.Time
	changed   chan struct{}
	hold      chan struct{} // when not nil, a refresh waits for it
	account   string
}

func newLaptop() *laptop {
	return &laptop{n: 1, account: "acct", changed: make(chan struct{})}
}

func (l *laptop) tokens() Tokens {
	return Tokens{AccessToken: fmt.Sprintf("canary-%d", l.n), AccountID: l.account, Plan: "pro", Account: "ann@example.com", Expires: l.expires}
}

func (l *laptop) Token(context.Context) (Tokens, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tokens(), l.err
}

func (l *laptop) Refresh(ctx context.Context, rejected Tokens) (Tokens, error) {
	if l.hold != nil {
		select {
		case <-l.hold:
		case <-ctx.Done():
			return Tokens{}, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return Tokens{}, l.err
	}
	if rejected.AccessToken == l.tokens().AccessToken {
		l.n++
		l.refreshed++
	}
	return l.tokens(), nil
}

func (l *laptop) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *laptop) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// host is an app-server as far as accounts go.
type host struct {
	t *testing.T

	mu      sync.Mutex
	token   string // "" when nobody is logged in
	logins  int
	methods []string
	peers   []*rpc.Peer
	refuse  *protocol.Error // of account/login/start
	fails   string          // of account/login/completed
	needs   bool
	changed chan struct{}
	wg      sync.WaitGroup
}

func newHost(t *testing.T) *host {
	h := &host{t: t, needs: true, changed: make(chan struct{})}
	t.Cleanup(func() {
		h.cut()
		h.wg.Wait()
	})
	return h
}

func (h *host) Dial(context.Context) (rpc.Stream, error) {
	near, far := rpc.Pipe(64)
	p := rpc.NewPeer(far, deaf{})
	p = rpc.NewPeer(far, serverEnd{h, func() *rpc.Peer { return p }})
	h.mu.Lock()
	h.peers = append(h.peers, p)
	h.mu.Unlock()
	h.wg.Go(func() { _ = p.Serve(context.WithoutCancel(h.t.Context())) })
	return near, nil
}

type deaf struct{}

func (deaf) Request(context.Context, *rpc.Request)                 {}
func (deaf) Notification(context.Context, string, json.RawMessage) {}

func (h *host) cut() {
	h.mu.Lock()
	peers := h.peers
	h.peers = nil
	h.mu.Unlock()
	for _, p := range peers {
		p.Close(errors.New("cut"))
	}
}

func (h *host) peer() *rpc.Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers[len(h.peers)-1]
}

// until waits for something that a message changes.
func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		yes, changed := ok(), h.changed
		h.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			h.t.Fatalf("never: %s", what)
		}
	}
}

// ask asks for another token.
func (h *host) ask() (token string, err error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return h.askOn(ctx, h.peer())
}

func (h *host) askOn(ctx context.Context, p *rpc.Peer) (token string, err error) {
	var got struct {
		AccessToken string  `json:"accessToken"`
		AccountID   string  `json:"chatgptAccountId"`
		Plan        *string `json:"chatgptPlanType"`
	}
	err = p.Call(ctx, methodRefresh, map[string]any{"reason": "unauthorized", "previousAccountId": "acct"}, &got)
	if err == nil && (got.AccountID != "acct" || got.Plan == nil || *got.Plan != "pro") {
		err = fmt.Errorf("the answer is %+v", got)
	}
	return got.AccessToken, err
}

type serverEnd struct {
	h    *host
	peer func() *rpc.Peer
}

func (s serverEnd) Notification(_ context.Context, method string, _ json.RawMessage) {
	s.note(method)
}

func (s serverEnd) note(method string) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.methods = append(s.h.methods, method)
}

// has is the token the host works with.
func (h *host) has() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.token
}

func (h *host) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.methods...)
}

func (s serverEnd) Request(_ context.Context, r *rpc.Request) {
	h := s.h
	s.note(r.Method)
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		close(h.changed)
		h.changed = make(chan struct{})
	}()
	switch r.Method {
	case "account/read":
		r.Reply(map[string]any{"account": nil, "requiresOpenaiAuth": h.needs})
	case "account/login/start":
		var p struct{ Type, AccessToken, ChatgptAccountID string }
		_ = json.Unmarshal(r.Params, &p)
		if h.refuse != nil {
			r.Fail(h.refuse)
			return
		}
		r.Reply(map[string]any{"type": p.Type})
		done := map[string]any{"loginId": nil, "success": h.fails == "", "error": nil}
		if h.fails != "" {
			done["error"] = h.fails
		} else {
			h.token = p.AccessToken
			h.logins++
		}
		_ = s.peer().Notify("account/login/completed", done)
	case "account/logout":
		h.token = ""
		r.Reply(nil)
	case "echo":
		r.Reply(map[string]any{"token": h.token})
	default:
		r.Reply(nil)
	}
}

func open(t *testing.T, h *host, l *laptop, events func(State)) (*Loan, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	loan, err := Open(ctx, Config{Host: "dev", Source: l, Dial: h.Dial, Events: events})
	if err == nil {
		t.Cleanup(func() { _ = loan.Close() })
	}
	return loan, err
}

func TestLentAndTakenBack(t *testing.T) {
	h, l := newHost(t), newLaptop()
	loan, err := open(t, h, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h.has() != "canary-1" {
		t.Errorf("the host has %q", h.has())
	}
	if st := loan.State(); !st.Lent || st.Account != "ann@example.com" || st.Err != nil {
		t.Errorf("the state is %+v", st)
	}
	_ = loan.Close()
	if h.has() != "" {
		t.Error("the host has a token after the laptop left")
	}
	if got := strings.Join(h.said(), " "); got != "initialize initialized account/read account/login/start account/logout" {
		t.Errorf("said %s", got)
	}
}

func TestRefreshStormUsesOneToken(t *testing.T) {
	h, l := newHost(t), newLaptop()
	l.hold = make(chan struct{})
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var bad atomic.Int64
	for range 50 {
		wg.Go(func() {
			if tok, err := h.ask(); err != nil || tok != "canary-2" {
				t.Errorf("got %q, %v", tok, err)
				bad.Add(1)
			}
		})
	}
	close(l.hold)
	wg.Wait()
	if l.refreshed != 1 {
		t.Errorf("refreshed %d times", l.refreshed)
	}
}

func TestAHostThatAsksForEver(t *testing.T) {
	h, l := newHost(t), newLaptop()
	loan, err := open(t, h, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := loan.desk
	d.mu.Lock()
	now := time.Now()
	d.clock = func() time.Time { return now } // guarded by mu, as its callers are
	d.mu.Unlock()
	var last error
	for range 50 {
		_, last = h.ask()
		d.mu.Lock()
		now = now.Add(fresh)
		d.mu.Unlock()
	}
	if last == nil || !strings.Contains(last.Error(), "too often") {
		t.Errorf("the last was answered %v", last)
	}
	if most := refreshes + int(50*fresh/refreshEvery); l.refreshed > most {
		t.Errorf("the login was refreshed %d times in 250 s", l.refreshed)
	}
}

func TestAnotherAccountIsNotAnswered(t *testing.T) {
	h, l := newHost(t), newLaptop()
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	var got json.RawMessage
	err := h.peer().Call(t.Context(), methodRefresh, map[string]any{"reason": "unauthorized", "previousAccountId": "other"}, &got)
	if err == nil || l.refreshed != 0 {
		t.Errorf("answered %s after %d refreshes", got, l.refreshed)
	}
}

func TestARefreshThatFailsSaysSoWithoutTheToken(t *testing.T) {
	h, l := newHost(t), newLaptop()
	events := make(chan State, 16)
	if _, err := open(t, h, l, func(s State) { events <- s }); err != nil {
		t.Fatal(err)
	}
	l.change(func() { l.err = &config.Problem{Stage: "refresh", Err: errors.New("the issuer is away\x1b[2J")} })
	_, err := h.ask()
	if err == nil || !strings.Contains(err.Error(), "the issuer is away") || strings.ContainsAny(err.Error(), "\x1b") || strings.Contains(err.Error(), "canary") {
		t.Errorf("answered %v", err)
	}
	for {
		select {
		case s := <-events:
			if s.Err == nil {
				continue
			}
			var p *config.Problem
			if !errors.As(s.Err, &p) || p.Stage != Stage || !s.Lent {
				t.Errorf("told %+v", s)
			}
		case <-time.After(patience):
			t.Error("nobody was told")
		}
		break
	}
}

func TestALoginThatEndsHereEndsThere(t *testing.T) {
	h, l := newHost(t), newLaptop()
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	l.change(func() { l.err = ErrNoLogin })
	h.until("the host has no token", func() bool { return h.token == "" })
}

// Whoever logs in as somebody else here has not said that this one may be lent.
func TestSecurityAnotherLoginHereIsNotLent(t *testing.T) {
	h, l := newHost(t), newLaptop()
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	l.change(func() { l.n, l.account = 7, "acct-of-somebody-else" })
	h.until("the host has no token", func() bool {
		if h.token == "canary-7" {
			t.Error("the other account's token was lent")
		}
		return h.token == ""
	})
}

func TestTheNextTokenIsThereBeforeItIsNeeded(t *testing.T) {
	h, l := newHost(t), newLaptop()
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	l.change(func() { l.n = 7 })
	h.until("the host has the new token", func() bool { return h.token == "canary-7" })
}

func TestALostConnectionIsMadeAnew(t *testing.T) {
	h, l := newHost(t), newLaptop()
	loan, err := open(t, h, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.token = ""
	h.mu.Unlock()
	h.cut()
	h.until("the host is lent to again", func() bool { return h.token == "canary-1" && h.logins == 2 })
	_ = loan.Close()
	if h.has() != "" {
		t.Error("the host has a token after the laptop left")
	}
}

func TestWhoWasReplacedTakesNothingBack(t *testing.T) {
	h, l := newHost(t), newLaptop()
	events := make(chan State, 16)
	loan, err := open(t, h, l, func(s State) { events <- s })
	if err != nil {
		t.Fatal(err)
	}
	<-events
	h.mu.Lock()
	h.token = "somebody else's"
	h.mu.Unlock()
	_ = h.peer().Notify("account/login/completed", map[string]any{"loginId": nil, "success": true, "error": nil})
	if st := <-events; st.Lent || st.Err == nil || !strings.Contains(st.Err.Error(), "took the place") {
		t.Errorf("told %+v", st)
	}
	l.change(func() { l.n = 9 })
	_ = loan.Close()
	if got := h.has(); got != "somebody else's" {
		t.Errorf("the host has %q", got)
	}
}

func TestTheLinkIsCutInTheMiddleOfARefresh(t *testing.T) {
	h, l := newHost(t), newLaptop()
	l.hold = make(chan struct{})
	if _, err := open(t, h, l, nil); err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	p := h.peer()
	go func() {
		_, err := h.askOn(t.Context(), p)
		asked <- err
	}()
	h.cut()
	if err := <-asked; err == nil {
		t.Error("a cut connection answered")
	}
	close(l.hold)
	h.until("the host is lent to again", func() bool { return h.logins == 2 })
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(*host, *laptop)
		want string
		hint string
	}{
		"no login here":   {func(_ *host, l *laptop) { l.err = ErrNoLogin }, "no login to lend", ""},
		"nothing to lend": {func(_ *host, l *laptop) { l.n = 0; l.err = fmt.Errorf("%w: an API key", ErrNoLogin) }, "an API key", ""},
		"no need of one":  {func(h *host, _ *laptop) { h.needs = false }, "needs no ChatGPT login", "connect without it"},
		"a login of its own": {func(h *host, _ *laptop) {
			h.refuse = &protocol.Error{Code: -32600, Message: "this host has a login of its own (apikey)"}
		}, "login of its own", "credentials status"},
		"not able":            {func(h *host, _ *laptop) { h.refuse = &protocol.Error{Code: -32601, Message: "no such method"} }, "no such method", "--install"},
		"the backend says no": {func(h *host, _ *laptop) { h.fails = "selected workspace missing\x1b]0;x\x07" }, "selected workspace missing]0;x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, l := newHost(t), newLaptop()
			tc.set(h, l)
			_, err := open(t, h, l, nil)
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != Stage || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "canary") {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(strings.Join(config.Hints(err), "\n"), tc.hint) {
				t.Errorf("advised %q", config.Hints(err))
			}
			if h.has() != "" {
				t.Error("the host got a token nevertheless")
			}
		})
	}
}

func TestNothingPrintsAToken(t *testing.T) {
	tok := newLaptop().tokens()
	enc, _ := json.Marshal(tok)
	if s := fmt.Sprintf("%v %+v %#v %s %s", tok, tok, tok, tok, enc); strings.Contains(s, "canary") {
		t.Errorf("printed %s", s)
	}
}

// client is a client of a stream that it shares with a lender.
func client(t *testing.T, s rpc.Stream) *rpc.Peer {
	p := rpc.NewPeer(s, deaf{})
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Serve(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() { p.Close(nil); _ = s.Close(nil); <-done })
	return p
}

func TestBesideAClientOnOneStream(t *testing.T) {
	h, l := newHost(t), newLaptop()
	raw, _ := h.Dial(t.Context())
	s, err := Beside(t.Context(), Config{Host: "dev", Source: l}, raw)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Call(ctx, "initialize", map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
	_ = c.Notify("initialized", nil)
	// What the client asks first already finds the login.
	var got struct{ Token string }
	if err := c.Call(ctx, "echo", nil, &got); err != nil || got.Token != "canary-1" {
		t.Fatalf("the first question met %q, %v", got.Token, err)
	}
	if tok, err := h.ask(); err != nil || tok != "canary-2" {
		t.Errorf("refreshed to %q, %v", tok, err)
	}
	for i := range 20 {
		if err := c.Call(ctx, "echo", nil, &got); err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
	}
	if got := strings.Join(h.said()[:5], " "); got != "initialize initialized account/read account/login/start echo" {
		t.Errorf("said %s", got)
	}
}

func TestBesideAClientAFailedLoginHoldsNothingUp(t *testing.T) {
	h, l := newHost(t), newLaptop()
	h.refuse = &protocol.Error{Code: -32600, Message: "no"}
	raw, _ := h.Dial(t.Context())
	events := make(chan State, 16)
	s, err := Beside(t.Context(), Config{Host: "dev", Source: l, Events: func(s State) { events <- s }}, raw)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_ = c.Call(ctx, "initialize", map[string]any{}, nil)
	_ = c.Notify("initialized", nil)
	if err := c.Call(ctx, "echo", nil, nil); err != nil {
		t.Error(err)
	}
	if st := <-events; st.Err == nil || st.Lent {
		t.Errorf("told %+v", st)
	}
}
