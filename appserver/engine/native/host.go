package native

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"

	"towline/appserver/protocol"
)

// hostname is the machine's name, for people.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// gitInfo reads the state of the repository cwd is in from its files: running
// git would run what the repository's configuration says. Nil outside of one.
func gitInfo(cwd string) *protocol.GitInfo {
	dir := gitDir(cwd)
	if dir == "" {
		return nil
	}
	common := dir
	if rel := firstLine(filepath.Join(dir, "commondir")); rel != "" { // a linked worktree
		if common = rel; !filepath.IsAbs(rel) {
			common = filepath.Join(dir, rel)
		}
	}
	info := new(protocol.GitInfo)
	head := firstLine(filepath.Join(dir, "HEAD"))
	if ref, ok := strings.CutPrefix(head, "ref: "); ok {
		info.Branch = optional(strings.TrimPrefix(ref, "refs/heads/"))
		head = ""
		if filepath.IsLocal(ref) {
			head = firstLine(filepath.Join(common, ref))
		}
		if head == "" {
			head = packedRef(common, ref)
		}
	}
	info.SHA = optional(head)
	info.OriginURL = optional(originURL(common))
	return info
}

func gitDir(cwd string) string {
	for dir := cwd; ; dir = filepath.Dir(dir) {
		git := filepath.Join(dir, ".git")
		fi, err := os.Stat(git)
		switch {
		case err == nil && fi.IsDir():
			return git
		case err == nil:
			at, ok := strings.CutPrefix(firstLine(git), "gitdir: ")
			if !ok {
				return ""
			}
			if !filepath.IsAbs(at) {
				at = filepath.Join(dir, at)
			}
			return at
		case dir == filepath.Dir(dir):
			return ""
		}
	}
}

// eachLine calls f for the lines of a small file until it returns false.
func eachLine(path string, f func(line string) bool) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }() // read-only
	for sc := bufio.NewScanner(file); sc.Scan(); {
		if !f(strings.TrimSpace(sc.Text())) {
			return
		}
	}
}

func firstLine(path string) (line string) {
	eachLine(path, func(s string) bool { line = s; return false })
	return line
}

func packedRef(dir, ref string) (sha string) {
	eachLine(filepath.Join(dir, "packed-refs"), func(s string) bool {
		if hash, name, ok := strings.Cut(s, " "); ok && name == ref {
			sha = hash
			return false
		}
		return true
	})
	return sha
}

// originURL is the address of the remote called origin, without a password in it.
func originURL(dir string) (url string) {
	section := ""
	eachLine(filepath.Join(dir, "config"), func(s string) bool {
		if strings.HasPrefix(s, "[") {
			section = s
		}
		key, value, ok := strings.Cut(s, "=")
		if ok && section == `[remote "origin"]` && strings.TrimSpace(key) == "url" {
			url = strings.TrimSpace(value)
			return false
		}
		return true
	})
	if scheme, rest, ok := strings.Cut(url, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		if i := strings.LastIndex(host, "@"); i >= 0 {
			host = host[i+1:]
		}
		url = scheme + "://" + host + "/" + path
	}
	return url
}
