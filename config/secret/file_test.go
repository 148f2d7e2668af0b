//go:build unix

package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/config"
)

func TestFileIsPrivateAndWhole(t *testing.T) {
	s := store(t, KindFile)
	if _, _, err := s.Load(bg(t)); !errors.Is(err, ErrNone) {
		t.Fatalf("nothing stored: %v", err)
	}
	if exists(s.o.CodexHome) {
		t.Error("looking made a folder")
	}
	want := chatgpt("rt-1", time.Now())
	w := mustSave(t, s, want)
	path := filepath.Join(s.o.CodexHome, "auth.json")
	if w != (Where{Kind: KindFile, Path: path}) {
		t.Errorf("stored in %+v", w)
	}
	for p, mode := range map[string]os.FileMode{path: 0o600, s.o.CodexHome: 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", p, info.Mode(), err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != string(want.File()) {
		t.Errorf("content: %v", err)
	}
	got, w := mustLoad(t, s)
	if got.id() != want.id() || w.Path != path || w.Kind != KindFile {
		t.Errorf("loaded %v from %+v", got, w)
	}
	if had, err := s.Delete(bg(t)); !had || err != nil || exists(path) {
		t.Errorf("delete: %v %v", had, err)
	}
	if had, err := s.Delete(bg(t)); had || err != nil {
		t.Errorf("delete twice: %v %v", had, err)
	}
}

