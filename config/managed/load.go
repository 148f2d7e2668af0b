package managed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"towline/config"
)

// maxFile bounds a managed file, in bytes; anything larger is not one.
const maxFile = 1 << 20

// Options says where to look; the zero value is this machine.
type Options struct {
	// Root stands before every path. Files under a Root of one's own may belong to
	// whoever reads them: it is for tests.
	Root string
	// Codex is what people set in Codex's own configuration: its forced_… keys
	// narrow what the managed files leave, as they do for Codex.
	Codex config.CodexSettings
}

// source is one managed file.
type source struct {
	path  string // as people know it, without a root
	codex bool   // Codex reads it too
	read  func(p *Policy, path string, raw []byte) error
}

// Load reads the managed files that are there. One that cannot be read, parsed or
// trusted is an error, a *config.Problem, and the Policy that comes with it refuses
// everything: a mandate nobody can read may forbid anything.
func Load(o Options) (Policy, error) {
	var p, theirs Policy
	for _, s := range sources() {
		path := filepath.Join(o.Root, s.path)
		raw, err := readTrusted(path, o.Root != "")
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			err = errors.New("the link leads nowhere")
		}
		if err == nil {
			err = s.read(&p, s.path, raw)
		}
		if err != nil {
			var problem *config.Problem
			if !errors.As(err, &problem) {
				err = &config.Problem{
					Stage: stagePolicy, Err: fmt.Errorf("%s: %w; %w", s.path, err, errUnusable),
					Hints: []string{"ask whoever manages this machine to mend " + s.path}, Exit: config.ExitConfig,
				}
			}
			return Policy{broken: err}, err
		}
		p.Files = append(p.Files, s.path)
		if s.codex {
			was := theirs.Store
			_ = s.read(&theirs, s.path, raw) // it was read above
			if was.Set {
				theirs.Store = was // the first of its files counts for Codex
			}
		}
	}
	p.codexStore, p.codexWorkspaces = theirs.Store, theirs.Workspaces
	p.narrowBy(o.Codex)
	return p, nil
}

// narrowBy adds what a person set for themselves. Where Codex's managed_config.toml
// sets the same key it has replaced that, as every layer of Codex does.
func (p *Policy) narrowBy(c config.CodexSettings) {
	if v := c.ForcedLogin; v.Value != "" && !p.forcedLogin {
		narrow(&p.LoginMethods, []string{v.Value}, v.From)
	}
	if v := c.ForcedWorkspace; v.From != "" && !p.forcedWorkspace {
		narrow(&p.Workspaces, c.ForcedWorkspaces, v.From)
	}
}

// readTrusted reads a file only an administrator can have written.
func readTrusted(path string, mine bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := trusted(path, info, mine); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	return bytes.TrimPrefix(raw, []byte("\ufeff")), nil
}
