package agent

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	"towline/appserver/protocol"
)

// Bounds of the turn's diff. It is sent whole after each change.
const (
	maxDiffFile  = 1 << 20 // a larger file is only named
	maxDiffBytes = 4 << 20
	maxDiffFiles = 2000
)

// turnDiff is what a turn's patches did to files, against how the files were
// before the turn first touched them. Changes commands make are not in it, as in
// Codex, except to files a patch touched too.
type turnDiff struct {
	order []string
	base  map[string]*snapshot // by absolute path
	moved map[string]string    // from -> to
}

// snapshot is a file's content; nil in the map means the file was absent.
type snapshot struct {
	text   []byte
	opaque bool // too large, unreadable or binary
}

// before takes the baseline of files a patch is about to touch.
func (d *turnDiff) before(paths []string, updates []protocol.FileUpdate) {
	if d.base == nil {
		d.base, d.moved = map[string]*snapshot{}, map[string]string{}
	}
	for _, p := range paths {
		if _, seen := d.base[p]; !seen && len(d.order) < maxDiffFiles {
			d.base[p] = snap(p)
			d.order = append(d.order, p)
		}
	}
	for _, u := range updates {
		if u.Kind.MovePath != nil {
			d.moved[u.Path] = *u.Kind.MovePath
		}
	}
}

func snap(path string) *snapshot {
	b, err := readRegular(path, maxDiffFile)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return &snapshot{opaque: true}
	}
	return &snapshot{text: b, opaque: bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0}
}

// text is the git-style diff between the baseline and the files as they are.
func (d *turnDiff) text(cwd string) string {
	root := gitRoot(cwd)
	if root == "" {
		root = cwd
	}
	paths := slices.Clone(d.order)
	slices.Sort(paths)
	now := make(map[string]*snapshot, len(paths))
	for _, p := range paths {
		now[p] = snap(p)
	}
	var b strings.Builder
	done := map[string]bool{}
	for _, from := range paths {
		to, ok := d.moved[from]
		if _, known := now[to]; !ok || !known || now[from] != nil || d.base[from] == nil || now[to] == nil || d.base[to] != nil {
			continue
		}
		done[from], done[to] = true, true
	}
	for _, p := range paths {
		switch to, ok := d.moved[p]; {
		case ok && done[p] && now[p] == nil:
			fileDiff(&b, p, to, d.base[p], now[to], root)
		case done[p]:
		default:
			fileDiff(&b, p, p, d.base[p], now[p], root)
		}
		if b.Len() > maxDiffBytes {
			return cut(b.String(), maxDiffBytes) + "\n[the rest of this diff was too long and left out]\n"
		}
	}
	return b.String()
}

// fileDiff appends one file's part; nothing when it is as it was.
func fileDiff(b *strings.Builder, from, to string, old, now *snapshot, root string) {
	if old == nil && now == nil {
		return
	}
	if from == to && old != nil && now != nil && !old.opaque && !now.opaque && bytes.Equal(old.text, now.text) {
		return
	}
	oldName, newName := "a/"+inRepo(from, root), "b/"+inRepo(to, root)
	fmt.Fprintf(b, "diff --git %s %s\n", oldName, newName)
	switch {
	case old == nil:
		b.WriteString("new file mode 100644\n")
		oldName = "/dev/null"
	case now == nil:
		b.WriteString("deleted file mode 100644\n")
		newName = "/dev/null"
	case from != to:
		fmt.Fprintf(b, "rename from %s\nrename to %s\n", inRepo(from, root), inRepo(to, root))
	}
	if old != nil && now != nil && !old.opaque && !now.opaque && bytes.Equal(old.text, now.text) {
		return
	}
	fmt.Fprintf(b, "index %s..%s\n", blob(old), blob(now))
	if old != nil && old.opaque || now != nil && now.opaque {
		fmt.Fprintf(b, "Binary files %s and %s differ\n", oldName, newName)
		return
	}
	var was, is string
	if old != nil {
		was = string(old.text)
	}
	if now != nil {
		is = string(now.text)
	}
	b.WriteString(udiff.Unified(oldName, newName, was, is))
}

// blob is the object id git gives a content.
func blob(s *snapshot) string {
	if s == nil || s.opaque {
		return strings.Repeat("0", 2*sha1.Size)
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", len(s.text))
	h.Write(s.text)
	return hex.EncodeToString(h.Sum(nil))
}

// inRepo is a path as a diff names it; one outside keeps its leading slash, so
// that "git apply -p1" would find it.
func inRepo(path, root string) string {
	if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
