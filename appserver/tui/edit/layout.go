package edit

import "strings"

// row is one visual line: cells [start,end), without its newline.
type row struct{ start, end int }

// rows wraps the buffer for a width, at spaces where it can. One column is kept
// free so that the cursor always has a place.
func (b *Buffer) rows(width int) []row {
	width = max(width-1, 1)
	var out []row
	start, cells, cut := 0, 0, -1
	for i := 0; i < len(b.cells); i++ {
		c := b.cells[i]
		if c.show == "\n" {
			out = append(out, row{start, i})
			start, cells, cut = i+1, 0, -1
			continue
		}
		if cells+c.w > width && i > start {
			end := i
			if cut > start {
				end = cut
			}
			out = append(out, row{start, end})
			start, cells, cut = end, 0, -1
			for _, d := range b.cells[start:i] {
				cells += d.w
			}
		}
		cells += c.w
		if c.show == " " {
			cut = i + 1
		}
	}
	return append(out, row{start, len(b.cells)})
}

// at finds the cursor among rows.
func (b *Buffer) at(rows []row) (y, x int) {
	for y = len(rows) - 1; y > 0 && rows[y].start > b.pos; y-- {
	}
	for _, c := range b.cells[rows[y].start:min(b.pos, len(b.cells))] {
		x += c.w
	}
	return y, x
}

// Layout wraps the buffer into lines of less than width cells and says where
// the cursor is among them. There is always at least one line.
func (b *Buffer) Layout(width int) (lines []string, x, y int) {
	rows := b.rows(width)
	lines = make([]string, len(rows))
	for i, r := range rows {
		var s strings.Builder
		for _, c := range b.cells[r.start:r.end] {
			s.WriteString(c.show)
		}
		lines[i] = s.String()
	}
	y, x = b.at(rows)
	return lines, min(x, max(width-1, 0)), y
}

// Vertical moves the cursor dy visual lines, keeping its column as well as the
// lines allow, and reports false when there is no such line.
func (b *Buffer) Vertical(dy, width int) bool {
	rows := b.rows(width)
	y, x := b.at(rows)
	if b.goal > 0 {
		x = b.goal - 1
	}
	if y+dy < 0 || y+dy >= len(rows) {
		return false
	}
	r := rows[y+dy]
	pos, col := r.start, 0
	for pos < r.end && col+b.cells[pos].w <= x {
		col += b.cells[pos].w
		pos++
	}
	// The end of a row that wraps is the start of the next one; stay on this one.
	if pos == r.end && y+dy+1 < len(rows) && rows[y+dy+1].start == r.end && pos > r.start {
		pos--
	}
	b.pos, b.goal = pos, x+1
	return true
}
