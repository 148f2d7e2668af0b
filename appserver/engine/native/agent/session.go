package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
)

// Errors of [Session.Steer].
var (
	ErrNoTurn       = errors.New("no active turn to steer")
	ErrNotSteerable = errors.New("the active turn does not take input")

	errBusy = errors.New("another turn is running in this thread, or the thread is being unloaded")
)

// Streamer is the model. *model.Client satisfies it.
type Streamer interface {
	Stream(ctx context.Context, req model.Request, on func(model.Event)) error
}

// Config is what a [Session] needs for its whole life.
type Config struct {
	ThreadID protocol.ThreadID
	Model    Streamer
	Exec     *exec.Manager     // the thread's processes; the caller closes it after the session
	History  []json.RawMessage // Responses items to replay, oldest first, as given to Sink.Record
	Usage    protocol.ThreadTokenUsage
	// ContextWindow is the model's, in tokens; 0 means no automatic compaction.
	ContextWindow int64
	// BaseInstructions replaces the built-in ones when not empty;
	// DeveloperInstructions is added to the permissions message.
	BaseInstructions      string
	DeveloperInstructions string
	Home                  string           // directory whose AGENTS.md applies to every project; "" for none
	Clock                 func() time.Time // nil means time.Now
	RetryDelay            time.Duration    // before the first retry; 0 means 200 ms, doubling from there
	// AwaitLogin waits for a person to log in while a turn's request waits for
	// that: until changed is closed, or the login looks different otherwise. Its
	// error is why nobody is waited for any more. Nil: such a turn fails.
	AwaitLogin func(ctx context.Context, p Pause, changed <-chan struct{}) error
	Log        *slog.Logger
}

// Pause is what is said while a turn waits for somebody to log in.
type Pause struct {
	TurnID  string
	Message string          // what is wrong
	Info    json.RawMessage // its codexErrorInfo
}

