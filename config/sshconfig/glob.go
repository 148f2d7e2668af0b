package sshconfig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxGlob bounds how many directory entries one Include pattern may look at, so
// that "Include /*/*/*" ends.
const maxGlob = 20_000

// glob lists what a pattern matches, sorted, as glob(3) does: unlike
// [filepath.Glob], a wildcard does not match a leading dot, "[!a]" negates, and
// the work is bounded. A pattern without wildcards is returned as it is.
func glob(pattern string, windows bool) (found []string, complete bool) {
	slashes := "/"
	if windows {
		slashes = `/\`
	}
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, true
	}
	first := strings.IndexAny(pattern, "*?[")
	cut := strings.LastIndexAny(pattern[:first], slashes) + 1
	found, left := []string{pattern[:cut]}, maxGlob
	for _, part := range strings.FieldsFunc(pattern[cut:], func(r rune) bool { return strings.ContainsRune(slashes, r) }) {
		part = strings.ReplaceAll(part, "[!", "[^")
		var next []string
		for _, dir := range found {
			next = append(next, match(dir, part, &left)...)
		}
		found = next
	}
	slices.Sort(found)
	return found, left > 0
}

// match lists the entries of dir that fit one component of a pattern.
func match(dir, part string, left *int) []string {
	if !strings.ContainsAny(part, "*?[") {
		if path := filepath.Join(dir, part); exists(path) {
			return []string{path}
		}
		return nil
	}
	// Opening what only looks like a folder may wait for ever: a pipe does.
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // as glob(3): what cannot be read does not match
	}
	defer d.Close()
	var out []string
	for *left > 0 {
		names, err := d.Readdirnames(min(*left, 512))
		*left -= len(names)
		for _, n := range names {
			if n[0] == '.' && part[0] != '.' {
				continue
			}
			if ok, err := filepath.Match(part, n); err == nil && ok {
				out = append(out, filepath.Join(dir, n))
			}
		}
		if err != nil {
			break
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
