package patch

import (
	"fmt"
	"slices"
	"strings"
)

// text is a file in lines, each with the ending it has.
type text struct {
	lines   []string
	endings []string // "\n", "\r\n", or "" for a last line without
}

func splitText(s string) text {
	var t text
	for l := range strings.Lines(s) {
		body, ending := l, ""
		if strings.HasSuffix(l, "\n") {
			body, ending = l[:len(l)-1], "\n"
			if strings.HasSuffix(body, "\r") {
				body, ending = body[:len(body)-1], "\r\n"
			}
		}
		t.lines = append(t.lines, body)
		t.endings = append(t.endings, ending)
	}
	return t
}

// ending is what new lines get: what the first line has.
func (t *text) ending() string {
	if len(t.endings) > 0 && t.endings[0] != "" {
		return t.endings[0]
	}
	return "\n"
}

func (t *text) String() string {
	var b strings.Builder
	for i, l := range t.lines {
		b.WriteString(l)
		b.WriteString(t.endings[i])
	}
	return b.String()
}

// splice replaces n lines from at by lines.
type splice struct {
	at, n int
	lines []spliced
}

// spliced is a line to put in: one of the file's own (keep >= 0), which stays as
// it is even where the patch's context spells it differently, or a new one.
type spliced struct {
	keep int
	text string
}

// update computes the content of a file after chunks. path is for errors.
func update(content, path string, chunks []chunk) (string, error) {
	t := splitText(content)
	var splices []splice
	next := 0 // chunks come in the file's order
	for i := range chunks {
		s, after, err := place(&t, &chunks[i], next, path)
		if err != nil {
			return "", err
		}
		splices = append(splices, s)
		next = after
	}
	// Additions at the end may come before others in the patch.
	slices.SortStableFunc(splices, func(a, b splice) int { return a.at - b.at })

	ending := t.ending()
	var out text
	from := 0
	for _, s := range splices {
		for ; from < s.at; from++ {
			out.lines = append(out.lines, t.lines[from])
			out.endings = append(out.endings, t.endings[from])
		}
		for _, l := range s.lines {
			if l.keep >= 0 {
				out.lines = append(out.lines, t.lines[l.keep])
				out.endings = append(out.endings, t.endings[l.keep])
				continue
			}
			out.lines = append(out.lines, l.text)
			out.endings = append(out.endings, ending)
		}
		from = max(from, s.at+s.n)
	}
	out.lines = append(out.lines, t.lines[from:]...)
	out.endings = append(out.endings, t.endings[from:]...)
	// A changed file ends with a line break, as Codex has it.
	for i, e := range out.endings {
		if e == "" {
			out.endings[i] = ending
		}
	}
	return out.String(), nil
}

// place finds where a chunk goes, at line next or below, and where to look for
// the one after it.
func place(t *text, c *chunk, next int, path string) (s splice, after int, err error) {
	for _, a := range c.anchors {
		i := find(t.lines, []string{a}, next, false)
		if i < 0 {
			return s, 0, fmt.Errorf("%s: no line like the anchor '%s' was found%s; read the file and try again", path, a, below(next))
		}
		next = i + 1
	}
	old := c.old()
	if len(old) == 0 {
		// Nothing but additions: below the anchor, else at the end.
		at := next
		if len(c.anchors) == 0 || c.eof {
			at = len(t.lines)
			if at > 0 && t.lines[at-1] == "" && at > next {
				at--
			}
		}
		for _, l := range c.lines {
			s.lines = append(s.lines, spliced{-1, l.text})
		}
		s.at = at
		return s, next, nil
	}
	lines := c.lines
	at := find(t.lines, old, next, c.eof)
	if at < 0 && len(old) > 1 && old[len(old)-1] == "" {
		// An empty last line often stands for the file's final line break.
		lines, old = withoutLastEmpty(lines), old[:len(old)-1]
		at = find(t.lines, old, next, c.eof)
	}
	if at < 0 {
		return s, 0, notFound(t, c, next, path)
	}
	s.at, s.n = at, len(old)
	i := at
	for _, l := range lines {
		switch l.kind {
		case '+':
			s.lines = append(s.lines, spliced{-1, l.text})
		case ' ':
			s.lines = append(s.lines, spliced{i, ""})
			i++
		case '-':
			i++
		}
	}
	return s, at + len(old), nil
}

