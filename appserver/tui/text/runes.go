package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// TabWidth is the distance of tab stops in command output.
const TabWidth = 8

// maxMarks is how many combining marks one character keeps. No script needs
// more; stacks of hundreds paint over the neighbouring lines.
const maxMarks = 8

const (
	zwnj      = '\u200c'
	zwj       = '\u200d'
	textStyle = '\ufe0e' // variation selectors: draw as text, draw as emoji
	emojiLook = '\ufe0f'
)

// hidden says that r draws nothing or reorders what is around it, and is not a
// joiner (those are judged in [finish], where their neighbours are known).
func hidden(r rune) bool {
	switch {
	case r == zwj, r == zwnj, r == textStyle, r == emojiLook:
		return false
	case r < 0x34f:
		return r == 0xad
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0000 && r <= 0xe0fff: // selectors and tags: room to smuggle text in
		return true
	}
	switch r {
	case 0x34f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x180b, 0x180c, 0x180d, 0x180e, 0x180f, 0x2065, 0x3164, 0xffa0:
		return true
	}
	// Format characters, but for those that are drawn before a number or word.
	return unicode.Is(unicode.Cf, r) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r)
}

// finish turns a raw line into what is drawn: joiners and marks judged, tabs
// expanded.
func finish(raw []byte, tab int) string {
	plain := true
	for _, c := range raw {
		if c == '\t' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	s := string(raw)
	if plain {
		return s
	}
	return expand(join(s), tab)
}

// join keeps a joiner or variation selector where it changes what is drawn, and
// nowhere else; and at most maxMarks combining marks in a row.
func join(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	var last, joiner rune // the last one kept; a joiner after it, not yet judged
	marks := 0
	for _, r := range s {
		switch {
		case r == zwj, r == zwnj:
			joiner = r
			continue
		case r == textStyle, r == emojiLook:
			if !takesSelector(last) {
				continue
			}
		case unicode.In(r, unicode.Mn, unicode.Me):
			if marks++; marks > maxMarks {
				continue
			}
		default:
			marks = 0
		}
		if joiner != 0 && (joiner == zwj && emojiTail(last) && pictograph(r) || joins(last) && joins(r)) {
			b.WriteRune(joiner)
		}
		joiner = 0
		b.WriteRune(r)
		last = r
	}
	return b.String()
}

// pictograph is a character that emoji sequences are made of.
func pictograph(r rune) bool {
	return r >= 0x1f000 && r <= 0x1faff && !modifier(r) || r >= 0x2190 && r <= 0x2bff || r == 0xa9 || r == 0xae || r == 0x203c || r == 0x2049
}

func modifier(r rune) bool { return r >= 0x1f3fb && r <= 0x1f3ff }

func emojiTail(r rune) bool { return pictograph(r) || modifier(r) || r == emojiLook }

func takesSelector(r rune) bool {
	return pictograph(r) || r >= '0' && r <= '9' || r == '#' || r == '*' || r == 0x3030 || r == 0x303d || r == 0x3297 || r == 0x3299
}

// joins says that r belongs to a script in which a joiner between two letters
// changes their shape.
func joins(r rune) bool {
	return r >= 0x600 && unicode.In(r, unicode.Arabic, unicode.Syriac, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi,
		unicode.Gujarati, unicode.Oriya, unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala,
		unicode.Khmer, unicode.Mongolian)
}

// expand replaces tabs by spaces up to the next multiple of tab cells.
func expand(s string, tab int) string {
	if !strings.Contains(s, "\t") {
		return s
	}
	tab = max(tab, 1)
	var b strings.Builder
	col := 0
	for {
		before, after, found := strings.Cut(s, "\t")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		col += Width(before)
		n := tab - col%tab
		col += n
		for range n {
			b.WriteByte(' ')
		}
		s = after
	}
}
