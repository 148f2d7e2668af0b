package gate

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/config/store"
)

// canary is what no file and no other client may ever show.
const canary = "canaryhead.canarybody.canarysign"

func lendParams(token, account string) protocol.LoginStart {
	return protocol.LoginStart{Type: protocol.LoginLend, AccessToken: token, AccountID: account}
}

func isRefresh(e protocol.Envelope) bool { return e.Method == protocol.ReqTokensRefresh }

func TestOnlyTheLenderIsAsked(t *testing.T) {
	r := newRig(t, nil, true)
	other := r.join("other", protocol.RoleAdmin, true)
	lender := r.join("lender", protocol.RoleAdmin, false)
	lender.must(protocol.AccountStart, lendParams(canary, "acct-1"))
	other.note(protocol.AccountUpdated)

	q := r.e.refresh()
	ask, _ := lender.wait("the request", 0, isRefresh)
	other.must("thread/list", nil)
	if other.count(isRefresh) != 0 {
		t.Fatal("somebody who lends nothing was asked for a token")
	}
	other.reply(ask.ID, `{"accessToken":"theirs","chatgptAccountId":"acct-1"}`)
	other.send(`{"id":` + string(ask.ID) + `,"error":{"code":-32601,"message":"unknown"}}`)
	other.sync()
	if len(q.answers) != 0 {
		t.Fatalf("an answer of another client's reached the engine: %s", <-q.answers)
	}
	lender.reply(ask.ID, `{"accessToken":"next.`+canary+`","chatgptAccountId":"acct-1","more":"x"}`)
	got := <-q.answers
	var t1 protocol.RefreshedTokens
	if err := json.Unmarshal(protocol.Field(got, "result"), &t1); err != nil || t1.AccessToken != "next."+canary || strings.Contains(string(got), "more") {
		t.Fatalf("the engine got %s", got)
	}

	t.Run("secrecy", func(t *testing.T) {
		lender.sync()
		raw, err := os.ReadFile(r.audit)
		if err != nil || strings.Contains(string(raw), "canary") {
			t.Errorf("the audit file holds the token (err %v)", err)
		}
		if !strings.Contains(string(raw), `"event":"account.lend"`) {
			t.Errorf("the loan is not audited: %s", raw)
		}
		rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{})
		if err != nil || len(rows) != 0 {
			t.Errorf("%d questions stored, err %v", len(rows), err)
		}
		if other.count(func(e protocol.Envelope) bool {
			return strings.Contains(string(e.Params)+string(e.Result)+string(e.Error), "canary")
		}) != 0 {
			t.Error("another client saw the token")
		}
	})
}

func TestAnswersForAnotherAccountAreErrors(t *testing.T) {
	r := newRig(t, nil, true)
	lender := r.join("lender", protocol.RoleAdmin, false)
	lender.must(protocol.AccountStart, lendParams("a.b.c", "acct-1"))
	from := 0
	for name, answer := range map[string]string{
		"other account": `"result":{"accessToken":"x.y.z","chatgptAccountId":"acct-2"}`,
		"no token":      `"result":{"chatgptAccountId":"acct-1"}`,
		"nonsense":      `"result":[1]`,
		"an error":      `"error":{"code":-32601,"message":"` + canary + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			q := r.e.refresh()
			var ask protocol.Envelope
			ask, from = lender.wait("the request", from, isRefresh)
			lender.send(`{"id":` + string(ask.ID) + `,` + answer + `}`)
			got := string(<-q.answers)
			if !strings.Contains(got, `"error"`) || strings.Contains(got, "canary") || strings.Contains(got, "x.y.z") {
				t.Errorf("the engine got %s", got)
			}
		})
	}
}

func TestWhatIsLentIsTakenBack(t *testing.T) {
	for name, leave := range map[string]func(r *rig, lender *person){
		"the lender leaves": func(_ *rig, lender *person) { _ = lender.leave() },
		"the host stops":    func(r *rig, _ *person) { r.g.TakeBack(t.Context()) },
		"the lender leaves at once": func(r *rig, lender *person) {
			quick := dial(r.t, r.g, "quick", protocol.RoleAdmin)
			quick.must("initialize", map[string]any{"clientInfo": map[string]string{"name": "q", "version": "1"}})
			_ = lender.leave()
			quick.send(`{"id":9,"method":"account/login/start","params":{"type":"chatgptAuthTokens","accessToken":"q.q.q","chatgptAccountId":"acct-1"}}`)
			eventually(r.t, "lent", func() bool { auth, _ := r.e.account(); return auth == protocol.AuthModeLent })
			_ = quick.leave()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, true)
			other := r.join("other", protocol.RoleOperator, false)
			lender := r.join("lender", protocol.RoleAdmin, false)
			lender.must(protocol.AccountStart, lendParams(canary, "acct-1"))
			leave(r, lender)
			if auth, token := r.e.account(); auth != "" || token != "" {
				t.Errorf("the engine still has %q", auth)
			}
			other.wait("the end of the loan", 0, func(e protocol.Envelope) bool {
				return e.Method == protocol.AccountUpdated && string(protocol.Field(e.Params, "authMode")) == "null"
			})
		})
	}
}

