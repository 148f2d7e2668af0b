package syntax

import (
	"strings"

	"towline/appserver/tui/theme"
)

// Painter colours tokens with a theme.
type Painter [Kinds]theme.Ink

// NewPainter takes the inks from a theme.
func NewPainter(t *theme.Theme) *Painter {
	s := t.Syntax
	return &Painter{
		Comment: theme.InkOf(s.Comment), Keyword: theme.InkOf(s.Keyword), Type: theme.InkOf(s.Type),
		Function: theme.InkOf(s.Function), String: theme.InkOf(s.String), Number: theme.InkOf(s.Number),
		Operator: theme.InkOf(s.Operator), Tag: theme.InkOf(s.Tag), Attribute: theme.InkOf(s.Attribute),
	}
}

// Spans appends what colours the tokens of one line, the first of which begins at
// byte at.
func (p *Painter) Spans(out []theme.Span, tokens []Token, at int) []theme.Span {
	for _, t := range tokens {
		at += len(t.Text)
		out = append(out, theme.Span{End: at, Ink: p[t.Kind]})
	}
	return out
}

// Draw writes tokens as one styled line.
func (p *Painter) Draw(tokens []Token) string {
	var b strings.Builder
	for _, t := range tokens {
		p[t.Kind].DrawTo(&b, t.Text)
	}
	return b.String()
}
