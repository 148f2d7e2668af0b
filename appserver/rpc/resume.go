package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ResumeProtocol is the WebSocket subprotocol of a link that can carry a
// resumable stream.
const ResumeProtocol = "towline.resume.v1"

// headRoom is more than what precedes a message in a frame, in bytes.
const headRoom = 64

// ErrLost ends a resumable stream that cannot go on: the other end no longer
// knows it, or more happened during an absence than it keeps. Whoever is above
// must read state anew on a new stream. A client gets it as a [*LostError].
var ErrLost = errors.New("the session is lost")

// ErrRefused marks an error of ResumeOptions.Dial that only a person can mend:
// a login that was denied, a host key that changed. Wrap it in with %w. It is
// shown in LinkState.Err and tried again slowly.
var ErrRefused = errors.New("refused")

// LostError is how a client's resumable stream ends when messages may not have
// arrived. It matches [ErrLost].
type LostError struct {
	Why    string   // a sentence for a person
	Unsent [][]byte // written here and never sent
	Unsure [][]byte // sent, and whether they were received is not known
}

// Error is Why in context.
func (e *LostError) Error() string { return ErrLost.Error() + ": " + e.Why }

// Is makes errors.Is(err, ErrLost) true.
func (e *LostError) Is(target error) bool { return target == ErrLost }

// ResumeOptions set up the client half of a resumable stream. Dial is required.
type ResumeOptions struct {
	// Dial opens a fresh link: a Stream that negotiated [ResumeProtocol], see
	// [DialWebSocket]. It bounds itself: a person may have to type a password.
	// An error that trying again will not mend wraps ErrRefused.
	Dial func(ctx context.Context) (Stream, error)
	// First, when not nil, is a link that is open already and used before Dial is.
	First Stream
	// BufferBytes and BufferMessages bound what is kept until the server has it;
	// writers beyond that wait. Zero means the default of each.
	BufferBytes    int64
	BufferMessages int
	// Keep is how long the server shall keep the session while this end is away;
	// it may keep it for less. Zero means its default, an hour.
	Keep time.Duration
	Log  *slog.Logger // nil discards
}

// LinkState is how the link under a Resumable is.
type LinkState struct {
	Up      bool
	Attempt int       // tries since the link was lost; 0 while it is up
	NextTry time.Time // of the next one; zero while it is up and while one runs
	Err     error     // why the link ended, or the last try failed; nil while it is up
	Since   time.Time // when Up last changed
}

// Resumable is the client half of a resumable stream: a [Stream] that outlives
// the links it runs over. Read and Write wait while there is none.
type Resumable struct{}

var _ Stream = (*Resumable)(nil)

// NewResumable makes a client half. It starts with Connect, or with the first
// Read or Write.
func NewResumable(o ResumeOptions) *Resumable { return &Resumable{} }

// Connect makes the first link and waits until the server has agreed. Its error
// is the first failure; the Resumable is closed then. It is optional: without it
// the first link is tried for as long as any other.
func (r *Resumable) Connect(ctx context.Context) error { return ErrClosed }

// Read implements [Stream]. It ends with io.EOF when the server closed the
// stream and everything was read, and with a *LostError when it cannot go on.
func (r *Resumable) Read(ctx context.Context) ([]byte, error) { return nil, ErrClosed }

// Write implements [Stream]. The message is kept until the server has it.
func (r *Resumable) Write(ctx context.Context, msg []byte) error { return ErrClosed }

// Close implements [Stream]. With a link it lets what was written arrive and
// ends the session on the server, within two seconds. Its error is a *LostError
// when messages were left that may not have arrived.
func (r *Resumable) Close(reason error) error { return nil }

// State is how the link is now.
func (r *Resumable) State() LinkState { return LinkState{} }

// Changed is closed, and replaced, when State changes.
func (r *Resumable) Changed() <-chan struct{} { return nil }

// Retry tries again at once instead of at NextTry. With a link, it makes sure
// that the link still works.
func (r *Resumable) Retry() {}

// SessionsConfig bounds what absent clients can make a server hold. The zero
// value is a safe default.
type SessionsConfig struct {
	// PerOwner and Total bound sessions, of one owner and in all.
	PerOwner, Total int
	// BufferBytes and BufferMessages bound what one session keeps for a client
	// that is away; OwnerBytes what all of one owner's do, TotalBytes all there are.
	BufferBytes            int64
	BufferMessages         int
	OwnerBytes, TotalBytes int64
	// Away is how long a session is kept for an absent client that asked for no
	// time; MaxAway for any.
	Away, MaxAway time.Duration
	Log           *slog.Logger // nil discards
}

// Sessions is the server half: it finds the stream that a link belongs to.
type Sessions struct{}

// NewSessions makes the server half. Run must be running for Serve to serve.
func NewSessions(cfg SessionsConfig) *Sessions { return &Sessions{} }

// Run lives until ctx ends, then ends every session and waits for its accept.
func (s *Sessions) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Serve carries one link, which has negotiated [ResumeProtocol], until it is
// over, and closes it. owner says whose it is and with which rights: a session
// is only found again by the same owner. For a new session accept is called
// once, in a goroutine of its own, with the stream that outlives the link; it
// returns when that is over. Its context ends with Run's.
func (s *Sessions) Serve(ctx context.Context, link Stream, owner string, accept func(context.Context, Stream)) error {
	return ErrClosed
}

