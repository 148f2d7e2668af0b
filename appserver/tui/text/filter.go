package text

import (
	"strings"
	"unicode/utf8"
)

// filter is the state machine behind Clean and Stream: bytes in, raw lines out.
// A raw line still holds tabs and joiners, which need to know their line.
type filter struct {
	line     []byte // the unfinished line
	max      int    // bytes of line kept, 0: all
	over     bool   // line reached max
	cr       bool   // a carriage return was seen: the next character starts the line again
	state    byte
	csi      [4]byte // first parameter bytes of the sequence being read, to know CSI 1 G
	csiLen   int
	partial  [utf8.UTFMax]byte // the start of a character cut by a chunk's end
	nPartial int
	emit     func(rawLine []byte) // a finished line, without its newline; must not keep it
}

// States: ground is text, the others are inside a sequence to be dropped.
const (
	ground = iota
	escape
	escapeInter // ESC and an intermediate byte: one final byte follows
	csi
	str    // OSC, DCS, SOS, PM, APC or a screen title, until ST, BEL or the line's end
	strEsc // ESC inside str: perhaps ST
)

// write feeds the next bytes.
func (f *filter) write(s string) {
	if f.nPartial > 0 { // finish the cut character first
		for len(s) > 0 && !utf8.FullRune(f.partial[:f.nPartial]) {
			f.partial[f.nPartial] = s[0]
			f.nPartial++
			s = s[1:]
		}
		if !utf8.FullRune(f.partial[:f.nPartial]) {
			return
		}
		head := string(f.partial[:f.nPartial])
		f.nPartial = 0
		r, n := utf8.DecodeRuneInString(head)
		f.rune(r, n)
		// An invalid start is one byte; what was borrowed after it is read again.
		s = head[n:] + s
	}
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			f.ascii(c)
			i++
			continue
		}
		if !utf8.FullRuneInString(s[i:]) {
			f.nPartial = copy(f.partial[:], s[i:])
			return
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		f.rune(r, n)
		i += n
	}
}

// close ends the input: a cut character counts as one U+FFFD a byte.
func (f *filter) close() {
	for range f.nPartial {
		f.rune(utf8.RuneError, 1)
	}
	f.nPartial = 0
}

func (f *filter) ascii(c byte) {
	if c == '\n' { // ends everything, so that nothing can swallow the next line
		f.state, f.cr, f.over = ground, false, false
		f.emit(f.line)
		f.line = f.line[:0]
		return
	}
	switch f.state {
	case ground:
		f.control(c)
	case escape:
		f.escaped(c)
	case escapeInter:
		if c < 0x20 || c > 0x2f {
			f.state = ground
			if c < 0x20 {
				f.control(c)
			}
		}
	case csi:
		switch {
		case c >= 0x40 && c <= 0x7e:
			f.state = ground
			if c == 'G' && f.toColumnOne() {
				f.cr = true
			}
		case c < 0x20:
			f.state = ground
			f.control(c)
		case f.csiLen < len(f.csi):
			f.csi[f.csiLen] = c
			f.csiLen++
		}
	case str:
		switch c {
		case 0x07, 0x18, 0x1a:
			f.state = ground
		case 0x1b:
			f.state = strEsc
		}
	case strEsc:
		if c == '\\' {
			f.state = ground
			return
		}
		f.state = escape
		f.escaped(c)
	}
}

// toColumnOne says whether the CSI G just read moves to the line's start, as
// spinners that do not use a carriage return do.
func (f *filter) toColumnOne() bool {
	return f.csiLen == 0 || f.csiLen == 1 && (f.csi[0] == '0' || f.csi[0] == '1')
}

// escaped is the byte after ESC.
func (f *filter) escaped(c byte) {
	f.state = ground
	switch {
	case c == '[':
		f.state, f.csiLen = csi, 0
	case c == ']', c == 'P', c == 'X', c == '^', c == '_', c == 'k':
		f.state = str
	case c >= 0x20 && c <= 0x2f:
		f.state = escapeInter
	case c == 0x1b:
		f.state = escape
	case c < 0x20:
		f.control(c)
	}
}

// control takes an ASCII character outside of sequences.
func (f *filter) control(c byte) {
	switch {
	case c >= 0x20 && c < 0x7f, c == '\t':
		f.begin()
		if f.room(1) {
			f.line = append(f.line, c)
		}
	case c == '\r':
		f.cr = true
	case c == '\b':
		if _, n := utf8.DecodeLastRune(f.line); n > 0 && !f.over {
			f.line = f.line[:len(f.line)-n]
		}
	case c == 0x1b:
		f.state = escape
	}
}

// rune takes a character beyond ASCII; n is how many bytes it came in.
func (f *filter) rune(r rune, n int) {
	if r == utf8.RuneError && n == 1 { // a raw 8-bit control is invalid UTF-8 and ends here too
		if f.state != str && f.state != strEsc {
			f.state = ground
			f.put(utf8.RuneError)
		}
		return
	}
	switch f.state {
	case str, strEsc:
		f.state = str
		if r == 0x9c {
			f.state = ground
		}
		return
	default:
		f.state = ground
	}
	switch {
	case r == 0x9b:
		f.state, f.csiLen = csi, 0
	case r == 0x9d, r == 0x90, r == 0x98, r == 0x9e, r == 0x9f:
		f.state = str
	case r < 0xa0:
	case r == 0x2028, r == 0x2029:
		f.ascii('\n')
	case hidden(r):
	default:
		f.put(r)
	}
}

func (f *filter) put(r rune) {
	f.begin()
	if r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef {
		r = utf8.RuneError // noncharacters
	}
	if f.room(utf8.RuneLen(r)) {
		f.line = utf8.AppendRune(f.line, r)
	}
}

// begin starts the line again after a carriage return.
func (f *filter) begin() {
	if f.cr {
		f.line, f.cr, f.over = f.line[:0], false, false
	}
}

// room says whether n more bytes fit; once they do not, the line is full.
func (f *filter) room(n int) bool {
	if f.max > 0 && len(f.line)+n > f.max {
		f.over = true
	}
	return !f.over
}

// Clean makes text from elsewhere safe to draw. What it returns holds no
// control characters but '\n': escape sequences are removed whole (also
// unterminated ones, which end at the line's end at the latest), and so are other
// control characters, bidirectional overrides and invisible characters that make
// text look like what it is not. Joiners that emoji and some scripts need stay.
// A carriage return starts its line again, a backspace takes a character back
// (progress bars), tabs become spaces, invalid UTF-8 becomes U+FFFD.
//
// Clean(Clean(s)) == Clean(s). Time and memory are linear in len(s).
func Clean(s string) string { return CleanTabs(s, TabWidth) }

// CleanTabs is Clean with tab stops every tab cells.
func CleanTabs(s string, tab int) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	f := filter{emit: func(line []byte) {
		b.WriteString(finish(line, tab))
		b.WriteByte('\n')
	}}
	f.write(s)
	f.close()
	b.WriteString(finish(f.line, tab))
	return b.String()
}

// CleanLine is Clean for what must stay one line: newlines become spaces.
func CleanLine(s string) string {
	return strings.TrimRight(strings.ReplaceAll(Clean(s), "\n", " "), " ")
}

// isClean is true for printable ASCII and newlines: nearly everything, unchanged.
func isClean(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 0x7f || c < 0x20 && c != '\n' {
			return false
		}
	}
	return true
}
