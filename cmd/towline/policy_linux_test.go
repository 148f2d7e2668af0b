package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mandated is a machine with managed files of its own: towline and codex run in a
// mount namespace whose /etc is a folder of the test.
type mandated struct {
	t    *testing.T
	etc  string
	home string
	bin  string // this program, as towline
	env  []string
}

// lackingPeer skips a test for want of what; in CI that is a failure.
func lackingPeer(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("lacking " + what)
	}
	t.Skip("SKIPPED, lacking " + what)
}

// newMandated makes a machine with these files below /etc.
func newMandated(t *testing.T, files map[string]string) *mandated {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := &mandated{t: t, etc: filepath.Join(dir, "etc"), home: filepath.Join(dir, "home"), bin: filepath.Join(dir, "bin", "towline")}
	m.write(m.bin, "", 0o755)
	if err := errors.Join(os.Remove(m.bin), os.Symlink(self, m.bin)); err != nil {
		t.Fatal(err)
	}
	m.write(filepath.Join(m.etc, "keep"), "", 0o644)
	for name, text := range files {
		m.write(filepath.Join(m.etc, name), text, 0o644)
	}
	m.write(m.path("towline/config.toml"), "[engine]\nkind = \"native\"\n[engine.native]\nrehearsal = true\n[ssh]\nlisten = \"off\"\n", 0o600)
	if err := os.MkdirAll(m.path("codex"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + m.home, "TOWLINE_HOME=" + m.path("towline"), "CODEX_HOME=" + m.path("codex"),
		"TMPDIR=" + t.TempDir(), "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9",
	}
	if out, err := m.run("", "/bin/true"); err != nil {
		lackingPeer(t, "a mount namespace (unshare, as root or with user namespaces): "+err.Error()+" "+out)
	}
	return m
}

func (m *mandated) path(name string) string { return filepath.Join(m.home, name) }

func (m *mandated) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
		m.t.Fatal(err)
	}
	if filepath.Base(filepath.Dir(path)) == "towline" {
		if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
			m.t.Fatal(err)
		}
	}
}

// command is a program on the machine.
func (m *mandated) command(ctx context.Context, args ...string) *exec.Cmd {
	unshare := []string{"-m"}
	if os.Getuid() != 0 {
		unshare = []string{"-rm"}
	}
	cmd := exec.CommandContext(ctx, "unshare", append(append(unshare, "/bin/sh", "-c", `e=$1; shift; mount --bind "$e" /etc && exec "$@"`, "sh", m.etc), args...)...)
	cmd.Env = m.env
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run is what a program printed on both streams, and how it ended.
func (m *mandated) run(stdin string, args ...string) (string, error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 45*time.Second)
	defer cancel()
	cmd := m.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// fails runs towline, which must end with that status and say all of these.
func (m *mandated) fails(status int, stdin string, args []string, words ...string) {
	m.t.Helper()
	out, err := m.run(stdin, append([]string{m.bin}, args...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		m.t.Errorf("towline %s: %v, want status %d\n%s", strings.Join(args, " "), err, status, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			m.t.Errorf("towline %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	if strings.Contains(out, "canary") {
		m.t.Errorf("towline %s tells a secret:\n%s", strings.Join(args, " "), out)
	}
}

// serves starts a host until it is ready, and ends it; what it logged comes back.
func (m *mandated) serves() string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 45*time.Second)
	defer cancel()
	cmd := m.command(ctx, m.bin, "serve", "--json", "--stop-with-stdin")
	var log strings.Builder
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	var r ready
	readErr := json.NewDecoder(out).Decode(&r)
	_ = in.Close()
	if err := cmd.Wait(); err != nil || readErr != nil || !r.Ready {
		m.t.Fatalf("the host does not start: %v, %v, %+v\n%s", err, readErr, r, &log)
	}
	return log.String()
}

// status is what `towline credentials status --json` says.
func (m *mandated) status() (r credentialReport) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 45*time.Second)
	defer cancel()
	out, err := m.command(ctx, m.bin, "credentials", "status", "--json").Output()
	if err != nil {
		m.t.Fatalf("credentials status: %v\n%s", err, out)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return r
}

// unlocks gives the machine the key of the encrypted file, as systemd would give it
// to a service.
func (m *mandated) unlocks() {
	m.write(m.path("creds/towline.credentials-key"), "0123456789abcdef0123456789abcdef", 0o600)
	m.env = append(m.env, "CREDENTIALS_DIRECTORY="+m.path("creds"))
}

func (m *mandated) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

const (
	oursFile   = "/etc/towline/requirements.toml"
	codexsFile = "/etc/codex/requirements.toml"
	canaryKey  = `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary"}`
)

func TestHostMovesAPlainLoginIntoTheMandatedStore(t *testing.T) {
	m := newMandated(t, map[string]string{"towline/requirements.toml": `cli_auth_credentials_store = "encrypted"`})
	m.unlocks()
	m.write(m.path("codex/auth.json"), canaryKey, 0o600)
	if r := m.status(); r.LoggedIn || r.Store.From != oursFile || len(r.Places) != 1 || !strings.Contains(r.Places[0].Forbids, oursFile) {
		t.Errorf("before: %+v", r)
	}
	log := m.serves()
	if !strings.Contains(log, "credentials were moved into the mandated store") || !strings.Contains(log, oursFile) || strings.Contains(log, "canary") {
		t.Errorf("log: %s", log)
	}
	if m.exists("codex/auth.json") {
		t.Error("the plain file is still there")
	}
	r := m.status()
	if !r.LoggedIn || r.Login.Mode != "apikey" || len(r.Places) != 1 || r.Places[0].Kind != "encrypted" || !r.Places[0].Used {
		t.Errorf("after: %+v", r)
	}
	if log = m.serves(); strings.Contains(log, "moved") {
		t.Errorf("it moves again: %s", log)
	}
}

func TestHostDoesNotStartWithALoginThatCannotBeMoved(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"no keyring is here": {
			map[string]string{"codex/requirements.toml": `cli_auth_credentials_store = "keyring"`},
			[]string{"error: policy: ", `"keyring" (set by ` + codexsFile + ")", "hint: see where they are: `towline credentials status`"},
		},
		"nothing may be stored": {
			map[string]string{"towline/requirements.toml": `cli_auth_credentials_store = "ephemeral"`},
			[]string{"no credential may be stored on this machine, and there is one: ", "auth.json (set by " + oursFile + ")", "towline logout"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMandated(t, tc.files)
			m.write(m.path("codex/auth.json"), canaryKey, 0o600)
			m.fails(5, "", []string{"serve"}, tc.want...)
			m.fails(5, "", []string{"app-server", "--listen", "unix://"}, tc.want...)
			if !m.exists("codex/auth.json") {
				t.Error("the only copy is gone")
			}
			if m.exists("towline/run/towline.sock") {
				t.Error("it serves")
			}
			if err := os.Remove(m.path("codex/auth.json")); err != nil {
				t.Fatal(err)
			}
			m.serves()
		})
	}
}

