package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"towline/integration/peer"
)

// fakeCodex writes a program in codex's place. Its end is a shell script that
// gets codex's arguments.
func fakeCodex(t *testing.T, path, script string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	// Renamed into place: it may be looked for at any moment.
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// badCodex is a host whose codex is (or is not) the program at bin.
func badCodex(t *testing.T, bin string, env ...string) *peer.Host {
	t.Helper()
	return peer.Start(t, peer.HostConfig{TOML: fmt.Sprintf("[engine]\nkind = \"codex\"\n[engine.codex]\nbinary = %q\n", bin), Env: env})
}

// A host without a usable Codex is reachable all the same: every way in says
// what is wrong and what to type.
func TestEngineThatIsNotThereSaysWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		says   []string // on the screen, without its line breaks
		detail string   // in status only
	}{
		"missing": {"", []string{"codex is not installed", "npm install -g @openai/codex"}, ""},
		"too old": {`echo codex-cli 0.100.0`, []string{"0.100.0", "too old", "@openai/codex@latest"}, ""},
		"dies in start-up": {
			`[ "$1" = --version ] && { echo codex-cli 0.169.0; exit; }; echo "reading state" >&2; echo "Error: disk I/O error" >&2; exit 101`,
			[]string{"ended while it started", "disk I/O error"},
			"reading state",
		},
	} {
		t.Run(name, func(t *testing.T) {
			bin := filepath.Join(t.TempDir(), "codex")
			if tc.script != "" {
				fakeCodex(t, bin, tc.script)
			}
			h := badCodex(t, bin, "HOME="+t.TempDir())
			term := h.Attach(80, 24)
			screen := strings.Join(strings.Fields(term.Wait("no engine", "→")), " ")
			for _, want := range tc.says {
				if !strings.Contains(screen, want) {
					t.Errorf("the screen does not say %q:\n%s", want, screen)
				}
			}
			local := peer.Open(t, 80, 24, append(peer.Environ(t), "TOWLINE_HOME="+h.Home), peer.Binary(t), "attach")
			local.Wait("no engine", "→")
			out, stderr, err := h.Run("status")
			if err != nil {
				t.Fatalf("status: %v\n%s", err, stderr)
			}
			for _, want := range append(tc.says, tc.detail, "hint: ") {
				if !strings.Contains(out, want) {
					t.Errorf("status does not say %q:\n%s", want, out)
				}
			}
			term.Keys("C-c")
			term.Wait("again to leave")
			term.Keys("C-c")
			term.Wait("[exit 0]")
		})
	}
}

// What is mended while somebody looks is noticed by the screen they look at:
// Codex appears, then its login.
func TestEngineStateMendsItself(t *testing.T) {
	c := peer.Codexes(t)[0]
	env := peer.CodexEnv(t, "http://127.0.0.1:9/v1")
	home := lookup(env, "CODEX_HOME")
	// The usual provider, which needs an account.
	config := "check_for_update_on_startup = false\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n"
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "codex")
	h := badCodex(t, bin, env...)
	term := h.Attach(80, 24)
	term.Wait("no engine", "codex is not installed")

	fakeCodex(t, bin, "exec "+c.Bin+` "$@"`)
	term.WaitGone("no engine")
	term.Wait("Codex has no account yet", "codex login", "? help")

	login := filepath.Join(home, "auth.json")
	if err := os.WriteFile(login, []byte(`{"auth_mode":"apikey","OPENAI_API_KEY":"sk-none"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	term.WaitGone("no account yet")
	out, _, err := h.Run("status", "--json")
	var st struct {
		Engine struct{ State, Problem string }
	}
	if err != nil || json.Unmarshal([]byte(out), &st) != nil || st.Engine.State != "ready" || st.Engine.Problem != "" {
		t.Errorf("status: %v, %s", err, out)
	}
}

// Codex is killed in the middle of a turn: the screen comes back by itself,
// shows the turn as cut, and the next one works.
func TestEngineKilledInATurn(t *testing.T) {
	c := peer.Codexes(t)[0]
	h := codexHost(t, c)
	term := h.Attach(90, 28)
	term.Wait("? help")
	say(term, "count to 400 slowly")
	term.Wait("1 2 3")
	pids := regexp.MustCompile(`msg="started codex".* pid=(\d+)`).FindStringSubmatch(h.Log())
	if pids == nil {
		t.Fatal("the log does not name codex's process")
	}
	pid, _ := strconv.Atoi(pids[1]) // digits
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	term.Wait("■ interrupted")
	say(term, "hello again")
	term.Wait("Rehearsal model", "✔ done")
}

// lookup is a variable of an environment list.
func lookup(env []string, name string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
