package agent

import (
	"path/filepath"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// actions says what a command line does when it only reads, lists or searches,
// so that a client can show "read pay.go" in its place. A line with one part of
// another kind is unknown as a whole. Nothing is decided by it.
func actions(line, cwd string) []protocol.CommandAction {
	unknown := []protocol.CommandAction{{Type: "unknown", Command: line}}
	segs, ok := parseShell(line)
	if !ok {
		return unknown
	}
	var out []protocol.CommandAction
	for i, s := range segs {
		if s.words[0] == "cd" && i+1 < len(segs) && len(s.words) == 2 {
			cwd = absolute(cwd, s.words[1])
			continue
		}
		if s.op == "|" && formats(s.words) {
			continue
		}
		a := action(s.words, cwd)
		if a.Type == "unknown" {
			return unknown
		}
		if !slices.ContainsFunc(out, func(b protocol.CommandAction) bool { return sameAction(a, b) }) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return unknown
	}
	return out
}

func sameAction(a, b protocol.CommandAction) bool { return a.Type == b.Type && a.Command == b.Command }

// formats reports whether a command at the end of a pipe only shapes output.
func formats(w []string) bool {
	switch w[0] {
	case "head", "tail", "wc", "sort", "uniq", "cut", "tr", "column", "nl", "cat", "less", "more":
		_, rest := flags(w[1:], "n", "c", "d", "f", "k", "t", "s")
		return len(rest) == 0 || w[0] == "tr"
	case "sed":
		return len(w) == 3 && w[1] == "-n"
	}
	return false
}

// action classifies one simple command.
func action(w []string, cwd string) protocol.CommandAction {
	line := shellJoin(w)
	unknown := protocol.CommandAction{Type: "unknown", Command: line}
	name := filepath.Base(w[0])
	args := w[1:]
	if name == "git" && len(args) > 0 {
		name, args = "git "+args[0], args[1:]
	}
	switch name {
	case "cat", "bat", "batcat", "less", "more", "head", "tail", "nl", "wc":
		_, rest := flags(args, "n", "c", "l", "s", "w", "b", "v", "r")
		if len(rest) == 1 && name != "wc" {
			return read(line, rest[0], cwd)
		}
	case "sed":
		if len(args) == 3 && args[0] == "-n" {
			return read(line, args[2], cwd)
		}
	case "awk":
		if len(args) == 2 {
			return read(line, args[1], cwd)
		}
	case "ls", "eza", "exa", "tree", "du":
		_, rest := flags(args, "I", "L", "P", "w", "d")
		return listing(line, rest)
	case "find", "fd", "fdfind":
		return find(line, name, args)
	case "rg", "ag", "ack":
		f, rest := flags(args, "e", "g", "t", "T", "A", "B", "C", "m", "j", "r", "f")
		if f.has("--files") {
			return listing(line, rest)
		}
		return search(line, f, rest)
	case "grep", "egrep", "fgrep", "git grep":
		f, rest := flags(args, "e", "A", "B", "C", "m", "f")
		return search(line, f, rest)
	case "git ls-files":
		_, rest := flags(args)
		return listing(line, rest)
	}
	return unknown
}

func read(line, path, cwd string) protocol.CommandAction {
	abs := absolute(cwd, path)
	return protocol.CommandAction{Type: "read", Command: line, Name: filepath.Base(abs), Path: &abs}
}

func listing(line string, rest []string) protocol.CommandAction {
	a := protocol.CommandAction{Type: "listFiles", Command: line}
	if len(rest) > 0 {
		a.Path = &rest[0]
	}
	return a
}

// find lists, or searches when a pattern is given. One that acts on what it
// finds is neither.
func find(line, name string, args []string) protocol.CommandAction {
	a := protocol.CommandAction{Type: "listFiles", Command: line}
	if name != "find" {
		_, rest := flags(args, "e", "t", "d", "E", "x", "X")
		if slices.ContainsFunc(args, func(s string) bool { return s == "-x" || s == "-X" || strings.HasPrefix(s, "--exec") }) {
			return protocol.CommandAction{Type: "unknown", Command: line}
		}
		if len(rest) > 0 {
			a.Type, a.Query = "search", &rest[0]
		}
		if len(rest) > 1 {
			a.Path = &rest[1]
		}
		return a
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		a.Path = &args[0]
	}
	for i, s := range args {
		switch s {
		case "-exec", "-execdir", "-ok", "-okdir", "-delete", "-fprint", "-fprintf", "-fls":
			return protocol.CommandAction{Type: "unknown", Command: line}
		case "-name", "-iname", "-path", "-ipath", "-regex":
			if i+1 < len(args) {
				a.Type, a.Query = "search", &args[i+1]
			}
		}
	}
	return a
}

func search(line string, f flagSet, rest []string) protocol.CommandAction {
	a := protocol.CommandAction{Type: "search", Command: line}
	if q, ok := f["-e"]; ok {
		a.Query = &q
	} else if len(rest) > 0 {
		a.Query, rest = &rest[0], rest[1:]
	}
	if len(rest) > 0 {
		a.Path = &rest[0]
	}
	return a
}

type flagSet map[string]string

func (f flagSet) has(name string) bool { _, ok := f[name]; return ok }

// flags separates options from operands. valued names the one-letter options
// that take the next word when nothing is attached to them.
func flags(args []string, valued ...string) (f flagSet, rest []string) {
	f = flagSet{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return f, append(rest, args[i+1:]...)
		case !strings.HasPrefix(a, "-") || a == "-":
			rest = append(rest, a)
		case len(a) == 2 && slices.Contains(valued, a[1:]) && i+1 < len(args):
			i++
			f[a] = args[i]
		default:
			f[a] = ""
		}
	}
	return f, rest
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
