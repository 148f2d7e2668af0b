package account

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
	"towline/config/secret"
)

// eachCodex runs f with every real Codex there is to test against.
func eachCodex(t *testing.T, f func(t *testing.T, c *codex)) {
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX names no real codex, and CI must have one")
		}
		t.Skip("LACKING the real codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	for bin := range strings.SplitSeq(list, ":") {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) {
			iss := issuertest.Start(t, issuertest.Options{ClientID: "client-tow", Alg: "RS256"})
			iss.AddPAT("at-good", issuertest.User{Email: "pat@example.com", Subject: "user-pat", AccountID: "acct-pat", Plan: "team"})
			home := t.TempDir()
			f(t, &codex{bin: bin, home: home, rig: newRig(t, iss, home)})
		})
	}
}

// codex is a real one, and a Manager on the same home.
type codex struct {
	*rig
	bin, home string
}

func (c *codex) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "CODEX_HOME=" + c.home, "LANG=C.UTF-8",
		"CODEX_AUTHAPI_BASE_URL=" + c.iss.URL, "CODEX_AGENT_IDENTITY_JWKS_BASE_URL=" + c.iss.URL,
		"CODEX_REFRESH_TOKEN_URL_OVERRIDE=" + c.iss.URL + "/oauth/token", "CODEX_REVOKE_TOKEN_URL_OVERRIDE=" + c.iss.URL + "/oauth/revoke",
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost", // nothing leaves this machine
	}
	return cmd
}

// run gives what a command prints and its exit status.
func (c *codex) run(t *testing.T, input string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("codex %v: %v", args, err)
	}
	var keep []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "WARNING") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, ""), cmd.ProcessState.ExitCode()
}

func (c *codex) says(t *testing.T, want string, status int) {
	t.Helper()
	out, code := c.run(t, "", "login", "status")
	if !strings.Contains(out, want) || code != status {
		t.Errorf("codex login status: %d %q, want %d %q", code, out, status, want)
	}
}

func TestCodexReadsWhatWeStore(t *testing.T) {
	eachCodex(t, func(t *testing.T, c *codex) {
		c.says(t, "Not logged in", 1)
		if _, err := c.SetAPIKey(t.Context(), "sk-abcdefghijklmnop1234567890"); err != nil {
			t.Fatal(err)
		}
		c.says(t, "API key configured - sk-abcde***67890", 0)
		a := c.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
		if _, err := c.iss.Visit(t.Context(), a.url, true); err != nil {
			t.Fatal(err)
		}
		if _, err := a.wait(t); err != nil {
			t.Fatal(err)
		}
		c.says(t, "Logged in using ChatGPT", 0)
		if _, err := c.SetAccessToken(t.Context(), "at-good"); err != nil {
			t.Fatal(err)
		}
		c.says(t, "Logged in using personal access token", 0)
		if _, err := c.SetAccessToken(t.Context(), c.iss.AgentIdentity()); err != nil {
			t.Fatal(err)
		}
		if out, _ := c.run(t, "", "login", "status"); strings.Contains(out, "JWT") || strings.Contains(out, "base64") || strings.Contains(out, "Not logged in") {
			t.Errorf("codex does not accept the agent identity we stored: %s", out) // that it cannot register a task here is right
		}
		if _, err := c.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.says(t, "Not logged in", 1)
	})
}

func TestWeReadWhatCodexStores(t *testing.T) {
	eachCodex(t, func(t *testing.T, c *codex) {
		status := func(mode secret.Mode) Status {
			t.Helper()
			st, err := c.Status(t.Context())
			if err != nil || st.Mode != mode || !st.LoggedIn {
				t.Errorf("status %+v, %v; want %q", st, err, mode)
			}
			return st
		}
		if out, code := c.run(t, "sk-abcdefghijklmnop1234567890\n", "login", "--with-api-key"); code != 0 {
			t.Fatal(out)
		}
		if st := status(secret.ModeAPIKey); st.Masked != "sk-abcde***67890" {
			t.Errorf("masked %q", st.Masked)
		}
		if out, code := c.run(t, "at-good\n", "login", "--with-access-token"); code != 0 {
			t.Fatal(out)
		}
		status(secret.ModePAT)
		agent := c.iss.AgentIdentity()
		if out, code := c.run(t, agent+"\n", "login", "--with-access-token"); code != 0 {
			t.Fatal(out)
		}
		if st := status(secret.ModeAgent); st.AccountID != "acct-tow" || st.Expires.IsZero() {
			t.Errorf("status %+v", st)
		}
		theirs := c.stored(t).AgentIdentity
		if _, err := c.SetAccessToken(t.Context(), agent); err != nil || string(c.stored(t).AgentIdentity) != string(theirs) {
			t.Errorf("codex stores an agent identity in another shape: %v", err)
		}
		c.deviceLogin(t)
		if st := status(secret.ModeChatGPT); st.Email != "grace@example.com" || !st.Renews || st.Issuer != c.iss.URL {
			t.Errorf("status %+v", st)
		}
		if _, err := c.Refresh(t.Context()); err != nil {
			t.Errorf("refresh of codex's login: %v", err)
		}
		c.says(t, "Logged in using ChatGPT", 0)
		if out, code := c.run(t, "", "logout"); code != 0 {
			t.Fatal(out)
		}
		if st, err := c.Status(t.Context()); err != nil || st.LoggedIn {
			t.Errorf("after codex logout: %+v, %v", st, err)
		}
	})
}

