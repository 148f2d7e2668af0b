// Package markdown draws Markdown as styled terminal lines.
//
// A [Renderer] draws a whole document; a [Stream] draws one that is still being
// written, rendering finished blocks once and only the last block again. Both
// give the same lines for the same text. Input is cleaned of control sequences
// first; lines come back styled, at most width cells wide, each complete in
// itself (no style runs over a line's end).
//
// What is not drawn as in a browser: addresses of links are always visible,
// images are their alternative text, HTML is shown as text, link reference
// definitions stay where they were written (so no line ever changes because of
// what comes after its block).
//
// Text comes from a model or a remote host, so everything is bounded: see the
// limits in parse.go. What exceeds them is shown, but as plain text.
package markdown

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"

	"towline/appserver/tui/syntax"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

const (
	minWidth = 8 // narrower than this nothing can be read
	tab      = 4 // as Markdown counts
)

// Renderer turns Markdown into lines. It may be used by one goroutine at a time.
type Renderer struct {
	th    *theme.Theme
	paint *syntax.Painter
	inks  map[look]theme.Ink
	code  codeMemo
}

// New makes a renderer for a theme.
func New(th *theme.Theme) *Renderer {
	return &Renderer{th: th, paint: syntax.NewPainter(th), inks: make(map[look]theme.Ink)}
}

// Render draws src. Widths under 8 are treated as 8.
func (r *Renderer) Render(src string, width int) []string {
	s := r.NewStream()
	s.Append(src)
	s.width = max(width, minWidth)
	s.clean.Close()
	return s.Lines(width)
}

// Stream draws a document that grows. Not for concurrent use; several streams
// of one renderer may take turns.
type Stream struct {
	r     *Renderer
	src   strings.Builder
	clean *text.Stream
	width int

	size int    // bytes of cleaned lines so far
	tail []byte // finished lines from the last block on, guarded
	seen int    // bytes of tail when a split was last tried
	done []string
	over []string // what exceeds maxSource, drawn
}

// NewStream begins an empty document.
func (r *Renderer) NewStream() *Stream {
	return &Stream{r: r, clean: newCleaner()}
}

func newCleaner() *text.Stream {
	return &text.Stream{MaxLines: math.MaxInt / 2, MaxLineBytes: math.MaxInt, Tab: tab}
}

// Append adds what was written next; it may be cut anywhere.
func (s *Stream) Append(delta string) {
	s.src.WriteString(delta)
	s.clean.Append(delta)
}

// Source is everything appended so far, as it came.
func (s *Stream) Source() string { return s.src.String() }

// Lines draws everything appended so far. The slice must not be changed and is
// valid until the next call.
func (s *Stream) Lines(width int) []string {
	if width = max(width, minWidth); width != s.width { // draw everything again
		s.width, s.size, s.tail, s.seen, s.done, s.over = width, 0, nil, 0, nil, nil
		s.clean = newCleaner()
		s.clean.Append(s.src.String())
	}
	for _, l := range s.clean.Take() {
		if s.size += len(l) + 1; s.size > maxSource {
			s.over = append(s.over, text.Wrap(l, width)...)
			continue
		}
		s.tail = append(append(s.tail, guard(l)...), '\n')
	}
	s.settle()

	// The unfinished line may still become anything, so it is drawn each time.
	rest := s.clean.Rest()
	tail, over := s.tail, s.over
	switch {
	case rest == "":
	case s.size+len(rest)+1 > maxSource:
		over = append(slices.Clip(over), text.Wrap(rest, width)...)
	default:
		tail = append(append(slices.Clip(tail), guard(rest)...), '\n')
	}
	out := join(s.done, s.r.draw(tail, parse(tail), nil, width))
	return join(out, over)
}

// settle draws the blocks that cannot change any more and takes them off the
// tail: all before the last one that follows an empty line. Read on its own from
// there, the rest gives the same blocks, because an empty line ends everything a
// block could owe to what stands before it.
func (s *Stream) settle() {
	if len(s.tail) == s.seen || !bytes.Contains(s.tail, []byte("\n\n")) {
		return
	}
	s.seen = len(s.tail)
	doc := parse(s.tail)
	for n := doc.LastChild(); n != nil; n = n.PreviousSibling() {
		at := lineStart(s.tail, n.Pos())
		if at < 2 || s.tail[at-2] != '\n' {
			continue
		}
		s.done = join(s.done, s.r.draw(s.tail, doc, n, s.width))
		s.tail = slices.Clone(s.tail[at:])
		s.seen = len(s.tail)
		return
	}
}

// lineStart is where the line of a position begins, -1 for no position.
func lineStart(src []byte, pos int) int {
	if pos < 0 || pos > len(src) {
		return -1
	}
	return bytes.LastIndexByte(src[:pos], '\n') + 1
}

// join puts an empty line between two runs of lines that are not empty. It may
// write behind a.
func join(a, b []string) []string {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	return append(append(a, ""), b...)
}

// look is everything that decides the ink of a piece of text.
type look struct {
	block                                 block
	bold, italic, strike, code, link, dim bool
}

// block is the kind of block a text stands in, as far as it changes its style.
type block uint8

const (
	inText block = iota
	inHeading
	inTitle // a heading of the first level
	inQuote
)

// ink composes and remembers the ink of a look.
func (r *Renderer) ink(l look) theme.Ink {
	if k, ok := r.inks[l]; ok {
		return k
	}
	st := lipgloss.NewStyle()
	add := func(on bool, s lipgloss.Style) {
		if on {
			st = s.Inherit(st)
		}
	}
	add(l.block == inQuote, r.th.Dim)
	add(l.block == inHeading || l.block == inTitle, r.th.Header)
	add(l.block == inTitle, lipgloss.NewStyle().Underline(true))
	add(l.dim, r.th.Dim)
	add(l.code, r.th.Code)
	add(l.link, r.th.Link)
	add(l.bold, r.th.Bold)
	add(l.italic, r.th.Italic)
	add(l.strike, r.th.Strike)
	k := theme.InkOf(st)
	r.inks[l] = k
	return k
}
