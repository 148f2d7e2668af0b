package patch

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"towline/appserver/engine/native/sandbox"
)

// ErrOutside is in the error of Apply when a file lies outside of the roots.
var ErrOutside = errors.New("outside of the writable directories")

// Apply writes the change, each file at once (written beside, then renamed) and
// with the mode it had. With roots every file must lie below one of them, after
// symlinks are followed and whatever happens to them meanwhile; nil means no
// such limit (the user agreed, or nothing is restricted). A file that is not as
// Resolve saw it is not touched. When it fails midway what was done is undone;
// the error tells when that failed too.
func (c *Change) Apply(roots []string) (err error) {
	w := writer{roots: map[string]*os.Root{}}
	defer w.close()
	var todo []step
	modes := map[string]fs.FileMode{}
	for _, e := range c.edits {
		if e.before == nil && e.after == nil || e.before != nil && e.after != nil && *e.before == *e.after {
			continue
		}
		s, err := w.locate(e, roots)
		if err != nil {
			return err
		}
		if err := s.unchanged(); err != nil {
			return err
		}
		modes[s.path] = s.mode
		todo = append(todo, s)
	}
	for i := range todo {
		if s := &todo[i]; s.before == nil && s.movedFrom != "" {
			s.mode = modes[s.movedFrom] // a script stays executable when it moves
		}
	}
	for i := range todo {
		s := &todo[i]
		if err := s.do(); err != nil {
			failed := fmt.Errorf("%s: %w", s.path, err)
			for j := i; j >= 0; j-- {
				if err := todo[j].undo(); err != nil {
					failed = fmt.Errorf("%w; and %s could not be put back: %w", failed, todo[j].path, err)
				}
			}
			return failed
		}
	}
	return nil
}

// ReadFile reads a file for Resolve: a regular one of bounded size, so that
// neither a pipe nor a disk image can hold up the caller.
func ReadFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case st.Size() > MaxFile:
		return nil, fmt.Errorf("it is larger than %d bytes", MaxFile)
	}
	return os.ReadFile(path)
}

// writer holds the directories files are reached through.
type writer struct {
	roots map[string]*os.Root
}

func (w *writer) close() {
	for _, r := range w.roots {
		_ = r.Close() // nothing is pending
	}
}

// step is one edit on its way to the disk.
type step struct {
	edit
	root *os.Root
	name string      // below root; symlinks followed
	mode fs.FileMode // what the file has or, after a move, should have; 0: the default
	made []string    // directories, outermost first
	done bool        // or begun
}

// locate follows symlinks once and opens the root the file lies in. From there
// on the root sees to it that nothing escapes.
func (w *writer) locate(e edit, roots []string) (step, error) {
	real, err := sandbox.RealPath(e.path)
	if err != nil {
		return step{}, fmt.Errorf("%s: %w", e.path, err)
	}
	base := ""
	if roots == nil {
		base = filepath.VolumeName(real) + string(filepath.Separator)
	}
	for _, r := range roots {
		r, err := sandbox.RealPath(r)
		if err != nil {
			continue // a root that cannot be reached grants nothing
		}
		if rel, err := filepath.Rel(r, real); err == nil && filepath.IsLocal(rel) && len(r) > len(base) {
			base = r
		}
	}
	if base == "" {
		return step{}, fmt.Errorf("%s is %w", e.path, ErrOutside)
	}
	root, ok := w.roots[base]
	if !ok {
		if root, err = os.OpenRoot(base); err != nil {
			return step{}, fmt.Errorf("%s: %w", e.path, err)
		}
		w.roots[base] = root
	}
	name, err := filepath.Rel(base, real)
	if err != nil {
		return step{}, fmt.Errorf("%s: %w", e.path, err)
	}
	return step{edit: e, root: root, name: name}, nil
}

// unchanged checks that the file is as it was when the change was computed: an
// approval may have taken long.
func (s *step) unchanged() error {
	st, err := s.root.Stat(s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.before != nil {
			return fmt.Errorf("%s has been removed meanwhile; look again and make a new patch", s.path)
		}
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", s.path, err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", s.path)
	}
	s.mode = st.Mode()
	b, err := s.root.ReadFile(s.name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if s.before == nil || *s.before != string(b) {
		return fmt.Errorf("%s has been changed meanwhile; read it again and make a new patch", s.path)
	}
	return nil
}

func (s *step) do() error {
	if s.after == nil {
		s.done = true
		return s.root.Remove(s.name)
	}
	if err := s.makeParents(); err != nil {
		return err
	}
	s.done = true
	return s.write(*s.after)
}

// undo puts the file back as it was; for a step that did nothing it does nothing.
func (s *step) undo() error {
	var err error
	if s.done {
		if s.before == nil {
			if err = s.root.Remove(s.name); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		} else {
			err = s.write(*s.before)
		}
	}
	for i := len(s.made) - 1; i >= 0; i-- {
		_ = s.root.Remove(s.made[i]) // only while empty
	}
	return err
}

// makeParents makes missing directories and remembers which.
func (s *step) makeParents() error {
	dir := filepath.Dir(s.name)
	if dir == "." {
		return nil
	}
	sofar := ""
	for part := range strings.SplitSeq(dir, string(filepath.Separator)) {
		sofar = filepath.Join(sofar, part)
		err := s.root.Mkdir(sofar, 0o777)
		if err == nil {
			s.made = append(s.made, sofar)
			continue
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// write replaces the file by a new one with the same mode and owner. Where the
// directory does not allow that, the file itself is rewritten.
func (s *step) write(content string) error {
	temp := filepath.Join(filepath.Dir(s.name), ".towline-"+rand.Text()+".tmp")
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		if s.before != nil && errors.Is(err, fs.ErrPermission) {
			return s.overwrite(content)
		}
		return err
	}
	_, err = f.WriteString(content)
	if s.mode != 0 && err == nil {
		err = likeBefore(f, s)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = s.root.Rename(temp, s.name)
	}
	if err != nil {
		_ = s.root.Remove(temp) // the first error matters
	}
	return err
}

func (s *step) overwrite(content string) error {
	f, err := s.root.OpenFile(s.name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// likeBefore gives the new file the mode of the old one and, where we may, its
// owner.
func likeBefore(f *os.File, s *step) error {
	if st, err := s.root.Stat(s.name); err == nil {
		keepOwner(f, st)
	}
	return f.Chmod(s.mode.Perm() | s.mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}
