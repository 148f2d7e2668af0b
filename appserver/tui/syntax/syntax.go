// Package syntax splits source code into tokens for colouring, one line at a
// time.
//
// It is a scanner with a table per language, not a grammar. That is on purpose:
// what it reads comes from a model or a remote host and is drawn while it is
// still being written. A scanner takes time linear in the text whatever the text
// is, resumes at any line from a [State] of a few bytes, and costs a program
// nothing at start. (The libraries at hand compile hundreds of backtracking
// expressions, which cost every start of the program seven milliseconds, and a
// hostile code block seconds.) It knows the languages agents write most; others
// stay uncoloured.
package syntax

import (
	"strings"
	"unicode/utf8"
)

// Kind is what a token is.
type Kind uint8

// The kinds of tokens.
const (
	Text Kind = iota
	Comment
	Keyword
	Type
	Function
	String
	Number
	Operator
	Tag
	Attribute
	Kinds // how many there are
)

// Token is a piece of a line.
type Token struct {
	Kind Kind
	Text string
}

// State is what a line leaves open for the next: 0 nothing, else 1 + the index
// of a comment or string that goes on.
type State uint8

// Language tells how to split lines. It may be used concurrently.
type Language struct {
	Name     string
	words    map[string]Kind
	comments []string // to the end of the line
	spans    []span   // comments and strings, the longest opener first
	ident    string   // what identifiers may hold beside letters, digits and _
	fold     bool     // keywords in any case
	capital  bool     // an identifier that begins with a capital is a type
	calls    bool     // an identifier before ( is a function
	keys     string   // a first word, or string, before one of these is a key
	markup   bool     // HTML and its kin
	dollar   bool     // $name is a variable
}

// span is a comment or string with its own end.
type span struct {
	open, shut string
	kind       Kind
	multi      bool // may go on after the line's end
	escape     bool // a backslash takes the next character
}

// Line splits one line (without its newline) and says what it leaves open.
// Joined, the tokens are the line.
func (l *Language) Line(st State, line string) ([]Token, State) {
	s := scanner{l: l, line: line}
	if st > 0 && int(st) <= len(l.spans) {
		if !s.rest(l.spans[st-1], 0) {
			return s.out, st
		}
	}
	return s.out, s.scan()
}

type scanner struct {
	l     *Language
	line  string
	i     int // next byte
	out   []Token
	inTag bool
}

func (s *scanner) emit(k Kind, end int) {
	if end <= s.i {
		return
	}
	t := s.line[s.i:end]
	if n := len(s.out); n > 0 && s.out[n-1].Kind == k {
		s.out[n-1].Text = s.line[s.i-len(s.out[n-1].Text) : end]
	} else {
		s.out = append(s.out, Token{k, t})
	}
	s.i = end
}

// rest reads a span whose opener took skip bytes, and says whether it ended.
func (s *scanner) rest(p span, skip int) bool {
	for j := s.i + skip; j < len(s.line); j++ {
		if p.escape && s.line[j] == '\\' {
			j++
			continue
		}
		if strings.HasPrefix(s.line[j:], p.shut) {
			s.emit(p.kind, j+len(p.shut))
			return true
		}
	}
	s.emit(p.kind, len(s.line))
	return false
}

func (s *scanner) scan() State {
	for s.i < len(s.line) {
		if s.comment() {
			return 0
		}
		if n, ended := s.span(); n > 0 {
			if !ended && s.l.spans[n-1].multi {
				return State(n)
			}
			continue
		}
		if s.l.markup {
			s.tag()
			continue
		}
		s.word()
	}
	return 0
}

func (s *scanner) comment() bool {
	for _, c := range s.l.comments {
		if strings.HasPrefix(s.line[s.i:], c) {
			if c == "#" && s.i > 0 && s.line[s.i-1] != ' ' { // $#, URLs with fragments
				continue
			}
			s.emit(Comment, len(s.line))
			return true
		}
	}
	return false
}

