package integration

import (
	"encoding/json"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// report is what `credentials status --json` says, as far as it is looked at here.
type report struct {
	LoggedIn bool
	Login    *struct{ Mode, Email, Fingerprint string }
	Places   []struct {
		Kind, Path string
		Used       bool
	}
}

func credentialsStatus(t *testing.T, l *peer.Laptop, args ...string) report {
	t.Helper()
	res := l.Towline(append([]string{"credentials", "status", "--json"}, args...)...)
	var r report
	if err := json.Unmarshal([]byte(res.Stdout), &r); err != nil {
		t.Fatalf("credentials status %q said %q, %v\n%s", args, res.Stdout, err, res.Stderr)
	}
	return r
}

// loginHere logs the laptop in with the issuer of the office, with a code.
func (f *office) loginHere(t *testing.T) {
	t.Helper()
	p := begin(t, f.laptop, "login", "--device-auth")
	if code := p.out.find(t, userCode); !f.issuer.EnterCode(code, true) {
		t.Fatalf("the issuer does not know the code %q", code)
	}
	p.succeeds(t, "grace@example.com")
}

// userCode is a device code of issuertest's.
const userCode = `\b[A-Z0-9]{4}-[A-Z0-9]{4,5}\b`

// An API key goes to a host with a stock Codex, which then has it: the
// fingerprints of both ends are one.
func TestPutAnAPIKeyOnAHost(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{NoForwarding: true}, issuertest.Options{})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	c := peer.Codexes(t)[0]
	s := &session{Laptop: f.laptop}
	const key = "sk-towline-0123456789abcdef"
	if out, err := s.with(t, key+"\n", peer.Binary(t), "login", "--with-api-key"); err != nil {
		t.Fatalf("login: %v\n%s", err, out)
	}
	if r := f.laptop.Towline("credentials", "put", "dev"); r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, "auth.json") {
		t.Fatalf("put ended with %+v", r)
	}
	here, there := credentialsStatus(t, f.laptop), credentialsStatus(t, f.laptop, "dev")
	if !there.LoggedIn || there.Login.Fingerprint != here.Login.Fingerprint {
		t.Errorf("here %+v, there %+v", here.Login, there.Login)
	}
	if out, err := codexSays(t, f.user, c.Bin, "login", "status"); err != nil || !strings.Contains(out, "API key") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
	private(t, f.user)
}

// A ChatGPT login is never in two places: put refuses and says what to do
// instead, and a move ends with one holder, who can go on with it.
func TestChatGPTLoginHasOneHolder(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{NoForwarding: true}, issuertest.Options{})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	f.loginHere(t)
	r := f.laptop.Towline("credentials", "put", "dev")
	if r.Code == 0 {
		t.Errorf("put copied it: %+v", r)
	}
	for _, want := range []string{"towline login dev", "credentials move dev", "--lend-credentials"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("the refusal does not offer %q:\n%s", want, r.Stderr)
		}
	}
	if there := credentialsStatus(t, f.laptop, "dev"); there.LoggedIn {
		t.Errorf("the host is logged in: %+v", there)
	}

	if r := f.laptop.Towline("credentials", "move", "dev"); r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, "acct-tow") {
		t.Fatalf("move ended with %+v", r)
	}
	if here := credentialsStatus(t, f.laptop); here.LoggedIn || len(here.Places) > 0 {
		t.Errorf("it is still here: %+v", here)
	}
	if there := credentialsStatus(t, f.laptop, "dev"); !there.LoggedIn || there.Login.Email != "grace@example.com" {
		t.Errorf("it is not there: %+v", there)
	}
	c := peer.Codexes(t)[0]
	if out, err := codexSays(t, f.user, c.Bin, "login", "status"); err != nil || !strings.Contains(out, "Logged in using ChatGPT") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
	if again := f.issuer.Reused(); again != 0 {
		t.Errorf("a used refresh token came back %d times", again)
	}
}

// A host works with the login that was made from the laptop. When the login ends,
// the work waits; logged in again from the laptop, it goes on, and nothing was
// lost.
func TestWorkWaitsForALogin(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{})
	f.issuer.ServeModel()
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	f.user.Write(".config/towline/config.toml", "[engine]\nkind = \"native\"\n[engine.native]\nmodel = \"gpt-5.5\"\n", 0o600)
	f.user.Mkdir("src/shop")
	login := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 1))
	login.Wait("[exit 0]")

	term := f.laptop.OpenTowline(120, 30, "dev", "--project", f.user.Path("src/shop"))
	term.Wait("? help")
	hello(term)

	// The token alone is rejected: one refresh, and nobody notices.
	f.issuer.ExpireAccess()
	say(term, "say it goes on")
	term.Wait("it goes on")
	term.WaitGone("● working")

	f.issuer.RevokeAll()
	say(term, "say it was worth waiting for")
	term.Wait("login expired")
	again := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 2))
	again.Wait("[exit 0]")
	term.WaitGone("login expired")
	term.WaitGone("● working")
	term.Wait("it was worth waiting for")
	quit(term)

	seen := map[string]bool{}
	for _, b := range f.issuer.Bearers() {
		seen[b] = true
	}
	if len(seen) != 3 {
		t.Errorf("the model was asked with %d tokens", len(seen))
	}
	if again := f.issuer.Reused(); again != 0 {
		t.Errorf("a used refresh token came back %d times", again)
	}
}
