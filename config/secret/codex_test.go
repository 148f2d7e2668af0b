//go:build linux

package secret

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"towline/config/secret/keyringtest"
)

// eachCodex runs f with every real codex there is.
func eachCodex(t *testing.T, f func(t *testing.T, c codex)) {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX names no codex")
		}
		t.Skip("the real codex is missing: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	for bin := range strings.SplitSeq(list, ":") {
		out, err := exec.CommandContext(bg(t), bin, "--version").Output()
		if err != nil {
			t.Fatalf("%s: %v", bin, err)
		}
		version := strings.Fields(string(out))[1]
		t.Run(version, func(t *testing.T) { f(t, codex{bin: bin, version: version}) })
	}
}

// codex is a real one on a store of ours.
type codex struct {
	bin, version string
	s            *Store
	env          []string
}

// on gives codex a home with this store in its configuration.
func (c codex) on(t *testing.T, s *Store, env ...string) codex {
	t.Helper()
	c.s = s
	write(t, filepath.Join(s.o.CodexHome, "config.toml"), fmt.Sprintf(`check_for_update_on_startup = false
cli_auth_credentials_store = %q
chatgpt_base_url = "http://127.0.0.1:9/"
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
`, s.o.Kind), 0o600)
	c.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "CODEX_HOME=" + s.o.CodexHome, "LANG=C.UTF-8",
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1",
	}, env...)
	return c
}

// run gives what codex says on both streams.
func (c codex) run(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(bg(t), c.bin, args...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = c.env, strings.NewReader(stdin), patience
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c codex) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := c.run(t, stdin, args...)
	if err != nil {
		t.Fatalf("codex %v: %v\n%s", args, err, out)
	}
	return out
}

// refresh starts an app-server and has it refresh its login. done is closed when
// it has answered; stop ends it.
func (c codex) refresh(t *testing.T, issuer string) (done <-chan struct{}, stop func()) {
	t.Helper()
	cmd := exec.CommandContext(bg(t), c.bin, "app-server")
	cmd.Env = append(c.env[:len(c.env):len(c.env)], "CODEX_REFRESH_TOKEN_URL_OVERRIDE="+issuer)
	cmd.WaitDelay = patience
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
	answered, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var m struct{ ID int }
			if json.Unmarshal(lines.Bytes(), &m) == nil && m.ID == 2 {
				close(answered)
			}
		}
		_, _ = io.Copy(io.Discard, out) // after a line too long
	}()
	_, _ = io.WriteString(in, `{"id":1,"method":"initialize","params":{"clientInfo":{"name":"test","title":"test","version":"1"}}}
{"method":"initialized"}
{"id":2,"method":"account/read","params":{"refreshToken":true}}
`)
	return answered, sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
}

func (c codex) before169() bool { return c.version < "0.169" }

// issuer answers every refresh with tokens whose refresh token ends in -next;
// between reading the request and answering it calls meanwhile.
func issuer(t *testing.T, meanwhile func()) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			RefreshToken string `json:"refresh_token"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.RefreshToken == "" {
			http.Error(w, "no refresh token", http.StatusBadRequest)
			return
		}
		meanwhile()
		at := time.Now().Add(time.Hour)
		_ = json.NewEncoder(w).Encode(map[string]string{ // a client that is gone needs no answer
			"id_token": jwt(at), "access_token": jwt(at), "refresh_token": in.RefreshToken + "-next",
		})
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// until asks for a fact until it is one.
func until(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !fact(); time.Sleep(10 * time.Millisecond) { // between two questions
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func refreshToken(t *testing.T, s *Store) string {
	t.Helper()
	a, _ := mustLoad(t, s)
	if a.Tokens == nil {
		return ""
	}
	return a.Tokens.RefreshToken
}

func TestRealCodexAndWeShareALogin(t *testing.T) {
	eachCodex(t, func(t *testing.T, c codex) {
		for _, kind := range []Kind{KindFile, KindKeyring, KindAuto} {
			t.Run(string(kind), func(t *testing.T) {
				var env []string
				if kind != KindFile {
					env = keyringtest.Start(t).Env()
				}
				s := store(t, kind, env...)
				c := c.on(t, s, env...)

				c.must(t, "sk-from-codex-0123456789\n", "login", "--with-api-key")
				a, w := mustLoad(t, s)
				if a.Mode != ModeAPIKey || a.APIKey != "sk-from-codex-0123456789" || (w.Kind == KindFile) != (kind == KindFile) {
					t.Errorf("codex's login is %v in %+v", a, w)
				}

				mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-from-towline-9876543210"})
				if out := c.must(t, "", "login", "status"); !strings.Contains(out, "sk-from-***43210") {
					t.Errorf("codex sees: %s", out)
				}
				mustSave(t, s, chatgpt("rt-1", time.Now()))
				if out := c.must(t, "", "login", "status"); !strings.Contains(out, "Logged in using ChatGPT") {
					t.Errorf("codex sees: %s", out)
				}

				old := chatgpt("rt-1", time.Now().Add(-48*time.Hour))
				mustSave(t, s, old)
				_, stop := c.refresh(t, issuer(t, func() {}))
				defer stop()
				until(t, "codex stores what it refreshed", func() bool { return strings.HasPrefix(refreshToken(t, s), "rt-1-next") })
				stop()

				if out := c.must(t, "", "logout"); !strings.Contains(out, "Successfully logged out") {
					t.Errorf("codex says: %s", out)
				}
				if p := s.Places(bg(t)); len(p) != 0 {
					t.Errorf("after codex's logout there is still %+v", p)
				}
				mustSave(t, s, old)
				if had, err := s.Delete(bg(t)); !had || err != nil {
					t.Fatalf("delete: %v %v", had, err)
				}
				if out, err := c.run(t, "", "login", "status"); err == nil || !strings.Contains(out, "Not logged in") {
					t.Errorf("after our logout codex sees: %s", out)
				}
			})
		}
	})
}

func TestRealCodexAccessTokenIsRead(t *testing.T) {
	eachCodex(t, func(t *testing.T, c codex) {
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/v1/user-auth-credential/whoami") || r.Header.Get("Authorization") != "Bearer at-from-pipe" && r.Header.Get("Authorization") != "Bearer at-from-towline" {
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"email":"ann@example.com","chatgpt_user_id":"u","chatgpt_account_id":"a","chatgpt_plan_type":"pro","chatgpt_account_is_fedramp":false}`)
		}))
		defer api.Close()
		s := store(t, KindFile)
		c = c.on(t, s, "CODEX_AUTHAPI_BASE_URL="+api.URL)
		c.must(t, "at-from-pipe", "login", "--with-access-token")
		a, _ := mustLoad(t, s)
		if a.Mode != ModePAT || a.PersonalAccessToken != "at-from-pipe" {
			t.Errorf("loaded %v", a)
		}
		if b, err := os.ReadFile(s.file.path()); err != nil || string(b) != string(a.File()) {
			t.Errorf("codex wrote %s", b)
		}
		mustSave(t, s, Auth{Mode: ModePAT, PersonalAccessToken: "at-from-towline"})
		if out := c.must(t, "", "login", "status"); !strings.Contains(out, "personal access token") {
			t.Errorf("codex sees: %s", out)
		}
	})
}

