//go:build unix

package codex

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

func failed(st protocol.EngineState) bool { return st.State == stateFailed }

func TestMissingProgramFailsAtOnceAndSaysHowToInstall(t *testing.T) {
	home := t.TempDir()
	env := []string{"PATH=" + t.TempDir(), "HOME=" + home}
	if search(env) != "" {
		t.Skip("a codex is installed where installers put it")
	}
	e, _, _ := run(t, Config{Environ: env, ShareControlSocket: true})
	st := until(t, e, "failed", failed)
	if !strings.Contains(st.Problem, "not installed") || !strings.Contains(strings.Join(st.Hints, " "), "npm install -g @openai/codex") || st.RetryInMs == 0 {
		t.Errorf("state = %+v", st)
	}
	var pe *protocol.Error
	if _, err := e.Connect(t.Context()); !errors.As(err, &pe) || !strings.Contains(pe.Message, "npm install") {
		t.Errorf("connect = %v", err)
	}
}

func TestTooOldProgramFails(t *testing.T) {
	bin := script(t, "0.99.12", "exit 9")
	e, _, _ := run(t, Config{Binary: bin, Environ: newHome(t, ""), ShareControlSocket: true})
	st := until(t, e, "failed", failed)
	if !strings.Contains(st.Problem, "0.99.12") || !strings.Contains(st.Problem, DefaultMinVersion) || !strings.Contains(strings.Join(st.Hints, " "), "@latest") {
		t.Errorf("state = %+v", st)
	}
}

func TestDeathInStartUpIsExplainedAndAtLastCountsAsFailed(t *testing.T) {
	bin := script(t, "0.169.0", `i=0; while [ $i -lt 3000 ]; do echo "noise $i" >&2; i=$((i+1)); done
printf '\033[31mError:\033[0m config.toml line 3 makes no sense\033]0;owned\007\n' >&2; exit 7`)
	e, _, _ := run(t, Config{Binary: bin, Environ: newHome(t, ""), ShareControlSocket: true})
	st := until(t, e, "restarting", func(st protocol.EngineState) bool { return st.State != stateStarting })
	if st.State != stateRestarting || st.Problem != "codex ended while it started: exit status 7: config.toml line 3 makes no sense" {
		t.Errorf("state = %+v", st)
	}
	if len(st.Detail) > tailBytes || !strings.Contains(st.Detail, "noise 2999") || strings.ContainsAny(st.Detail, "\x1b\x07") || strings.Contains(st.Detail, "owned") {
		t.Errorf("detail (%d bytes) = %.200q", len(st.Detail), st.Detail)
	}
	if len(st.Hints) == 0 || st.RetryInMs == 0 {
		t.Errorf("state = %+v", st)
	}
	until(t, e, "failed", failed)
	if _, err := e.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "makes no sense") {
		t.Errorf("connect = %v", err)
	}
}

func TestRealCodexExplainsWhyItCannotStart(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		for name, tc := range map[string]struct {
			spoil func(home string) error
			want  string
		}{
			"no home":         {func(home string) error { return os.RemoveAll(home) }, "no such folder"},
			"no socket there": {func(home string) error { return os.MkdirAll(Config{CodexHome: home}.controlSocket(), 0o700) }, "codex ended while it started: exit status 1"},
		} {
			t.Run(name, func(t *testing.T) {
				env := newHome(t, "")
				if err := tc.spoil(getenv(env, "CODEX_HOME")); err != nil {
					t.Fatal(err)
				}
				e, _, _ := run(t, Config{Binary: bin, Environ: env, ShareControlSocket: true})
				st := until(t, e, "restarting", func(st protocol.EngineState) bool { return st.State != stateStarting })
				if ready(st) || !strings.Contains(st.Problem, tc.want) || len(st.Hints) == 0 {
					t.Errorf("state = %+v", st)
				}
			})
		}
	})
}

func TestMendedProgramIsPickedUp(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		path := script(t, "0.169.0", "echo Error: not yet >&2; exit 1")
		e, _, _ := run(t, Config{Binary: path, Environ: newHome(t, "http://127.0.0.1:9/v1"), ShareControlSocket: true})
		until(t, e, "failed", failed)
		// Renamed over, as installers do.
		next := path + ".new"
		write(t, next, "#!/bin/sh\nexec "+bin+" \"$@\"\n", 0o700)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		until(t, e, "ready", ready)
	})
}

func TestFind(t *testing.T) {
	good := script(t, "0.170.1-alpha.2", "")
	for name, tc := range map[string]struct {
		path, version, problem string
	}{
		"found":       {path: good, version: "0.170.1-alpha.2"},
		"old":         {path: script(t, "0.99.0", ""), problem: "too old"},
		"built here":  {path: script(t, "0.0.0", ""), version: "0.0.0"},
		"no version":  {path: script(t, "of something else", ""), problem: "not the Codex CLI"},
		"cannot run":  {path: filepath.Join(t.TempDir(), "codex"), problem: "not installed"},
		"fails there": {path: failing(t), problem: "libfoo.so is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			// A relative entry means a different program in every folder.
			path, version, err := Find(t.Context(), []string{"PATH=.:" + filepath.Dir(tc.path) + ":/bin:/usr/bin", "HOME=" + t.TempDir()})
			if tc.problem == "" {
				if err != nil || path != tc.path || version != tc.version {
					t.Errorf("Find = %q, %q, %v", path, version, err)
				}
				return
			}
			var p *config.Problem
			if !errors.As(err, &p) || !strings.Contains(err.Error(), tc.problem) || len(p.Hints) == 0 || p.Exit != config.ExitUnavailable {
				t.Errorf("Find = %q, %q, %v", path, version, err)
			}
		})
	}
}

