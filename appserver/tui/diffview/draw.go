package diffview

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/tui/syntax"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// side is how lines of one kind are drawn.
type side struct {
	sign string
	ink  theme.Ink // sign, number, and words that have no colour of their own
	mark theme.Ink // the part of a line that changed
}

// pen draws files with one theme.
type pen struct {
	o                    Options
	sides                [3]side
	paint                [3]*syntax.Painter
	dim, bold, accent    theme.Ink
	lang                 *syntax.Language
	digits               int
	oldState, newState   syntax.State
	gutter               string // under the numbers of wrapped lines
	inner                int    // cells for the text
	out                  []string
	limit, total, passed int // drawn lines allowed; lines of the file, lines of it begun
}

func newPen(o Options) *pen {
	t := o.Theme
	p := &pen{o: o, dim: theme.InkOf(t.Dim), bold: theme.InkOf(t.Bold), accent: theme.InkOf(t.Accent)}
	p.sides = [3]side{
		context: {" ", theme.Ink{}, theme.Ink{}},
		added:   {"+", theme.InkOf(t.Added), theme.InkOf(t.AddedMark)},
		removed: {"−", theme.InkOf(t.Removed), theme.InkOf(t.RemovedMark)},
	}
	for i := range p.paint {
		painter := *syntax.NewPainter(t)
		if op(i) != context { // the line's own colour wins where code has none
			painter[syntax.Text], painter[syntax.Operator] = p.sides[i].ink, p.sides[i].ink
		}
		p.paint[i] = &painter
	}
	return p
}

// file draws one file.
func (p *pen) file(f file) []string {
	p.out, p.limit = nil, p.o.MaxLines
	if !p.o.NoHeader {
		p.out = append(p.out, p.header(f))
		p.limit++
	}
	p.lang = syntax.ForFile(f.path)
	last := 0
	p.total, p.passed = 0, 0
	for i := range f.hunks {
		h := &f.hunks[i]
		if h.oldLine > maxNumber || h.newLine > maxNumber || h.oldLine < 0 || h.newLine < 0 {
			h.oldLine, h.newLine = 0, 0
		}
		p.total += len(h.lines)
		last = min(max(last, h.oldLine+len(h.lines), h.newLine+len(h.lines)), maxNumber)
	}
	p.digits = len(strconv.Itoa(last))
	p.gutter = strings.Repeat(" ", p.digits+4)
	p.inner = max(p.o.Width-len(p.gutter), 8)
	for _, n := range f.notes {
		p.out = append(p.out, p.dim.Draw(text.Truncate("  ("+n+")", p.o.Width, "…")))
	}
	if p.total == 0 && len(f.notes) == 0 && (f.verb == "Add" || f.verb == "Delete") {
		p.out = append(p.out, p.dim.Draw("  (empty file)"))
	}
	for i, h := range f.hunks {
		if i > 0 || h.section != "" {
			gap := strings.Repeat(" ", p.digits) + " ⋮"
			if h.section != "" {
				gap += " " + text.RevealLine(h.section)
			}
			p.out = append(p.out, p.dim.Draw(text.Truncate(gap, p.o.Width, "…")))
		}
		if !p.hunk(h) {
			p.out = append(p.out, p.fold(p.total-p.passed))
			break
		}
	}
	return p.out
}

// header is "● Edit path" with the counts at the right end.
func (p *pen) header(f file) string {
	c := f.counts()
	counts := p.sides[added].ink.Draw("+"+strconv.Itoa(c.Added)) + " " + p.sides[removed].ink.Draw("−"+strconv.Itoa(c.Removed))
	name := p.relative(f.path)
	if f.from != "" {
		name = p.relative(f.from) + " → " + name
	}
	room := p.o.Width - text.Width(counts) - len("* ") - len(f.verb) - 2
	if over := text.Width(name) - room; over > 0 { // the end of a path says more than its start
		name = ansi.TruncateLeft(name, over+1, "…")
	}
	return text.Between(p.accent.Draw("●")+" "+f.verb+" "+p.bold.Draw(name), counts, p.o.Width)
}

