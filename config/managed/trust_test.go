//go:build unix

package managed

import (
	"os"
	"path/filepath"
	"testing"
)

const lend = "allow_lend_network = false\n"

func TestFilesOthersCouldHaveWrittenAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"writable by the group": {func(t *testing.T, path string) { chmod(t, path, 0o664) }, "others than root can write to it (mode 0664)"},
		"writable by all":       {func(t *testing.T, path string) { chmod(t, path, 0o646) }, "others than root can write to it"},
		"in a folder of all":    {func(t *testing.T, path string) { chmod(t, filepath.Dir(path), 0o777) }, "its folder"},
		"a folder": {func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "it is no regular file"},
		"a link into a folder of all": {func(t *testing.T, path string) {
			there := filepath.Join(t.TempDir(), "shared")
			if err := os.Mkdir(there, 0o755); err != nil {
				t.Fatal(err)
			}
			chmod(t, there, 0o777)
			real := filepath.Join(there, "requirements.toml")
			if err := os.Rename(path, real); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(real, path); err != nil {
				t.Fatal(err)
			}
		}, "its folder"},
		"of somebody else": {func(t *testing.T, path string) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			if err := os.Chown(path, 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}, "it belongs to uid 12345, not to root"},
		"in a folder of somebody else": {func(t *testing.T, path string) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			if err := os.Chown(filepath.Dir(path), 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}, "its folder"},
		"not readable": {func(t *testing.T, path string) {
			if os.Getuid() == 0 {
				t.Skip("root reads everything")
			}
			chmod(t, path, 0)
		}, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			root := machine(t, map[string]string{ours: lend})
			tc.spoil(t, filepath.Join(root, ours))
			p, err := Load(Options{Root: root})
			refused(t, err, ours, tc.want)
			allRefuse(t, p, ours)
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil { // not by umask
		t.Fatal(err)
	}
}

// Configuration management links files from folders of its own.
func TestALinkBetweenTrustedFoldersIsFollowed(t *testing.T) {
	root := machine(t, map[string]string{ours: lend})
	there := t.TempDir()
	chmod(t, there, 0o755)
	path, real := filepath.Join(root, ours), filepath.Join(there, "r.toml")
	if err := os.Rename(path, real); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	p, err := Load(Options{Root: root})
	if err != nil || !p.LendNetwork.Set || p.LendNetwork.From != ours {
		t.Errorf("%+v, %v", p.LendNetwork, err)
	}
	// One that leads nowhere was meant to be there.
	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	p, err = Load(Options{Root: root})
	refused(t, err, ours, "leads nowhere")
	allRefuse(t, p, ours)
}

// A file named where a folder should be is not a missing file.
func TestSomethingElseInTheWayFailsClosed(t *testing.T) {
	root := machine(t, map[string]string{"/etc/towline": "x"})
	p, err := Load(Options{Root: root})
	refused(t, err, ours, "not a directory")
	allRefuse(t, p, ours)
}
