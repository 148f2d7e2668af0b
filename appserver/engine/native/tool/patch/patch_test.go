package patch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// setup makes a workspace. Its path holds no symlinks.
func setup(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func resolve(dir, text string) (*Change, error) {
	p, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return p.Resolve(dir, ReadFile)
}

func mustResolve(t *testing.T, dir, text string) *Change {
	t.Helper()
	c, err := resolve(dir, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSameAsCodex applies every patch of the table with the real Codex and with
// this package and compares files, descriptions, diffs and summaries.
func TestSameAsCodex(t *testing.T) {
	for _, bin := range codexBinaries(t) {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) {
			c := startCodex(t, bin)
			for _, tc := range table {
				t.Run(tc.name, func(t *testing.T) { compare(t, c, tc) })
			}
		})
	}
}

func compare(t *testing.T, c *realCodex, tc patchCase) {
	theirs, ours := setup(t, tc.files), setup(t, tc.files)
	c.t = t
	o := c.apply(theirs, tc.patch)
	refused := !strings.Contains(o.told, "Success.")

	change, err := resolve(ours, tc.patch)
	if err == nil {
		err = change.Apply([]string{ours})
	}
	if files, ok := better[tc.name]; ok {
		if diff := cmp.Diff(files, tree(t, ours)); err != nil || diff != "" {
			t.Errorf("%v, files (-want +got):\n%s", err, diff)
		}
		if cmp.Equal(tree(t, theirs), tree(t, ours)) {
			t.Errorf("Codex does the same here: the case is not special any more")
		}
		return
	}
	if refused != (err != nil) {
		t.Fatalf("codex: %s\nwe: %v", o.told, err)
	}
	if diff := cmp.Diff(tree(t, theirs), tree(t, ours)); diff != "" {
		t.Errorf("files (-codex +we):\n%s", diff)
	}
	if refused {
		t.Logf("codex: %s\nwe: %v", o.told, err)
		return
	}
	// The workspaces differ in their last element only.
	here := func(s string) string { return strings.ReplaceAll(s, theirs, ours) }
	for i := range o.changes {
		o.changes[i].Path, o.changes[i].Diff = here(o.changes[i].Path), here(o.changes[i].Diff)
		if m := o.changes[i].Kind.MovePath; m != nil {
			*m = here(*m)
		}
	}
	if diff := cmp.Diff(o.changes, change.Updates); diff != "" {
		t.Errorf("changes (-codex +we):\n%s", diff)
	}
	root := DiffRoot(theirs)
	ourDiff := strings.ReplaceAll(change.Diff(DiffRoot(ours)), strings.TrimPrefix(ours, root+"/")+"/", strings.TrimPrefix(theirs, root+"/")+"/")
	if diff := cmp.Diff(strings.TrimSuffix(o.diff, "\n"), strings.TrimSuffix(ourDiff, "\n")); diff != "" {
		t.Errorf("turn diff (-codex +we):\n%s", diff)
	}
	if !strings.Contains(o.told, strings.ReplaceAll(change.Summary(), "\n", `\n`)) {
		t.Errorf("summary: codex %s\nwe %q", o.told, change.Summary())
	}
}

func TestDiffRootIsARepository(t *testing.T) {
	top := t.TempDir()
	repo := filepath.Join(top, "repo")
	inner := filepath.Join(repo, "sub", "inner")
	for _, dir := range []string{filepath.Join(repo, ".git"), filepath.Join(repo, "sub", ".git"), inner} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, ".git", "HEAD"), []byte("ref: refs/heads/main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := DiffRoot(inner); got != repo {
		t.Errorf("an empty .git counts: %s", got)
	}
	if err := os.WriteFile(filepath.Join(inner, ".git"), []byte("gitdir: /elsewhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := DiffRoot(inner); got != inner {
		t.Errorf("a worktree does not: %s", got)
	}
}
