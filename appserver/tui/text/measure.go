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
// can and inside words where it must. Newlines in s are kept. A line is never
// empty of meaning: a cluster wider than width stands alone on its line.
func Wrap(s string, width int) []string {
	if width < 1 {
		width = 1
	}
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		out = wrapLine(out, line, width)
	}
	return out
}

// wrapLine appends the wrapped line to out.
func wrapLine(out []string, line string, width int) []string {
	if len(line) <= width || Width(line) <= width { // no character has more cells than bytes
		return append(out, line)
	}
	var (
		had   = len(out)
		start int  // of the line being filled
		cells int  // since start
		cut   = -1 // where the line may be broken: after the last space that follows a word
		word  bool // something but spaces since start
	)
	for i := 0; i < len(line); {
		c, w := cluster(line[i:])
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
			for next < len(line) && line[next] == ' ' {
				next++
			}
		} else if cut > start {
			end, next = cut, cut
		}
		if word {
			out = append(out, strings.TrimRight(line[start:end], " "))
		}
		start, cut, word = next, -1, false
		i, cells = next, 0 // at most width cells are read twice
	}
	if word || len(out) == had {
		out = append(out, strings.TrimRight(line[start:], " "))
	}
	return out
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
