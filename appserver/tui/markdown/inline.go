package markdown

import (
	"html"
	"strings"

	"github.com/yuin/goldmark/ast"
	east "github.com/yuin/goldmark/extension/ast"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// para is text with styles, before it is broken into lines.
type para struct {
	f     frame
	look  look
	url   string // link the text belongs to
	b     strings.Builder
	spans []theme.Span
	cell  bool // in a table, where | is written \|
}

// inline reads the text of a block.
func (f frame) inline(n ast.Node, in block) *para {
	p := &para{f: f, look: look{block: in}}
	p.walk(n)
	return p
}

// add appends text in the current look.
func (p *para) add(s string) {
	if s == "" {
		return
	}
	p.b.WriteString(s)
	ink := p.f.ink(p.look)
	if p.url != "" {
		ink = ink.Linked(p.url)
	}
	p.spans = append(p.spans, theme.Span{End: p.b.Len(), Ink: ink})
}

// with reads a node's children in another look.
func (p *para) with(n ast.Node, change func(*look)) {
	old := p.look
	change(&p.look)
	p.walk(n)
	p.look = old
}

func (p *para) walk(parent ast.Node) {
	for n := parent.FirstChild(); n != nil; n = n.NextSibling() {
		p.node(n)
	}
}

func (p *para) node(n ast.Node) {
	switch n := n.(type) {
	case *ast.Text:
		p.text(resolve(string(n.Value(p.f.src))))
		switch {
		case n.HardLineBreak():
			p.add("\n")
		case n.SoftLineBreak():
			p.add(" ")
		}
	case *ast.String:
		p.text(resolve(string(n.Value)))
	case *ast.CodeSpan:
		p.codeSpan(n)
	case *ast.Emphasis:
		p.with(n, func(l *look) {
			if n.Level > 1 {
				l.bold = true
			} else {
				l.italic = true
			}
		})
	case *east.Strikethrough:
		p.with(n, func(l *look) { l.strike = true })
	case *ast.Link:
		p.link(resolve(string(n.Destination)), func() { p.walk(n) })
	case *ast.Image:
		p.link(resolve(string(n.Destination)), func() {
			p.add("[image: ")
			p.walk(n)
			p.add("]")
		})
	case *ast.AutoLink:
		label := string(n.Label(p.f.src))
		p.link(label, func() { p.add(label) })
	case *ast.RawHTML:
		old := p.look
		p.look.dim = true
		for i := range n.Segments.Len() {
			seg := n.Segments.At(i)
			p.add(strings.ReplaceAll(string(seg.Value(p.f.src)), "\n", " "))
		}
		p.look = old
	case *east.TaskCheckBox:
		if n.IsChecked {
			p.add("[x] ")
		} else {
			p.add("[ ] ")
		}
	default:
		p.walk(n)
	}
}

// codeSpan writes code; without colour its backticks stay.
func (p *para) codeSpan(n *ast.CodeSpan) {
	var b strings.Builder
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		if t, ok := c.(*ast.Text); ok {
			b.Write(t.Value(p.f.src))
		}
	}
	code := strings.ReplaceAll(b.String(), "\n", " ")
	if p.cell {
		code = strings.ReplaceAll(code, `\|`, "|")
	}
	if !p.f.th.Colour {
		code = "`" + code + "`"
	}
	old := p.look
	p.look.code = true
	p.add(code)
	p.look = old
}

// link writes a label and, when it says something else, the address: nobody
// should have to trust a label. Nested links and images keep the outer address.
func (p *para) link(dest string, label func()) {
	start, old, oldURL := p.b.Len(), p.look, p.url
	p.look.link = true
	if p.f.th.Hyperlinks && p.url == "" && openable(dest) {
		p.url = dest
	}
	label()
	p.look = old
	shown := p.b.String()[start:]
	if dest != "" && shown != dest && "mailto:"+shown != dest {
		p.look.dim = true
		p.add(" (" + dest + ")")
		p.look = old
	}
	p.url = oldURL
}

// openable says whether an address may be handed to the terminal.
func openable(url string) bool {
	if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") || len(url) > 2000 {
		return false
	}
	for i := range len(url) {
		if url[i] <= ' ' || url[i] >= 0x7f {
			return false
		}
	}
	return true
}

// text writes words, with bare addresses drawn as links.
func (p *para) text(s string) {
	for s != "" && !p.look.link {
		at := strings.Index(s, "http")
		if at < 0 {
			break
		}
		url, _, _ := strings.Cut(s[at:], " ")
		url = strings.TrimRight(url, ".,;:!?)]}'\"*_")
		if !openable(url) {
			p.add(s[:at+4])
			s = s[at+4:]
			continue
		}
		p.add(s[:at])
		p.link(url, func() { p.add(url) })
		s = s[at+len(url):]
	}
	p.add(s)
}

// resolve takes backslash escapes and character references, and cleans what they
// turned into: &#27; is an escape character.
func resolve(s string) string {
	if !strings.ContainsAny(s, `\&`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s) && isPunct(s[i+1]):
			i++
			b.WriteByte(s[i])
		case c == '&':
			// The longest names of references have 33 characters.
			end := strings.IndexByte(s[i:min(len(s), i+40)], ';')
			if end < 0 {
				b.WriteByte(c)
				continue
			}
			b.WriteString(html.UnescapeString(s[i : i+end+1]))
			i += end
		default:
			b.WriteByte(c)
		}
	}
	return strings.ReplaceAll(text.CleanTabs(b.String(), tab), "\n", " ")
}

func isPunct(c byte) bool {
	return c >= '!' && c <= '/' || c >= ':' && c <= '@' || c >= '[' && c <= '`' || c >= '{' && c <= '~'
}

// wrap breaks the text into lines.
func (p *para) wrap(width int) []string {
	s := p.b.String()
	if s == "" {
		return nil
	}
	ranges := text.WrapRanges(s, width)
	out := make([]string, 0, len(ranges))
	for _, r := range ranges {
		var b strings.Builder
		theme.DrawSpans(&b, s, p.spans, r.Start, r.End)
		out = append(out, b.String())
	}
	return out
}
