package integration

import (
	"encoding/json"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// seen is what of `towline credentials status HOST --json` a script reads here.
type seen struct {
	Host, Program, CodexHome, RefreshLock string
	LoggedIn                              bool
	Login                                 *struct{ Mode, Email, AccountID, Fingerprint string }
	Store                                 struct{ Kind, From string }
	Places                                []struct {
		Kind, Path, Problem, Forbidden string
		Used, OpenToOthers             bool
	}
	Policy struct {
		Files    []string
		Mandates []struct{ Key, Value, From string }
	}
	Environment []struct{ Name, In string }
	Notes       []string
}

// look asks for the report of dev, which must not hold any of the secrets.
func (c *custodians) look(t *testing.T, secrets ...string) (seen, peer.Result) {
	t.Helper()
	r := c.with(t, "", "credentials", "status", "dev", "--json")
	var s seen
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	people := c.with(t, "", "credentials", "status", "dev")
	for _, secret := range secrets {
		for _, text := range []string{r.Stdout, r.Stderr, people.Stdout, people.Stderr} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret is told:\n%s", text)
			}
		}
	}
	if s.Host != "dev" {
		t.Errorf("it is about %q", s.Host)
	}
	return s, people
}

// What the person has on a host is told as they have it there: with the
// environment of their login shell, and without starting anything.
func TestCredentialsOfAHost(t *testing.T) {
	t.Parallel()
	c := newCustodians(t, peer.Account{Files: map[string]string{
		".profile": "echo hello\nexport OPENAI_API_KEY=sk-canary-environment CODEX_HOME=$HOME/codex-of-mine\n",
	}})
	c.room.Etc("towline/requirements.toml", "cli_auth_credentials_store = \"file\"\n")
	c.user.Place(peer.Binary(t), ".local/bin/towline")
	tok := c.issuer.Login(issuertest.User{})
	c.user.Write("codex-of-mine/auth.json", `{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"`+tok.ID+`","access_token":"`+tok.Access+
		`","refresh_token":"`+tok.Refresh+`","account_id":"`+tok.AccountID+`"},"last_refresh":"2026-01-02T03:04:05Z"}`, 0o600)
	s, people := c.look(t, tok.Access, tok.Refresh, tok.ID, "sk-canary")
	told(t, people, 0, "credentials on dev (towline ", "("+tok.AccountID+")", "store      file, by /etc/towline/requirements.toml", "held by    this host, in its file")
	if !s.LoggedIn || s.Login == nil || s.Login.Mode != "chatgpt" || s.Login.AccountID != tok.AccountID || s.Login.Fingerprint == "" || s.RefreshLock != "free" {
		t.Errorf("%+v", s)
	}
	if len(s.Places) != 1 || !s.Places[0].Used || s.Places[0].Path != c.user.Path("codex-of-mine/auth.json") {
		t.Errorf("places: %+v", s.Places)
	}
	if len(s.Policy.Mandates) != 1 || s.Policy.Mandates[0].From != "/etc/towline/requirements.toml" {
		t.Errorf("policy: %+v", s.Policy)
	}
	if len(s.Environment) != 1 || s.Environment[0].Name != "OPENAI_API_KEY" || s.Environment[0].In != "the shell" {
		t.Errorf("environment: %+v", s.Environment)
	}
	for _, line := range c.user.CommandLines() {
		if strings.Contains(line, "app-server") {
			t.Errorf("it started %s", line)
		}
	}
	// A policy there that cannot be read is that host's, and named.
	c.room.Etc("towline/requirements.toml", "cli_auth_credentials_store = file\n")
	r := c.with(t, "", "credentials", "status", "dev")
	told(t, r, 3, "policy     ✘ /etc/towline/requirements.toml: line 1", "on dev: /etc/towline/requirements.toml", "ask whoever manages dev")
}

// Where there is no Towline, what Codex says is all there is, and no part of a key
// comes with it.
func TestCredentialsOfAHostWithCodexAlone(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, x peer.Codex) {
		t.Parallel()
		c := newCustodians(t, peer.Account{})
		c.user.Place(x.Bin, ".local/bin/codex")
		s, people := c.look(t)
		told(t, people, 0, "none: nobody is logged in", "there is no Towline on dev", "--install")
		if s.LoggedIn || len(s.Places) != 0 || s.Program != "codex "+x.Version {
			t.Errorf("%+v", s)
		}
		c.user.Write(".codex/auth.json", `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary-0123456789abcdefghij"}`, 0o644)
		s, people = c.look(t, "sk-", "ghij")
		told(t, people, 0, "an API key", "others can read it")
		if !s.LoggedIn || s.Login == nil || s.Login.Mode != "apikey" || len(s.Places) != 1 || !s.Places[0].OpenToOthers || s.Places[0].Path != c.user.Path(".codex/auth.json") {
			t.Errorf("%+v", s)
		}
	})
}

func TestCredentialsOfAHostWithNeither(t *testing.T) {
	t.Parallel()
	c := newCustodians(t, peer.Account{})
	told(t, c.with(t, "", "credentials", "status", "dev"), 4, "error: find", "--install")
}

// Through Towline's own door it is for admins.
func TestCredentialsThroughTowlinesDoor(t *testing.T) {
	t.Parallel()
	c, _ := newDoorCustodians(t, "admin")
	s, people := c.look(t, "sk-the-daemons-own")
	told(t, people, 0, "credentials on dev (towline ", "none: nobody is logged in", "Towline's daemon (pid ")
	if s.LoggedIn || !strings.HasPrefix(s.Program, "towline ") {
		t.Errorf("%+v", s)
	}
	if len(s.Environment) != 1 || s.Environment[0].Name != "OPENAI_API_KEY" || s.Environment[0].In != "the daemon" {
		t.Errorf("environment: %+v", s.Environment)
	}
	c, _ = newDoorCustodians(t, "operator")
	told(t, c.with(t, "", "credentials", "status", "dev"), 4, "error: status", `needs the role "admin"`)
}