var userCode = regexp.MustCompile(`[A-Z0-9]{4}-[A-Z0-9]{5}`)

// deviceLogin is codex's own, at our issuer.
func (c *codex) deviceLogin(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := c.command(ctx, "login", "--device-auth", "--experimental_issuer", c.iss.URL, "--experimental_client-id", "client-tow")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	entered := false
	for s := bufio.NewScanner(out); s.Scan(); {
		if code := userCode.FindString(s.Text()); code != "" && !entered {
			entered = c.iss.EnterCode(code, true)
		}
	}
	if err := cmd.Wait(); err != nil || !entered {
		t.Fatalf("codex login --device-auth: %v", err)
	}
}

// server is a real app-server that is spoken to line by line.
type server struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Scanner
	next int
}

func (c *codex) serve(t *testing.T) *server {
	t.Helper()
	cmd := c.command(context.WithoutCancel(t.Context()), "app-server")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		stop.Stop()
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := &server{t: t, in: in, out: bufio.NewScanner(out)}
	s.out.Buffer(nil, 1<<20)
	s.ask(s.send("initialize", `{"clientInfo":{"name":"towline-test","version":"1"}}`))
	fmt.Fprintln(in, `{"method":"initialized"}`)
	return s
}

func (s *server) send(method, params string) int {
	s.next++
	fmt.Fprintf(s.in, `{"id":%d,"method":%q,"params":%s}`+"\n", s.next, method, params)
	return s.next
}

// ask waits for an answer, whatever it is.
func (s *server) ask(id int) string {
	s.t.Helper()
	for s.out.Scan() {
		var m struct {
			ID     *int   `json:"id"`
			Method string `json:"method"`
		}
		if json.Unmarshal(s.out.Bytes(), &m) == nil && m.ID != nil && *m.ID == id && m.Method == "" {
			return s.out.Text()
		}
	}
	s.t.Fatalf("the app-server ended: %v", s.out.Err())
	return ""
}

// TestCodexAndTowlineTakeTurns: each refreshes the one login after the other, at an
// issuer that ends it when a refresh token comes twice.
func TestCodexAndTowlineTakeTurns(t *testing.T) {
	eachCodex(t, func(t *testing.T, c *codex) {
		c.seed(t)
		s := c.serve(t)
		for round := range 3 {
			before := c.iss.Rotated()
			s.ask(s.send("account/read", `{"refreshToken":true}`))
			if _, err := c.Refresh(t.Context()); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if c.iss.Rotated() == before || c.iss.Reused() != 0 {
				t.Errorf("round %d: rotated %d times, reused %d", round, c.iss.Rotated()-before, c.iss.Reused())
			}
		}
	})
}

// TestCodexAndTowlineRefreshTogether: both refresh at once, which no lock prevents
// because Codex takes none while it asks. Whoever is late lives with what the other
// got.
func TestCodexAndTowlineRefreshTogether(t *testing.T) {
	eachCodex(t, func(t *testing.T, c *codex) {
		iss := issuertest.Start(t, issuertest.Options{ClientID: "client-tow", Forgiving: true})
		c.rig = newRig(t, iss, c.home)
		c.seed(t)
		s := c.serve(t)
		for round := range 6 {
			id := s.send("account/read", `{"refreshToken":true}`)
			if _, err := c.Refresh(t.Context()); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			s.ask(id)
			if b, err := c.Token(t.Context()); err != nil || !iss.Valid(b.Token) {
				t.Errorf("round %d: %v", round, err)
			}
		}
		t.Logf("rotated %d times, late %d times", iss.Rotated(), iss.Reused())
	})
}
