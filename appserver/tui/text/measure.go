package text

import (
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// Width is how many terminal cells s takes; s is one line, styled or not.
func Width(s string) int { return ansi.StringWidth(s) }

// Truncate cuts s, styled or not, to at most width cells; when something was
// cut, the result ends with tail, which counts.
func Truncate(s string, width int, tail string) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(s, width, tail)
}

// Fit makes s exactly width cells wide: cut with "…" or padded with spaces.
func Fit(s string, width int) string {
	if width <= 0 {
		return ""
	}
	s = Truncate(s, width, "…")
	if n := width - Width(s); n > 0 {
		s += strings.Repeat(" ", n)
	}
	return s
}

// Between puts left and right at the two ends of a line of exactly width cells.
// When both do not fit, left is cut first, to no less than a third of the line.
func Between(left, right string, width int) string {
	l, r := Width(left), Width(right)
	if l+r+1 > width {
		l = max(width-r-1, width/3)
		left = Truncate(left, l, "…")
		l = Width(left)
		right = Truncate(right, max(width-l-1, 0), "…")
		r = Width(right)
	}
	return left + strings.Repeat(" ", max(width-l-r, 0)) + right
}

// Wrap breaks plain text into lines of at most width cells, at spaces where it
// can and inside words where it must. Newlines in s are kept. A cluster wider
// than width stands alone on its line.
func Wrap(s string, width int) []string {
	var out []string
	for _, r := range WrapRanges(s, width) {
		out = append(out, s[r.Start:r.End])
	}
	return out
}

// Range is a part of a string, in bytes.
type Range struct{ Start, End int }

// WrapRanges is Wrap for text whose styles are kept beside it: it says which
// bytes of s each line shows.
func WrapRanges(s string, width int) []Range {
	if width < 1 {
		width = 1
	}
	var out []Range
	for start := 0; ; {
		end := len(s)
		if n := strings.IndexByte(s[start:], '\n'); n >= 0 {
			end = start + n
		}
		out = wrapLine(out, s, Range{start, end}, width)
		if end == len(s) {
			return out
		}
		start = end + 1
	}
}

// wrapLine appends the lines of the one line of s that lies in r.
func wrapLine(out []Range, s string, r Range, width int) []Range {
	if r.End-r.Start <= width || Width(s[r.Start:r.End]) <= width { // no character has more cells than bytes
		return append(out, r)
	}
	trimmed := func(start, end int) Range {
		return Range{start, start + len(strings.TrimRight(s[start:end], " "))}
	}
	var (
		had   = len(out)
		start = r.Start // of the line being filled
		cells int       // since start
		cut   = -1      // where the line may be broken: after the last space that follows a word
		word  bool      // something but spaces since start
	)
	for i := start; i < r.End; {
		c, w := cluster(s[i:r.End])
		if cells+w <= width || i == start {
			cells += w
			i += len(c)
			if c != " " {
				word = true
			} else if word {
				cut = i
			}
			continue
		}
		end, next := i, i // this line's end, the next one's start
		if c == " " {
			for next < r.End && s[next] == ' ' {
				next++
			}
		} else if cut > start {
			end, next = cut, cut
		}
		if word {
			out = append(out, trimmed(start, end))
		}
		start, cut, word = next, -1, false
		i, cells = next, 0 // at most width cells are read twice
	}
	if word || len(out) == had {
		out = append(out, trimmed(start, r.End))
	}
	return out
}

// ChopRanges breaks one line of plain text every width cells, wherever that is:
// for code, whose spaces mean something.
func ChopRanges(s string, width int) []Range {
	width = max(width, 1)
	if len(s) <= width || Width(s) <= width {
		return []Range{{0, len(s)}}
	}
	var out []Range
	start, cells := 0, 0
	for i := 0; i < len(s); {
		c, w := cluster(s[i:])
		if cells+w > width && i > start {
			out = append(out, Range{start, i})
			start, cells = i, 0
		}
		cells += w
		i += len(c)
	}
	return append(out, Range{start, len(s)})
}

// cluster is the first grapheme cluster of s and its width.
func cluster(s string) (string, int) {
	if len(s) > 0 && s[0] < 0x80 && (len(s) == 1 || s[1] < 0x80) {
		return s[:1], 1
	}
	return ansi.FirstGraphemeCluster(s, ansi.GraphemeWidth)
}

// WrapStyled breaks styled text like Wrap does; a style that spans a break is
// ended before it and begun again after it, so every line stands alone.
func WrapStyled(s string, width int) []string {
	if width < 1 {
		width = 1
	}
	return strings.Split(lipgloss.Wrap(s, width, " "), "\n")
}

// Indent puts prefix before every line.
func Indent(lines []string, prefix string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = prefix + l
	}
	return out
}

// Flow sets words, styled or not, in lines of at most w cells, three spaces between them.
func Flow(words []string, w int) []string {
	var out []string
	line := ""
	for _, s := range words {
		switch {
		case line == "":
			line = s
		case Width(line)+3+Width(s) <= w:
			line += "   " + s
		default:
			out, line = append(out, line), s
		}
	}
	return append(out, line)
}
