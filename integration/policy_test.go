package integration

import (
	"context"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// What the owner of a machine decided is held by every way to log in, and every
// refusal names the file that says so.
func TestManagedPolicyOfAHost(t *testing.T) {
	t.Parallel()
	const ours, theirs = "towline/requirements.toml", "codex/requirements.toml"
	// desk is a laptop on a managed machine, with Codex's issuer.
	desk := func(t *testing.T, file, text string) (*peer.Laptop, *peer.Issuer) {
		t.Helper()
		m := peer.NewMachine(t)
		m.Etc(file, text)
		i := peer.StartIssuer(t, issuertest.Options{}, m)
		l := peer.NewLaptop(t)
		l.On(m)
		return l, i
	}
	with := func(t *testing.T, l *peer.Laptop, stdin string, args ...string) (string, bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		cmd := l.Command(ctx, append([]string{peer.Binary(t)}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err == nil
	}
	refused := func(t *testing.T, out string, well bool, want ...string) {
		t.Helper()
		if well {
			t.Errorf("it was allowed:\n%s", out)
		}
		for _, w := range append(want, "policy", "hint: ") {
			if !strings.Contains(out, w) {
				t.Errorf("the refusal does not say %q:\n%s", w, out)
			}
		}
	}
	const key = "sk-towline-0123456789abcdef\n"
	t.Run("login method", func(t *testing.T) {
		t.Parallel()
		for file, text := range map[string]string{ours: "allowed_login_methods = [\"chatgpt\"]\n", theirs: "allowed_login_methods = [\"chatgpt\"]\n"} {
			l, _ := desk(t, file, text)
			out, well := with(t, l, key, "login", "--with-api-key")
			refused(t, out, well, "/etc/"+file, "API key")
			if text := l.Read(".codex/auth.json"); text != "" {
				t.Error("it was stored all the same")
			}
		}
		l, i := desk(t, ours, "allowed_login_methods = [\"api\"]\n")
		for _, args := range [][]string{{"login"}, {"login", "--device-auth"}} {
			out, well := with(t, l, "", args...)
			refused(t, out, well, "/etc/"+ours, "ChatGPT")
		}
		if n := len(i.Requests("")); n != 0 {
			t.Errorf("the issuer was asked %d times all the same", n)
		}
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		l, _ := desk(t, ours, "cli_auth_credentials_store = \"keyring\"\n")
		l.Write(".codex/config.toml", "cli_auth_credentials_store = \"file\"\n", 0o600)
		// No keyring is there: the mandate is not an advice.
		out, well := with(t, l, key, "login", "--with-api-key")
		if well || !strings.Contains(out, "keyring") || !strings.Contains(out, "hint: ") {
			t.Errorf("without a keyring it ended with\n%s", out)
		}
		k := peer.StartKeyring(t, l.User)
		for _, kv := range k.Environ {
			l.Setenv(kv)
		}
		if out, well := with(t, l, key, "login", "--with-api-key"); !well || !strings.Contains(out, "keyring") {
			t.Errorf("with a keyring it ended with\n%s", out)
		}
		if l.Read(".codex/auth.json") != "" {
			t.Error("there is a file")
		}
		if k.Lookup("service", "Codex Auth") == "" {
			t.Error("nothing is in the keyring")
		}
		if out, _ := with(t, l, "", "credentials", "status"); !strings.Contains(out, "/etc/"+ours) {
			t.Errorf("credentials status does not name the file:\n%s", out)
		}
	})
	t.Run("workspace", func(t *testing.T) {
		t.Parallel()
		l, i := desk(t, ours, "allowed_chatgpt_workspaces = [\"acct-company\"]\n")
		p := begin(t, l, "login", "--device-auth")
		code := p.out.find(t, userCode)
		if !i.EnterCode(code, true) {
			t.Errorf("the issuer does not know the code %q", code)
		}
		p.fails(t, "acct-tow", "acct-company", "/etc/"+ours)
		if l.Read(".codex/auth.json") != "" {
			t.Error("it was stored all the same")
		}
		i.SetUser(issuertest.User{Email: "grace@example.com", Subject: "user-grace", AccountID: "acct-company", Plan: "team"})
		p = begin(t, l, "login", "--device-auth")
		i.EnterCode(p.out.find(t, userCode), true)
		p.succeeds(t, "grace@example.com")
	})
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		l, _ := desk(t, ours, "cli_auth_credentials_store = keyring\n")
		out, well := with(t, l, key, "login", "--with-api-key")
		refused(t, out, well, "/etc/"+ours)
	})
}

// The same on a host that is logged in from a laptop: the file named is the
// host's.
func TestManagedPolicyMeetsALoginFromElsewhere(t *testing.T) {
	t.Parallel()
	f := newDesk(t, issuertest.Options{})
	f.room.Etc("towline/requirements.toml", "allowed_login_methods = [\"api\"]\n")
	f.user = peer.NewUser(t, peer.Account{})
	f.user.On(f.room)
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	f.server = peer.StartOpenSSH(t, peer.OpenSSH{Machine: f.room})
	f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), f.user)
	r := f.laptop.Towline("login", "dev")
	if r.Code == 0 || !strings.Contains(r.Stderr, "/etc/towline/requirements.toml") || !strings.Contains(r.Stderr, "ChatGPT") {
		t.Errorf("it ended with %+v", r)
	}
	f.clean(t)
}