// span reads a comment or string that begins here: 1 + its index, 0 for none.
func (s *scanner) span() (int, bool) {
	if s.l.markup && !s.inTag && s.line[s.i] != '<' {
		return 0, false
	}
	for n, p := range s.l.spans {
		if !strings.HasPrefix(s.line[s.i:], p.open) {
			continue
		}
		at := len(s.out)
		if p.open == "'" && !p.escape && s.i > 0 && isLetter(s.line[s.i-1]) { // it's
			return 0, false
		}
		ended := s.rest(p, len(p.open))
		if s.l.keys != "" && p.kind == String && ended && strings.HasPrefix(strings.TrimLeft(s.line[s.i:], " "), s.l.keys) && at < len(s.out) {
			s.out[len(s.out)-1].Kind = Attribute
		}
		return n + 1, ended
	}
	return 0, false
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= utf8.RuneSelf
}
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func (s *scanner) isIdent(c byte) bool {
	return isLetter(c) || isDigit(c) || strings.IndexByte(s.l.ident, c) >= 0
}

// word reads one identifier, number, operator or run of spaces.
func (s *scanner) word() {
	c := s.line[s.i]
	j := s.i + 1
	switch {
	case isDigit(c):
		for j < len(s.line) && (isLetter(s.line[j]) || isDigit(s.line[j]) || s.line[j] == '.' ||
			(s.line[j] == '-' || s.line[j] == '+') && (s.line[j-1] == 'e' || s.line[j-1] == 'E')) {
			j++
		}
		s.emit(Number, j)
	case c == '$' && s.l.dollar:
		for j < len(s.line) && (s.isIdent(s.line[j]) || s.line[j] == '{' || s.line[j] == '}') {
			j++
		}
		s.emit(Attribute, j)
	case isLetter(c) || strings.IndexByte(s.l.ident, c) >= 0:
		for j < len(s.line) && s.isIdent(s.line[j]) {
			j++
		}
		s.emit(s.identifier(s.line[s.i:j], j), j)
	case c == ' ':
		for j < len(s.line) && s.line[j] == ' ' {
			j++
		}
		s.emit(Text, j)
	default:
		s.emit(Operator, j)
	}
}

// identifier judges a word that ends at byte end of the line.
func (s *scanner) identifier(w string, end int) Kind {
	look := w
	if s.l.fold {
		look = strings.ToLower(w)
	}
	rest := strings.TrimLeft(s.line[end:], " ")
	if s.l.keys != "" && rest != "" && strings.IndexByte(s.l.keys, rest[0]) >= 0 &&
		strings.Trim(s.line[:s.i], " -") == "" {
		return Attribute
	}
	if k, ok := s.l.words[look]; ok {
		return k
	}
	switch {
	case s.l.calls && strings.HasPrefix(s.line[end:], "("):
		return Function
	case s.l.capital && w[0] >= 'A' && w[0] <= 'Z':
		return Type
	}
	return Text
}

// tag reads a piece of HTML or XML. Tags that go on after the line's end are
// coloured on their first line only.
func (s *scanner) tag() {
	c := s.line[s.i]
	switch {
	case !s.inTag && c != '<':
		j := strings.IndexByte(s.line[s.i:], '<')
		if j < 0 {
			j = len(s.line) - s.i
		}
		s.emit(Text, s.i+j)
	case c == '<':
		j := s.i + 1
		for j < len(s.line) && (s.isIdent(s.line[j]) || strings.IndexByte("/!?-:", s.line[j]) >= 0) {
			j++
		}
		s.inTag = true
		s.emit(Tag, j)
	case c == '>':
		s.inTag = false
		s.emit(Tag, s.i+1)
	case isLetter(c):
		j := s.i + 1
		for j < len(s.line) && (s.isIdent(s.line[j]) || strings.IndexByte("-:", s.line[j]) >= 0) {
			j++
		}
		s.emit(Attribute, j)
	default:
		s.emit(Text, s.i+1)
	}
}
