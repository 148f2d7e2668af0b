package patch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"towline/appserver/protocol"
)

// Change is a resolved patch: what will be on disk, not yet written.
type Change struct {
	// Updates is what a fileChange item shows, by path.
	Updates []protocol.FileUpdate
	edits   []edit
	summary []string
}

// edit is one file before and after; nil content means that there is none.
type edit struct {
	path   string // absolute
	before *string
	after  *string
	movedTo,
	movedFrom string // absolute; the other end of a move
}

// Resolve computes the change the patch makes to the files as they are. read
// gives a file's content, an error that is os.ErrNotExist where there is none.
// Paths are taken relative to cwd, which is absolute. The error is a sentence
// for the model; nothing has been written when it comes.
func (p *Patch) Resolve(cwd string, read func(path string) ([]byte, error)) (*Change, error) {
	if !filepath.IsAbs(cwd) {
		return nil, fmt.Errorf("the working directory %q is not absolute", cwd)
	}
	r := resolver{cwd: cwd, read: read, files: map[string]*edit{}}
	for i := range p.sections {
		if err := r.section(&p.sections[i]); err != nil {
			return nil, err
		}
	}
	return r.change(), nil
}

// resolver collects the edits of the sections, later ones seeing what earlier
// ones did.
type resolver struct {
	cwd     string
	read    func(string) ([]byte, error)
	files   map[string]*edit
	order   []string
	summary [3][]string // added, modified, deleted
	added   map[string]bool
}

func (r *resolver) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(r.cwd, path)
}

// file gives the state of a path, reading it the first time.
func (r *resolver) file(path string) (*edit, error) {
	if e, ok := r.files[path]; ok {
		return e, nil
	}
	e := &edit{path: path}
	b, err := r.read(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	case len(b) > MaxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes: change it with a command", path, MaxFile)
	default:
		s := string(b)
		e.before, e.after = &s, &s
	}
	r.files[path] = e
	r.order = append(r.order, path)
	return e, nil
}

func (r *resolver) section(s *section) error {
	path := r.abs(s.path)
	if err := namesFile(s.path, path, r.cwd); err != nil {
		return err
	}
	e, err := r.file(path)
	if err != nil {
		return err
	}
	switch s.op {
	case opAdd:
		e.after = &s.text
		if r.added == nil {
			r.added = map[string]bool{}
		}
		r.added[path] = true
		r.summary[0] = append(r.summary[0], "A "+s.path)
		return nil
	case opDelete:
		if e.after == nil {
			return fmt.Errorf("%s does not exist, so it cannot be deleted", path)
		}
		e.after = nil
		delete(r.added, path)
		r.summary[2] = append(r.summary[2], "D "+s.path)
		return nil
	}
	if e.after == nil {
		return fmt.Errorf("%s does not exist, so it cannot be updated: use '*** Add File'", path)
	}
	if !utf8.ValidString(*e.after) {
		return fmt.Errorf("%s is not UTF-8 text: change it with a command", path)
	}
	after := *e.after
	if len(s.chunks) > 0 {
		if after, err = update(after, path, s.chunks); err != nil {
			return err
		}
	}
	if s.moveTo == "" || r.abs(s.moveTo) == path {
		e.after = &after
		r.summary[1] = append(r.summary[1], "M "+s.path)
		return nil
	}
	to := r.abs(s.moveTo)
	if err := namesFile(s.moveTo, to, r.cwd); err != nil {
		return err
	}
	dest, err := r.file(to)
	if err != nil {
		return err
	}
	dest.after, dest.movedFrom = &after, path
	e.after, e.movedTo = nil, to
	r.summary[1] = append(r.summary[1], "M "+s.moveTo)
	return nil
}

// namesFile refuses paths that can only be directories.
func namesFile(written, path, cwd string) error {
	if path == cwd || strings.HasSuffix(written, "/") || path == filepath.Dir(path) {
		return fmt.Errorf("'%s' is not the path of a file", written)
	}
	return nil
}

func (r *resolver) change() *Change {
	c := &Change{summary: slices.Concat(r.summary[0], r.summary[1], r.summary[2])}
	slices.Sort(r.order)
	for _, path := range r.order {
		e := r.files[path]
		if e.movedTo != "" && r.files[e.movedTo].movedFrom != path {
			e.movedTo = "" // overwritten by a later section
		}
		if e.movedFrom != "" && r.files[e.movedFrom].movedTo != path {
			e.movedFrom = ""
		}
		c.edits = append(c.edits, *e)
	}
	for _, e := range c.edits {
		if u, ok := r.describe(e); ok {
			c.Updates = append(c.Updates, u)
		}
	}
	return c
}

// describe is the edit in a fileChange item; the far end of a move is told by
// the near one.
func (r *resolver) describe(e edit) (protocol.FileUpdate, bool) {
	u := protocol.FileUpdate{Path: e.path}
	switch {
	case e.movedTo != "":
		to := e.movedTo
		u.Kind = protocol.UpdateKind{Type: opUpdate, MovePath: &to}
		u.Diff = hunks(*e.before, *r.files[to].after, 1) + "\n\nMoved to: " + to
	case e.movedFrom != "" && r.files[e.movedFrom].before != nil:
		return u, false
	case e.after == nil && e.before == nil: // added and deleted again
		return u, false
	case e.after == nil:
		u.Kind.Type, u.Diff = opDelete, strings.ToValidUTF8(*e.before, "\uFFFD")
	case e.before == nil || r.added[e.path]:
		u.Kind.Type, u.Diff = opAdd, *e.after
	default:
		u.Kind.Type, u.Diff = opUpdate, hunks(*e.before, *e.after, 1)
	}
	return u, true
}

// Paths lists every file the change writes or removes, absolute, sorted.
func (c *Change) Paths() []string {
	var out []string
	for _, e := range c.edits {
		out = append(out, e.path)
	}
	return out
}

// Summary is what the model is told after Apply: the files with A, M or D, as
// the patch named them.
func (c *Change) Summary() string {
	return "Success. Updated the following files:\n" + strings.Join(c.summary, "\n") + "\n"
}
