package bootstrap

// SkewKind compares two versions of Towline.
type SkewKind string

// The kinds of skew.
const (
	Same        SkewKind = "same"
	Older       SkewKind = "older"         // the remote is, and we understand each other
	Newer       SkewKind = "newer"         // likewise
	OutOfWindow SkewKind = "out of window" // no common protocol version
	Foreign     SkewKind = "foreign"       // Codex: its own protocol, no window
)

// Skew is how this client's version and the remote's go together, with the
// words to show.
type Skew struct {
	Kind   SkewKind `json:"kind"`
	Local  string   `json:"local"`
	Remote string   `json:"remote"`
	// Block: do not send turns; threads stay readable. Offer the update.
	Block bool `json:"block"`
	// Notice is one line for the banner, empty when there is nothing to say.
	Notice string `json:"notice,omitempty"`
	// Hint is what to do about it, imperative.
	Hint string `json:"hint,omitempty"`
}
