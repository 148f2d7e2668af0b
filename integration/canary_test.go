package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// recorder is a test whose failures are wanted.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	errs     []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, fmt.Sprintf(format, args...))
}

// A watch that sees nothing would make every test below pass.
func TestCanarySees(t *testing.T) {
	t.Parallel()
	rec := &recorder{TB: t}
	c := peer.NewCanary(rec)
	cmd := exec.CommandContext(t.Context(), "sleep", "30")
	cmd.Args[0] = "x" + c.Value
	cmd.Env = []string{"A_SECRET=" + base64.RawURLEncoding.EncodeToString([]byte("a "+c.Value+"."))}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"kept": 0o600, "open": 0o644, "log": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(base64.StdEncoding.EncodeToString([]byte("xy"+c.Value))), mode); err != nil {
			t.Fatal(err)
		}
	}
	c.Files([]string{dir}, []string{"kept", "open"})
	c.Absent("an output", "50%25"+c.Value)
	c.Absent("nothing", "harmless")
	peer.Eventually(t, "a scan", func() bool { return c.Seen() >= 2 })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, f := range rec.cleanups {
		f()
	}
	got := strings.Join(rec.errs, "\n")
	for _, want := range []string{"the command line of", "A_SECRET in the environment of", "/open, which has mode", "/log, in base64", "an output"} {
		if !strings.Contains(got, want) {
			t.Errorf("it did not see %q; it saw\n%s", want, got)
		}
	}
	if strings.Contains(got, "/kept") || strings.Contains(got, "nothing") || strings.Contains(got, c.Value) {
		t.Errorf("it says too much:\n%s", got)
	}
}

// whole is what a terminal has shown, with lines it broke made whole again.
func whole(term *peer.Terminal) string {
	s := term.Scrollback()
	return s + strings.ReplaceAll(s, "\n", "")
}

// Every way a credential travels and is used, with the same secret in every
// token, key and code: it comes to lie in auth.json, and is nowhere else, in no
// error either.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	canary := peer.NewCanary(t)
	f := newOffice(t, peer.Account{}, peer.OpenSSH{}, issuertest.Options{Canary: canary.Value})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	f.user.Mkdir("src/shop")
	// Codex's own place for a login, on both ends, and nothing else.
	allowed := []string{"auth.json"}
	look := func(where string) {
		t.Helper()
		var dirs []string
		for _, u := range []*peer.User{f.laptop.User, f.user} {
			entries, err := os.ReadDir(u.Home)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if !strings.HasPrefix(e.Name(), "chromium-") { // a browser remembers where it was
					dirs = append(dirs, u.Path(e.Name()))
				}
			}
			dirs = append(dirs, u.Left()...)
		}
		canary.Files(dirs, allowed)
		canary.Absent("the server's log, "+where, f.server.Log())
	}
	with := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
		defer cancel()
		cmd := f.laptop.Command(ctx, append([]string{peer.Binary(t)}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		canary.Absent(fmt.Sprintf("what %q says", args), string(out))
		look(strings.Join(args, " "))
		return fmt.Sprintf("%s%v", out, err)
	}
	good := func(said string) {
		t.Helper()
		if !strings.HasSuffix(said, "<nil>") {
			t.Errorf("it failed: %s", said)
		}
	}
	bad := func(said string) {
		t.Helper()
		if strings.HasSuffix(said, "<nil>") {
			t.Errorf("it went well: %s", said)
		}
	}

	// An API key, here and there.
	key := "sk-" + canary.Value + "0123456789"
	good(with(key+"\n", "login", "--with-api-key"))
	with("", "login", "status")
	with("", "login", "status", "--json")
	with("", "credentials", "status", "--json")
	good(with("", "credentials", "put", "dev"))
	with("", "credentials", "status", "dev", "--json")
	good(with("", "logout"))

	// A personal access token: wrong, then right.
	pat := "at-" + canary.Value
	bad(with(pat+"\n", "login", "--with-access-token"))
	f.issuer.AddPAT(pat, issuertest.User{Email: "grace@example.com", AccountID: "acct-tow", Subject: "user-grace", Plan: "pro"})
	good(with(pat+"\n", "login", "--with-access-token"))
	good(with("", "login", "status"))
	good(with("", "logout"))

	// A browser, here; the issuer's error holds what it was sent.
	f.issuer.Fail("/oauth/token", 1, 400, `{"error":"invalid_grant","error_description":"no such code: `+canary.Value+`"}`)
	for n := 1; n <= 2; n++ {
		term := f.laptop.OpenTowline(400, 40, "login")
		f.agree(t, f.opened(t, n))
		term.Wait("[exit ")
		canary.Absent("what towline login shows", whole(term))
		look("login in a browser")
	}
	for _, u := range f.browser(t).Visited() {
		if strings.Contains(u, "id_token=") || strings.Contains(u, "eyJ") || strings.Contains(u, "access_token=") {
			t.Errorf("a token is in an address of the browser")
		}
	}
	// A ChatGPT login is not copied, and saying so tells nothing.
	bad(with("", "credentials", "put", "dev"))
	good(with("", "logout"))

	// A browser, there.
	term := f.laptop.OpenTowline(400, 40, "login", "dev")
	f.agree(t, f.opened(t, 3))
	term.Wait("[exit 0]")
	canary.Absent("what towline login dev shows", whole(term))
	look("login of a host")

	// A code typed elsewhere.
	p := begin(t, f.laptop, "login", "--device-auth")
	code := p.out.find(t, userCode)
	if !f.issuer.EnterCode(code, true) {
		t.Errorf("the issuer does not know the code %q", code)
	}
	p.succeeds(t)
	canary.Absent("what a device login says", p.out.String())
	look("device login")

	// And moved to where it is used.
	bad(with("", "credentials", "put", "dev"))
	good(with("", "credentials", "move", "dev", "--replace"))
	if text := f.laptop.Read(".codex/auth.json"); text != "" {
		t.Error("after the move the login is still here")
	}
}
