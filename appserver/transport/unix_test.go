//go:build unix

package transport

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/config"
)

// stale leaves a socket at path that nobody answers, as kill -9 does.
func stale(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

func TestSocketIsPrivateAndRemoved(t *testing.T) {
	l := open(t, socketURL(t), Options{}, echo)
	path := strings.TrimPrefix(l.URL(), "unix://")
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket was left behind")
	}
}

func TestStaleSocketNeverBlocksAStart(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	for name, prepare := range map[string]func(path string){
		"socket":          func(path string) { stale(t, path) },
		"link to nothing": func(path string) { _ = os.Symlink("/nowhere/sock", path) },
		"link to a dead one": func(path string) {
			stale(t, path+".real")
			_ = os.Symlink(path+".real", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			prepare(path)
			l := open(t, "unix://"+path, Options{}, echo)
			roundTrip(t, dial(t, l.URL()), "1")
		})
	}
}

func TestWhatIsInTheWayIsLeftAlone(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	_ = os.Symlink(file, link)
	live := open(t, "unix://"+filepath.Join(dir, "live"), Options{}, echo)
	for path, want := range map[string]string{
		file: "not a socket", folder: "not a socket", link: "not a socket",
		filepath.Join(dir, "live"): "in use",
	} {
		_, err := Listen(t.Context(), "unix://"+path, Options{})
		if err == nil || !strings.Contains(err.Error(), want) || len(config.Hints(err)) == 0 {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone", path)
		}
	}
	roundTrip(t, dial(t, live.URL()), "1")
}

func TestLooseOrForeignFoldersAreRefused(t *testing.T) {
	loose := filepath.Join(shortDir(t), "loose")
	if err := os.Mkdir(loose, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o750); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(t.Context(), "unix://"+loose+"/s", Options{})
	var p *config.Problem
	if !errors.As(err, &p) || p.Exit != config.ExitConfig || !strings.Contains(strings.Join(p.Hints, " "), "chmod 700") {
		t.Errorf("loose: %v", err)
	}
	if os.Geteuid() != 0 {
		return // only root can make a folder of another user
	}
	if err := errors.Join(os.Chmod(loose, 0o700), os.Chown(loose, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix://"+loose+"/s", Options{}); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("foreign: %v", err)
	}
}

func TestOnlyOneOfManyStartsWins(t *testing.T) {
	path := filepath.Join(shortDir(t), "d", "s")
	stale(t, path)
	var wg sync.WaitGroup
	won := make(chan *Listener, 8)
	for range cap(won) {
		wg.Go(func() {
			l, err := Listen(t.Context(), "unix://"+path, Options{})
			if err == nil {
				won <- l
			} else if !strings.Contains(err.Error(), "in use") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d starts won", len(won))
	}
	l := <-won
	serve(t, l, echo)
	roundTrip(t, dial(t, l.URL()), "1")
}

func TestLateCloseLeavesASuccessorsSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "d", "s")
	old, err := Listen(t.Context(), "unix://"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // as a too eager clean-up would
		t.Fatal(err)
	}
	next := open(t, "unix://"+path, Options{}, echo)
	_ = old.Close()
	roundTrip(t, dial(t, next.URL()), "1")
}

func TestLongPathsWorkThroughALink(t *testing.T) {
	for name, runtime := range map[string]func(t *testing.T) string{
		"with a runtime folder":    func(t *testing.T) string { return filepath.Join(shortDir(t), "run") },
		"without":                  func(*testing.T) string { return "" },
		"with a long one as well":  func(t *testing.T) string { return filepath.Join(t.TempDir(), strings.Repeat("r", 100)) },
		"with one kept from a run": func(t *testing.T) string { return filepath.Join(shortDir(t), "run") },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), strings.Repeat("deep/", 30), "sock")
			o := Options{RuntimeDir: runtime(t)}
			l := open(t, "unix://"+path, o, echo)
			if l.URL() != "unix://"+path {
				t.Errorf("URL = %s", l.URL())
			}
			roundTrip(t, dial(t, l.URL()), "1")
			if _, err := Listen(t.Context(), "unix://"+path, o); err == nil || !strings.Contains(err.Error(), "in use") {
				t.Errorf("a second one: %v", err)
			}
			actual, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			for _, p := range []string{path, actual} {
				if _, err := os.Lstat(p); err == nil {
					t.Errorf("%s was left behind", p)
				}
			}
			if name == "without" {
				if _, err := os.Lstat(filepath.Dir(actual)); err == nil {
					t.Errorf("%s was left behind", filepath.Dir(actual))
				}
				return
			}
			// What kill -9 leaves: a link, and a socket nobody answers.
			stale(t, actual)
			if err := os.Symlink(actual, path); err != nil {
				t.Fatal(err)
			}
			roundTrip(t, dial(t, open(t, "unix://"+path, o, echo).URL()), "1")
		})
	}
}
