package thread

import (
	"bytes"
	"encoding/json"
	"fmt"

	"towline/appserver/protocol"
)

// MaxRecord bounds one line, in bytes. It leaves room for a message with
// several pictures in it.
const MaxRecord = 128 << 20

// Meta is what never changes about a thread. It is the first line of its file.
type Meta struct {
	ID            protocol.ThreadID  `json:"id"`
	ForkedFrom    *protocol.ThreadID `json:"forkedFrom,omitempty"`
	Provider      string             `json:"provider"`
	CLIVersion    string             `json:"cliVersion"`
	Originator    string             `json:"originator,omitempty"` // clientInfo.name of the creator
	Source        string             `json:"source"`               // "vscode" for every thread a client made, as in Codex
	ThreadSource  *string            `json:"threadSource,omitempty"`
	HistoryMode   string             `json:"historyMode"`
	Git           *protocol.GitInfo  `json:"git,omitempty"`
	CreatedAtMs   int64              `json:"createdAtMs"`
	Base          string             `json:"baseInstructions,omitempty"`
	Developer     string             `json:"developerInstructions,omitempty"`
	DynamicTools  []json.RawMessage  `json:"dynamicTools,omitempty"`
	ContextWindow int64              `json:"contextWindow,omitempty"` // tokens, when the client chose one
}

// Settings is what turns run with until it changes.
type Settings struct {
	Cwd           string                 `json:"cwd"`
	Model         string                 `json:"model"`
	Effort        *string                `json:"effort,omitempty"`
	Summary       *string                `json:"summary,omitempty"`
	Approval      json.RawMessage        `json:"approvalPolicy"` // a protocol.Approve… string or a granular object
	Sandbox       protocol.SandboxPolicy `json:"sandbox"`
	Collaboration json.RawMessage        `json:"collaborationMode,omitempty"` // as the client gave it
	ServiceTier   *string                `json:"serviceTier,omitempty"`
}

// Queued is a message that waits for its thread to be idle.
type Queued struct {
	ID       string               `json:"id"`
	ClientID string               `json:"clientUserMessageId"`
	Input    []protocol.UserInput `json:"input"`
}

// Goal is what a thread is to achieve over many turns. The zero Goal is none.
type Goal struct {
	Objective   string `json:"objective"`
	Status      string `json:"status"`
	TokenBudget *int64 `json:"tokenBudget"`
	TokensUsed  int64  `json:"tokensUsed"`
	SecondsUsed int64  `json:"timeUsedSeconds"`
	CreatedAt   int64  `json:"createdAt"` // Unix seconds, like UpdatedAt
	UpdatedAt   int64  `json:"updatedAt"`
}

// Unread is the read state of a thread: TurnID is where the unread part begins,
// nil when everything was read or, with Start, when nothing was.
type Unread struct {
	Revision int64   `json:"revision"`
	TurnID   *string `json:"turnId,omitempty"`
	Start    bool    `json:"start,omitempty"`
}

// The record types.
const (
	recThread   = "thread"
	recSettings = "settings"
	recTurn     = "turn"
	recItem     = "item"
	recInput    = "input"
	recHistory  = "history"
	recUsage    = "usage"
	recEnd      = "end"
	recName     = "name"
	recArchived = "archived"
	recQueue    = "queue"
	recUnread   = "unread"
	recGoal     = "goal"
	recGit      = "git"
)

// Record is one line. Make it with one of the functions below; Log.Append
// stamps the time.
type Record struct {
	Type     string                     `json:"type"` // first, so that a scan can tell lines apart by their prefix
	AtMs     int64                      `json:"at"`
	TurnID   string                     `json:"turnId,omitempty"`
	Status   string                     `json:"status,omitempty"`
	Error    *protocol.TurnError        `json:"error,omitempty"`
	Cut      bool                       `json:"cut,omitempty"`
	Thread   *Meta                      `json:"thread,omitempty"`
	Settings *Settings                  `json:"settings,omitempty"`
	Item     *protocol.Item             `json:"item,omitempty"`
	Input    json.RawMessage            `json:"input,omitempty"`
	History  *[]json.RawMessage         `json:"history,omitempty"`
	Usage    *protocol.ThreadTokenUsage `json:"usage,omitempty"`
	Name     *string                    `json:"name,omitempty"`
	Archived *bool                      `json:"archived,omitempty"`
	Queue    *[]Queued                  `json:"queue,omitempty"`
	Unread   *Unread                    `json:"unread,omitempty"`
	Goal     *Goal                      `json:"goal,omitempty"`
	Git      *protocol.GitInfo          `json:"git,omitempty"`
}

