package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/integration/peer"
)

// office is what a person logs a host in with: a laptop with a browser, a host
// that the laptop reaches by ssh only, and an issuer both of them see. Neither
// machine sees the other's ports.
type office struct {
	desk, room *peer.Machine // the laptop's, the host's
	issuer     *peer.Issuer
	laptop     *peer.Laptop
	user       *peer.User   // on the host
	server     *peer.Server // as the host has it
	chromium   *peer.Browser
}

// newOffice is one with OpenSSH on the host and the alias "dev" to it.
func newOffice(t *testing.T, a peer.Account, o peer.OpenSSH, i issuertest.Options) *office {
	t.Helper()
	f := newDesk(t, i)
	f.user = peer.NewUser(t, a)
	f.user.On(f.room)
	o.Machine = f.room
	f.server = peer.StartOpenSSH(t, o)
	f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), f.user)
	return f
}

// newDesk is one whose host runs nothing yet.
func newDesk(t *testing.T, i issuertest.Options) *office {
	t.Helper()
	f := &office{desk: peer.NewMachine(t), room: peer.NewMachine(t)}
	f.issuer = peer.StartIssuer(t, i, f.desk, f.room)
	f.laptop = peer.NewLaptop(t)
	f.laptop.On(f.desk)
	f.laptop.Write("bin/browser", "#!/bin/sh\nprintf '%s\\n' \"$1\" >>\"$HOME/opened\"\n", 0o755)
	f.laptop.Setenv("BROWSER=" + f.laptop.Path("bin/browser"))
	return f
}

// browser is the laptop's, once somebody needs it.
func (f *office) browser(t *testing.T) *peer.Browser {
	t.Helper()
	if f.chromium == nil {
		f.chromium = peer.StartBrowser(t, f.laptop.User, f.issuer.Web)
	}
	return f.chromium
}

// opened waits until the laptop's browser was told to open its nth address.
func (f *office) opened(t *testing.T, n int) string {
	t.Helper()
	var lines []string
	peer.Eventually(t, "a browser that is told to open something", func() bool {
		lines = strings.Fields(f.laptop.Read("opened"))
		return len(lines) >= n
	})
	return lines[n-1]
}

// agree opens the address, consents, and waits for the page that says all is
// well, wherever that is.
func (f *office) agree(t *testing.T, address string) {
	t.Helper()
	state := regexp.MustCompile(`[?&](state=[^&]+)`).FindStringSubmatch(address)
	if state == nil {
		t.Fatalf("that is no address of a login: %s", address)
	}
	b := f.browser(t)
	b.Open(address)
	b.Click("#allow")
	peer.Eventually(t, "a browser sent on to the waiting login", func() bool {
		return slices.ContainsFunc(b.Visited(), func(u string) bool {
			return strings.Contains(u, "/auth/callback?") && strings.Contains(u, state[1])
		})
	})
}

// clean holds that a login left nothing behind: no port, and no process of it.
func (f *office) clean(t *testing.T) {
	t.Helper()
	f.desk.WaitNoListener(1455, 1457)
	f.room.WaitNoListener(1455, 1457)
	for _, u := range []*peer.User{f.laptop.User, f.user} {
		if u == nil {
			continue
		}
		peer.Eventually(t, "no process of a login", func() bool { return len(logins(u)) == 0 })
	}
}

// logins are the command lines of what still logs in, or carries a login.
func logins(u *peer.User) []string {
	var out []string
	for _, line := range u.CommandLines() {
		if regexp.MustCompile(`\b(codex|towline)\b.* (login|dial)\b`).MatchString(line) {
			out = append(out, line)
		}
	}
	return out
}

// collected is the output of a program that is still running.
type collected struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *collected) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *collected) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

// find waits for the pattern in the output.
func (c *collected) find(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var found string
	peer.Eventually(t, pattern+" in the output", func() bool {
		found = re.FindString(c.String())
		return found != ""
	})
	return found
}

const authorizeURL = `https://auth\.openai\.com/oauth/authorize\?\S+`

// codexSays runs the stock codex as the account and gives all it says.
func codexSays(t *testing.T, u *peer.User, bin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), peer.Patience)
	defer cancel()
	out, err := u.Command(ctx, append([]string{bin}, args...)...).CombinedOutput()
	return string(out), err
}

// The stage for everything below: the stock login, in a browser on its own
// machine, against the issuer by its real name.
func TestStockLoginCompletesAgainstTheIssuer(t *testing.T) {
	t.Parallel()
	peer.EachCodex(t, func(t *testing.T, c peer.Codex) {
		t.Parallel()
		m := peer.NewMachine(t)
		i := peer.StartIssuer(t, issuertest.Options{}, m)
		u := peer.NewUser(t, peer.Account{})
		u.On(m)
		u.Mkdir(".codex")
		said := &collected{}
		cmd := u.Command(t.Context(), c.Bin, "login")
		cmd.Stdout, cmd.Stderr = said, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b := peer.StartBrowser(t, u, i.Web)
		b.Open(said.find(t, authorizeURL))
		b.Click("#allow")
		b.Wait("Signed in to Codex")
		if err := cmd.Wait(); err != nil {
			t.Errorf("codex login: %v\n%s", err, said)
		}
		if out, err := codexSays(t, u, c.Bin, "login", "status"); err != nil || !strings.Contains(out, "Logged in using ChatGPT") {
			t.Errorf("codex login status: %v\n%s", err, out)
		}
		if info, err := os.Stat(filepath.Join(u.Home, ".codex/auth.json")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("auth.json: %v, %v", info, err)
		}
	})
}

