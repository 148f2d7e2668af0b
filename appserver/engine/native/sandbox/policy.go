package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// ControlFolders are the entries of a writable root that stay read-only: what
// stands there makes other programs, outside any sandbox, run things (hooks,
// filters, agent settings). Codex 0.169 protects the first three and .aws.
//
// A folder that does not exist cannot be protected from programs, which may
// create it (Codex hides the name behind an empty one, and leaves that behind
// when it is killed); patches are refused there all the same.
var ControlFolders = []string{".git", ".codex", ".agents", ".aws", ".towline"}

// Restricted reports whether a program under p needs the helper at all.
func Restricted(p protocol.SandboxPolicy) bool {
	switch p.Type {
	case protocol.PolicyFullAccess:
		return false
	case protocol.PolicyExternal:
		return !NetworkAllowed(p)
	}
	return true
}

// NetworkAllowed reports whether p lets programs use the network. Whatever is
// not clearly a yes is a no.
func NetworkAllowed(p protocol.SandboxPolicy) bool {
	if p.Type == protocol.PolicyFullAccess {
		return true
	}
	switch v := p.NetworkAccess.(type) {
	case bool:
		return v
	case string:
		return v == "enabled"
	}
	return false
}

// writesEverywhere reports whether p leaves the file system alone.
func writesEverywhere(p protocol.SandboxPolicy) bool {
	return p.Type == protocol.PolicyFullAccess || p.Type == protocol.PolicyExternal
}

// roots lists what Roots does for the policies that restrict writing; tmpdir is
// the value of $TMPDIR.
func roots(p protocol.SandboxPolicy, cwd, tmpdir string) []string {
	out := []string{}
	if p.Type != protocol.PolicyWorkspaceWrite {
		return out
	}
	candidates := append([]string{cwd}, p.WritableRoots...)
	if !p.ExcludeSlashTmp {
		// POSIX shared memory is /tmp's sibling: semaphores of Python, Chrome and
		// Postgres live there.
		candidates = append(candidates, "/tmp", "/dev/shm")
	}
	if !p.ExcludeTmpdirEnvVar && tmpdir != "" {
		candidates = append(candidates, tmpdir)
	}
	for _, c := range candidates {
		if !filepath.IsAbs(c) {
			continue
		}
		r, err := RealPath(c)
		if err != nil || slices.Contains(out, r) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// Roots lists the directories p lets programs and patches write to without
// asking, symlinks resolved. everywhere is true when p does not restrict
// writing; then the list is nil, and only then.
func Roots(p protocol.SandboxPolicy, cwd string) (list []string, everywhere bool) {
	if writesEverywhere(p) {
		return nil, true
	}
	return roots(p, cwd, os.Getenv("TMPDIR")), false
}

// Writable reports whether a patch may write path (absolute, or relative to
// cwd) without asking. Symlinks in the longest existing part of path are
// followed first, so a link out of the workspace does not count as inside.
func Writable(p protocol.SandboxPolicy, cwd, path string) bool {
	list, everywhere := Roots(p, cwd)
	if everywhere {
		return true
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(cwd, path)
	}
	real, err := RealPath(path)
	if err != nil {
		return false
	}
	writable := false
	for _, a := range areas(list) {
		if beneath(a.Path, real) {
			writable = a.Write // the areas come outermost first: the innermost decides
		}
	}
	return writable
}

// area is a piece of the file system with its own rule.
type area struct {
	Path  string `json:"path"`
	Write bool   `json:"write,omitempty"`
}

// areas lists the roots and what is protected in them, outer before inner. A
// root named explicitly inside a protected folder, or being one, is writable.
func areas(rootList []string) []area {
	var out []area
	for _, r := range rootList {
		out = append(out, area{r, true})
	}
	for _, p := range protected(rootList) {
		if !slices.ContainsFunc(out, func(a area) bool { return a.Path == p }) {
			out = append(out, area{p, false})
		}
	}
	slices.SortStableFunc(out, func(a, b area) int { return len(a.Path) - len(b.Path) })
	return out
}

// protected lists the control folders of all roots, existing or not, and the
// directories that .git files of worktrees point to.
func protected(rootList []string) []string {
	var out []string
	for _, root := range rootList {
		for _, name := range ControlFolders {
			p := filepath.Join(root, name)
			out = append(out, p)
			if real, err := RealPath(p); err == nil && real != p {
				out = append(out, real)
			}
			if name == ".git" {
				if dir := gitdir(p); dir != "" {
					out = append(out, dir)
				}
			}
		}
	}
	return out
}

// gitdir reads where a .git file (a worktree, a submodule) points to; "" when
// it is no such file.
func gitdir(dotgit string) string {
	st, err := os.Stat(dotgit)
	if err != nil || !st.Mode().IsRegular() || st.Size() > 4096 {
		return ""
	}
	b, err := os.ReadFile(dotgit)
	if err != nil {
		return ""
	}
	dir, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "gitdir:")
	if !ok {
		return ""
	}
	dir = strings.TrimSpace(dir)
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(filepath.Dir(dotgit), dir)
	}
	real, err := RealPath(dir)
	if err != nil {
		return ""
	}
	return real
}

// RealPath follows the symlinks of the longest part of path that exists and
// appends the rest. A dangling link counts as what it points to.
func RealPath(path string) (string, error) {
	path = filepath.Clean(path)
	var rest []string
	for range maxDepth {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(append([]string{real}, rest...)...), nil
		}
		if target, lerr := os.Readlink(path); lerr == nil {
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = filepath.Clean(target)
			continue
		}
		if !os.IsNotExist(err) || path == filepath.Dir(path) {
			return "", err
		}
		rest = append([]string{filepath.Base(path)}, rest...)
		path = filepath.Dir(path)
	}
	return "", os.ErrInvalid
}

// maxDepth bounds RealPath: more components, or a loop of dangling links, is
// nobody's honest path.
const maxDepth = 255

// beneath reports whether path is root or below it; both are clean.
func beneath(root, path string) bool {
	if root == path || root == "/" {
		return true
	}
	return strings.HasPrefix(path, root+string(filepath.Separator))
}