// SetSettings records what later turns run with.
func SetSettings(s Settings) Record { return Record{Type: recSettings, Settings: &s} }

// TurnStarted records that a turn began.
func TurnStarted(turnID string) Record { return Record{Type: recTurn, TurnID: turnID} }

// TurnEnded records how a turn ended; status is one of the protocol.Turn constants.
func TurnEnded(turnID, status string, e *protocol.TurnError) Record {
	return Record{Type: recEnd, TurnID: turnID, Status: status, Error: e}
}

// TurnCut records that a turn was interrupted by the end of the process it ran in.
func TurnCut(turnID string) Record {
	return Record{Type: recEnd, TurnID: turnID, Status: protocol.TurnInterrupted, Cut: true}
}

// ItemDone records a completed item.
func ItemDone(turnID string, it protocol.Item) Record {
	return Record{Type: recItem, TurnID: turnID, Item: &it}
}

// Input records one item of the model's side of the history.
func Input(item json.RawMessage) Record { return Record{Type: recInput, Input: item} }

// Replaced records that replay begins with history from now on.
func Replaced(history []json.RawMessage) Record {
	if history == nil {
		history = []json.RawMessage{}
	}
	return Record{Type: recHistory, History: &history}
}

// UsageNow records the token count so far.
func UsageNow(u protocol.ThreadTokenUsage) Record { return Record{Type: recUsage, Usage: &u} }

// Named records a new name; "" removes it.
func Named(name string) Record { return Record{Type: recName, Name: &name} }

// SetArchived records that the thread was put away, or taken out again.
func SetArchived(on bool) Record { return Record{Type: recArchived, Archived: &on} }

// SetQueue records all messages that wait.
func SetQueue(q []Queued) Record {
	if q == nil {
		q = []Queued{}
	}
	return Record{Type: recQueue, Queue: &q}
}

// SetUnread records the read state.
func SetUnread(u Unread) Record { return Record{Type: recUnread, Unread: &u} }

// SetGoal records the goal; the zero Goal removes it.
func SetGoal(g Goal) Record { return Record{Type: recGoal, Goal: &g} }

// SetGit records what a client says of the repository; it replaces what the
// first line says.
func SetGit(g protocol.GitInfo) Record { return Record{Type: recGit, Git: &g} }

// encode appends r as one line of at most limit bytes to buf.
func (r *Record) encode(buf *bytes.Buffer, limit int64) error {
	start := buf.Len()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		buf.Truncate(start)
		return fmt.Errorf("encode %s record: %w", r.Type, err)
	}
	if n := int64(buf.Len() - start); n > limit {
		buf.Truncate(start)
		return fmt.Errorf("%s record of %d bytes exceeds %d", r.Type, n, limit)
	}
	return nil
}

// decode reads one line. ok is false for anything that is no record.
func decode(line []byte) (r Record, ok bool) {
	if json.Unmarshal(line, &r) != nil {
		return Record{}, false
	}
	switch r.Type {
	case recThread:
		ok = r.Thread != nil && r.Thread.ID != ""
	case recSettings:
		ok = r.Settings != nil
	case recTurn:
		ok = r.TurnID != ""
	case recItem:
		ok = r.TurnID != "" && r.Item != nil && r.Item.Body != nil
	case recInput:
		ok = len(r.Input) > 0
	case recHistory:
		ok = r.History != nil
	case recUsage:
		ok = r.Usage != nil
	case recEnd:
		ok = r.TurnID != "" && r.Status != ""
	case recName:
		ok = r.Name != nil
	case recArchived:
		ok = r.Archived != nil
	case recQueue:
		ok = r.Queue != nil
	case recUnread:
		ok = r.Unread != nil
	case recGoal:
		ok = r.Goal != nil
	case recGit:
		ok = r.Git != nil
	}
	return r, ok
}
