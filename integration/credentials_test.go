package integration

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/account"
	"towline/appserver/account/issuertest"
	"towline/config/secret"
	"towline/integration/peer"
)

// custodians are a laptop that has a credential, a host that is to have it, and a
// way between them that can be cut.
type custodians struct {
	*office
	link *peer.Link
	// read is a file below the host's Codex folder.
	read func(name string) string
}

// newCustodians has OpenSSH on the host.
func newCustodians(t *testing.T, a peer.Account) *custodians {
	t.Helper()
	f := newDesk(t, issuertest.Options{})
	f.user = peer.NewUser(t, a)
	f.user.On(f.room)
	f.server = peer.StartOpenSSH(t, peer.OpenSSH{Machine: f.room})
	c := &custodians{office: f, link: f.desk.Expose(f.server.Addr)}
	c.read = func(name string) string { return f.user.Read(".codex/" + name) }
	f.laptop.Reach("dev", f.server.At(c.link.Addr), f.user)
	return c
}

// newDoorCustodians has Towline's own door on the host, with a role for the
// laptop's key.
func newDoorCustodians(t *testing.T, role string) (*custodians, *peer.Host) {
	t.Helper()
	f := newDesk(t, issuertest.Options{})
	codexHome := t.TempDir()
	h := peer.Start(t, peer.HostConfig{Machine: f.room, Role: "admin", Env: []string{"CODEX_HOME=" + codexHome, "OPENAI_API_KEY=sk-the-daemons-own"}})
	k := f.laptop.Key
	k.Line = `environment="TOWLINE_ROLE=` + role + `" ` + k.Line
	h.Authorize(k)
	f.server = h.Server()
	c := &custodians{office: f, link: f.desk.Expose(f.server.Addr)}
	c.read = func(name string) string {
		raw, _ := os.ReadFile(filepath.Join(codexHome, name))
		return string(raw)
	}
	f.laptop.Reach("dev", f.server.At(c.link.Addr), nil)
	return c, h
}

// logIn gives the laptop a ChatGPT login, as Codex would have left it there.
func (c *custodians) logIn() issuertest.Tokens {
	tok := c.issuer.Login(issuertest.User{})
	a := secret.Auth{
		Mode: secret.ModeChatGPT, LastRefresh: time.Now(),
		Tokens: &secret.Tokens{
			IDToken: tok.ID, AccessToken: tok.Access, RefreshToken: tok.Refresh, AccountID: tok.AccountID,
			Issuer: account.OpenAIIssuer, ClientID: account.OpenAIClientID, LoginOwnerID: "owner",
		},
	}
	c.laptop.Write(".codex/auth.json", string(a.File()), 0o600)
	return tok
}

