package theme

import (
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// Ink is a style boiled down to what is written before and after a text. It is
// many times faster than Style.Render for text of one line, and ignores what is
// not colour or attribute (padding, width, borders).
type Ink struct{ before, after string }

// InkOf boils a style down.
func InkOf(s lipgloss.Style) Ink {
	const probe = "x"
	before, after, ok := strings.Cut(s.UnsetPadding().UnsetMargins().UnsetWidth().UnsetHeight().UnsetBorderStyle().Inline(true).Render(probe), probe)
	if !ok {
		return Ink{}
	}
	return Ink{before, after}
}

// Draw writes one line of text with the ink. Empty text stays empty.
func (k Ink) Draw(s string) string {
	if s == "" || k.before == "" {
		return s
	}
	return k.before + s + k.after
}

// DrawTo is Draw into a builder.
func (k Ink) DrawTo(b *strings.Builder, s string) {
	if s == "" {
		return
	}
	b.WriteString(k.before)
	b.WriteString(s)
	b.WriteString(k.after)
}

// Linked is the ink with an OSC 8 link around it. The address must be free of
// control characters, which is the caller's to know.
func (k Ink) Linked(url string) Ink {
	return Ink{ansi.SetHyperlink(url) + k.before, k.after + ansi.ResetHyperlink()}
}

// Span inks a text up to byte End, from where the span before it ended.
type Span struct {
	End int
	Ink Ink
}

// DrawSpans writes s[start:end] with the inks that spans gives it. Text behind
// the last span has no ink.
func DrawSpans(b *strings.Builder, s string, spans []Span, start, end int) {
	// Lines are drawn in order and have few spans each; a search finds the first.
	lo, hi := 0, len(spans)
	for lo < hi {
		if mid := (lo + hi) / 2; spans[mid].End <= start {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for start < end && lo < len(spans) {
		ink := spans[lo].Ink
		for lo+1 < len(spans) && spans[lo].End < end && spans[lo+1].Ink == ink { // written once for neighbours
			lo++
		}
		stop := max(min(spans[lo].End, end), start)
		ink.DrawTo(b, s[start:stop])
		start = stop
		lo++
	}
	b.WriteString(s[start:max(start, end)])
}
