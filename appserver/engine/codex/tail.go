package codex

import (
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// tailBytes is how much of what a process said last is kept.
const tailBytes = 8 << 10

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.cut = true
	}
	return len(p), nil
}

// String is the text without what could act on a terminal. When the beginning
// is missing, so is the line it tore.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.buf)
	if t.cut {
		if _, rest, ok := strings.Cut(s, "\n"); ok {
			s = rest
		}
	}
	return plain(s)
}

// escapes are the control sequences a program uses for colour and the like:
// CSI, OSC and the two-byte ones. What is left of others loses its control
// characters.
var escapes = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[@-Z\\\\-_])")

func plain(s string) string {
	s = escapes.ReplaceAllString(strings.ToValidUTF8(s, "\uFFFD"), "")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

// logged matches what is no reason to end: a warning, a line of a log, or of a
// stack backtrace.
var logged = regexp.MustCompile(`^((?i:warning):|\d{4}-\d\d-\d\dT|Stack backtrace:|\d+: )`)

// blamed matches the line in which a program says why it ends.
var blamed = regexp.MustCompile(`(?i)^error\b:?\s*`)

// verdict is the one line of a dead program's last words that says most: its
// last that begins with "error", or else the last that is not from a log; ""
// for none.
func verdict(text string) string {
	last, certain := "", false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if m := blamed.FindString(line); m != "" {
			if strings.Contains(m, ":") {
				line = line[len(m):]
			}
			last, certain = line, true
		} else if line != "" && !certain && !logged.MatchString(line) {
			last = line
		}
	}
	return short(last)
}

// short keeps a sentence readable on one line of a screen or two.
func short(s string) string {
	const most = 240
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
