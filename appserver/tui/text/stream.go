package text

import "slices"

// Bounds of a [Stream] whose fields are zero.
const (
	DefaultLines     = 5000 // lines kept
	DefaultLineBytes = 8192 // bytes kept of one line; the rest of it is dropped
)

// Stream cleans command output that arrives in pieces cut anywhere, and keeps
// its last lines. The zero value is ready; it must not be copied after first use.
// Not for concurrent use.
//
// As long as nothing was dropped, joining Lines after Close gives what Clean
// gives for all pieces together (without a final newline).
type Stream struct {
	MaxLines     int // 0: DefaultLines; the oldest are dropped
	MaxLineBytes int // 0: DefaultLineBytes
	Tab          int // 0: TabWidth

	f       filter
	lines   []string // finished lines; up to twice MaxLines before the oldest go
	dropped int
	view    []string // lines and the unfinished one
	fresh   bool     // view is up to date
}

// Append takes the next piece.
func (s *Stream) Append(chunk string) {
	s.init()
	s.f.write(chunk)
	s.fresh = false
}

// Close says that nothing follows: a character cut by the end of the last piece
// is invalid then. Without it such a character is waited for.
func (s *Stream) Close() {
	s.init()
	s.f.close()
	s.fresh = false
}

func (s *Stream) init() {
	if s.f.emit != nil {
		return
	}
	if s.MaxLines <= 0 {
		s.MaxLines = DefaultLines
	}
	if s.MaxLineBytes <= 0 {
		s.MaxLineBytes = DefaultLineBytes
	}
	if s.Tab <= 0 {
		s.Tab = TabWidth
	}
	s.f.max = s.MaxLineBytes
	s.f.emit = func(line []byte) {
		s.lines = append(s.lines, finish(line, s.Tab))
		if len(s.lines) >= 2*s.MaxLines { // not one by one: that would copy all for each
			n := len(s.lines) - s.MaxLines
			s.lines = slices.Delete(s.lines, 0, n)
			s.dropped += n
		}
	}
}

// Lines are the lines kept so far, the unfinished last one included if it is
// not empty. The slice must not be changed and is valid until the next Append.
func (s *Stream) Lines() []string {
	if s.fresh {
		return s.view
	}
	s.fresh = true
	s.view = s.lines[max(len(s.lines)-s.MaxLines, 0):]
	if len(s.f.line) > 0 {
		s.view = append(slices.Clip(s.view), finish(s.f.line, s.Tab))
	}
	return s.view
}

// Dropped is how many lines before Lines are gone.
func (s *Stream) Dropped() int { return s.dropped + max(len(s.lines)-s.MaxLines, 0) }

// Take returns the finished lines and forgets them, for a reader that keeps
// them itself. Lines then holds what came later.
func (s *Stream) Take() []string {
	out := s.lines[max(len(s.lines)-s.MaxLines, 0):]
	s.dropped = s.Dropped()
	s.lines, s.fresh = nil, false
	return out
}

// Rest is the unfinished last line.
func (s *Stream) Rest() string { return finish(s.f.line, s.Tab) }
