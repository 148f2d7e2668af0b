package sshconfig

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// home makes a home folder with the given files in it; a name beginning with "/"
// is relative to a folder that stands for the root.
func home(t *testing.T, files map[string]string) Options {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		Home: dir, User: "me", SystemFile: filepath.Join(dir, "none"),
		Getenv: func(k string) string {
			return map[string]string{"HOME": dir, "SET": "value", "SSH_AUTH_SOCK": "/agent"}[k]
		},
	}
}

// needSSH skips a test that compares with OpenSSH where there is none, but not
// where the peers are promised.
func needSSH(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("ssh")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("ssh is lacking")
		}
		t.Skip("SKIPPED: ssh is lacking")
	}
	return path
}