func TestFileRefusesWhatIsNotPrivate(t *testing.T) {
	const key = `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-canary"}`
	for name, tc := range map[string]struct {
		arrange func(t *testing.T, home, path string)
		hint    string
		save    bool // saving is refused as well, instead of putting it right
	}{
		"group may read": {func(t *testing.T, _, path string) { write(t, path, key, 0o640) }, "chmod 600", false},
		"all may read":   {func(t *testing.T, _, path string) { write(t, path, key, 0o604) }, "chmod 600", false},
		"foreign owner": {func(t *testing.T, _, path string) {
			if os.Getuid() != 0 {
				t.Skip("only root can give a file away")
			}
			write(t, path, key, 0o600)
			if err := os.Chown(path, 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"link to outside": {func(t *testing.T, home, path string) {
			write(t, home+"-else/auth.json", key, 0o600)
			if err := os.Symlink("../codex-else/auth.json", path); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"absolute link": {func(t *testing.T, home, path string) {
			write(t, home+"-else/auth.json", key, 0o600)
			if err := os.Symlink(home+"-else/auth.json", path); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"circle of links": {func(t *testing.T, home, path string) {
			if err := errors.Join(os.Symlink("b", path), os.Symlink("auth.json", filepath.Join(home, "b"))); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"huge": {func(t *testing.T, _, path string) { write(t, path, strings.Repeat("sk-canary", maxStored/8), 0o600) }, "aside", false},
		"a FIFO": {func(t *testing.T, _, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"a folder": {func(t *testing.T, _, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "aside", true},
		"folder anybody may write": {func(t *testing.T, home, path string) {
			write(t, path, key, 0o600)
			if err := os.Chmod(home, 0o777); err != nil { //nolint:gosec // the point of the case
				t.Fatal(err)
			}
		}, "chmod go-w", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t, KindFile)
			if err := os.Mkdir(s.o.CodexHome, 0o700); err != nil {
				t.Fatal(err)
			}
			tc.arrange(t, s.o.CodexHome, filepath.Join(s.o.CodexHome, "auth.json"))
			_, _, err := s.Load(bg(t))
			if !errors.Is(err, ErrUnsafe) || strings.Contains(err.Error(), "canary") {
				t.Fatalf("load: %v", err)
			}
			if h := strings.Join(config.Hints(err), " "); !strings.Contains(h, tc.hint) {
				t.Errorf("hints: %s", h)
			}
			_, err = s.Save(bg(t), Auth{Mode: ModeAPIKey, APIKey: "sk-new"})
			if tc.save != errors.Is(err, ErrUnsafe) || !tc.save && err != nil {
				t.Errorf("save: %v", err)
			}
			if other := s.o.CodexHome + "-else/auth.json"; exists(other) {
				if b, err := os.ReadFile(other); err != nil || string(b) != key {
					t.Errorf("what the link led to was touched: %v", err)
				}
			}
		})
	}
}

func TestLinksThatStayInsideAreFollowed(t *testing.T) {
	s := store(t, KindFile)
	real := s.o.CodexHome + "-real"
	write(t, filepath.Join(real, "work.json"), `{"auth_mode":"apikey","OPENAI_API_KEY":"sk-1"}`, 0o600)
	if err := errors.Join(os.Symlink(real, s.o.CodexHome), os.Symlink("work.json", filepath.Join(real, "auth.json"))); err != nil {
		t.Fatal(err)
	}
	if a, _ := mustLoad(t, s); a.APIKey != "sk-1" {
		t.Errorf("loaded %v", a)
	}
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-2"})
	to, err := os.Readlink(filepath.Join(real, "auth.json"))
	if err != nil || to != "work.json" {
		t.Errorf("the link now is %q, %v", to, err)
	}
	if b, err := os.ReadFile(filepath.Join(real, "work.json")); err != nil || !strings.Contains(string(b), "sk-2") {
		t.Errorf("its file: %s %v", b, err)
	}
	if had, err := s.Delete(bg(t)); !had || err != nil || exists(filepath.Join(real, "work.json")) {
		t.Errorf("delete: %v %v", had, err)
	}
}

func TestAWriteThatFailsLeavesTheOldFile(t *testing.T) {
	if os.Getuid() == 0 {
		// Root writes anywhere, so a full folder is made of a file's limit.
		t.Run("limit", func(t *testing.T) {
			s := store(t, KindFile)
			mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-1"})
			var old syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
				t.Fatal(err)
			}
			small := old
			small.Cur = 64 // SIGXFSZ is ignored by the Go runtime: the write fails with EFBIG
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
				t.Fatal(err)
			}
			_, err := s.Save(bg(t), chatgpt("rt-canary", time.Now()))
			if err2 := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err2 != nil {
				t.Fatal(err2)
			}
			if !errors.Is(err, syscall.EFBIG) || strings.Contains(err.Error(), "canary") {
				t.Fatalf("save: %v", err)
			}
			if a, _ := mustLoad(t, s); a.APIKey != "sk-1" {
				t.Errorf("the old one is %v", a)
			}
			if f, err := openFolder(s.o.CodexHome, false); err != nil || len(f.leftovers(authFile)) != 0 {
				t.Errorf("left behind: %v", err)
			}
		})
		return
	}
	s := store(t, KindFile)
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-1"})
	if err := os.Chmod(s.o.CodexHome, 0o500); err != nil { //nolint:gosec // the point
		t.Fatal(err)
	}
	defer func() { _ = os.Chmod(s.o.CodexHome, 0o700) }() //nolint:gosec // a folder
	if _, err := s.Save(bg(t), Auth{Mode: ModeAPIKey, APIKey: "sk-2"}); err == nil {
		t.Error("no error")
	}
	if a, _ := mustLoad(t, s); a.APIKey != "sk-1" {
		t.Errorf("the old one is %v", a)
	}
}

func TestLeftoversAreSeenAndSwept(t *testing.T) {
	s := store(t, KindFile)
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-1"})
	ours := filepath.Join(s.o.CodexHome, temporary(authFile))
	codexs := filepath.Join(s.o.CodexHome, ".auth-0o7XbV")
	write(t, ours, "{", 0o600)
	write(t, codexs, "{", 0o600)
	if n := len(places(t, s, KindLeftover)); n != 2 {
		t.Errorf("%d leftovers are listed", n)
	}
	mustSave(t, s, Auth{Mode: ModeAPIKey, APIKey: "sk-2"})
	if exists(ours) || !exists(codexs) {
		t.Errorf("ours there: %v, Codex's: %v", exists(ours), exists(codexs))
	}
}
