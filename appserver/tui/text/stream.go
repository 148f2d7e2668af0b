package text

// Bounds of a [Stream] whose fields are zero.
const (
	DefaultLines     = 5000 // lines kept
	DefaultLineBytes = 8192 // bytes kept of one line; the rest of it is dropped
)

// Stream cleans command output that arrives in pieces cut anywhere, and keeps
// its last lines. The zero value is ready. Not for concurrent use.
//
// As long as nothing was dropped, joining Lines gives what Clean gives for all
// pieces together.
type Stream struct {
	MaxLines     int // 0: DefaultLines; the oldest are dropped
	MaxLineBytes int // 0: DefaultLineBytes
	TabWidth     int // 0: TabWidth
}

// Append takes the next piece.
func (s *Stream) Append(chunk string) {}

// Lines are the lines kept so far, the unfinished last one included if it is
// not empty. The slice must not be changed and is valid until the next Append.
func (s *Stream) Lines() []string { return nil }

// Dropped is how many lines before Lines are gone.
func (s *Stream) Dropped() int { return 0 }
