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

// shellJoin quotes argv so that a shell would read it back, in the way Codex
// shows commands, which clients take apart again.
func shellJoin(argv []string) string {
	var b strings.Builder
	for i, w := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		shellQuote(&b, w)
	}
	return b.String()
}

// The ways to write a piece of a word.
const (
	asIs = 1 << iota
	inSingle
	inDouble
)

// shellQuote writes w as pieces that are as long as one way of quoting allows:
// bare if possible, else in single quotes, else in double quotes.
func shellQuote(b *strings.Builder, w string) {
	if w == "" {
		b.WriteString("''")
		return
	}
	for w != "" {
		ways, n := asIs|inSingle|inDouble, 0
		for ; n < len(w); n++ {
			left := ways & quotable(w[n])
			if w[n] == '^' && n == 0 {
				left = inSingle
			}
			if left == 0 {
				break
			}
			ways = left
		}
		piece := w[:n]
		w = w[n:]
		switch {
		case ways&asIs != 0:
			b.WriteString(piece)
		case ways&inSingle != 0:
			b.WriteString("'" + piece + "'")
		default:
			b.WriteByte('"')
			for i := range len(piece) {
				if piece[i] == '"' || piece[i] == '\\' {
					b.WriteByte('\\')
				}
				b.WriteByte(piece[i])
			}
			b.WriteByte('"')
		}
	}
}

// quotable is how a byte may be written. Shells disagree about a backslash in
// single quotes, a "!" in double ones, and a "^" anywhere but at the beginning of
// single ones, so those are avoided.
func quotable(c byte) int {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("+-./:@]_", c) >= 0:
		return asIs | inSingle | inDouble
	case c == '\'', c == '\\':
		return inDouble
	case c == '$', c == '`', c == '!':
		return inSingle
	case c == '^':
		return 0
	}
	return inSingle | inDouble
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
