package patch

import "errors"

// Parse reads a patch. The error is a sentence for the model.
func Parse(text string) (*Patch, error) { return nil, errors.New("not yet") }

// Resolve computes the change the patch makes to the files as they are. read
// answers with an error that is os.ErrNotExist for a file that is not there.
// Paths are taken relative to cwd, which is absolute.
func (p *Patch) Resolve(cwd string, read func(path string) ([]byte, error)) (*Change, error) {
	return nil, errors.New("not yet")
}

// Paths lists every file the change writes, removes or moves, absolute.
func (c *Change) Paths() []string { return nil }

// Apply writes the change. With roots every file must lie below one of them
// after symlinks are followed, whatever happens meanwhile; without roots there
// is no such limit (the user agreed, or nothing is restricted). When it fails
// midway what was done is undone as far as possible.
func (c *Change) Apply(roots []string) error { return nil }

// Diff is the git-style unified diff of the change, paths relative to root
// where they are below it.
func (c *Change) Diff(root string) string { return "" }