// with runs towline on the laptop with that on its standard input.
func (c *custodians) with(t *testing.T, stdin string, args ...string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*peer.Patience)
	defer cancel()
	cmd := c.laptop.Command(ctx, append([]string{peer.Binary(t)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs collected
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the status says it
	return peer.Result{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// told fails unless all of want is in the result.
func told(t *testing.T, r peer.Result, code int, want ...string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit status %d, want %d: %s%s", r.Code, code, r.Stdout, r.Stderr)
	}
	for _, w := range want {
		if !strings.Contains(r.Stdout+r.Stderr, w) {
			t.Errorf("nothing says %q: %s%s", w, r.Stdout, r.Stderr)
		}
	}
}

// onHost holds that the login is on the host alone and works there, and that
// nobody used a token twice.
func (c *custodians) onHost(t *testing.T, was issuertest.Tokens) {
	t.Helper()
	if text := c.laptop.Read(".codex/auth.json"); text != "" {
		t.Error("the laptop still has a login")
	}
	if _, err := os.Stat(c.laptop.Path(".local/state/towline/moving.json")); err == nil {
		t.Error("the laptop still has a copy aside")
	}
	a, err := secret.Parse([]byte(c.read("auth.json")))
	if err != nil || a.Tokens == nil || a.Tokens.RefreshToken == was.Refresh || a.Tokens.LoginOwnerID != "owner" {
		t.Fatalf("the host has %v, %v", a, err)
	}
	if n := c.issuer.Reused(); n != 0 {
		t.Errorf("%d tokens were used twice", n)
	}
	if !c.issuer.Valid(a.Tokens.AccessToken) {
		t.Error("what the host has does not work")
	}
}

// A host with nothing but a Codex: Codex takes the key by its own rules, from its
// standard input, and says that it has it.
func TestPutOnAHostWithCodexAlone(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, x peer.Codex) {
		t.Parallel()
		c := newCustodians(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\necho welcome\n"}})
		bin := c.user.Place(x.Bin, "tools/bin/codex")
		const key = "sk-host-0123456789abcdef-key"
		canary := peer.NewCanary(t)
		r := c.with(t, key+canary.Value+"\n", "credentials", "put", "dev", "--api-key")
		told(t, r, 0, "dev has the API key now", "codex", "fingerprint")
		canary.Absent("what put says", r.Stdout+r.Stderr)
		if !strings.Contains(c.read("auth.json"), key+canary.Value) {
			t.Error("codex did not store it")
		}
		if out, err := codexSays(t, c.user, bin, "login", "status"); err != nil || !strings.Contains(out, "sk-host-") {
			t.Errorf("codex login status: %v\n%s", err, out)
		}
		r = c.with(t, key, "credentials", "put", "dev", "--api-key", "--json")
		var got struct {
			OK                             bool
			Host, Mode, Store, Fingerprint string
		}
		if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || !got.OK || got.Host != "dev" || got.Mode != "apikey" || got.Store != "codex" || got.Fingerprint == "" || r.Stderr != "" {
			t.Errorf("%+v, %v, %+v", got, err, r)
		}
		// What only Towline can do is said before anything is sent.
		told(t, c.with(t, "tow_0123456789", "credentials", "put", "dev", "--towline-token"), 4, "error: find", "--install")
		c.logIn()
		told(t, c.with(t, "", "credentials", "move", "dev"), 4, "error: find", "moving a login there", "--install")
		if c.laptop.Read(".codex/auth.json") == "" {
			t.Error("the login is gone")
		}
		// A login that renews itself is not lost to a key by accident.
		c.user.Write(".codex/auth.json", c.laptop.Read(".codex/auth.json"), 0o600)
		told(t, c.with(t, key, "credentials", "put", "dev", "--api-key"), 1, "a ChatGPT login, which would be lost", "--replace")
		told(t, c.with(t, key, "credentials", "put", "dev", "--api-key", "--replace"), 0, "API key")
	})
}

// A host with Towline: what is put is stored where Codex finds it, and written
// into the audit, whether a daemon holds that file or not.
func TestPutIsStoredAndAudited(t *testing.T) {
	t.Parallel()
	c := newCustodians(t, peer.Account{})
	c.user.Place(peer.Binary(t), ".local/bin/towline")
	c.user.Rehearse()
	const key = "sk-host-0123456789abcdef-key"
	r := c.with(t, key, "credentials", "put", "dev", "--api-key")
	told(t, r, 0, "dev has the API key now", "auth.json", "fingerprint")
	audit := func() string { return c.user.Read(".local/state/towline/audit.jsonl") }
	if !strings.Contains(audit(), `"event":"credential.put"`) || !strings.Contains(audit(), `"fingerprint":"`) {
		t.Errorf("audit:\n%s", audit())
	}
	if out, err := codexSays(t, c.user, peer.Codexes(t)[0].Bin, "login", "status"); err != nil || !strings.Contains(out, "sk-host-") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}

	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		out, err := c.user.Command(ctx, append([]string{c.user.Path(".local/bin/towline")}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("%q on the host: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("app-server", "start")
	told(t, c.with(t, "tow_0123456789", "credentials", "put", "dev", "--towline-token"), 0, "dev has the", "client_token")
	if got := c.user.Read(".local/state/towline/client_token"); got != "tow_0123456789" {
		t.Errorf("the token is %q", got)
	}
	if !strings.Contains(audit(), `"kind":"towline-token"`) {
		t.Errorf("with a daemon, the audit is\n%s", audit())
	}
	run("app-server", "stop")
	if out := run("audit", "verify"); !strings.Contains(out, "the chain is whole") {
		t.Error(out)
	}
	if strings.Contains(audit(), key) || strings.Contains(audit(), "tow_0123456789") {
		t.Error("the audit holds a secret")
	}

	// What this machine is logged in with goes too, unless it renews itself.
	told(t, c.with(t, "", "credentials", "put", "dev"), 2, "error: put", "not logged in", "--api-key")
	c.laptop.Write(".codex/auth.json", string(secret.Auth{Mode: secret.ModeAPIKey, APIKey: key + "-2"}.File()), 0o600)
	told(t, c.with(t, "", "credentials", "put", "dev"), 0, "API key")
	if !strings.Contains(c.read("auth.json"), key+"-2") {
		t.Error("the laptop's own key did not arrive")
	}
	c.logIn()
	told(t, c.with(t, "", "credentials", "put", "dev"), 1, "error: put", "is not copied", "towline login dev", "towline credentials move dev", "towline dev --lend-credentials")
	if !strings.Contains(c.read("auth.json"), key+"-2") {
		t.Error("something arrived all the same")
	}
}

// Through Towline's own door: an admin may, others may not, and both are written
// down. Nothing of the daemon's environment counts.
func TestPutThroughTowlinesDoor(t *testing.T) {
	t.Parallel()
	t.Run("admin", func(t *testing.T) {
		t.Parallel()
		c, h := newDoorCustodians(t, "admin")
		canary := peer.NewCanary(t)
		key := "sk-host-" + canary.Value
		r := c.with(t, key, "credentials", "put", "dev", "--api-key")
		told(t, r, 0, "API key", "auth.json")
		canary.Absent("what put says", r.Stdout+r.Stderr)
		canary.Absent("the host's log", h.Log())
		canary.Files([]string{h.Home, c.laptop.Home}, nil)
		if !strings.Contains(c.read("auth.json"), key) {
			t.Errorf("the host has %q", c.read("auth.json"))
		}
		raw, err := os.ReadFile(filepath.Join(h.Home, "audit.jsonl"))
		if err != nil || !strings.Contains(string(raw), `"event":"credential.put"`) || !strings.Contains(string(raw), `"command":"credentials receive"`) {
			t.Errorf("audit: %v\n%s", err, raw)
		}
	})
	t.Run("operator", func(t *testing.T) {
		t.Parallel()
		c, h := newDoorCustodians(t, "operator")
		told(t, c.with(t, "sk-host-0123456789abcdef-key", "credentials", "put", "dev", "--api-key"), 5, "error: store", `needs the role "admin"`, "ssh dev help")
		if c.read("auth.json") != "" {
			t.Error("it was stored")
		}
		raw, err := os.ReadFile(filepath.Join(h.Home, "audit.jsonl"))
		if err != nil || !strings.Contains(string(raw), `"event":"ssh.refused"`) {
			t.Errorf("audit: %v\n%s", err, raw)
		}
	})
}

// The link breaks while the issuer renews the login for the host. Whether the
// laptop's command lives on or was killed, the host's word is heard in the end, and
// the login has one holder all along.
func TestMoveOverALinkThatBreaks(t *testing.T) {
	t.Parallel()
	setUps := map[string]func(t *testing.T) *custodians{
		"OpenSSH": func(t *testing.T) *custodians {
			c := newCustodians(t, peer.Account{})
			c.user.Place(peer.Binary(t), ".local/bin/towline")
			return c
		},
		"Towline's door": func(t *testing.T) *custodians { c, _ := newDoorCustodians(t, "admin"); return c },
	}
	for name, setUp := range setUps {
		for _, killed := range []bool{false, true} {
			label := name
			if killed {
				label += ", and the laptop's command is killed"
			}
			t.Run(label, func(t *testing.T) {
				t.Parallel()
				c := setUp(t)
				was := c.logIn()
				c.issuer.Hold("/oauth/token")
				p := begin(t, c.laptop, "credentials", "move", "dev")
				peer.Eventually(t, "the host asking the issuer", func() bool { return c.issuer.Count("/oauth/token") > 0 })
				if c.laptop.Read(".codex/auth.json") != "" {
					t.Error("the host may have the login, and the laptop can still use it")
				}
				if killed {
					p.cancel()
					<-p.ended
				}
				c.link.Cut()
				if killed {
					told(t, c.with(t, "", "credentials", "move", "dev"), 4, "error:")
				}
				c.link.Mend()
				c.issuer.Release("/oauth/token")
				if killed {
					told(t, c.with(t, "", "credentials", "move", "dev"), 0, "is not over; asking the host", "dev has the ChatGPT login")
				} else {
					p.succeeds(t, "asking again", "dev has the ChatGPT login")
				}
				c.onHost(t, was)
			})
		}
	}
}

// A host with nothing: this program is put there first, and the login after it.
func TestMoveToAHostWithNothing(t *testing.T) {
	t.Parallel()
	c := newCustodians(t, peer.Account{})
	was := c.logIn()
	told(t, c.with(t, "", "credentials", "move", "dev"), 4, "error: find", "--install")
	told(t, c.with(t, "", "credentials", "move", "dev", "--install"), 0, "dev has the ChatGPT login", "auth.json")
	c.onHost(t, was)
	if out, err := codexSays(t, c.user, peer.Codexes(t)[0].Bin, "login", "status"); err != nil || !strings.Contains(out, "Logged in using ChatGPT") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
	told(t, c.with(t, "", "credentials", "move", "dev"), 1, "error: move", "not logged in")
}

// A Codex that was started here before the login was taken out of its place does
// not renew it from memory: it looks at the place first. Without that, a move would
// leave two holders.
func TestRunningCodexDoesNotRenewWhatWasTakenAway(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, x peer.Codex) {
		t.Parallel()
		c := &custodians{office: newDesk(t, issuertest.Options{})}
		c.logIn()
		cmd := c.laptop.Command(t.Context(), x.Bin, "app-server")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		said := &collected{}
		cmd.Stdout = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = cmd.Wait() }()
		tell := func(line string) {
			t.Helper()
			if _, err := io.WriteString(in, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		tell(`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","title":null,"version":"1"}}}`)
		said.find(t, `"id":1\b`)
		tell(`{"method":"initialized"}`)
		tell(`{"id":2,"method":"account/read","params":{"refreshToken":true}}`)
		said.find(t, `"id":2\b`)
		asked := c.issuer.Count("/oauth/token")
		if asked == 0 {
			t.Fatalf("it does not renew a login that is there:\n%s", said)
		}
		if err := os.Remove(c.laptop.Path(".codex/auth.json")); err != nil {
			t.Fatal(err)
		}
		tell(`{"id":3,"method":"account/read","params":{"refreshToken":true}}`)
		said.find(t, `"id":3\b`)
		if n := c.issuer.Count("/oauth/token"); n != asked {
			t.Errorf("it renewed a login that is gone:\n%s", said)
		}
	})
}
