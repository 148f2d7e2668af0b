package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/engine/native/rehearsal"
)

// Codex is one installed version of the real thing.
type Codex struct {
	Bin     string
	Version string
}

// Codexes lists the versions to test against, newest first as CI names them in
// TOWLINE_TEST_CODEX (binaries separated by colons).
func Codexes(t testing.TB) []Codex {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		Lacking(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons (npm install @openai/codex@0.169.0)")
	}
	var out []Codex
	for bin := range strings.SplitSeq(list, ":") {
		ctx, cancel := context.WithTimeout(t.Context(), Patience)
		raw, err := exec.CommandContext(ctx, bin, "--version").Output()
		cancel()
		if err != nil {
			t.Fatalf("%s --version: %v", bin, err)
		}
		fields := strings.Fields(string(raw))
		out = append(out, Codex{Bin: bin, Version: fields[len(fields)-1]})
	}
	return out
}

// EachCodex runs f once a version.
func EachCodex(t *testing.T, f func(t *testing.T, c Codex)) {
	t.Helper()
	for _, c := range Codexes(t) {
		t.Run(c.Version, func(t *testing.T) { f(t, c) })
	}
}

// CodexEnv is an environment with a Codex home of its own that talks to
// baseURL only, shows no first-run screens and looks nothing up.
func CodexEnv(t testing.TB, baseURL string, trusted ...string) []string {
	t.Helper()
	// Codex warns about a home under the temporary directory, on a screen the
	// tests read: so TMPDIR is elsewhere.
	home := t.TempDir()
	codexHome := filepath.Join(home, ".codex")
	if err := os.MkdirAll(codexHome, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(codexHome, "config.toml"), []byte(codexConfig(baseURL, trusted...)), 0o600); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + codexHome, "TMPDIR=" + tmp,
		"LANG=C.UTF-8", "LC_ALL=C.UTF-8",
		// Nothing of ours may leave the machine, whatever a version looks up.
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
	}
}

// codexConfig is a config.toml that talks to baseURL only, shows no first-run
// screens and looks nothing up.
func codexConfig(baseURL string, trusted ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `model = "gpt-5.5"
model_provider = "fake"
check_for_update_on_startup = false
approval_policy = "on-request"
sandbox_mode = "workspace-write"
[model_providers.fake]
name = "Fake"
base_url = %q
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[tools.update_plan]
enabled = true
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
[tui]
screen_reader_detection_done = true
[tui.model_availability_nux]
"gpt-6.1-sol" = 1
[notice.model_migrations]
"gpt-5.5" = "gpt-6-sol"
`, baseURL)
	for _, dir := range trusted {
		fmt.Fprintf(&b, "[projects.%q]\ntrust_level = \"trusted\"\n", dir)
	}
	return b.String()
}

// InstallCodex gives an account a Codex of its own: the program in the folder
// rel of its home, and a configuration that talks to baseURL only. For what it
// must have in its environment, see [CodexExports].
func (u *User) InstallCodex(c Codex, rel, baseURL string, trusted ...string) {
	u.t.Helper()
	u.Place(c.Bin, rel+"/codex")
	u.Write(".codex/config.toml", codexConfig(baseURL, trusted...), 0o600)
}

// CodexExports are lines for a start file of an sh-like shell: nothing of a test
// may leave the machine, whatever a version looks up.
const CodexExports = "export HTTPS_PROXY=http://127.0.0.1:9 HTTP_PROXY=http://127.0.0.1:9 NO_PROXY=127.0.0.1,localhost\n"

// Rehearsal serves the rehearsal model on loopback and returns its base URL.
func Rehearsal(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed with the test
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: rehearsal.Handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return fmt.Sprintf("http://%s/v1", l.Addr())
}
