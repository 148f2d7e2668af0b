//go:build unix

package login

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"towline/config"
)

// run runs the login, and as the browser does what page says.
func run(ctx context.Context, t *testing.T, c Config, who *somebody, page func(Event)) (Event, error) {
	t.Helper()
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, patience)
	over := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case e := <-who.page:
				if page != nil {
					page(e)
				}
			case <-over:
				return
			}
		}
	})
	defer wg.Wait()
	defer cancel()
	defer close(over)
	return Run(ctx, c)
}

// visits is a browser that comes back to the port with the page's own state.
func visits(t *testing.T, query string) func(Event) {
	return func(e Event) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/auth/callback?%s", *e.Port, query)) //nolint:noctx // Timeout
		if err != nil {
			t.Errorf("the browser: %v", err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if body, _ := io.ReadAll(resp.Body); string(body) != "all is well" {
			t.Errorf("the browser ends at %q", body)
		}
	}
}

func TestBrowserLogin(t *testing.T) {
	_, who, c := newCase(t)
	var opened []string
	c.Open = func(_ context.Context, page string) error { opened = append(opened, page); return nil }
	got, err := run(t.Context(), t, c, who, visits(t, "code=canary&state="+state))
	if err != nil {
		t.Fatal(err)
	}
	if got.Account != "ana@b.c" || got.Plan != "pro" || got.Mode != modeChatGPT || got.Host != "box" {
		t.Errorf("%+v", got)
	}
	if !slices.Equal(opened, []string{pageOf(c.ports[0])}) {
		t.Errorf("opened %q", opened)
	}
	if strings.Contains(who.text(), "canary") {
		t.Errorf("the code was told:\n%s", who.text())
	}
}

// A host that names a page of its own choosing gets no browser opened on it; the
// person sees where it leads.
func TestSecurityUnknownSitesAreNotOpened(t *testing.T) {
	_, who, c := newCase(t)
	var opened []string
	c.Open = func(_ context.Context, page string) error { opened = append(opened, page); return nil }
	c.Known = func(site string) bool { return site == "auth.openai.com" }
	if _, err := run(t.Context(), t, c, who, visits(t, "code=canary&state="+state)); err != nil {
		t.Fatal(err)
	}
	if len(opened) != 0 || !strings.Contains(who.text(), "the login on box leads to auth.example, which is no site that this machine logs in at") {
		t.Errorf("opened %q\n%s", opened, who.text())
	}
}

// The host fell back to its other port, so the other port here it is.
func TestHostsOtherPortIsFollowed(t *testing.T) {
	b, who, c := newCase(t)
	b.programs["codex login"] = b.codexLogin(c.ports[1])
	if _, err := run(t.Context(), t, c, who, visits(t, "code=c&state="+state)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(who.text(), fmt.Sprintf("the login on box waits on port %d", c.ports[1])) {
		t.Error(who.text())
	}
}

// Every port in the way, on either side, leads to a code, and is told.
func TestBusyPortsLeadToACode(t *testing.T) {
	for name, tc := range map[string]struct {
		busy  []int // of the two here
		login func(*prog) int
		says  string
	}{
		"both here":         {busy: []int{0, 1}, says: "port SECOND is held by "},
		"first here":        {busy: []int{0}, says: "the login on box waits on port FIRST"}, // nothing there holds its port
		"both there":        {login: statusOf("Error logging in: Port 127.0.0.1:1457 is already in use", 1), says: "no port is free for it on box"},
		"cannot be reached": {login: func(p *prog) int { p.say("%s\n", pageOf(1)); <-p.gone; return 1 }, says: "the login on box waits on port 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b, who, c := newCase(t)
			for _, i := range tc.busy {
				ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.ports[i]))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = ln.Close() }()
			}
			if tc.login != nil {
				b.programs["codex login"] = tc.login
			}
			got, err := run(t.Context(), t, c, who, nil)
			if err != nil || got.Account != "ana@b.c" {
				t.Fatalf("%+v, %v", got, err)
			}
			says := strings.NewReplacer("FIRST", fmt.Sprint(c.ports[0]), "SECOND", fmt.Sprint(c.ports[1])).Replace(tc.says)
			if !strings.Contains(who.text(), says) {
				t.Errorf("%q was not told:\n%s", says, who.text())
			}
			if !strings.Contains(who.text(), "ABCD-12345") {
				t.Errorf("no code was told:\n%s", who.text())
			}
			if len(tc.busy) > 0 && !strings.Contains(who.text(), fmt.Sprintf("(pid %d, ", os.Getpid())) {
				t.Errorf("whoever holds the port was not named:\n%s", who.text())
			}
		})
	}
}