// locks tells from the kernel's table who waits for a file and who has it.
func locks(t *testing.T, path string) (held, waited bool) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		return false, false
	}
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, "FLOCK") && strings.Contains(line, inode) {
			if strings.Contains(line, "->") {
				waited = true
			} else {
				held = true
			}
		}
	}
	return held, waited
}

func TestRealCodexWaitsForOurCommitLock(t *testing.T) {
	eachCodex(t, func(t *testing.T, c codex) {
		s := store(t, KindFile)
		c = c.on(t, s)
		mustSave(t, s, chatgpt("rt-1", time.Now().Add(-48*time.Hour)))
		var release func()
		asked := make(chan struct{}, 1)
		url := issuer(t, func() {
			if release == nil {
				var err error
				if release, err = s.commitLock(bg(t), true); err != nil {
					t.Error(err)
				}
				asked <- struct{}{}
			}
		})
		_, stop := c.refresh(t, url)
		defer stop()
		<-asked
		until(t, "codex waits for the lock", func() bool {
			_, waited := locks(t, filepath.Join(s.o.CodexHome, commitLock))
			return waited
		})
		if got := refreshToken(t, s); got != "rt-1" {
			t.Errorf("codex stored %q while the lock was held", got)
		}
		release()
		until(t, "codex stores", func() bool { return strings.HasPrefix(refreshToken(t, s), "rt-1-next") })
	})
}

func TestWeWaitForRealCodexsCommitLock(t *testing.T) {
	eachCodex(t, func(t *testing.T, c codex) {
		if c.before169() {
			t.Skip("this version holds its lock for no longer than a write, which cannot be stopped from outside")
		}
		s := store(t, KindFile)
		c = c.on(t, s)
		old := chatgpt("rt-1", time.Now().Add(-48*time.Hour))
		mustSave(t, s, old)
		f, err := openFolder(s.o.CodexHome, false)
		if err != nil {
			t.Fatal(err)
		}
		defer f.close()
		inner, err := f.lock(bg(t), fileLock) // codex has the outer one while it waits for this
		if err != nil {
			t.Fatal(err)
		}
		_, stop := c.refresh(t, issuer(t, func() {}))
		defer stop()
		until(t, "codex has the lock", func() bool {
			held, _ := locks(t, filepath.Join(s.o.CodexHome, commitLock))
			return held
		})
		ctx, cancel := context.WithCancel(bg(t))
		type result struct {
			where Where
			err   error
		}
		done := make(chan result, 1)
		go func() {
			w, err := s.Replace(ctx, old, chatgpt("rt-ours", time.Now()))
			done <- result{w, err}
		}()
		defer cancel()
		until(t, "our journal is written", func() bool { return exists(s.journalPath()) })
		select {
		case r := <-done:
			t.Errorf("stored while codex held its lock: %+v %v", r.where, r.err)
		default:
		}
		_ = inner.Close()
		r := <-done
		if !errors.Is(r.err, ErrChanged) {
			t.Errorf("codex stored its tokens first; then ours: %+v %v", r.where, r.err)
		}
		until(t, "codex's tokens stay", func() bool { return strings.HasPrefix(refreshToken(t, s), "rt-1-next") })
		if exists(s.journalPath()) {
			t.Error("the journal stays")
		}
	})
}

// TestRealCodexKeepsALoginOfOurs: what we store while codex asks its issuer is not
// overwritten by what it receives.
func TestRealCodexKeepsALoginOfOurs(t *testing.T) {
	eachCodex(t, func(t *testing.T, c codex) {
		if c.before169() {
			t.Skip("this version writes what it received whatever is stored by then")
		}
		s := store(t, KindFile)
		c = c.on(t, s)
		mustSave(t, s, chatgpt("rt-1", time.Now().Add(-48*time.Hour)))
		var once sync.Once
		done, stop := c.refresh(t, issuer(t, func() {
			once.Do(func() { mustSave(t, s, chatgpt("rt-ours", time.Now())) })
		}))
		defer stop()
		select {
		case <-done:
		case <-bg(t).Done():
			t.Fatal("codex never answers")
		}
		if got := refreshToken(t, s); !strings.HasPrefix(got, "rt-ours") {
			t.Errorf("the store holds %q", got)
		}
	})
}
