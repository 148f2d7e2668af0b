package markdown

import (
	"strconv"
	"strings"

	"github.com/yuin/goldmark/ast"
	east "github.com/yuin/goldmark/extension/ast"

	"towline/appserver/tui/syntax"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// narrow is the least width a container leaves to what is in it; under it the
// container is drawn without its indentation.
const narrow = 6

// frame is what blocks are drawn in.
type frame struct {
	*Renderer
	src   []byte
	depth int
	in    block
}

// draw draws the top-level blocks before the given one, or all.
func (r *Renderer) draw(src []byte, doc, before ast.Node, width int) []string {
	f := frame{Renderer: r, src: src}
	var out []string
	for n := doc.FirstChild(); n != nil && n != before; n = n.NextSibling() {
		out = join(out, f.block(n, width))
	}
	return out
}

// children draws the blocks in a container; tight ones have no empty line
// between them.
func (f frame) children(parent ast.Node, width int, tight bool) []string {
	var out []string
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		lines := f.block(n, width)
		if tight {
			out = append(out, lines...)
		} else {
			out = join(out, lines)
		}
	}
	return out
}

func (f frame) block(n ast.Node, width int) []string {
	switch n := n.(type) {
	case *ast.Heading:
		return f.heading(n, width)
	case *ast.Paragraph, *ast.TextBlock:
		return f.inline(n, f.in).wrap(width)
	case *ast.ThematicBreak:
		return []string{theme.InkOf(f.th.Border).Draw(strings.Repeat("─", width))}
	case *ast.FencedCodeBlock:
		var lang string
		if n.Info != nil {
			lang = string(n.Info.Value(f.src))
		}
		return f.codeBlock(n, lang, width)
	case *ast.CodeBlock:
		return f.codeBlock(n, "", width)
	case *ast.HTMLBlock:
		return f.html(n, width)
	case *ast.Blockquote:
		return f.quote(n, width)
	case *ast.List:
		return f.list(n, width)
	case *east.Table:
		return f.table(n, width)
	}
	return f.children(n, width, false)
}

// heading keeps its marks: they are what tells levels apart without colour.
func (f frame) heading(n *ast.Heading, width int) []string {
	in := inHeading
	if n.Level == 1 {
		in = inTitle
	}
	p := &para{f: f, look: look{block: inHeading, dim: true}}
	p.add(strings.Repeat("#", n.Level) + " ")
	p.look = look{block: in}
	p.walk(n)
	return p.wrap(width)
}

// indent draws a container with first before its first line and rest before the
// others, both w cells wide, or flush where there is no room.
func (f frame) indent(n ast.Node, first, rest string, w, width int, tight bool) []string {
	f.depth++
	if f.depth > maxDepth || width-w < narrow {
		return f.children(n, width, tight)
	}
	lines := f.children(n, width-w, tight)
	if len(lines) == 0 {
		return []string{strings.TrimRight(first, " ")}
	}
	for i, l := range lines {
		prefix := rest
		if i == 0 {
			prefix = first
		}
		if l == "" {
			prefix = strings.TrimRight(prefix, " ")
		}
		lines[i] = prefix + l
	}
	return lines
}

func (f frame) quote(n ast.Node, width int) []string {
	f.in = inQuote
	bar := theme.InkOf(f.th.Border).Draw("│") + " "
	return f.indent(n, bar, bar, 2, width, false)
}

func (f frame) list(n *ast.List, width int) []string {
	ink := theme.InkOf(f.th.Accent)
	w := 2
	if n.IsOrdered() {
		w = len(strconv.Itoa(n.Start+n.ChildCount()-1)) + 2
	}
	rest := strings.Repeat(" ", w)
	var out []string
	i := n.Start
	for it := n.FirstChild(); it != nil; it = it.NextSibling() {
		first := ink.Draw("•") + " "
		if n.IsOrdered() {
			num := strconv.Itoa(i) + "."
			first = ink.Draw(num) + strings.Repeat(" ", max(w-len(num), 1))
			i++
		}
		lines := f.indent(it, first, rest, w, width, n.IsTight)
		if n.IsTight {
			out = append(out, lines...)
		} else {
			out = join(out, lines)
		}
	}
	return out
}

func (f frame) html(n *ast.HTMLBlock, width int) []string {
	ink := theme.InkOf(f.th.Dim)
	var out []string
	put := func(line string) {
		line = strings.TrimRight(line, "\n")
		for _, r := range text.ChopRanges(line, width) {
			out = append(out, ink.Draw(line[r.Start:r.End]))
		}
	}
	for i := range n.Lines().Len() {
		seg := n.Lines().At(i)
		put(string(seg.Value(f.src)))
	}
	if n.HasClosure() {
		put(string(n.ClosureLine.Value(f.src)))
	}
	return out
}

// codeMemo remembers the code block drawn last, line by line: while a model
// writes one, each drawing adds to the one before.
type codeMemo struct {
	lang  *syntax.Language
	width int
	src   []string
	state []syntax.State // after each line
	end   []int          // lines of out up to and with each line
	out   []string
}

// codeIndent sets code off from text; also without colour, and without a bar
// that would be copied along.
const codeIndent = "  "

func (f frame) codeBlock(n ast.Node, lang string, width int) []string {
	m := &f.Renderer.code
	l := syntax.Named(lang)
	inner := width - len(codeIndent)
	if m.lang != l || m.width != inner {
		*m = codeMemo{lang: l, width: inner}
	}
	lines := n.Lines()
	same := 0
	for i := range lines.Len() {
		seg := lines.At(i)
		line := strings.TrimRight(string(seg.Value(f.src)), "\n")
		if same == i && i < len(m.src) && m.src[i] == line {
			same++
			continue
		}
		if same == i { // from here on it is another text
			m.src, m.state, m.end = m.src[:i], m.state[:i], m.end[:i]
			if i == 0 {
				m.out = m.out[:0]
			} else {
				m.out = m.out[:m.end[i-1]]
			}
			same = -1
		}
		f.codeLine(m, line)
	}
	total := 0
	if n := lines.Len(); n > 0 {
		total = m.end[n-1]
	}
	return text.Indent(m.out[:total], codeIndent)
}

// codeLine draws the next line into the memo.
func (f frame) codeLine(m *codeMemo, line string) {
	var (
		state syntax.State
		spans []theme.Span
	)
	if m.lang != nil {
		if n := len(m.state); n > 0 {
			state = m.state[n-1]
		}
		var tokens []syntax.Token
		tokens, state = m.lang.Line(state, line)
		spans = f.paint.Spans(nil, tokens, 0)
	}
	for _, r := range text.ChopRanges(line, m.width) {
		var b strings.Builder
		theme.DrawSpans(&b, line, spans, r.Start, r.End)
		m.out = append(m.out, b.String())
	}
	m.src, m.state, m.end = append(m.src, line), append(m.state, state), append(m.end, len(m.out))
}
