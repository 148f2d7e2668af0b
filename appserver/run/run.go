// Package run drives one turn over the app-server protocol, as a client of it,
// and says what happened: it is what `towline exec` and `towline wait` are made of.
// It works with any server of the protocol; a Towline gate adds who answered an
// approval, and a stream that outlives its link.
//
// A Runner starts (or resumes) a thread, starts a turn, follows it to its end and
// returns a [Result]. What happens on the way is told as [Event]s, which encode to
// the lines of `codex exec --json`, and as [Note]s for people. A connection that is
// lost is made anew: the thread is resumed, and what was missed is read from its
// history, so that every item is told once.
//
// It answers no approval. A question of the agent's is left to whoever is attached
// and has the role; see [Request.ApprovalTimeout].
package run

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// Limits and times of a run.
const (
	// callTimeout bounds one request: all that are sent here are answered at once.
	callTimeout = 60 * time.Second
	// goodbye is how long an interrupted turn may take to say how it ended.
	goodbye = 5 * time.Second
	// DefaultPatience is how long a lost connection is mended.
	DefaultPatience = 2 * time.Minute
	// MaxListed bounds each list of a [Result].
	MaxListed = 10000
)

// ErrTimeout is the cause of a context whose end is [Request.Timeout].
var ErrTimeout = errors.New("the time is over")

// Config is what a Runner needs. Dial is required.
type Config struct {
	// Dial opens a stream to the server: once, and again after one was lost. It
	// bounds itself. A *config.Problem that trying again does not mend has another
	// Exit than ExitUnavailable, or wraps rpc.ErrRefused.
	Dial func(ctx context.Context) (rpc.Stream, error)
	// Version is this program's.
	Version string
	// Target is what stands after a command that reaches the same server, in hints:
	// "--host dev-server", or "".
	Target string
	// Patience is how long a lost connection is mended; zero is DefaultPatience,
	// less gives up at once.
	Patience time.Duration
	// Event hears what happens in the turn, Note what happens around it. Both may be
	// nil, are called from one goroutine, in order, and may block: the server is then
	// read no further. They get ctx of the run.
	Event func(ctx context.Context, e Event)
	Note  func(ctx context.Context, n Note)
	Log   *slog.Logger // nil discards
}

// Request is what to do.
type Request struct {
	// Resume names a thread to go on with: its id, or its name. Last takes the
	// newest one that worked in Cwd, or with All anywhere. Fork works on a copy.
	// Without any a thread is started.
	Resume string
	Last   bool
	All    bool
	Fork   bool
	// Cwd is where it works, absolute; "" leaves it to the server. The same goes for
	// the rest: Sandbox and Approval as thread/start spells them.
	Cwd, Model, Sandbox, Approval string
	Ephemeral                     bool
	ThreadSource                  string
	// Settings are configuration keys, dotted, with their values.
	Settings map[string]any
	// Input is what the turn is told. OutputSchema is the JSON schema that the last
	// message shall have; nil for text.
	Input        []protocol.UserInput
	OutputSchema json.RawMessage
	// Detach returns as soon as the turn has begun, with StatusStarted.
	Detach bool
	// Timeout bounds all of it; zero does not.
	Timeout time.Duration
	// ApprovalTimeout is how long a question of the agent's may wait for somebody to
	// answer it before the turn is given up: zero not at all, less than zero as long
	// as the run may take.
	ApprovalTimeout time.Duration
}

// NoteKind tells notes apart.
type NoteKind uint8

// The kinds of notes.
const (
	NoteBegan    NoteKind = iota // the thread is there; Opened says how it is set
	NoteWarning                  // Text, of the server's
	NoteLost                     // the connection is; Text says why
	NoteBack                     // it is there again
	NoteWaiting                  // for an answer to Approval
	NoteAnswered                 // Approval was
)

// Note is something that happens around a turn. Its texts come from elsewhere and
// may hold control characters.
type Note struct {
	Kind     NoteKind
	Text     string
	Thread   protocol.ThreadID
	Opened   *protocol.ThreadOpened
	Approval *Approval
}

// Runner runs turns, one at a time.
type Runner struct{ cfg Config }

// New makes a Runner. It does no I/O.
func New(cfg Config) *Runner {
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(context.Context, Event) {}
	}
	if cfg.Note == nil {
		cfg.Note = func(context.Context, Note) {}
	}
	return &Runner{cfg: cfg}
}

// Run does what req says. When ctx ends, or the time is over, the turn is
// interrupted, and its end awaited for a moment. The Result is never nil; the error
// is nil for StatusCompleted and StatusStarted, else a *config.Problem whose Exit is
// the Result's ExitCode.
func (r *Runner) Run(ctx context.Context, req Request) (*Result, error) {
	t := newTurn(r.cfg, req)
	return t.finish(t.run(ctx))
}

// Wait follows the turn that runs in a thread to its end, or says how its last one
// ended. It interrupts nothing.
func (r *Runner) Wait(ctx context.Context, thread string, timeout time.Duration) (*Result, error) {
	t := newTurn(r.cfg, Request{Resume: thread, Timeout: timeout, ApprovalTimeout: -1})
	t.watching = true
	return t.finish(t.run(ctx))
}

// NotStarted is the Result of something that failed before there was a turn.
func NotStarted(err error) *Result {
	return &Result{Type: ResultType, Status: StatusNotStarted, ExitCode: config.ExitCode(err), Error: faultOf(err), Files: []File{}, Commands: []Command{}, Approvals: []Approval{}}
}
