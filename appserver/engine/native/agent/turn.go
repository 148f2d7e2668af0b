package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/tool/patch"
	"towline/appserver/protocol"
)

// Bounds of one turn.
const (
	maxRetries    = 5                // of one sampling, as Codex
	maxRetryDelay = 10 * time.Second // between two tries, unless the endpoint asks for more
	maxSamples    = 2000             // a model that calls tools for ever is stopped here
	maxCalls      = 128              // tool calls of one response
)

var (
	errShutDown  = errors.New("the thread is being unloaded")
	errCancelled = errors.New("cancelled by the user") // by the answer to an approval
)

// turn is one turn at work. Everything but the tool calls runs in the goroutine
// of Session.run.
type turn struct {
	Turn
	s         *Session
	sink      Sink
	steerable bool
	over      bool // guarded by Session.mu: the last sample is done

	// ctx is the turn's lifetime: ended by the caller, by the session's end, or by
	// an approval that was answered with cancel.
	ctx    context.Context
	cancel context.CancelCauseFunc

	window  int64           // of the model, in tokens; 0 when unknown
	base    json.RawMessage // the base instructions item
	dynamic map[string]dynamicTool
	last    *protocol.Item // newest agentMessage

	diff patch.Tracker // used by patches only, which run one at a time

	mu      sync.Mutex
	spawned []*command // of this turn, to be killed by an interrupt
}

func newTurn(s *Session, in Turn, sink Sink, steerable bool) *turn {
	t := &turn{Turn: in, s: s, sink: sink, steerable: steerable, window: s.cfg.ContextWindow}
	if in.ContextWindow > 0 {
		t.window = in.ContextWindow
	}
	text := s.cfg.BaseInstructions
	if text == "" {
		text = baseInstructions
	}
	t.base = message("developer", text)
	t.dynamic = dynamicTools(in.DynamicTools)
	return t
}

// loop is a turn: the context and the input are recorded, then the model is
// sampled until it neither calls a tool nor is steered.
func (t *turn) loop() error {
	if err := t.recordContext(); err != nil {
		return err
	}
	if t.overLimit() { // before the input, which then follows the notes
		if err := t.compactNow(); err != nil {
			return err
		}
	}
	if err := t.userMessage(t.Input, t.ClientMessageID); err != nil {
		return err
	}
	for range maxSamples {
		if t.overLimit() {
			if err := t.compactNow(); err != nil {
				return err
			}
		}
		called, err := t.step()
		if err != nil {
			return err
		}
		more, err := t.takeSteered(!called)
		if err != nil {
			return err
		}
		if !called && !more {
			return nil
		}
	}
	return fmt.Errorf("the model called tools %d times without coming to an end", maxSamples)
}

// takeSteered records what was steered into the turn. When last is true and
// there was nothing, the turn takes no more input.
func (t *turn) takeSteered(last bool) (more bool, err error) {
	if err := t.takeNotes(); err != nil {
		return false, err
	}
	t.s.mu.Lock()
	in := t.s.steered
	t.s.steered = nil
	if last && len(in) == 0 {
		t.over = true
	}
	t.s.mu.Unlock()
	for _, m := range in {
		if err := t.userMessage(m.input, m.clientID); err != nil {
			return false, err
		}
	}
	return len(in) > 0, nil
}

// userMessage records input and shows it.
func (t *turn) userMessage(input []protocol.UserInput, clientID *string) error {
	if len(input) == 0 {
		return nil
	}
	if err := t.record(userItem(input)); err != nil {
		return err
	}
	it := protocol.Item{ID: newID(""), Body: &protocol.UserMessage{ClientID: clientID, Content: input}}
	t.started(&it)
	t.completed(&it)
	return nil
}