func TestALoanThatWasReplacedIsItsSuccessors(t *testing.T) {
	r := newRig(t, nil, true)
	first := r.join("first", protocol.RoleAdmin, false)
	second := r.join("second", protocol.RoleAdmin, false)
	first.must(protocol.AccountStart, lendParams("a.a.a", "acct-1"))
	if _, err := second.call(protocol.AccountStart, lendParams("b.b.b", "acct-bad")); err == nil {
		t.Fatal("the engine took a bad token")
	}
	q := r.e.refresh()
	ask, _ := first.wait("the request", 0, isRefresh)
	first.reply(ask.ID, `{"accessToken":"c.c.c","chatgptAccountId":"acct-1"}`)
	<-q.answers
	second.must(protocol.AccountStart, lendParams("b.b.b", "acct-2"))
	_ = first.leave()
	if auth, token := r.e.account(); auth != protocol.AuthModeLent || token != "b.b.b" {
		t.Fatalf("the second loan went with the first: %q %q", auth, token)
	}
	_ = second.leave()
	if auth, _ := r.e.account(); auth != "" {
		t.Fatalf("the engine still has %q", auth)
	}
}

// What account/logout would delete is never at stake.
func TestAHostsOwnLoginIsNotLentOver(t *testing.T) {
	r := newRig(t, nil, true)
	r.e.auth = "chatgpt"
	p := r.join("p", protocol.RoleAdmin, false)
	if _, err := p.call(protocol.AccountStart, lendParams(canary, "acct-1")); err == nil || !strings.Contains(err.Error(), "a login of its own (chatgpt)") {
		t.Fatalf("lent over the host's login: %v", err)
	}
	if auth, token := r.e.account(); auth != "chatgpt" || token != "" {
		t.Fatalf("the engine has %q %q", auth, token)
	}
	_ = p.leave()
	if auth, _ := r.e.account(); auth != "chatgpt" {
		t.Fatal("the host was logged out")
	}

	t.Run("one the engine has no use for", func(t *testing.T) {
		r := newRig(t, nil, true)
		r.e.accountless = true
		p := r.join("p", protocol.RoleAdmin, false)
		if _, err := p.call(protocol.AccountStart, lendParams(canary, "acct-1")); err == nil || !strings.Contains(err.Error(), "works with no account") {
			t.Fatalf("lent to a provider that takes no account: %v", err)
		}
	})
	t.Run("one stored meanwhile", func(t *testing.T) {
		stored := false
		r := newRig(t, func(c *Config) { c.HostLogin = func() bool { return stored } }, true)
		p := r.join("p", protocol.RoleAdmin, false)
		p.must(protocol.AccountStart, lendParams(canary, "acct-1"))
		stored = true
		_ = p.leave()
		if auth, token := r.e.account(); auth != protocol.AuthModeLent || token != worthless {
			t.Fatalf("the engine has %q %q, want a worthless token and no logout", auth, token)
		}
	})
	t.Run("one the engine does not look at", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.HostLogin = func() bool { return true } }, true)
		p := r.join("p", protocol.RoleAdmin, false)
		p.must(protocol.AccountStart, lendParams(canary, "acct-1"))
		_ = p.leave()
		if auth, _ := r.e.account(); auth != "" {
			t.Fatalf("the engine has %q", auth)
		}
	})
}

func TestOnlyAdminsLend(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("p", protocol.RoleOperator, false)
	if _, err := p.call(protocol.AccountStart, lendParams(canary, "acct-1")); err == nil {
		t.Fatal("an operator lent an account")
	}
	raw, err := os.ReadFile(r.audit)
	if err != nil || strings.Contains(string(raw), "canary") {
		t.Errorf("the refusal shows the token (err %v): %s", err, raw)
	}
}

// The real thing: Codex keeps a lent token when its giver leaves, and asks
// everybody for the next one. Behind the gate it does neither.
func TestCodexLoan(t *testing.T) {
	eachCodex(t, func(t *testing.T, e *codexEngine) {
		g, _, audit, _ := startGate(t, e, t.TempDir(), nil, true)
		other := attach(t, g, "other", protocol.RoleAdmin, false)
		lender := attach(t, g, "lender", protocol.RoleAdmin, false)
		token := "eyJhbGciOiJub25lIn0." + "eyJlbWFpbCI6ImFubkBleGFtcGxlLmNvbSJ9" + ".canary"
		lender.must(protocol.AccountStart, lendParams(token, "acct-1"))
		method := func() string {
			return protocol.StringField(other.must(protocol.AuthStatus, map[string]any{}), "authMethod")
		}
		if got := method(); got != protocol.AuthModeLent {
			t.Fatalf("lent, and codex works as %q", got)
		}
		_ = lender.leave()
		if got := method(); got != "" {
			t.Fatalf("the lender left, and codex still works as %q", got)
		}
		other.must(protocol.AccountStart, protocol.LoginStart{Type: protocol.LoginAPIKey, APIKey: "sk-canary"})
		again := attach(t, g, "again", protocol.RoleAdmin, false)
		if _, err := again.call(protocol.AccountStart, lendParams(token, "acct-1")); err == nil || !strings.Contains(err.Error(), "login of its own (apikey)") {
			t.Fatalf("lent over a stored key: %v", err)
		}
		_ = again.leave()
		if got := method(); got != "apikey" {
			t.Fatalf("the host's own login is %q now", got)
		}
		if raw, err := os.ReadFile(audit); err != nil || strings.Contains(string(raw), "canary") {
			t.Errorf("the audit file holds a secret (err %v)", err)
		}
	}, "requires_openai_auth = true")
}