func failing(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "codex")
	write(t, path, "#!/bin/sh\necho libfoo.so is missing >&2; exit 127\n", 0o700)
	return path
}

func TestLoggedIn(t *testing.T) {
	eachCodex(t, func(t *testing.T, bin string) {
		for name, tc := range map[string]struct {
			conf string
			env  string
			auth string
			want bool
			err  string
		}{
			"nobody":                   {want: false},
			"api key":                  {auth: `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-not-a-real-key-12345678"}`, want: true},
			"provider without account": {conf: "model_provider = \"x\"\n[model_providers.x]\nname = \"x\"\nbase_url = \"http://127.0.0.1:9/v1\"\n", want: true},
			"provider with account":    {conf: "model_provider = \"x\"\n[model_providers.x]\nname = \"x\"\nbase_url = \"http://127.0.0.1:9/v1\"\nrequires_openai_auth = true\n", want: false},
			"key missing":              {conf: "model_provider = \"x\"\n[model_providers.x]\nname = \"x\"\nbase_url = \"http://127.0.0.1:9/v1\"\nenv_key = \"X_KEY\"\n", want: false},
			"key there":                {conf: "model_provider = \"x\"\n[model_providers.x]\nname = \"x\"\nbase_url = \"http://127.0.0.1:9/v1\"\nenv_key = \"X_KEY\"\n", env: "X_KEY=1", want: true},
			"broken configuration":     {conf: "model = [\n", err: "account"},
		} {
			t.Run(name, func(t *testing.T) {
				env := newHome(t, "")
				home := getenv(env, "CODEX_HOME")
				write(t, filepath.Join(home, "config.toml"), tc.conf, 0o600)
				if tc.auth != "" {
					write(t, filepath.Join(home, "auth.json"), tc.auth, 0o600)
				}
				got, err := LoggedIn(t.Context(), Config{Binary: bin, Environ: append(env, tc.env)})
				if got != tc.want || (err == nil) != (tc.err == "") {
					t.Errorf("LoggedIn = %v, %v", got, err)
				}
				if err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Errorf("err = %v", err)
				}
			})
		}
	})
	t.Run("no codex", func(t *testing.T) {
		if ok, err := LoggedIn(t.Context(), Config{Binary: "/nowhere/codex"}); ok || err == nil || !strings.Contains(err.Error(), "not installed") {
			t.Errorf("LoggedIn = %v, %v", ok, err)
		}
	})
}

func TestOlder(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"0.165.9", "0.166.0", true},
		{"0.166.0", "0.166.0", false},
		{"0.166.0-alpha.1", "0.166.0", false},
		{"1.0.0", "0.166.0", false},
		{"0.99.99", "0.166.0", true},
		{"0.0.0", "0.166.0", false},
		{"", "0.166.0", false},
	} {
		if got := older(tc.a, tc.b); got != tc.want {
			t.Errorf("older(%q, %q) = %v", tc.a, tc.b, got)
		}
	}
}

func TestBackoffDoublesUpToItsMost(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: time.Second}
	for i, most := range []time.Duration{100, 200, 400, 800, 1000, 1000, 1000} {
		most *= time.Millisecond
		if d := b.next(); d < most/2 || d > most {
			t.Errorf("wait %d = %v, want between %v and %v", i, d, most/2, most)
		}
	}
	b.reset()
	if d := b.next(); d > 100*time.Millisecond {
		t.Errorf("after a reset: %v", d)
	}
}

func TestTailKeepsTheEndAndNothingThatActsOnATerminal(t *testing.T) {
	var tl tail
	for range 1000 {
		_, _ = tl.Write([]byte("a line of no interest\n"))
	}
	_, _ = tl.Write([]byte("\x1b[1;31mlast\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b\xff\r\x08words\u202e\n"))
	got := tl.String()
	if len(got) > tailBytes || !strings.HasPrefix(got, "a line") {
		t.Errorf("%d bytes beginning %.20q", len(got), got)
	}
	if want := "last link \uFFFDwords"; !strings.HasSuffix(got, want) {
		t.Errorf("ends %q, want %q", got[len(got)-30:], want)
	}
}

func TestVerdict(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"error line":     {"2026-11-22T09:08:33Z ERROR x: no bubblewrap\nError: in use\n\nStack backtrace:\n   0: <unknown>", "in use"},
		"last line":      {"first\nsecond\n", "second"},
		"usage error":    {"WARNING: no aliases\nerror: invalid value\n\nFor more information, try '--help'.", "invalid value"},
		"without colon":  {"Error loading configuration: no home", "Error loading configuration: no home"},
		"only a log":     {"2026-11-22T09:08:33Z ERROR x: no bubblewrap", ""},
		"only a warning": {"WARNING: proceeding, even though", ""},
		"nothing":        {"", ""},
		"very long line": {strings.Repeat("é", 1000), strings.Repeat("é", 239) + "…"},
	} {
		if got := verdict(tc.text); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
