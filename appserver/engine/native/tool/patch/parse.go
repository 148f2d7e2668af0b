package patch

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	markBegin  = "*** Begin Patch"
	markEnd    = "*** End Patch"
	markAdd    = "*** Add File: "
	markDelete = "*** Delete File: "
	markUpdate = "*** Update File: "
	markMove   = "*** Move to: "
	markEOF    = "*** End of File"
)

const validHeaders = "a section starts with '*** Add File: path', '*** Delete File: path' or '*** Update File: path'"

// Parse reads a patch. The error is a sentence for the model, with the line.
func Parse(text string) (*Patch, error) {
	if len(text) > MaxPatch {
		return nil, fmt.Errorf("the patch is larger than %d bytes: split it", MaxPatch)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("the patch is not valid UTF-8")
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	lines = unwrap(lines)
	if strings.TrimSpace(lines[0]) != markBegin {
		return nil, fmt.Errorf("invalid patch: the first line must be '%s'", markBegin)
	}
	if len(lines) < 2 || strings.TrimSpace(lines[len(lines)-1]) != markEnd {
		return nil, fmt.Errorf("invalid patch: the last line must be '%s'", markEnd)
	}
	r := &reader{lines: lines[:len(lines)-1], at: 1}
	var p Patch
	for !r.done() {
		s, err := r.section()
		if err != nil {
			return nil, err
		}
		if p.sections = append(p.sections, s); len(p.sections) > MaxFiles {
			return nil, fmt.Errorf("the patch has more than %d sections: split it", MaxFiles)
		}
		for !r.done() && strings.TrimSpace(r.peek()) == "" {
			r.at++ // blank lines between sections
		}
	}
	if len(p.sections) == 0 {
		return nil, errors.New("invalid patch: it changes no file")
	}
	return &p, nil
}

// heredoc is the shell wrapping some models put around a patch.
var heredoc = regexp.MustCompile(`^(?:apply_patch\s*)?<<-?\s*(?:'(\w+)'|"(\w+)"|(\w+))$`)

func unwrap(lines []string) []string {
	m := heredoc.FindStringSubmatch(strings.TrimSpace(lines[0]))
	if m == nil || len(lines) < 4 {
		return lines
	}
	if word := m[1] + m[2] + m[3]; strings.TrimSpace(lines[len(lines)-1]) != word {
		return lines
	}
	return lines[1 : len(lines)-1]
}

// reader walks the lines of a patch; at is the index of the next one.
type reader struct {
	lines []string
	at    int
}

func (r *reader) done() bool   { return r.at >= len(r.lines) }
func (r *reader) peek() string { return r.lines[r.at] }

func (r *reader) fail(format string, args ...any) error {
	return fmt.Errorf("invalid patch at line %d: %s", r.at+1, fmt.Sprintf(format, args...))
}

func (r *reader) section() (section, error) {
	header := strings.TrimSpace(r.peek())
	var s section
	for _, h := range []struct{ mark, op string }{{markAdd, opAdd}, {markDelete, opDelete}, {markUpdate, opUpdate}} {
		if path, ok := strings.CutPrefix(header, h.mark); ok {
			s.op, s.path = h.op, strings.TrimSpace(path)
		}
	}
	if s.path == "" {
		return s, r.fail("'%s' is no section header; %s", header, validHeaders)
	}
	if strings.ContainsRune(s.path, 0) {
		return s, r.fail("the path holds a NUL character")
	}
	r.at++
	switch s.op {
	case opAdd:
		var b strings.Builder
		for !r.done() {
			text, ok := strings.CutPrefix(r.peek(), "+")
			if !ok {
				break
			}
			b.WriteString(text)
			b.WriteByte('\n')
			r.at++
		}
		s.text = b.String()
	case opUpdate:
		return s, r.update(&s)
	}
	return s, nil
}

// update reads what follows an update header.
func (r *reader) update(s *section) error {
	start := r.at
	if !r.done() {
		if to, ok := strings.CutPrefix(strings.TrimSpace(r.peek()), markMove); ok {
			s.moveTo = strings.TrimSpace(to)
			r.at++
		}
	}
	for !r.done() {
		if strings.TrimSpace(r.peek()) == "" {
			r.at++ // between hunks
			continue
		}
		if strings.HasPrefix(r.peek(), "*** ") {
			break
		}
		c, err := r.chunk(len(s.chunks) == 0)
		if err != nil {
			return err
		}
		s.chunks = append(s.chunks, c)
	}
	if len(s.chunks) == 0 && s.moveTo == "" {
		r.at = start - 1
		return r.fail("the update of '%s' is empty: give at least one hunk of lines that start with ' ', '-' or '+'", s.path)
	}
	return nil
}

// unified is the header of a unified diff's hunk: its numbers mean nothing here.
var unified = regexp.MustCompile(`^-\d+(?:,\d+)? \+\d+(?:,\d+)? @@ ?(.*)$`)

// chunk reads one hunk. Only the first of a file may do without @@.
func (r *reader) chunk(first bool) (chunk, error) {
	var c chunk
	anchored := false
	for !r.done() {
		rest, ok := strings.CutPrefix(r.peek(), "@@")
		if !ok || rest != "" && rest[0] != ' ' {
			break
		}
		anchored = true
		if anchor := strings.TrimPrefix(rest, " "); anchor != "" {
			if m := unified.FindStringSubmatch(anchor); m != nil {
				// What stands behind the numbers is a line further up, cut short: no
				// anchor to rely on.
				anchor = ""
			}
			if anchor != "" {
				c.anchors = append(c.anchors, anchor)
			}
		}
		r.at++
	}
	if !anchored && !first {
		return c, r.fail("a further hunk must start with @@, got '%s'", r.peek())
	}
	for !r.done() {
		l := r.peek()
		if strings.TrimSpace(l) == markEOF {
			if len(c.lines) == 0 {
				return c, r.fail("the hunk before '%s' has no lines", markEOF)
			}
			c.eof = true
			r.at++
			return c, nil
		}
		if l == "" {
			l = " " // an empty line of context, its space lost on the way
		}
		switch l[0] {
		case ' ', '-', '+':
			c.lines = append(c.lines, line{l[0], l[1:]})
			r.at++
			continue
		}
		if len(c.lines) > 0 {
			break // the next hunk or section
		}
		return c, r.fail("unexpected line '%s' in a hunk: every line must start with ' ' (context), '-' (removed) or '+' (added)", l)
	}
	if len(c.lines) == 0 {
		return c, r.fail("the hunk has no lines")
	}
	return c, nil
}
