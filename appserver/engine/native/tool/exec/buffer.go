package exec

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// clip keeps the beginning and the end of a stream within a bound: the first
// bytes say what happened, the last how it ended. Not safe for concurrent use.
type clip struct {
	half  int // bytes kept on each side
	head  []byte
	tail  []byte // up to 2*half between compactions
	total int64
}

func newClip(limit int64) clip { return clip{half: int(max(limit/2, 1))} }

func (c *clip) write(b []byte) {
	c.total += int64(len(b))
	if room := c.half - len(c.head); room > 0 {
		n := min(room, len(b))
		c.head = append(c.head, b[:n]...)
		b = b[n:]
	}
	if len(b) > c.half {
		c.tail, b = c.tail[:0], b[len(b)-c.half:]
	}
	if len(c.tail)+len(b) > 2*c.half {
		keep := c.half - len(b)
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-keep:]...)
	}
	c.tail = append(c.tail, b...)
}

// text is what was kept, with a note where the middle is missing; cut tells
// whether it is. Bytes that are no UTF-8 come out as U+FFFD.
func (c *clip) text() (text string, cut bool) {
	tail := c.tail
	if len(tail) > c.half {
		tail = tail[len(tail)-c.half:]
	}
	missing := c.total - int64(len(c.head)) - int64(len(tail))
	if missing == 0 {
		return strings.ToValidUTF8(string(c.head)+string(tail), "\uFFFD"), false
	}
	return joinCut(string(c.head), string(tail), missing), true
}

func (c *clip) reset() { c.head, c.tail, c.total = nil, nil, 0 }

// joinCut puts the note between two ends of a text, giving up the halves of a
// character at the seam.
func joinCut(head, tail string, missing int64) string {
	whole := complete([]byte(head))
	missing += int64(len(head) - whole)
	head = head[:whole]
	for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
		tail = tail[1:]
		missing++
	}
	head = strings.ToValidUTF8(head, "\uFFFD")
	tail = strings.ToValidUTF8(tail, "\uFFFD")
	return fmt.Sprintf("%s\n[… %d bytes left out …]\n%s", head, missing, tail)
}

// shorten cuts the middle out of a text so that about limit bytes remain; 0
// means no limit.
func shorten(s string, limit int) string {
	if limit <= 0 || len(s) <= limit {
		return s
	}
	half := limit / 2
	return joinCut(s[:half], s[len(s)-half:], int64(len(s)-2*half))
}

// complete is the length of b without a character that has only begun at its
// end. Bytes that can never become a character are complete: they are garbage.
func complete(b []byte) int {
	for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
		c := b[len(b)-i]
		if !utf8.RuneStart(c) {
			continue
		}
		if !utf8.FullRune(b[len(b)-i:]) {
			return len(b) - i
		}
		return len(b)
	}
	return len(b)
}