// relative shortens a path below the working directory.
func (p *pen) relative(path string) string {
	if cwd := strings.TrimRight(p.o.Cwd, "/"); cwd != "" {
		if rest, ok := strings.CutPrefix(path, cwd+"/"); ok && rest != "" {
			path = rest
		}
	}
	return text.RevealLine(path)
}

func (p *pen) fold(left int) string {
	s := fmt.Sprintf("… %d more lines", left)
	if left == 1 {
		s = "… 1 more line"
	}
	if p.o.FoldHint != "" {
		s += " (" + p.o.FoldHint + ")"
	}
	return p.dim.Draw(text.Truncate("  "+s, p.o.Width, "…"))
}

// hunk draws a hunk and says whether it fitted.
func (p *pen) hunk(h hunk) bool {
	p.oldState, p.newState = 0, 0
	marks := changedParts(h.lines)
	oldNo, newNo := h.oldLine, h.newLine
	for i, l := range h.lines {
		if len(p.out) >= p.limit {
			return false
		}
		p.passed++
		no := newNo
		if l.op == removed {
			no = oldNo
		}
		p.line(l, no, marks[i], h.oldLine > 0 || h.newLine > 0)
		if l.op != added {
			oldNo++
		}
		if l.op != removed {
			newNo++
		}
	}
	return true
}

// line draws one line of a hunk, wrapped.
func (p *pen) line(l line, no int, changed text.Range, numbered bool) {
	s := p.sides[l.op]
	shown := text.Reveal(l.text, tab)
	spans := p.spans(l.op, shown)
	if changed.End > changed.Start && shown == l.text { // byte ranges fit only what was not rewritten
		spans = overlay(spans, len(shown), changed, s.mark)
	}
	number := strings.Repeat(" ", p.digits)
	if numbered {
		number = fmt.Sprintf("%*d", p.digits, no)
	}
	var head string
	if l.op == context {
		head = p.dim.Draw(number) + "   "
	} else {
		head = s.ink.Draw(number+" "+s.sign) + " "
	}
	for i, r := range text.ChopRanges(shown, p.inner) {
		var b strings.Builder
		if i == 0 {
			b.WriteString(" " + head)
		} else {
			b.WriteString(p.gutter)
		}
		theme.DrawSpans(&b, shown, spans, r.Start, r.End)
		p.out = append(p.out, strings.TrimRight(b.String(), " "))
	}
	if l.bare {
		p.out = append(p.out, p.gutter+p.dim.Draw(text.Truncate("(no newline at the end)", p.inner, "…")))
	}
}

// spans colours a line as code. Both sides of a change are read as files of
// their own, and context belongs to both.
func (p *pen) spans(o op, shown string) []theme.Span {
	if p.lang == nil {
		return []theme.Span{{End: len(shown), Ink: p.sides[o].ink}}
	}
	state := &p.newState
	if o == removed {
		state = &p.oldState
	}
	tokens, next := p.lang.Line(*state, shown)
	*state = next
	if o == context {
		p.oldState = next
	}
	return p.paint[o].Spans(nil, tokens, 0)
}

// overlay puts an ink over a part of a line.
func overlay(spans []theme.Span, length int, r text.Range, ink theme.Ink) []theme.Span {
	var out []theme.Span
	start := 0
	put := func(end int, k theme.Ink) {
		if end > start {
			out = append(out, theme.Span{End: end, Ink: k})
			start = end
		}
	}
	for _, s := range append(spans, theme.Span{End: length}) {
		put(min(s.End, r.Start), s.Ink)
		if s.End > r.Start {
			put(min(s.End, r.End), ink)
		}
		put(s.End, s.Ink)
	}
	return out
}
