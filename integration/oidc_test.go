package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"towline/config/secret"
	"towline/integration/peer"
)

// oidcSite is the provider's name on the machines of these tests.
const oidcSite = "https://login.example.test"

// oidcDesk is a machine whose owner logs in with an independent provider.
type oidcDesk struct {
	machine  *peer.Machine
	provider *peer.OIDCProvider
	laptop   *peer.Laptop
}

func newOIDCDesk(t *testing.T, o peer.OIDC) *oidcDesk {
	t.Helper()
	d := &oidcDesk{machine: peer.NewMachine(t)}
	o.Issuer, o.Machines = oidcSite, []*peer.Machine{d.machine}
	d.provider = peer.StartOIDC(t, o)
	d.laptop = peer.NewLaptop(t)
	d.laptop.On(d.machine)
	d.laptop.Write(".config/towline/config.toml", fmt.Sprintf("[auth]\nissuer = %q\nclient_id = %q\nkind = \"oidc\"\n", oidcSite, peer.OIDCClient), 0o600)
	d.laptop.Write("bin/browser", "#!/bin/sh\nprintf '%s\\n' \"$1\" >>\"$HOME/opened\"\n", 0o755)
	d.laptop.Setenv("BROWSER=" + d.laptop.Path("bin/browser"))
	return d
}

// program is one that was begun on a laptop and may be asked how it ended.
type program struct {
	out    *collected
	cancel context.CancelFunc
	ended  chan error
}

func begin(t *testing.T, l *peer.Laptop, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*peer.Patience)
	p := &program{out: &collected{}, cancel: cancel, ended: make(chan error, 1)}
	cmd := l.Command(ctx, append([]string{peer.Binary(t)}, args...)...)
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	in, err := cmd.StdinPipe() // nobody types, and the end of input ends nothing
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		_ = in.Close()
		if t.Failed() {
			t.Logf("%q said:\n%s", args, p.out)
		}
	})
	return p
}

// code waits for the end and gives the exit status.
func (p *program) code(t *testing.T) int {
	t.Helper()
	err := <-p.ended
	p.ended <- err
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// succeeds waits for a good end that says every one of want.
func (p *program) succeeds(t *testing.T, want ...string) {
	t.Helper()
	p.ends(t, true, want...)
}

// fails waits for a bad end that says every one of want, and what to do next.
func (p *program) fails(t *testing.T, want ...string) {
	t.Helper()
	p.ends(t, false, append(want, "error: ", "hint: ")...)
}

func (p *program) ends(t *testing.T, well bool, want ...string) {
	t.Helper()
	if code := p.code(t); (code == 0) != well {
		t.Errorf("it ended with %d", code)
	}
	for _, w := range want {
		if !strings.Contains(p.out.String(), w) {
			t.Errorf("it does not say %q:\n%s", w, p.out)
		}
	}
}

// loginStatus is `login status --json`.
func loginStatus(t *testing.T, l *peer.Laptop) map[string]any {
	t.Helper()
	r := l.Towline("login", "status", "--json")
	var s map[string]any
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("login status --json said %q, %v\n%s", r.Stdout, err, r.Stderr)
	}
	return s
}

// A provider that nobody here wrote, in a real browser: a forged redirect is
// turned away and changes nothing, the real one logs in, and no address of the
// browser ever holds a token.
func TestBrowserLoginWithAnIndependentProvider(t *testing.T) {
	t.Parallel()
	d := newOIDCDesk(t, peer.OIDC{})
	p := begin(t, d.laptop, "login")
	var address string
	peer.Eventually(t, "an address to open", func() bool {
		address = strings.TrimSpace(d.laptop.Read("opened"))
		return address != ""
	})
	d.machine.WaitListener(1455)
	forged := d.laptop.Run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:1455/auth/callback?code=stolen&state=guessed")
	if forged.Stdout != "400" {
		t.Errorf("a forged redirect was answered %+v", forged)
	}
	b := peer.StartBrowser(t, d.laptop.User, d.provider.Web)
	b.Open(address)
	b.Click("#allow")
	p.succeeds(t, peer.OIDCEmail)
	for _, u := range b.Visited() {
		if strings.Contains(u, "token=") || strings.Contains(u, "eyJ") {
			t.Errorf("a token is in the browser's history: %s", u)
		}
	}
	if s := loginStatus(t, d.laptop); s["loggedIn"] != true {
		t.Errorf("login status: %v", s)
	}
	d.machine.WaitNoListener(1455, 1457)
	if n := d.provider.Stats()["grant.success authorization_code"]; n != 1 {
		t.Errorf("%d codes were exchanged", n)
	}
}

// Whoever says no in the browser is told so in the terminal, at once.
func TestDeniedConsentEndsABrowserLogin(t *testing.T) {
	t.Parallel()
	d := newOIDCDesk(t, peer.OIDC{})
	p := begin(t, d.laptop, "login")
	var address string
	peer.Eventually(t, "an address to open", func() bool {
		address = strings.TrimSpace(d.laptop.Read("opened"))
		return address != ""
	})
	b := peer.StartBrowser(t, d.laptop.User, d.provider.Web)
	b.Open(address)
	b.Click("#deny")
	p.fails(t, "denied")
	if s := loginStatus(t, d.laptop); s["loggedIn"] != false {
		t.Errorf("login status: %v", s)
	}
	d.machine.WaitNoListener(1455, 1457)
}