// No port and no code: the address is pasted, and only this login's is taken.
func TestPastedBusy(t *testing.T) {
	b, who, c := newCase(t)
	for _, p := range c.ports {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
	}
	b.programs["codex login --device-auth"] = statusOf("Error logging in: device code login is not enabled", 1)
	back := fmt.Sprintf("http://localhost:%d/auth/callback?code=canary&state=", c.ports[0])
	_, err := run(t.Context(), t, c, who, func(e Event) {
		if *e.Port != 0 {
			t.Errorf("told port %d", *e.Port)
		}
		who.pastes <- back + "other"
		who.pastes <- back + state
	})
	if err != nil {
		t.Fatal(err)
	}
	text := who.text()
	for _, want := range []string{"no code is to be had: ", "state does not match", "the address is with box"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q was not told:\n%s", want, text)
		}
	}
	if strings.Contains(text, "canary") {
		t.Errorf("the code was told:\n%s", text)
	}
}

func TestLoginsThatFail(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b *box, c *Config)
		stage  string
		says   string
		hint   string
		exit   int
	}{
		"taken over": {func(*box, *Config) {}, Stage, "another login on box took over", "towline login box", config.ExitFailure},
		"forbidden": {func(b *box, _ *Config) {
			b.programs["codex login"] = statusOf("ChatGPT login is disabled. Use API key login instead.", 1)
		}, Stage, "ChatGPT login is disabled", "--with-api-key", config.ExitFailure},
		"no codes": {func(b *box, c *Config) {
			c.Method = DeviceCode
			b.programs["codex login --device-auth"] = statusOf("Error logging in: device code login is not enabled", 1)
		}, Stage, "device code login is not enabled", "towline doctor box", config.ExitFailure},
		"nothing stays": {func(b *box, c *Config) {
			c.Method = DeviceCode
			b.programs["codex login status"] = statusOf("Not logged in", 1)
		}, Stage, "says that it is not logged in: where it keeps credentials, nothing stays", "--lend-credentials", config.ExitFailure},
		"nothing there": {func(_ *box, c *Config) { c.HasCodex = false }, Stage, "neither towline nor codex", "--install", config.ExitUnavailable},
		"too old":       {func(_ *box, c *Config) { c.HasCodex, c.TowlinePath = false, "/bin/towline" }, Stage, "too old to log in", "--install", config.ExitFailure},
		"Towline says why": {func(b *box, c *Config) {
			c.HasCodex, c.TowlinePath = false, "/bin/towline"
			b.programs["towline login --events"] = statusOf(`{"event":"failed","stage":"policy","error":"only keys here","hints":["use a key"]}`, 1)
		}, "policy", "only keys here", "on box: use a key", config.ExitDenied},
		"the link is lost": {func(b *box, c *Config) {
			c.Lost = func() error {
				return &config.Problem{Stage: "dial", Err: errors.New("gone"), Hints: []string{"towline doctor box"}, Exit: config.ExitUnavailable}
			}
			b.programs["codex login"] = statusOf("", 1)
		}, "dial", "gone", "towline doctor box", config.ExitUnavailable},
		"a page that leads elsewhere": {func(b *box, _ *Config) {
			b.programs["codex login"] = func(p *prog) int {
				p.say("https://evil.example/?redirect_uri=http://evil.example:1455/&state=s\n")
				return 1
			}
		}, Stage, "codex login ended", "towline doctor box", config.ExitFailure},
		"no key": {func(_ *box, c *Config) { c.Method, c.Secret = APIKey, "two words" }, Stage, "no key or token", "--with-api-key", config.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			b, who, c := newCase(t)
			tc.change(b, &c)
			_, err := run(t.Context(), t, c, who, func(e Event) {
				if e.Event == EventURL && name == "taken over" && !cancel(t.Context(), *e.Port) {
					t.Error("a newcomer's cancel did not get there")
				}
			})
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != tc.stage || !strings.Contains(err.Error(), tc.says) || config.ExitCode(err) != tc.exit {
				t.Fatalf("%v (exit %d); want %s: %s", err, config.ExitCode(err), tc.stage, tc.says)
			}
			if hints := strings.Join(config.Hints(err), "\n"); !strings.Contains(hints, tc.hint) {
				t.Errorf("hints %q", hints)
			}
		})
	}
}