// Turn is what one turn is asked to do, and under which rules.
type Turn struct {
	ID                    string
	Input                 []protocol.UserInput
	ClientMessageID       *string
	Cwd                   string // absolute
	Model                 string
	Effort                string // reasoning effort, "" for the endpoint's own choice
	Summary               string // reasoning summary: "auto", "concise", "detailed", "none" or ""
	Approval              string // protocol.ApproveUntrusted, ApproveOnRequest or ApproveNever; anything else counts as on-request
	Sandbox               protocol.SandboxPolicy
	OutputSchema          json.RawMessage
	DeveloperInstructions string
	DynamicTools          []json.RawMessage // as thread/start's dynamicTools
	PlanMode              bool              // offers request_user_input
	ContextWindow         int64             // of the turn's model, in tokens; 0 means Config's
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
// a time; every other method may be called during it, from any goroutine.
type Session struct {
	cfg Config

	// life ends with Close; processes of the session die with it. It is the
	// session's own lifetime, not a request's.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup // watchers of background commands

	// rec serialises recording, so that the order on disk is the order in memory.
	// Locks are taken in the order rec, tell, mu.
	rec sync.Mutex

	tell    sync.Mutex     // serialises sinks; guards waiting
	waiting map[string]int // how many questions of a flag are open

	mu       sync.Mutex
	history  []json.RawMessage
	usage    protocol.ThreadTokenUsage
	since    int64 // estimated tokens recorded since usage was told
	active   *turn
	idle     chan struct{} // closed when the active turn has ended; nil without one
	steered  []steered
	notes    []json.RawMessage   // from Note, for the running turn to record
	commands map[string]*command // by process id: running, or exited and not yet read by the model
	allowed  allowed
	// What the endpoint turned out not to take; see learn.
	patchAsFunction bool // no custom tools
	noReasoning     bool // not the reasoning in the history, which another endpoint encrypted
}

type steered struct {
	input    []protocol.UserInput
	clientID *string
}

// NewSession makes a session. It does no I/O.
func NewSession(cfg Config) *Session {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RetryDelay <= 0 {
		cfg.RetryDelay = 200 * time.Millisecond
	}
	s := &Session{
		cfg: cfg, history: Repair(cfg.History), usage: cfg.Usage,
		waiting: map[string]int{}, commands: map[string]*command{},
	}
	if cfg.ContextWindow > 0 {
		s.usage.ModelContextWindow = &cfg.ContextWindow
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Run does one turn and blocks until it ended. Cancelling ctx interrupts it: the
// turn's commands are killed and what the model had said so far is kept.
func (s *Session) Run(ctx context.Context, in Turn, sink Sink) Outcome {
	return s.run(ctx, in, sink, true, (*turn).loop)
}

// Compact replaces the history by the model's summary of it, as a turn of its
// own that takes no input.
func (s *Session) Compact(ctx context.Context, in Turn, sink Sink) Outcome {
	return s.run(ctx, in, sink, false, (*turn).compact)
}

func (s *Session) run(ctx context.Context, in Turn, sink Sink, steerable bool, body func(*turn) error) Outcome {
	t := newTurn(s, in, sink, steerable)
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	defer t.cancel(nil)
	stop := context.AfterFunc(s.life, func() { t.cancel(errShutDown) })
	defer stop()

	s.rec.Lock() // a note that came before is recorded before
	s.mu.Lock()
	if s.active != nil || s.life.Err() != nil {
		s.mu.Unlock()
		s.rec.Unlock()
		return Outcome{Status: protocol.TurnFailed, Error: turnError(errBusy)}
	}
	idle := make(chan struct{})
	s.active, s.idle = t, idle
	s.usage.ModelContextWindow = nil
	if t.window > 0 {
		s.usage.ModelContextWindow = &t.window
	}
	s.mu.Unlock()
	s.rec.Unlock()
	out := t.finish(body(t))
	for {
		s.mu.Lock()
		if len(s.notes) == 0 {
			s.active, s.idle = nil, nil
			s.mu.Unlock()
			break
		}
		s.mu.Unlock()
		if err := t.takeNotes(); err != nil {
			s.cfg.Log.Error("note not recorded", "err", err)
		}
	}
	close(idle)
	return out
}

// Note makes text part of the conversation without a turn: something the person
// did that the model should know of. While a turn runs it is recorded before
// the model is next sampled, else at once, through sink.
func (s *Session) Note(sink Sink, text string) error {
	note := message("user", text)
	s.rec.Lock()
	defer s.rec.Unlock()
	s.mu.Lock()
	if s.active != nil {
		defer s.mu.Unlock()
		if len(s.notes) >= maxNotes {
			return errors.New("too many notes wait for this turn")
		}
		s.notes = append(s.notes, note)
		return nil
	}
	s.mu.Unlock()
	return s.recordLocked(sink, note)
}

// maxNotes bounds the notes that wait within one turn.
const maxNotes = 100

// Retune changes what the running turn's next samples use; nil leaves a setting
// alone. It returns false when that turn does not run.
func (s *Session) Retune(turnID string, model, effort, summary *string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil || s.active.ID != turnID || s.active.over {
		return false
	}
	for _, set := range []struct{ to, from *string }{
		{&s.active.Model, model}, {&s.active.Effort, effort}, {&s.active.Summary, summary},
	} {
		if set.from != nil {
			*set.to = *set.from
		}
	}
	return true
}

// tuning is the part of a turn Retune changes.
func (t *turn) tuning() (model, effort, summary string) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.Model, t.Effort, t.Summary
}

// recordLocked stores one item and makes it part of the replay; s.rec is held.
func (s *Session) recordLocked(sink Sink, raw json.RawMessage) error {
	s.tell.Lock()
	err := sink.Record(raw)
	s.tell.Unlock()
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	s.mu.Lock()
	s.history = append(s.history, raw)
	s.since += tokensOf(raw)
	s.mu.Unlock()
	return nil
}

// Steer adds input to the running turn; the model sees it when the loop next
// samples.
func (s *Session) Steer(input []protocol.UserInput, clientID *string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.active == nil || s.active.over:
		return ErrNoTurn
	case !s.active.steerable:
		return ErrNotSteerable
	}
	s.steered = append(s.steered, steered{input, clientID})
	return nil
}

// History is the replayable conversation so far; a fork starts from it.
func (s *Session) History() []json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history)
}

// Usage is the token count so far.
func (s *Session) Usage() protocol.ThreadTokenUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usage
}

// Terminal is a command that outlived its call: a background terminal.
type Terminal struct {
	ItemID    string
	ProcessID string
	Command   string
	Cwd       string
	Pid       int
}

// Terminals lists the commands that still run, in no order.
func (s *Session) Terminals() []Terminal {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Terminal
	for id, c := range s.commands {
		if !c.over() {
			out = append(out, Terminal{ItemID: c.item.ID, ProcessID: id, Command: c.body.Command, Cwd: c.body.Cwd, Pid: c.proc.Pid()})
		}
	}
	return out
}

// Terminate kills a command that still runs; false when there is none by that
// process id. Its item completes through the usual way.
func (s *Session) Terminate(processID string) bool {
	s.mu.Lock()
	c := s.commands[processID]
	s.mu.Unlock()
	if c == nil || c.over() {
		return false
	}
	c.proc.Kill()
	return true
}

// Close interrupts a running turn, ends background commands and waits for both.
// Items complete meanwhile, so the caller must not hold a lock its sink takes.
func (s *Session) Close() {
	s.end()
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle != nil {
		<-idle
	}
	s.work.Wait()
}
