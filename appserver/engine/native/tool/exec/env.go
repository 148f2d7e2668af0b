package exec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Scrub copies environ without the variables that look like secrets (KEY,
// TOKEN, SECRET, PASSWORD, CREDENTIAL in the name) and without those named:
// what a program started for the agent must not inherit.
func Scrub(environ []string, names ...string) []string {
	var out []string
	for _, kv := range environ {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || slices.Contains(names, name) || secretName(name) {
			continue
		}
		out = append(out, kv)
	}
	return out
}

func secretName(name string) bool {
	name = strings.ToUpper(name)
	for _, w := range []string{"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"} {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// environment puts together what a command sees: base, what makes output plain
// (no pager waits for a key, no colour codes reach a model), then the command's
// own. Later values win.
func environment(base, own []string, tty bool) []string {
	if base == nil {
		base = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + os.TempDir()}
	}
	e := envList{}
	e.add(base)
	e.add([]string{"PAGER=cat", "GIT_PAGER=cat", "GH_PAGER=cat"})
	if tty {
		if t := e.get("TERM"); t == "" || t == "dumb" {
			e.add([]string{"TERM=xterm-256color"})
		}
	} else {
		e.add([]string{"TERM=dumb", "NO_COLOR=1", "COLORTERM="})
	}
	if e.get("LANG") == "" && e.get("LC_ALL") == "" && e.get("LC_CTYPE") == "" {
		e.add([]string{"LANG=C.UTF-8"})
	}
	e.add(own)
	return e.list
}

// envList is an environment in which each name appears once.
type envList struct{ list []string }

func (e *envList) add(kvs []string) {
	for _, kv := range kvs {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			continue
		}
		if i := e.index(name); i >= 0 {
			e.list[i] = kv
			continue
		}
		e.list = append(e.list, kv)
	}
}

func (e *envList) index(name string) int {
	return slices.IndexFunc(e.list, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}

func (e *envList) get(name string) string {
	if i := e.index(name); i >= 0 {
		return e.list[i][len(name)+1:]
	}
	return ""
}

// lookPath finds name the way the command itself would: in its PATH, relative
// to its directory. A file that is not executable is reported as such.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	e := envList{env}
	for _, d := range filepath.SplitList(e.get("PATH")) {
		if d == "" {
			continue // the current directory, by tradition: never meant
		}
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		p := filepath.Join(d, name)
		if executable(p) == nil {
			return p, nil
		}
	}
	return "", &os.PathError{Op: "find", Path: name, Err: os.ErrNotExist}
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() || st.Mode()&0o111 == 0 {
		return &os.PathError{Op: "run", Path: path, Err: os.ErrPermission}
	}
	return nil
}
