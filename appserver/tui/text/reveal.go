package text

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Reveal makes text safe to draw without hiding anything of it, for what a
// person is asked to approve: a command, a patch, a path. Control characters
// become their pictures (␛, ␍), invisible and reordering ones their code point
// (<U+202E>), invalid bytes \xHH. Newlines stay (a carriage return before one is
// part of it), tabs are expanded to stops every tab cells.
//
// Where Clean shows what a terminal would have shown, Reveal shows what is there.
func Reveal(s string, tab int) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	first := true
	for line := range strings.SplitSeq(s, "\n") {
		if !first {
			b.WriteByte('\n')
		}
		first = false
		b.WriteString(expand(revealLine(strings.TrimSuffix(line, "\r")), tab))
	}
	return b.String()
}

// RevealLine is Reveal for what must stay one line: newlines are shown as ␊.
func RevealLine(s string) string {
	return Reveal(strings.ReplaceAll(s, "\n", "␊"), TabWidth)
}

func revealLine(s string) string {
	var (
		b      strings.Builder
		last   rune // last one written as it is
		joiner rune
		marks  int
	)
	code := func(r rune) { fmt.Fprintf(&b, "<U+%04X>", r) }
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		c := s[i]
		i += n
		if joiner != 0 {
			if joiner == zwj && emojiTail(last) && pictograph(r) || joins(last) && joins(r) {
				b.WriteRune(joiner)
			} else {
				code(joiner)
			}
			joiner = 0
		}
		mark := unicode.In(r, unicode.Mn, unicode.Me)
		if !mark {
			marks = 0
		}
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, c)
		case r == '\t':
			b.WriteByte('\t')
		case r < 0x20:
			b.WriteRune(0x2400 + r)
		case r == 0x7f:
			b.WriteRune(0x2421)
		case r == zwj, r == zwnj:
			joiner = r
			continue
		case r == textStyle, r == emojiLook:
			if !takesSelector(last) {
				code(r)
				break
			}
			b.WriteRune(r)
			last = r
			continue
		case r > 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, hidden(r), r&0xfffe == 0xfffe, r >= 0xfdd0 && r <= 0xfdef:
			code(r)
		case mark:
			if marks++; marks > maxMarks {
				code(r)
				break
			}
			b.WriteRune(r)
			last = r
			continue
		default:
			b.WriteRune(r)
			last = r
			continue
		}
		last = 0
	}
	if joiner != 0 {
		code(joiner)
	}
	return b.String()
}
