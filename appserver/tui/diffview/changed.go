package diffview

import (
	"unicode/utf8"

	"towline/appserver/tui/text"
)

// changedParts finds, for runs of removed lines followed by as many added ones,
// the part in which each pair differs. Pairs that have little in common get no
// mark: then the whole line is what changed.
func changedParts(lines []line) []text.Range {
	out := make([]text.Range, len(lines))
	for i := 0; i < len(lines); {
		minus := run(lines, i, removed)
		plus := run(lines, i+minus, added)
		if minus > 0 && minus == plus {
			for k := range minus {
				out[i+k], out[i+minus+k] = differ(lines[i+k].text, lines[i+minus+k].text)
			}
		}
		i += max(minus+plus, 1)
	}
	return out
}

func run(lines []line, at int, o op) int {
	n := 0
	for at+n < len(lines) && lines[at+n].op == o {
		n++
	}
	return n
}

// differ is what is left of two lines without their common start and end.
func differ(a, b string) (text.Range, text.Range) {
	head := 0
	for head < len(a) && head < len(b) {
		r, n := utf8.DecodeRuneInString(a[head:])
		if q, m := utf8.DecodeRuneInString(b[head:]); q != r || m != n {
			break
		}
		head += n
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head {
		r, n := utf8.DecodeLastRuneInString(a[head : len(a)-tail])
		if q, m := utf8.DecodeLastRuneInString(b[head : len(b)-tail]); q != r || m != n {
			break
		}
		tail += n
	}
	if 3*(head+tail) < max(len(a), len(b)) {
		return text.Range{}, text.Range{}
	}
	return text.Range{Start: head, End: len(a) - tail}, text.Range{Start: head, End: len(b) - tail}
}
