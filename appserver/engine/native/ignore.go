package native

import (
	"os"
	"path/filepath"
	"strings"
)

// Bounds of what is read of ignore files.
const (
	maxIgnoreFile  = 64 << 10
	maxIgnoreRules = 500
)

// ignoreRules are the lines of one .gitignore, for paths below its folder. The
// common forms are understood: names, globs, ** between slashes, a leading or
// inner slash that anchors, a trailing slash for folders, and ! that undoes.
type ignoreRules struct {
	dir   string // of the file, relative to the root
	rules []ignoreRule
}

type ignoreRule struct {
	parts    []string // of the pattern, by slash
	anchored bool
	dirs     bool // folders only
	keep     bool // a "!" line
}

func readIgnore(root, dir string) *ignoreRules {
	f, err := os.Open(filepath.Join(root, dir, ".gitignore"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read-only
	buf := make([]byte, maxIgnoreFile)
	n, _ := f.Read(buf) // an unreadable file ignores nothing
	out := &ignoreRules{dir: dir}
	for line := range strings.Lines(string(buf[:n])) {
		if len(out.rules) == maxIgnoreRules {
			break
		}
		if r, ok := parseIgnore(strings.TrimRight(line, "\r\n \t")); ok {
			out.rules = append(out.rules, r)
		}
	}
	return out
}

func parseIgnore(line string) (r ignoreRule, ok bool) {
	if line == "" || line[0] == '#' {
		return r, false
	}
	line, r.keep = strings.CutPrefix(line, "!")
	line, r.dirs = strings.CutSuffix(line, "/")
	r.anchored = strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return r, false
	}
	r.parts = strings.Split(line, "/")
	return r, true
}

// ignored applies rules outermost first; the last that matches decides.
func ignored(rules []ignoreRules, path string, dir bool) bool {
	out := false
	for _, set := range rules {
		rel, err := filepath.Rel(filepath.Join("/", set.dir), filepath.Join("/", path))
		if err != nil {
			continue
		}
		parts := strings.Split(rel, string(filepath.Separator))
		for _, r := range set.rules {
			if r.dirs && !dir {
				continue
			}
			hit := false
			if r.anchored {
				hit = matchParts(r.parts, parts)
			} else {
				hit, _ = filepath.Match(r.parts[0], parts[len(parts)-1]) // a bad pattern matches nothing
			}
			if hit {
				out = !r.keep
			}
		}
	}
	return out
}

// matchParts matches a path against a pattern of parts where ** stands for any
// number of them. It goes back to the last ** only, so it takes no longer than
// the product of the lengths.
func matchParts(pattern, parts []string) bool {
	p, s, star, from := 0, 0, -1, 0
	for s < len(parts) {
		if p < len(pattern) && pattern[p] == "**" {
			star, from = p, s
			p++
			continue
		}
		if p < len(pattern) {
			if ok, _ := filepath.Match(pattern[p], parts[s]); ok {
				p++
				s++
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		p, s = star+1, from
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}
