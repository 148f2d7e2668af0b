package bootstrap

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	// headBytes and tailBytes bound what is kept of text nobody parses: its
	// beginning says what answered, its end what went wrong.
	headBytes = 2 << 10
	tailBytes = 6 << 10
	// shownLines and shownBytes bound what of it an error quotes.
	shownLines = 6
	shownBytes = 600
)

// excerpt keeps the beginning and the end of a text of any length. It may be
// used concurrently.
type excerpt struct {
	mu   sync.Mutex // guards what follows
	head []byte
	tail []byte
	size int64
}

func (e *excerpt) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.size += int64(len(p))
	n := min(len(p), headBytes-len(e.head))
	e.head = append(e.head, p[:n]...)
	e.tail = append(e.tail, p[n:]...)
	if over := len(e.tail) - tailBytes; over > 0 {
		e.tail = append(e.tail[:0], e.tail[over:]...)
	}
	return len(p), nil
}

func (e *excerpt) len() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.size
}

// text is all that was kept.
func (e *excerpt) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size > int64(len(e.head)+len(e.tail)) {
		return string(e.head) + "\n…\n" + string(e.tail)
	}
	return string(e.head) + string(e.tail)
}

// first quotes the first lines that say something, on one line.
func (e *excerpt) first() string { return quote(lines(e.text()), false) }

// last quotes the last such lines.
func (e *excerpt) last() string { return quote(lines(e.text()), true) }

// lines are the lines of text that are not blank, printable.
func lines(text string) []string {
	var out []string
	for l := range strings.SplitSeq(strings.ReplaceAll(text, "\r", "\n"), "\n") {
		if l = strings.TrimSpace(printable(l)); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func quote(all []string, end bool) string {
	if len(all) > shownLines {
		if end {
			all = all[len(all)-shownLines:]
		} else {
			all = all[:shownLines]
		}
	}
	s := strings.Join(all, " / ")
	if len(s) <= shownBytes {
		return s
	}
	if end {
		s = s[len(s)-shownBytes:]
		for !utf8.RuneStart(s[0]) {
			s = s[1:]
		}
		return "…" + s
	}
	s = s[:shownBytes]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// printable drops what a terminal would obey: control characters, and the
// sequences that begin with ESC as a whole, so that no parameters remain.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i += escape(s[i:])
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case r == utf8.RuneError && n <= 1, !unicode.IsPrint(r):
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escape is the length of the sequence at the start of s, which is ESC: CSI
// (ESC [ … letter), a string such as OSC (ESC ] … BEL or ESC \), or two bytes.
func escape(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', '_', '^', 'X':
		for i := 2; i < len(s); i++ {
			switch {
			case s[i] == 0x07:
				return i + 1
			case s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\':
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}