// One command on the laptop logs a host in that has a stock Codex: the host's own
// login is waited for on the laptop's port, in the laptop's browser, and Codex
// over there agrees. Forwarding or not makes no difference.
func TestLoginOnAHostWithAStockCodex(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]peer.OpenSSH{"forwarding": {}, "no forwarding": {NoForwarding: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, canary := peer.Codexes(t)[0], peer.NewCanary(t)
			f := newOffice(t, peer.Account{Files: map[string]string{".bashrc": "export PATH=\"$HOME/tools/bin:$PATH\"\n"}}, o, issuertest.Options{Canary: canary.Value})
			bin := f.user.Place(c.Bin, "tools/bin/codex")
			term := f.laptop.OpenTowline(120, 30, "login", "dev")
			f.agree(t, f.opened(t, 1))
			screen := term.Wait("[exit 0]")
			for _, want := range []string{"grace@example.com", "auth.json", "dev"} {
				if !strings.Contains(screen, want) {
					t.Errorf("the end does not name %s:\n%s", want, screen)
				}
			}
			if out, err := codexSays(t, f.user, bin, "login", "status"); err != nil || !strings.Contains(out, "Logged in using ChatGPT") {
				t.Errorf("codex login status: %v\n%s", err, out)
			}
			f.clean(t)
			canary.Absent("what towline shows", whole(term))
			canary.Files(append(f.user.Left(), f.laptop.Path(".local"), f.laptop.Path(".codex"), f.laptop.Path("opened"), f.user.Path(".local")), nil)
		})
	}
}

// The same where only Towline is.
func TestLoginOnAHostWithTowlineAlone(t *testing.T) {
	t.Parallel()
	f := newOffice(t, peer.Account{}, peer.OpenSSH{NoForwarding: true}, issuertest.Options{})
	f.user.Place(peer.Binary(t), ".local/bin/towline")
	term := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 1))
	screen := term.Wait("[exit 0]")
	for _, want := range []string{"grace@example.com", "auth.json"} {
		if !strings.Contains(screen, want) {
			t.Errorf("the end does not name %s:\n%s", want, screen)
		}
	}
	c := peer.Codexes(t)[0]
	if out, err := codexSays(t, f.user, c.Bin, "login", "status"); err != nil || !strings.Contains(out, "Logged in using ChatGPT") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
	f.clean(t)
}

// And through Towline's own door, which forwards nothing else.
func TestLoginThroughTowlinesDoor(t *testing.T) {
	t.Parallel()
	canary := peer.NewCanary(t)
	f := newDesk(t, issuertest.Options{Canary: canary.Value})
	codexHome := t.TempDir()
	h := peer.Start(t, peer.HostConfig{Machine: f.room, Role: "admin", Env: []string{"CODEX_HOME=" + codexHome}})
	admin(t, h, f.laptop.Key)
	f.server = h.Server()
	f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), nil)
	term := f.laptop.OpenTowline(120, 30, "login", "dev")
	f.agree(t, f.opened(t, 1))
	if screen := term.Wait("[exit 0]"); !strings.Contains(screen, "grace@example.com") {
		t.Errorf("the end does not name the account:\n%s", screen)
	}
	canary.Absent("what towline shows", whole(term))
	canary.Absent("the host's log", h.Log())
	canary.Files([]string{f.laptop.Path(".local"), f.laptop.Path("opened"), h.Home, codexHome}, []string{"auth.json"})
	c := peer.Codexes(t)[0]
	cmd := exec.CommandContext(t.Context(), c.Bin, "login", "status")
	cmd.Env = append(peer.Environ(t), "CODEX_HOME="+codexHome)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Logged in using ChatGPT") {
		t.Errorf("codex login status: %v\n%s", err, out)
	}
	f.clean(t)
}

// admin lets a key in as an administrator.
func admin(t *testing.T, h *peer.Host, k peer.Key) {
	t.Helper()
	path := filepath.Join(h.Home, "authorized_keys")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := "environment=\"TOWLINE_ROLE=admin\" " + k.Line + "\n"
	if err := os.WriteFile(path, append(old, line...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The stock way, `ssh -L 1455:localhost:1455`, works through that door while a
// login is pending, and at no other time.
func TestStockForwardWhileALoginIsPending(t *testing.T) {
	t.Parallel()
	f := newDesk(t, issuertest.Options{})
	h := peer.Start(t, peer.HostConfig{Machine: f.room, Role: "admin", Env: []string{"CODEX_HOME=" + t.TempDir()}})
	admin(t, h, f.laptop.Key)
	f.server = h.Server()
	f.laptop.Reach("dev", f.server.At(f.desk.Expose(f.server.Addr).Addr), nil)
	if r := f.laptop.Run("ssh", "-W", "127.0.0.1:1455", "dev"); r.Code == 0 || !strings.Contains(r.Stderr, "prohibited") {
		t.Errorf("before a login a forward ended with %+v", r)
	}
	term := f.laptop.Open(500, 30, "ssh", "-t", "-L", "1455:localhost:1455", "dev", "login")
	screen := term.WaitMatch(authorizeURL)
	f.agree(t, regexp.MustCompile(authorizeURL).FindString(screen))
	if screen := term.Wait("[exit 0]"); !strings.Contains(screen, "grace@example.com") {
		t.Errorf("the end does not name the account:\n%s", screen)
	}
	if r := f.laptop.Run("ssh", "-W", "127.0.0.1:1455", "dev"); r.Code == 0 || !strings.Contains(r.Stderr, "prohibited") {
		t.Errorf("after the login a forward ended with %+v", r)
	}
	f.clean(t)
}
