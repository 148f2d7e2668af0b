package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
)

// Streamer is the model. *model.Client satisfies it.
type Streamer interface {
	Stream(ctx context.Context, req model.Request, on func(model.Event)) error
}

// Config is what a [Session] needs for its whole life.
type Config struct {
	ThreadID protocol.ThreadID
	Model    Streamer
	// Exec (*exec.Manager) and Sandbox (*sandbox.Runner) appear here as soon as those packages have their API.
	History       []json.RawMessage // Responses items to replay, oldest first, as given to Sink.Record; repaired by New
	Usage         protocol.ThreadTokenUsage
	ContextWindow int64 // tokens; 0 means no automatic compaction
	// BaseInstructions replaces the built-in ones when not empty; DeveloperInstructions is added after them.
	BaseInstructions      string
	DeveloperInstructions string
	Home                  string           // directory whose AGENTS.md applies to every project; "" for none
	Clock                 func() time.Time // nil means time.Now
	Log                   *slog.Logger
}

// Turn is what one turn is asked to do, and under which rules.
type Turn struct {
	ID                    string
	Input                 []protocol.UserInput
	ClientMessageID       *string
	Cwd                   string // absolute
	Model                 string
	Effort                string
	Summary               string
	Approval              string // protocol.ApproveUntrusted, ApproveOnRequest or ApproveNever
	Sandbox               protocol.SandboxPolicy
	OutputSchema          json.RawMessage
	DeveloperInstructions string
	DynamicTools          []json.RawMessage
	PlanMode              bool // offers request_user_input
}

// Outcome is how a turn ended. Error is set exactly when Status is TurnFailed.
type Outcome struct {
	Status      string // protocol.TurnCompleted, TurnInterrupted or TurnFailed
	Error       *protocol.TurnError
	LastMessage *protocol.Item // the final agentMessage, nil when there was none
}

// Sink is how a turn is told to clients and recorded. The agent serialises its
// calls, except Ask, which may overlap with anything. A command that outlives its
// turn completes its item through the sink of the turn that started it, so a
// sink stays usable until the session is closed.
type Sink interface {
	ItemStarted(turnID string, it protocol.Item)
	ItemCompleted(turnID string, it protocol.Item)
	// Notify sends a notification about the thread; params are complete.
	Notify(method string, params any)
	// Record stores one Responses item durably for replay, before its effects go on.
	Record(input json.RawMessage) error
	// Replace makes history the beginning of every later replay.
	Replace(history []json.RawMessage) error
	// Ask sends a server request to the thread's clients and waits for the
	// first answer. An error from a client is a *protocol.Error.
	Ask(ctx context.Context, method string, params any) (json.RawMessage, error)
	// Waiting sets or clears one of the protocol.Flag constants of the thread.
	Waiting(flag string, on bool)
}

// Session is one thread's conversation as the model sees it. One turn runs at
// a time; Steer and Close may be called during it.
type Session struct{ cfg Config }

// NewSession makes a session. It does no I/O.
func NewSession(cfg Config) *Session { return &Session{cfg: cfg} }

// Run does one turn and blocks until it ended. Cancelling ctx interrupts it.
func (s *Session) Run(ctx context.Context, t Turn, sink Sink) Outcome { return Outcome{} }

// Steer adds input to the running turn; the model sees it when the loop next
// samples. It fails with [ErrNoTurn] when nothing runs.
func (s *Session) Steer(input []protocol.UserInput, clientID *string) error { return nil }

// Compact replaces the history by a summary, as a turn of its own.
func (s *Session) Compact(ctx context.Context, t Turn, sink Sink) Outcome { return Outcome{} }

// History is the replayable conversation so far; a fork starts from it.
func (s *Session) History() []json.RawMessage { return nil }

// Usage is the token count so far.
func (s *Session) Usage() protocol.ThreadTokenUsage { return s.cfg.Usage }

// Close ends the session's background commands and waits until their items are
// completed. No turn may be running.
func (s *Session) Close() {}

// Instructions gathers the AGENTS.md files that apply in cwd: home's first,
// then from the repository root down. Sources are their absolute paths.
func Instructions(home, cwd string) (text string, sources []string, err error) { return "", nil, nil }

// Repair makes a recorded history replayable: every call without an output
// gets one that says it was aborted, and outputs without a call are dropped.
func Repair(history []json.RawMessage) []json.RawMessage { return history }