// withoutLastEmpty drops the last line of the old side, which is empty, and the
// last of the new side when it is empty too.
func withoutLastEmpty(lines []line) []line {
	lines = slices.Clone(lines)
	drop := func(other byte) bool {
		for i := len(lines) - 1; i >= 0; i-- {
			if lines[i].kind == other {
				continue
			}
			shared := lines[i].kind == ' '
			if lines[i].text == "" {
				lines = slices.Delete(lines, i, i+1)
			}
			return shared
		}
		return true
	}
	if !drop('+') {
		drop('-')
	}
	return lines
}

func below(next int) string {
	if next == 0 {
		return ""
	}
	return fmt.Sprintf(" below line %d", next)
}

// notFound says what was looked for, and where it stands when only the order or
// the end-of-file mark is wrong.
func notFound(t *text, c *chunk, next int, path string) error {
	const most = 20
	old := c.old()
	shown := old
	more := ""
	if len(shown) > most {
		shown, more = shown[:most], fmt.Sprintf("\n(and %d lines more)", len(old)-most)
	}
	hint := "read the file and try again"
	if i := find(t.lines, old, 0, false); i >= 0 {
		switch {
		case c.eof:
			hint = fmt.Sprintf("they stand at line %d, not at the end of the file: leave out '%s'", i+1, markEOF)
		default:
			hint = fmt.Sprintf("they stand at line %d: hunks must come in the order of the file and must not overlap", i+1)
		}
	}
	return fmt.Errorf("%s: these lines were not found%s; %s:\n%s%s", path, below(next), hint, strings.Join(shown, "\n"), more)
}

// find looks for want in lines from index start on: exactly, then without
// trailing space, then without any space around, then with typographic
// punctuation taken as plain. With eof it must end the file. -1: not there.
func find(lines, want []string, start int, eof bool) int {
	last := len(lines) - len(want)
	if eof {
		start = max(start, last)
	}
	if start > last || last < 0 {
		return -1
	}
	for _, norm := range []func(string) string{same, trimRight, strings.TrimSpace, plain} {
		if at := search(normal(lines[start:], norm), normal(want, norm)); at >= 0 {
			return start + at
		}
	}
	return -1
}

func normal(lines []string, norm func(string) string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = norm(l)
	}
	return out
}

// search finds want, which is not empty, in lines in linear time (Knuth, Morris,
// Pratt): a file of a million equal lines must not hold up a turn. -1: not there.
func search(lines, want []string) int {
	border := make([]int, len(want)) // of each prefix: the longest that also ends it
	for i, k := 1, 0; i < len(want); i++ {
		for k > 0 && want[i] != want[k] {
			k = border[k-1]
		}
		if want[i] == want[k] {
			k++
		}
		border[i] = k
	}
	k := 0
	for i, l := range lines {
		for k > 0 && l != want[k] {
			k = border[k-1]
		}
		if l == want[k] {
			k++
		}
		if k == len(want) {
			return i - k + 1
		}
	}
	return -1
}

func same(s string) string      { return s }
func trimRight(s string) string { return strings.TrimRight(s, " \t\r\v\f") }

// plain writes typographic punctuation the way it is typed.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '\u2010' && r <= '\u2015', r == '\u2212':
			return '-'
		case r >= '\u2018' && r <= '\u201B':
			return '\''
		case r >= '\u201C' && r <= '\u201F':
			return '"'
		case r == '\u00A0', r >= '\u2002' && r <= '\u200A', r == '\u202F', r == '\u205F', r == '\u3000':
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
}
