package integration

import (
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// userCode is a device code of issuertest's.
const userCode = `\b[A-Z0-9]{4}-[A-Z0-9]{4,5}\b`

// loginHere logs the laptop in with the issuer of the office, with a code.
func (f *office) loginHere(t *testing.T) {
	t.Helper()
	p := begin(t, f.laptop, "login", "--device-auth")
	if code := p.out.find(t, userCode); !f.issuer.EnterCode(code, true) {
		t.Fatalf("the issuer does not know the code %q", code)
	}
	p.succeeds(t, "grace@example.com")
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
	answers := len(f.issuer.Bearers())
	say(term, "say it goes on")
	peer.Eventually(t, "another answer of the model", func() bool { return len(f.issuer.Bearers()) > answers })
	term.WaitGone("● working")

	f.issuer.RevokeAll()
	say(term, "say it was worth waiting for")
	term.Wait("login expired")
	again := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 2))
	again.Wait("[exit 0]")
	term.WaitGone("login expired")
	peer.Eventually(t, "the work that waited", func() bool {
		return strings.Count(term.Scrollback(), "it was worth waiting for") >= 2 // asked, and answered
	})
	term.WaitGone("● working")
	quit(term)

	seen := map[string]bool{}
	for _, b := range f.issuer.Bearers() {
		seen[b] = true
	}
	if len(seen) != 3 {
		t.Errorf("the model was asked with %d tokens", len(seen))
	}
	audit := f.user.Read(".local/state/towline/audit.jsonl")
	for _, event := range []string{"credential.refresh", "credential.expired"} {
		if !strings.Contains(audit, `"event":"`+event+`","via":"daemon"`) {
			t.Errorf("the daemon's audit has no %s:\n%s", event, audit)
		}
	}
	if again := f.issuer.Reused(); again != 0 {
		t.Errorf("a used refresh token came back %d times", again)
	}
}
