package markdown

import (
	"strings"

	east "github.com/yuin/goldmark/extension/ast"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

const (
	gap       = 3 // cells between columns: " │ "
	minColumn = 4 // a table whose columns get less is drawn as records
)

// table draws a table as wide as it needs to be, at most width; cells that do not
// fit are wrapped, and a table with too many columns becomes one record a row.
func (f frame) table(t *east.Table, width int) []string {
	var rows [][]*para
	for n := t.FirstChild(); n != nil; n = n.NextSibling() {
		var row []*para
		for c := n.FirstChild(); c != nil; c = c.NextSibling() {
			p := &para{f: f, look: look{block: f.in, bold: len(rows) == 0}, cell: true}
			p.walk(c)
			row = append(row, p)
		}
		rows = append(rows, row)
	}
	cols := len(t.Alignments)
	if len(rows) == 0 || cols == 0 {
		return nil
	}
	room := width - gap*(cols-1)
	if room < cols*minColumn {
		return records(rows, width)
	}
	widths := fit(rows, cols, room)
	border := theme.InkOf(f.th.Border)
	var out []string
	for i, row := range rows {
		out = append(out, f.row(row, widths, t.Alignments, border)...)
		if i == 0 {
			var rule []string
			for _, w := range widths {
				rule = append(rule, strings.Repeat("─", w))
			}
			out = append(out, border.Draw(strings.Join(rule, "─┼─")))
		}
	}
	return out
}

// fit gives every column what it wants when there is room; else the wide ones
// share what the narrow ones leave.
func fit(rows [][]*para, cols, room int) []int {
	want := make([]int, cols)
	for _, row := range rows {
		for i, c := range row {
			if i < cols {
				want[i] = max(want[i], text.Width(c.b.String()))
			}
		}
	}
	widths := make([]int, cols)
	open := cols
	for again := true; again && open > 0; {
		again = false
		share := room / open
		for i := range want {
			if widths[i] == 0 && want[i] <= share {
				widths[i] = max(want[i], 1)
				room -= widths[i]
				open--
				again = true
			}
		}
	}
	for i := range widths {
		if widths[i] == 0 {
			widths[i] = max(room/open, 1)
			room -= widths[i]
			open--
		}
	}
	return widths
}

// row draws one row, as many lines high as its highest cell.
func (f frame) row(cells []*para, widths []int, align []east.Alignment, border theme.Ink) []string {
	high := 1
	lines := make([][]string, len(widths))
	for i, w := range widths {
		if i < len(cells) {
			lines[i] = cells[i].wrap(w)
		}
		high = max(high, len(lines[i]))
	}
	bar := " " + border.Draw("│") + " "
	var out []string
	for y := range high {
		var b strings.Builder
		for i, w := range widths {
			cell := ""
			if y < len(lines[i]) {
				cell = lines[i][y]
			}
			pad := max(w-text.Width(cell), 0)
			left := 0
			switch align[i] {
			case east.AlignRight:
				left = pad
			case east.AlignCenter:
				left = pad / 2
			}
			if i > 0 {
				b.WriteString(bar)
			}
			b.WriteString(strings.Repeat(" ", left))
			b.WriteString(cell)
			if i < len(widths)-1 {
				b.WriteString(strings.Repeat(" ", pad-left))
			}
		}
		out = append(out, b.String())
	}
	return out
}

// records draws each row as "column: cell" lines.
func records(rows [][]*para, width int) []string {
	var out []string
	for i, row := range rows {
		if i == 0 && len(rows) > 1 {
			continue
		}
		var lines []string
		for j, c := range row {
			p := &para{f: c.f, look: look{block: c.look.block, bold: true}}
			if i > 0 && j < len(rows[0]) {
				p.add(rows[0][j].b.String() + ": ")
			}
			at := p.b.Len()
			p.b.WriteString(c.b.String())
			for _, s := range c.spans {
				p.spans = append(p.spans, theme.Span{End: at + s.End, Ink: s.Ink})
			}
			lines = append(lines, p.wrap(width)...)
		}
		out = join(out, lines)
	}
	return out
}
