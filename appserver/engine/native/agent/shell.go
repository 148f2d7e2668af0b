package agent

import (
	"os"
	osexec "os/exec"
	"strings"
)

// shellFor finds the shell a command runs in: the model's choice, or bash where
// there is one. Whatever it is, people see it in the approval and in the item.
func shellFor(name string) string {
	if name == "" {
		name = "/bin/bash"
		if _, err := os.Stat(name); err != nil {
			return "/bin/sh"
		}
		return name
	}
	if path, err := osexec.LookPath(name); err == nil {
		return path
	}
	return name
}

// shellJoin quotes argv so that a shell would read it back, as Codex shows
// commands: words that need it in single quotes, in double quotes when they hold
// single ones.
func shellJoin(argv []string) string {
	var b strings.Builder
	for i, w := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(shellQuote(w))
	}
	return b.String()
}

func shellQuote(w string) string {
	if w == "" {
		return "''"
	}
	if strings.IndexFunc(w, func(r rune) bool { return !isPlain(r) }) < 0 {
		return w
	}
	if !strings.ContainsRune(w, '\'') {
		return "'" + w + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range w {
		if strings.ContainsRune("\\\"$`", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}

func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("+-./:=@_,%", r)
}

// segment is one simple command of a line and the operator before it.
type segment struct {
	op    string // "", ";", "\n", "&&", "||", "|"
	words []string
}

// parseShell splits a command line into simple commands. It understands words,
// quotes and the operators ; && || | and newline, and redirections of stderr or
// to /dev/null; anything else (expansions, substitutions, other redirections, &,
// groups, comments, here-documents, assignments) makes ok false: then the line
// is nobody's business but the shell's. Being wrong here would let a command
// through that a person did not mean, so every doubt is a no.
func parseShell(line string) (segs []segment, ok bool) {
	p := shellParser{s: line}
	op := ""
	for {
		words, ok := p.command()
		if !ok {
			return nil, false
		}
		next := p.operator()
		switch {
		case next == "?":
			return nil, false
		case len(words) > 0:
			segs = append(segs, segment{op, words})
		case op != "" && op != ";" && op != "\n", next != "" && next != "\n":
			return nil, false // an operator without a command beside it
		}
		if next == "" {
			return segs, len(segs) > 0
		}
		op = next
	}
}

// plainCommands is parseShell without the operators.
func plainCommands(line string) (parts [][]string, ok bool) {
	segs, ok := parseShell(line)
	for _, s := range segs {
		parts = append(parts, s.words)
	}
	return parts, ok
}

type shellParser struct {
	s string
	i int
}

func (p *shellParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *shellParser) blanks() {
	for p.peek() == ' ' || p.peek() == '\t' {
		p.i++
	}
}

// operator reads what separates two commands: "" at the end, "?" for one that
// is not understood.
func (p *shellParser) operator() string {
	rest := p.s[p.i:]
	switch {
	case rest == "":
		return ""
	case strings.HasPrefix(rest, "&&"), strings.HasPrefix(rest, "||"):
		p.i += 2
		return rest[:2]
	case rest[0] == ';' && !strings.HasPrefix(rest, ";;"), rest[0] == '\n':
		p.i++
		return rest[:1]
	case rest[0] == '|' && !strings.HasPrefix(rest, "|&"):
		p.i++
		return "|"
	}
	return "?"
}

// command reads words up to an operator.
func (p *shellParser) command() (words []string, ok bool) {
	for {
		p.blanks()
		switch c := p.peek(); {
		case c == 0 && p.i >= len(p.s), c == ';', c == '\n', c == '|', c == '&':
			if c == '&' && !strings.HasPrefix(p.s[p.i:], "&&") {
				return nil, false
			}
			return words, true
		case c == '#':
			return nil, false
		}
		if n := harmlessRedirect(p.s[p.i:]); n > 0 {
			p.i += n
			continue
		}
		w, quoted, ok := p.word()
		if !ok {
			return nil, false
		}
		if len(words) == 0 && !quoted && (strings.ContainsRune(w, '=') || reserved[w]) {
			return nil, false
		}
		words = append(words, w)
	}
}

// harmlessRedirect is the length of a redirection that changes no file.
func harmlessRedirect(s string) int {
	for _, r := range []string{"2>&1", "2>/dev/null", "2> /dev/null", ">/dev/null", "> /dev/null", "&>/dev/null", "</dev/null", "< /dev/null"} {
		if strings.HasPrefix(s, r) && (len(s) == len(r) || strings.IndexByte(" \t\n;|&", s[len(r)]) >= 0) {
			return len(r)
		}
	}
	return 0
}

// reserved words begin constructs, not commands.
var reserved = map[string]bool{
	"if": true, "then": true, "else": true, "elif": true, "fi": true, "for": true, "while": true, "until": true, "do": true,
	"done": true, "case": true, "esac": true, "function": true, "select": true, "time": true, "coproc": true, "!": true, "{": true, "}": true, "[[": true,
}

// word reads one word. quoted tells that some of it was.
func (p *shellParser) word() (w string, quoted, ok bool) {
	var b strings.Builder
	for p.i < len(p.s) {
		switch c := p.s[p.i]; c {
		case ' ', '\t', '\n', ';', '|', '&':
			return b.String(), quoted, true
		case '\'':
			end := strings.IndexByte(p.s[p.i+1:], '\'')
			if end < 0 {
				return "", false, false
			}
			b.WriteString(p.s[p.i+1 : p.i+1+end])
			p.i += end + 2
			quoted = true
		case '"':
			if !p.doubleQuoted(&b) {
				return "", false, false
			}
			quoted = true
		case '\\':
			if p.i+1 >= len(p.s) || p.s[p.i+1] == '\n' {
				return "", false, false
			}
			b.WriteByte(p.s[p.i+1])
			p.i += 2
			quoted = true
		case '$', '`', '(', ')', '<', '>', '{', '}', '\r', 0:
			return "", false, false
		case '~':
			if b.Len() == 0 {
				return "", false, false // expands to somebody's home
			}
			b.WriteByte(c)
			p.i++
		default:
			b.WriteByte(c)
			p.i++
		}
	}
	return b.String(), quoted, true
}

func (p *shellParser) doubleQuoted(b *strings.Builder) bool {
	for p.i++; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; c {
		case '"':
			p.i++
			return true
		case '$', '`':
			return false
		case '\\':
			if p.i+1 >= len(p.s) {
				return false
			}
			if strings.IndexByte("$`\"\\", p.s[p.i+1]) < 0 {
				b.WriteByte('\\') // a backslash that escapes nothing stays
			} else {
				p.i++
				b.WriteByte(p.s[p.i])
				continue
			}
		default:
			b.WriteByte(c)
		}
	}
	return false
}
