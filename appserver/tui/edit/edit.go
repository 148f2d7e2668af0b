// Package edit holds editable text: the composer's many lines, a form's one, a
// search box. It knows clusters of characters that are one to the eye, soft
// wrapping, and stand-ins for pasted text. It draws nothing and styles nothing.
package edit

import (
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/tui/text"
)

// MaxBytes bounds what one buffer holds, stand-ins included: beyond it input is
// refused rather than cut, so nobody sends half of what they pasted.
const MaxBytes = 4 << 20

// cell is one grapheme cluster, a newline, or an atom: a label that stands for
// longer text and is edited as one character.
type cell struct {
	show string
	full string // what an atom is worth; "" for ordinary cells
	w    int    // cells on the terminal
}

func (c cell) text() string {
	if c.full != "" {
		return c.full
	}
	return c.show
}

// Buffer is text with a cursor. The zero value is empty and ready. It is not
// for concurrent use.
type Buffer struct {
	cells []cell
	pos   int // the cursor is before cells[pos]
	bytes int
	goal  int // the column vertical moves aim for, plus 1; 0 when unset
	// killed is what the last ctrl+k, ctrl+u or ctrl+w removed, for ctrl+y.
	killed []cell
}

// split cuts s into cells.
func split(s string) []cell {
	cells := make([]cell, 0, len(s))
	for s != "" {
		if s[0] == '\n' {
			cells, s = append(cells, cell{show: "\n"}), s[1:]
			continue
		}
		if s[0] < 0x80 && (len(s) == 1 || s[1] < 0x80) {
			cells, s = append(cells, cell{show: s[:1], w: 1}), s[1:]
			continue
		}
		c, w := ansi.FirstGraphemeCluster(s, ansi.GraphemeWidth)
		if c == "" {
			break
		}
		cells, s = append(cells, cell{show: c, w: w}), s[len(c):]
	}
	return cells
}

// Count is how many characters, to the eye, s has.
func Count(s string) int { return len(split(s)) }

// Insert puts s, which is cleaned first, at the cursor. It reports false, and
// changes nothing, when the buffer would grow beyond MaxBytes.
func (b *Buffer) Insert(s string) bool {
	s = text.CleanTabs(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n"), 4)
	if b.bytes+len(s) > MaxBytes {
		return false
	}
	b.goal = 0
	// What is typed may join the cluster before the cursor: an accent, a joiner.
	if b.pos > 0 && s != "" && s[0] >= 0x80 {
		if p := b.cells[b.pos-1]; p.full == "" && p.show != "\n" {
			b.cut(b.pos-1, b.pos)
			s = p.show + s
		}
	}
	b.insert(split(s))
	return true
}

// InsertAtom puts label at the cursor, to be edited as one character and worth
// full when the text is taken.
func (b *Buffer) InsertAtom(label, full string) bool {
	if b.bytes+len(full) > MaxBytes {
		return false
	}
	b.goal = 0
	b.insert([]cell{{show: label, full: full, w: text.Width(label)}})
	return true
}

func (b *Buffer) insert(cells []cell) {
	b.cells = slices.Insert(b.cells, b.pos, cells...)
	b.pos += len(cells)
	for _, c := range cells {
		b.bytes += len(c.text())
	}
}

// cut removes cells [from,to) and puts the cursor there.
func (b *Buffer) cut(from, to int) []cell {
	from, to = max(from, 0), min(to, len(b.cells))
	if from >= to {
		return nil
	}
	out := slices.Clone(b.cells[from:to])
	b.cells = slices.Delete(b.cells, from, to)
	b.pos, b.goal = from, 0
	for _, c := range out {
		b.bytes -= len(c.text())
	}
	return out
}

// Text is everything in the buffer, atoms in full.
func (b *Buffer) Text() string { return join(b.cells, cell.text) }

// Shown is the text as it is seen, atoms as their labels.
func (b *Buffer) Shown() string { return join(b.cells, func(c cell) string { return c.show }) }

func join(cells []cell, f func(cell) string) string {
	var s strings.Builder
	for _, c := range cells {
		s.WriteString(f(c))
	}
	return s.String()
}

// Empty reports whether there is nothing in the buffer.
func (b *Buffer) Empty() bool { return len(b.cells) == 0 }

// Reset empties the buffer. What was killed stays.
func (b *Buffer) Reset() { b.cells, b.pos, b.bytes, b.goal = nil, 0, 0, 0 }

// Set replaces everything by s, the cursor at its end.
func (b *Buffer) Set(s string) {
	b.Reset()
	b.Insert(s)
}

// Clone is a copy that shares nothing.
func (b *Buffer) Clone() Buffer {
	c := *b
	c.cells = slices.Clone(b.cells)
	return c
}

// Before is the shown text of the cursor's line up to the cursor; first says
// whether that line is the first.
func (b *Buffer) Before() (s string, first bool) {
	start := b.lineStart()
	return join(b.cells[start:b.pos], func(c cell) string { return c.show }), start == 0
}

// ReplaceBefore replaces the n clusters before the cursor by s.
func (b *Buffer) ReplaceBefore(n int, s string) {
	b.cut(b.pos-n, b.pos)
	b.Insert(s)
}

func (b *Buffer) lineStart() int {
	i := b.pos
	for i > 0 && b.cells[i-1].show != "\n" {
		i--
	}
	return i
}

func (b *Buffer) lineEnd() int {
	i := b.pos
	for i < len(b.cells) && b.cells[i].show != "\n" {
		i++
	}
	return i
}

func (b *Buffer) wordLeft() int {
	i := b.pos
	for i > 0 && !wordy(b.cells[i-1]) {
		i--
	}
	for i > 0 && wordy(b.cells[i-1]) {
		i--
	}
	return i
}

func (b *Buffer) wordRight() int {
	i := b.pos
	for i < len(b.cells) && !wordy(b.cells[i]) {
		i++
	}
	for i < len(b.cells) && wordy(b.cells[i]) {
		i++
	}
	return i
}

// wordy tells word characters from what is between words.
func wordy(c cell) bool {
	if c.full != "" || c.show[0] >= 0x80 || c.show == "_" {
		return true
	}
	r := c.show[0]
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}