// finish makes the outcome. It leaves nothing of the turn running except, when
// the turn ended well, commands the model left in the background.
func (t *turn) finish(err error) Outcome {
	if err == nil {
		return Outcome{Status: protocol.TurnCompleted, LastMessage: t.last}
	}
	t.killSpawned()
	// What was steered in and not yet sampled stays part of the conversation.
	for more, rerr := true, error(nil); more && rerr == nil; {
		more, rerr = t.takeSteered(true)
	}
	if t.ctx.Err() != nil {
		// The model must know that silence after a call was not failure.
		if rerr := t.record(message("user", turnAborted)); rerr != nil {
			t.s.cfg.Log.Error("interrupted turn not marked", "err", rerr)
		}
		return Outcome{Status: protocol.TurnInterrupted, LastMessage: t.last}
	}
	te := turnError(err)
	t.notify("error", errorNote{Error: te, ThreadID: t.s.cfg.ThreadID, TurnID: t.ID})
	return Outcome{Status: protocol.TurnFailed, Error: te, LastMessage: t.last}
}

// errorNote is the body of an error notification.
type errorNote struct {
	Error     *protocol.TurnError `json:"error"`
	WillRetry bool                `json:"willRetry"`
	ThreadID  protocol.ThreadID   `json:"threadId"`
	TurnID    string              `json:"turnId"`
}

func turnError(err error) *protocol.TurnError {
	var me *model.Error
	if errors.As(err, &me) {
		return &protocol.TurnError{Message: me.Message, CodexErrorInfo: me.Info}
	}
	return &protocol.TurnError{Message: err.Error(), CodexErrorInfo: json.RawMessage(`"other"`)}
}

// record stores one item and makes it part of the replay.
func (t *turn) record(raw json.RawMessage) error {
	t.s.rec.Lock()
	defer t.s.rec.Unlock()
	return t.s.recordLocked(t.sink, raw)
}

// takeNotes records what Note left for the turn.
func (t *turn) takeNotes() error {
	t.s.mu.Lock()
	notes := t.s.notes
	t.s.notes = nil
	t.s.mu.Unlock()
	for _, n := range notes {
		if err := t.record(n); err != nil {
			return err
		}
	}
	return nil
}

// started stamps and announces an item, completed ends it.
func (t *turn) started(it *protocol.Item) {
	it.StartedAtMs = t.now()
	t.s.tell.Lock()
	defer t.s.tell.Unlock()
	t.sink.ItemStarted(t.ID, *it)
}

func (t *turn) completed(it *protocol.Item) {
	it.CompletedAtMs = t.now()
	t.s.tell.Lock()
	defer t.s.tell.Unlock()
	t.sink.ItemCompleted(t.ID, *it)
}

func (t *turn) notify(method string, params any) {
	t.s.tell.Lock()
	defer t.s.tell.Unlock()
	t.sink.Notify(method, params)
}

// wait counts the open questions behind a thread flag: several approvals may be
// open at once, and the flag falls with the last.
func (t *turn) wait(flag string, delta int) {
	t.s.tell.Lock()
	defer t.s.tell.Unlock()
	before := t.s.waiting[flag]
	t.s.waiting[flag] = before + delta
	if before == 0 && delta > 0 {
		t.sink.Waiting(flag, true)
	} else if before > 0 && before+delta == 0 {
		t.sink.Waiting(flag, false)
	}
}

// ask puts a question to the thread's clients while flag is up.
func (t *turn) ask(flag, method string, params any) (json.RawMessage, error) {
	if flag != "" {
		t.wait(flag, 1)
		defer t.wait(flag, -1)
	}
	return t.sink.Ask(t.ctx, method, params)
}

func (t *turn) now() int64 { return t.s.cfg.Clock().UnixMilli() }

// newID makes an id that sorts by time; prefix is the one the API uses.
func newID(prefix string) string {
	id, err := uuid.NewV7()
	if err != nil { // the system has no randomness: nothing here can go on
		panic(err)
	}
	return prefix + id.String()
}

// deltaNote is the body of the text delta notifications. The two index members
// belong to one method each.
type deltaNote struct {
	ThreadID     protocol.ThreadID `json:"threadId"`
	TurnID       string            `json:"turnId"`
	ItemID       string            `json:"itemId"`
	Delta        string            `json:"delta"`
	SummaryIndex *int              `json:"summaryIndex,omitempty"`
	ContentIndex *int              `json:"contentIndex,omitempty"`
}
