package systemssh

import (
	"io"
	"slices"
	"sync"
)

// tail keeps the last things ssh said once logged in, apart from debug lines:
// among them is why the connection ended.
type tail struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (t *tail) add(line string) {
	if parseLine(line).kind != markSays {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, line); len(t.lines) > saidLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}

// reason is why a connection ended: ssh's last words, or how it ended.
func (t *tail) reason(ended error) error {
	said := t.all()
	if len(said) == 0 {
		return &Error{Cause: "ssh ended", Err: ended}
	}
	return &Error{Cause: said[len(said)-1], Said: said, Err: ended}
}

// spool hands bytes from a writer that must not wait to a reader that may.
type spool struct {
	mu   sync.Mutex // guards what follows
	more sync.Cond  // on mu: bytes came, or over
	buf  []byte
	over bool
}

// spoolSize bounds what an unread spool holds, in bytes. What comes after it is
// lost: it is the stderr of a remote command nobody reads.
const spoolSize = 1 << 20

func newSpool() *spool {
	s := &spool{}
	s.more.L = &s.mu
	return s
}

func (s *spool) write(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, text[:min(len(text), spoolSize-len(s.buf))]...)
	s.more.Broadcast()
}

// end makes the reader see the end, after what is there.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.more.Broadcast()
}

func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && !s.over {
		s.more.Wait()
	}
	if len(s.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}
