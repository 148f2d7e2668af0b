package patch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func wrap(sections string) string { return "*** Begin Patch\n" + sections + "\n*** End Patch" }

func TestModeAndLinksAreKept(t *testing.T) {
	dir := setup(t, map[string]string{"run.sh": "one\n", "real/target": "one\n"})
	if err := os.Chmod(dir+"/run.sh", 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real/target", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	c := mustResolve(t, dir, wrap("*** Update File: run.sh\n*** Move to: bin/run\n@@\n-one\n+two\n*** Update File: link\n@@\n-one\n+two"))
	if err := c.Apply([]string{dir}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir + "/bin/run"); err != nil || st.Mode().Perm() != 0o751 {
		t.Errorf("bin/run: %v %v", st, err)
	}
	if st, err := os.Lstat(dir + "/link"); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("link was replaced: %v %v", st, err)
	}
	if diff := cmp.Diff(map[string]string{"bin/run": "two\n", "real/target": "two\n", "link": "two\n"}, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestApplyStaysInsideItsRoots(t *testing.T) {
	outside := setup(t, map[string]string{"precious": "one\n"})
	dir := setup(t, map[string]string{"f": "one\n"})
	for link, to := range map[string]string{"dir": outside, "file": outside + "/precious", "dangling": outside + "/none"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"absolute":         "*** Add File: " + outside + "/new\n+x",
		"dots":             "*** Add File: ../" + filepath.Base(outside) + "/new\n+x",
		"linked directory": "*** Add File: dir/new\n+x",
		"linked file":      "*** Update File: file\n@@\n-one\n+two",
		"dangling link":    "*** Add File: dangling\n+x",
		"delete":           "*** Delete File: dir/precious",
		"move out":         "*** Update File: f\n*** Move to: dir/new\n@@\n-one\n+two",
		"move in":          "*** Update File: dir/precious\n*** Move to: g\n@@\n-one\n+two",
	} {
		t.Run(name, func(t *testing.T) {
			if err := mustResolve(t, dir, wrap(text)).Apply([]string{dir}); !errors.Is(err, ErrOutside) {
				t.Errorf("got %v, want %v", err, ErrOutside)
			}
			if diff := cmp.Diff(map[string]string{"precious": "one\n"}, tree(t, outside)); diff != "" {
				t.Error(diff)
			}
			if b, err := os.ReadFile(dir + "/f"); err != nil || string(b) != "one\n" {
				t.Errorf("f: %q %v", b, err)
			}
		})
	}
	t.Run("without roots", func(t *testing.T) {
		if err := mustResolve(t, dir, wrap("*** Update File: file\n@@\n-one\n+two")).Apply(nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"precious": "two\n"}, tree(t, outside)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("no roots at all", func(t *testing.T) {
		if err := mustResolve(t, dir, wrap("*** Add File: new\n+x")).Apply([]string{}); !errors.Is(err, ErrOutside) {
			t.Errorf("got %v, want %v", err, ErrOutside)
		}
	})
}

// TestLinkPlantedAfterResolving has the directory of a file replaced by a
// symlink between the look and the write.
func TestLinkPlantedAfterResolving(t *testing.T) {
	outside := setup(t, map[string]string{"f": "one\n"})
	dir := setup(t, map[string]string{"d/f": "one\n"})
	c := mustResolve(t, dir, wrap("*** Update File: d/f\n@@\n-one\n+two"))
	if err := os.Rename(dir+"/d", dir+"/e"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/d"); err != nil {
		t.Fatal(err)
	}
	if err := c.Apply([]string{dir}); !errors.Is(err, ErrOutside) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(map[string]string{"f": "one\n"}, tree(t, outside)); diff != "" {
		t.Error(diff)
	}
}

// TestLinkPlantedWhileApplying does it between finding the place and writing:
// the write must fail or land inside, never outside.
func TestLinkPlantedWhileApplying(t *testing.T) {
	outside := setup(t, map[string]string{"f": "one\n"})
	dir := setup(t, map[string]string{"d/f": "one\n"})
	c := mustResolve(t, dir, wrap("*** Update File: d/f\n@@\n-one\n+two"))
	w := writer{roots: map[string]*os.Root{}}
	defer w.close()
	s, err := w.locate(c.edits[0], []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.unchanged(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/d", dir+"/e"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/d"); err != nil {
		t.Fatal(err)
	}
	if err := s.do(); err == nil {
		t.Error("wrote through a symlink that leaves the root")
	}
	if diff := cmp.Diff(map[string]string{"f": "one\n"}, tree(t, outside)); diff != "" {
		t.Error(diff)
	}
}

func TestChangedMeanwhileIsNotOverwritten(t *testing.T) {
	text := wrap("*** Add File: new\n+x\n*** Update File: f\n@@\n-one\n+two\n*** Delete File: g")
	for name, change := range map[string]func(dir string) error{
		"edited":  func(dir string) error { return os.WriteFile(dir+"/f", []byte("theirs\n"), 0o644) },
		"removed": func(dir string) error { return os.Remove(dir + "/g") },
		"created": func(dir string) error { return os.WriteFile(dir+"/new", []byte("theirs\n"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := setup(t, map[string]string{"f": "one\n", "g": "one\n"})
			c := mustResolve(t, dir, text)
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			if err := c.Apply(nil); err == nil || !strings.Contains(err.Error(), "meanwhile") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
				t.Errorf("files changed:\n%s", diff)
			}
		})
	}
}

func TestFailureMidwayIsUndone(t *testing.T) {
	files := map[string]string{"a": "one\n", "b": "one\n", "z": "x"}
	dir := setup(t, files)
	c := mustResolve(t, dir, wrap("*** Update File: a\n@@\n-one\n+two\n*** Delete File: b\n*** Add File: c/d/new\n+x\n*** Add File: y/z\n+x"))
	// A file where a directory has to be made, found only when writing.
	c.edits[len(c.edits)-1].path = dir + "/z/impossible"
	if err := c.Apply([]string{dir}); err == nil {
		t.Fatal("a file was made below a file")
	}
	if diff := cmp.Diff(files, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(dir + "/c"); !os.IsNotExist(err) {
		t.Errorf("directory c was left behind: %v", err)
	}
}

func TestTrackerSumsUpATurn(t *testing.T) {
	dir := setup(t, map[string]string{"f": "one\ntwo\n", "g": "gone\n"})
	var tr Tracker
	for _, text := range []string{
		"*** Update File: f\n@@\n-one\n+1", "*** Add File: temp\n+x", "*** Delete File: g",
		"*** Update File: f\n@@\n-two\n+2", "*** Delete File: temp",
	} {
		c := mustResolve(t, dir, wrap(text))
		if err := c.Apply(nil); err != nil {
			t.Fatal(err)
		}
		tr.Add(c)
	}
	want := "diff --git a/f b/f\nindex 814f4a422927b82f5f8a43f8fab6d3839e3983f2..1191247b6d9a206f6ba3d8ac79e26d041dd86941\n--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n-one\n-two\n+1\n+2\n" +
		"diff --git a/g b/g\ndeleted file mode 100644\nindex 286c5f5776916d7d7d5849988ca9d83e722cf9c2..0000000000000000000000000000000000000000\n--- a/g\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n"
	if diff := cmp.Diff(want, tr.Diff(dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