var deviceCode = regexp.MustCompile(`\b[A-Z]{4}-[A-Z]{4}\b`)

// The device flow, with what may come between the code and its being typed.
func TestDeviceLoginWithAnIndependentProvider(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, o peer.OIDC) (*oidcDesk, *program, string) {
		o.Auto = "allow"
		d := newOIDCDesk(t, o)
		p := begin(t, d.laptop, "login", "--device-auth")
		return d, p, p.out.find(t, deviceCode.String())
	}
	typed := func(t *testing.T, d *oidcDesk, code string) {
		t.Helper()
		if page := d.provider.TypeCode(code, false); !strings.Contains(page, `id="done"`) {
			t.Fatalf("the provider does not accept the code: %s", page)
		}
	}
	polled := func(t *testing.T, d *oidcDesk, n int) {
		t.Helper()
		peer.Eventually(t, fmt.Sprintf("%d polls", n), func() bool { return d.provider.Stats()["polls"] >= n })
	}
	t.Run("typed", func(t *testing.T) {
		t.Parallel()
		d, p, code := start(t, peer.OIDC{})
		polled(t, d, 1)
		typed(t, d, code)
		p.succeeds(t, peer.OIDCEmail)
		if s := loginStatus(t, d.laptop); s["loggedIn"] != true {
			t.Errorf("login status: %v", s)
		}
	})
	t.Run("slow down", func(t *testing.T) {
		t.Parallel()
		d, p, code := start(t, peer.OIDC{})
		d.provider.SlowDown(1)
		peer.Eventually(t, "a client told to slow down", func() bool { return d.provider.Stats()["told to slow down"] > 0 })
		typed(t, d, code)
		p.succeeds(t, peer.OIDCEmail)
		if n := d.provider.Stats()["polled early"]; n != 0 {
			t.Errorf("it polled %d times before it was due", n)
		}
	})
	t.Run("denied", func(t *testing.T) {
		t.Parallel()
		d, p, code := start(t, peer.OIDC{})
		d.provider.TypeCode(code, true)
		p.fails(t, "denied")
	})
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		_, p, _ := start(t, peer.OIDC{DeviceTTL: 3 * time.Second})
		p.fails(t, "expired")
	})
	t.Run("outage", func(t *testing.T) {
		t.Parallel()
		d, p, code := start(t, peer.OIDC{})
		polled(t, d, 1)
		d.provider.Outage()
		// Long enough for polls to meet it; which of them does not matter.
		select {
		case err := <-p.ended:
			t.Fatalf("the outage ended the login: %v\n%s", err, p.out)
		case <-time.After(3 * time.Second):
		}
		d.provider.Return()
		typed(t, d, code)
		p.succeeds(t, peer.OIDCEmail)
	})
}

// A clock that is somewhat off is nobody's fault; one that is off by hours is
// named, because nothing else explains what happens.
func TestClockSkewOfTheProvider(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		skew time.Duration
		well bool
	}{
		"45 seconds ahead":   {45 * time.Second, true},
		"45 seconds behind":  {-45 * time.Second, true},
		"three hours behind": {-3 * time.Hour, false},
		"three hours ahead":  {3 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newOIDCDesk(t, peer.OIDC{Auto: "allow"})
			d.provider.Skew(tc.skew)
			p := begin(t, d.laptop, "login", "--device-auth")
			code := p.out.find(t, deviceCode.String())
			d.provider.TypeCode(code, false)
			if tc.well {
				p.succeeds(t, peer.OIDCEmail)
			} else {
				p.fails(t, "clock")
			}
		})
	}
}

// An access token that says nothing about itself is refreshed when it is
// rejected: once, however many processes meet that.
func TestRefreshWithAnIndependentProvider(t *testing.T) {
	t.Parallel()
	d := newOIDCDesk(t, peer.OIDC{Auto: "allow"})
	p := begin(t, d.laptop, "login", "--device-auth")
	d.provider.TypeCode(p.out.find(t, deviceCode.String()), false)
	p.succeeds(t, peer.OIDCEmail)
	a, err := secret.Parse([]byte(d.laptop.Read(".codex/auth.json")))
	if err != nil || a.Tokens == nil {
		t.Fatalf("auth.json: %v", err)
	}
	r := &rotation{
		url: oidcSite, u: d.laptop.User, home: d.laptop.Path(".codex"), state: d.laptop.Mkdir(".local/state/towline"), kind: secret.KindFile,
		env: []string{"ISSUER_KIND=oidc", "ISSUER_CLIENT=" + peer.OIDCClient, "REJECTED=" + digest(a.Tokens.AccessToken)},
	}
	for range 2 {
		all := []*running{r.start(t), r.start(t), r.start(t)}
		for _, p := range all {
			p.begin(t)
		}
		first := all[0].token(t)
		for _, p := range all {
			if p != all[0] && p.token(t) != first {
				t.Error("two processes go on with different tokens")
			}
		}
		if "REJECTED="+first == r.env[2] {
			t.Error("they go on with the rejected token")
		}
		r.env[2] = "REJECTED=" + first
	}
	stats := d.provider.Stats()
	if n, failed := stats["grant.success refresh_token"], stats["grant.error refresh_token"]; n != 2 || failed != 0 {
		t.Errorf("%d refreshes, and %d that failed", n, failed)
	}
	if s := loginStatus(t, d.laptop); s["loggedIn"] != true {
		t.Errorf("login status: %v", s)
	}
}