// Interrupted at any moment: nothing is left, and that is said.
func TestInterrupted(t *testing.T) {
	_, who, c := newCase(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := run(ctx, t, c, who, func(Event) { cancel() })
	if config.ExitCode(err) != config.ExitInterrupted || !strings.Contains(err.Error(), "nothing is left on box") {
		t.Errorf("%v", err)
	}
}

func TestKeyIsHandedOver(t *testing.T) {
	const key = "sk-canary"
	for _, program := range []string{"codex", "towline"} {
		t.Run(program, func(t *testing.T) {
			b, who, c := newCase(t)
			c.Method, c.Secret = APIKey, key
			var got string
			take := func(p *prog) int {
				got, _ = bufio.NewReader(p.inR).ReadString('\n')
				return 0
			}
			b.programs["codex login --with-api-key"] = take
			b.programs["codex login status"] = statusOf("API key configured - sk-***ary", 0)
			b.programs["towline login --events --with-api-key"] = func(p *prog) int {
				defer p.say(`{"event":"done","mode":"apikey"}` + "\n")
				return take(p)
			}
			b.programs["towline login status --json"] = statusOf(`{"loggedIn":true,"mode":"apikey","store":"keyring","path":"an entry","fingerprint":"ab12"}`, 0)
			if program == "towline" {
				c.HasCodex, c.Door = false, true
			}
			done, err := run(t.Context(), t, c, who, nil)
			if err != nil || done.Mode != modeAPIKey || got != key+"\n" {
				t.Fatalf("%+v, %v; it read %q", done, err, got)
			}
			if program == "towline" && (done.Store != "keyring" || done.Fingerprint != "ab12") {
				t.Errorf("%+v", done)
			}
			if all := who.text() + strings.Join(b.ran, "\n"); strings.Contains(all, key) {
				t.Errorf("the key was told:\n%s", all)
			}
		})
	}
}

// What answers at a port is known by one request.
func TestAsk(t *testing.T) {
	handler := func(h http.HandlerFunc) int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: patience}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(ln) })
		t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
		return ln.Addr().(*net.TCPAddr).Port
	}
	codex := handler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "tiny-http (Rust)")
		if r.URL.Path == "/cancel" {
			_, _ = io.WriteString(w, "Login cancelled")
			return
		}
		http.NotFound(w, r)
	})
	other := handler(http.NotFound)
	closes := handler(func(w http.ResponseWriter, _ *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		_ = c.Close()
	})
	for p, want := range map[int]answer{codex: aLogin, other: foreign, closes: hungUp} {
		if got := ask(t.Context(), p); got != want {
			t.Errorf("port %d: %v, want %v", p, got, want)
		}
	}
	if !cancel(t.Context(), codex) || cancel(t.Context(), other) || cancel(t.Context(), closes) {
		t.Error("whether it agreed to end is wrong")
	}
}

// ownLogin makes the test binary another `towline login HOST` that holds a port and
// has lost its host.
const ownLogin = "TOWLINE_TEST_HOLDS"

func init() {
	where := os.Getenv(ownLogin)
	if where == "" || len(os.Args) < 2 || os.Args[1] != "login" {
		return
	}
	ln, err := net.Listen("tcp", where)
	if err != nil {
		os.Exit(1)
	}
	fmt.Println("held")
	for {
		c, err := ln.Accept()
		if err != nil {
			os.Exit(1)
		}
		_, _ = bufio.NewReader(c).ReadString('\n')
		_ = c.Close()
	}
}

// Our own login that was left behind is ended without asking; another of ours that
// works is not.
func TestOwnStaleLoginIsEnded(t *testing.T) {
	_, who, c := newCase(t)
	cmd := exec.Command(os.Args[0], "login", "other") //nolint:gosec,noctx // this very test, ended below
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=127.0.0.1:%d", ownLogin, c.ports[0]))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("it said %q", line)
	}
	if h := FindHolder(t.Context(), c.ports[0]); h.PID != cmd.Process.Pid || !h.ours() || h.host() != "other" || !h.Mine {
		t.Skipf("the holder cannot be seen on this system: %+v", h)
	}
	who.absent = true
	if _, err := run(t.Context(), t, c, who, visits(t, "code=c&state="+state)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(who.text(), "that had lost its host") {
		t.Error(who.text())
	}
}