func TestHalfWrittenLoginKeepsAHostFromStarting(t *testing.T) {
	m := newMandated(t, map[string]string{"towline/requirements.toml": `cli_auth_credentials_store = "encrypted"`})
	m.unlocks()
	m.write(m.path("codex/.auth-abcdef"), canaryKey, 0o600) // Codex was killed here
	m.fails(5, "", []string{"serve"}, ".auth-abcdef", "look at it and remove it", oursFile)
}

func TestPolicyNobodyCanReadForbidsEverything(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"Towline's file": {"towline/requirements.toml": "allow_lend_netwrok = false"},
		"Codex's file":   {"codex/requirements.toml": "bogus ["},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMandated(t, files)
			m.write(m.path("codex/auth.json"), canaryKey, 0o600)
			var file string
			for f := range files {
				file = "/etc/" + f
			}
			m.fails(3, "", []string{"serve"}, "error: policy: "+file, "nothing it could forbid is done", "hint: ask whoever manages this machine")
			m.fails(3, "", []string{"credentials", "status"}, "policy     ✘ "+file, "places     – file", "error: policy: ")
			m.fails(3, "sk-canary\n", []string{"login", "--with-api-key"}, "error: policy: "+file)
		})
	}
	// Nor does breaking a file of one's own get around a mandate.
	m := newMandated(t, map[string]string{"towline/requirements.toml": `cli_auth_credentials_store = "keyring"`})
	m.write(m.path("codex/auth.json"), canaryKey, 0o600)
	m.write(m.path("codex/config.toml"), "bogus [", 0o600)
	m.fails(5, "", []string{"serve"}, oursFile)
}

// What both programs know of is refused by both, and in the same order: before
// anything is stored.
func TestForbiddenLoginIsRefusedAsCodexRefusesIt(t *testing.T) {
	m := newMandated(t, map[string]string{"codex/requirements.toml": `allowed_login_methods = ["chatgpt"]`})
	m.fails(5, "sk-canary\n", []string{"login", "--with-api-key"}, "error: policy: ", "API key", codexsFile)
	if m.exists("codex/auth.json") {
		t.Error("it was stored")
	}
	// One that was stored before counts for neither.
	m.write(m.path("codex/auth.json"), canaryKey, 0o600)
	if r := m.status(); r.LoggedIn || !strings.Contains(r.Places[0].Forbids, codexsFile) {
		t.Errorf("%+v", r)
	}
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		lackingPeer(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries")
	}
	for codex := range strings.SplitSeq(list, ":") {
		if out, err := m.run("", codex, "login", "status"); err == nil {
			t.Errorf("%s uses it: %s", codex, out)
		}
		if out, err := m.run("sk-canary\n", codex, "login", "--with-api-key"); err == nil || !strings.Contains(out, "API key login is disabled") {
			t.Errorf("%s: %v %s", codex, err, out)
		}
	}
}

// A login from before the mandate came is not handed to a Codex that does not read
// it.
func TestSecurityHostDoesNotServeAForbiddenLogin(t *testing.T) {
	m := newMandated(t, map[string]string{"towline/requirements.toml": `allowed_login_methods = ["chatgpt"]`})
	m.write(m.path("towline/config.toml"), "[engine]\nkind = \"codex\"\n[ssh]\nlisten = \"off\"\n", 0o600)
	m.write(m.path("codex/auth.json"), canaryKey, 0o600)
	m.fails(5, "", []string{"serve"}, "error: policy: ", "the login that is stored here may not be used", oursFile, "towline logout")
}
