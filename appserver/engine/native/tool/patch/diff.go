package patch

import (
	"crypto/sha1" //nolint:gosec // git names blobs by it
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	udiff "github.com/aymanbagabas/go-udiff"
)

// Tracker sums up the changes of a turn, for turn/diff/updated. The zero value
// is ready. Not safe for concurrent use.
type Tracker struct {
	files map[string]*edit
}

// Add takes a change that was applied.
func (t *Tracker) Add(c *Change) {
	if t.files == nil {
		t.files = map[string]*edit{}
	}
	for _, e := range c.edits {
		if known, ok := t.files[e.path]; ok {
			known.after, known.movedTo, known.movedFrom = e.after, e.movedTo, e.movedFrom
			continue
		}
		t.files[e.path] = &e
	}
}

// Diff is the git-style unified diff of everything added so far, with paths
// relative to root where they lie below it. Empty when all is as it was.
func (t *Tracker) Diff(root string) string {
	var edits []edit
	for _, e := range t.files {
		edits = append(edits, *e)
	}
	slices.SortFunc(edits, func(a, b edit) int { return strings.Compare(a.path, b.path) })
	return gitDiff(edits, root)
}

// Diff is the git-style unified diff of the change, with paths relative to root
// where they lie below it.
func (c *Change) Diff(root string) string { return gitDiff(c.edits, root) }

// DiffRoot is the directory paths in a diff should be relative to: the
// repository cwd lies in, else cwd itself. A .git directory without a HEAD is no
// repository: sandboxes leave such things behind, also in /tmp.
func DiffRoot(cwd string) string {
	for dir := cwd; ; dir = filepath.Dir(dir) {
		git := filepath.Join(dir, ".git")
		if st, err := os.Lstat(git); err == nil {
			if !st.IsDir() {
				return dir // a worktree's or submodule's pointer
			}
			if _, err := os.Lstat(filepath.Join(git, "HEAD")); err == nil {
				return dir
			}
		}
		if dir == filepath.Dir(dir) {
			return cwd
		}
	}
}

func gitDiff(edits []edit, root string) string {
	byPath := map[string]edit{}
	for _, e := range edits {
		byPath[e.path] = e
	}
	// A move is one entry when nothing was in its way: git could not say otherwise.
	clean := func(from, to string) bool {
		f, t := byPath[from], byPath[to]
		return f.movedTo == to && t.movedFrom == from && f.before != nil && f.after == nil && t.before == nil && t.after != nil
	}
	var b strings.Builder
	for _, e := range edits {
		switch {
		case e.movedTo != "" && clean(e.path, e.movedTo):
			writeDiff(&b, relative(root, e.path), relative(root, e.movedTo), e.before, byPath[e.movedTo].after)
		case e.movedFrom != "" && clean(e.movedFrom, e.path):
		default:
			name := relative(root, e.path)
			writeDiff(&b, name, name, e.before, e.after)
		}
	}
	return b.String()
}

func relative(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return strings.TrimPrefix(filepath.ToSlash(path), "/")
}

const noBlob = "0000000000000000000000000000000000000000"

func writeDiff(b *strings.Builder, from, to string, before, after *string) {
	if before == nil && after == nil || before != nil && after != nil && *before == *after && from == to {
		return
	}
	fmt.Fprintf(b, "diff --git a/%s b/%s\n", from, to)
	old, new, oldBlob, newBlob := "", "", noBlob, noBlob
	oldName, newName := "a/"+from, "b/"+to
	if before == nil {
		b.WriteString("new file mode 100644\n")
		oldName = "/dev/null"
	} else {
		old, oldBlob = *before, blob(*before)
	}
	if after == nil {
		b.WriteString("deleted file mode 100644\n")
		newName = "/dev/null"
	} else {
		new, newBlob = *after, blob(*after)
	}
	if from != to && old == new { // otherwise the names below tell it, as in Codex
		fmt.Fprintf(b, "rename from %s\nrename to %s\n", from, to)
	}
	fmt.Fprintf(b, "index %s..%s\n", oldBlob, newBlob)
	if old == new {
		return
	}
	if strings.ContainsRune(old, 0) || strings.ContainsRune(new, 0) {
		fmt.Fprintf(b, "Binary files %s and %s differ\n", oldName, newName)
		return
	}
	fmt.Fprintf(b, "--- %s\n+++ %s\n%s", oldName, newName, hunks(old, new, 3))
}

// blob is the name git gives to content.
func blob(s string) string {
	h := sha1.New() //nolint:gosec // git names blobs by it
	fmt.Fprintf(h, "blob %d\x00%s", len(s), s)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// hunks is the unified diff from old to new without file headers.
func hunks(old, new string, context int) string {
	old, new = strings.ToValidUTF8(old, "\uFFFD"), strings.ToValidUTF8(new, "\uFFFD")
	if old == new {
		return ""
	}
	d, err := udiff.ToUnified("a", "b", old, udiff.Lines(old, new), context)
	if err != nil { // only for edits that do not fit their text: not ours
		return ""
	}
	_, d, _ = strings.Cut(d, "\n")
	_, d, _ = strings.Cut(d, "\n")
	return d
}
