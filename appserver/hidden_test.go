package appserver

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"towline/config"
)

// What opens the login is hidden from confined commands like the login itself: the
// session's bus, where an unlocked keyring answers whoever connects, and the key
// that systemd gave.
func TestSecurityWaysToTheLoginAreHidden(t *testing.T) {
	run, open, project := filepath.Join(t.TempDir(), "run"), t.TempDir(), t.TempDir()
	for dir, mode := range map[string]os.FileMode{run: 0o700, open: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"XDG_RUNTIME_DIR": run, "CREDENTIALS_DIRECTORY": "/run/credentials/towline.service"}
	c := EngineConfig{
		Paths: config.Paths{Runtime: "/r", State: "/s", Config: "/c"}, CodexHome: "/h", Project: project,
		Environ: func(name string) string { return env[name] },
	}
	if got, want := c.hidden(), []string{"/r", "/s", "/c", "/h", "/run/credentials/towline.service", run}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	env = map[string]string{"XDG_RUNTIME_DIR": open, "CREDENTIALS_DIRECTORY": "relative"}
	if got, want := c.hidden(), []string{"/r", "/s", "/c", "/h"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c.Project = filepath.Join(run, "project")
	env = map[string]string{"XDG_RUNTIME_DIR": run}
	if slices.Contains(c.hidden(), run) {
		t.Error("the project is hidden")
	}
}
