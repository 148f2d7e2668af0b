package protocol

import (
	"encoding/json"
	"fmt"
)

// ItemBody is the payload of an [Item]. The set is closed by [OtherItem], which
// stands for every type this package does not read.
type ItemBody interface{ itemType() string }

// Item is one thing that happened in a turn. On the wire it is a flat object
// whose "type" member tells which body it has. An item that was read and is
// written again unchanged keeps the bytes it came with.
type Item struct {
	ID            string
	Body          ItemBody
	StartedAtMs   int64 // Unix milliseconds; 0 when unknown, then not written
	CompletedAtMs int64
}

// Items is a list that marshals as [] when empty, never as null.
type Items []Item

// MarshalJSON keeps an empty list an array.
func (s Items) MarshalJSON() ([]byte, error) {
	if s == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]Item(s))
}

// The item types this package reads.
type (
	// UserMessage is what a person sent. ClientID echoes clientUserMessageId.
	UserMessage struct {
		ClientID *string     `json:"clientId"`
		Content  []UserInput `json:"content"`
	}
	// AgentMessage is text from the model.
	AgentMessage struct {
		Text  string  `json:"text"`
		Phase *string `json:"phase"` // "commentary", "partial_answer", "final_answer" or null
	}
	// Reasoning is the model's summarised thinking, one string a part.
	Reasoning struct {
		Summary []string `json:"summary"`
		Content []string `json:"content"`
	}
	// CommandExecution is a command the agent (or the user) ran. AggregatedOutput
	// holds stdout and stderr interleaved, possibly cut in the middle.
	CommandExecution struct {
		Command          string          `json:"command"` // shell-quoted argv
		Cwd              string          `json:"cwd"`
		ProcessID        *string         `json:"processId"`
		Source           string          `json:"source,omitempty"` // "agent", "userShell", "unifiedExecStartup", "unifiedExecInteraction"
		Status           string          `json:"status"`           // an Item status constant
		CommandActions   []CommandAction `json:"commandActions"`
		AggregatedOutput *string         `json:"aggregatedOutput"`
		ExitCode         *int            `json:"exitCode"`
		DurationMs       *int64          `json:"durationMs"`
	}
	// FileChange is a patch: proposed, applied, failed or declined.
	FileChange struct {
		Changes []FileUpdate `json:"changes"`
		Status  string       `json:"status"` // an Item status constant
	}
	// MCPToolCall is a call of a tool on an MCP server.
	MCPToolCall struct {
		Server    string          `json:"server"`
		Tool      string          `json:"tool"`
		Status    string          `json:"status"`
		Arguments json.RawMessage `json:"arguments"`
		Result    json.RawMessage `json:"result"`
		Error     *struct {
			Message string `json:"message"`
		} `json:"error"`
		DurationMs *int64 `json:"durationMs"`
	}
	// DynamicToolCall is a call of a tool the client itself offered.
	DynamicToolCall struct {
		Namespace    *string         `json:"namespace"`
		Tool         string          `json:"tool"`
		Arguments    json.RawMessage `json:"arguments"`
		Status       string          `json:"status"`
		ContentItems json.RawMessage `json:"contentItems"`
		Success      *bool           `json:"success"`
		DurationMs   *int64          `json:"durationMs"`
	}
	// WebSearch is a search the model's provider ran.
	WebSearch struct {
		Query  string          `json:"query"`
		Action json.RawMessage `json:"action"`
	}
	// ImageView says that the model looked at an image file.
	ImageView struct {
		Path string `json:"path"`
	}
	// PlanItem is a plan written in plan mode (turn/plan/updated is another thing).
	PlanItem struct {
		Text string `json:"text"`
	}
	// ContextCompaction marks where older history was replaced by a summary.
	ContextCompaction struct{}
	// OtherItem is any type not listed here; Raw is the whole item.
	OtherItem struct {
		Type string
		Raw  json.RawMessage
	}
)

// Item statuses (commandExecution, fileChange and tool calls).
const (
	ItemInProgress = "inProgress"
	ItemCompleted  = "completed"
	ItemFailed     = "failed"
	ItemDeclined   = "declined"
)

// CommandAction is what a command was understood to do; it lets a client show
// "read pay.go" in place of a pipeline.
type CommandAction struct {
	Type    string  `json:"type"` // "read", "listFiles", "search" or "unknown"
	Command string  `json:"command"`
	Name    string  `json:"name,omitempty"`  // read
	Path    *string `json:"path,omitempty"`  // read (required there), listFiles, search
	Query   *string `json:"query,omitempty"` // search
}

// FileUpdate is one file of a patch. Diff is the raw content for add and
// delete, and hunks without file headers for update.
type FileUpdate struct {
	Path string     `json:"path"` // absolute
	Kind UpdateKind `json:"kind"`
	Diff string     `json:"diff"`
}

// UpdateKind says what happens to the file.
type UpdateKind struct {
	Type     string  `json:"type"` // "add", "delete" or "update"
	MovePath *string `json:"move_path,omitempty"`
}

func (*UserMessage) itemType() string       { return "userMessage" }
func (*AgentMessage) itemType() string      { return "agentMessage" }
func (*Reasoning) itemType() string         { return "reasoning" }
func (*CommandExecution) itemType() string  { return "commandExecution" }
func (*FileChange) itemType() string        { return "fileChange" }
func (*MCPToolCall) itemType() string       { return "mcpToolCall" }
func (*DynamicToolCall) itemType() string   { return "dynamicToolCall" }
func (*WebSearch) itemType() string         { return "webSearch" }
func (*ImageView) itemType() string         { return "imageView" }
func (*PlanItem) itemType() string          { return "plan" }
func (*ContextCompaction) itemType() string { return "contextCompaction" }
func (o *OtherItem) itemType() string       { return o.Type }

// Type returns the item's wire type, "" for an item without a body.
func (it Item) Type() string {
	if it.Body == nil {
		return ""
	}
	return it.Body.itemType()
}

// MarshalJSON writes the flat wire form.
func (it Item) MarshalJSON() ([]byte, error) {
	if it.Body == nil {
		return nil, fmt.Errorf("item %q has no body", it.ID)
	}
	if o, ok := it.Body.(*OtherItem); ok && o.Raw != nil {
		return o.Raw, nil
	}
	body, err := json.Marshal(it.Body)
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(struct {
		Type        string `json:"type"`
		ID          string `json:"id"`
		StartedAt   int64  `json:"startedAtMs,omitempty"`
		CompletedAt int64  `json:"completedAtMs,omitempty"`
	}{it.Type(), it.ID, it.StartedAtMs, it.CompletedAtMs})
	if err != nil {
		return nil, err
	}
	if len(body) <= 2 { // {}
		return head, nil
	}
	return append(append(head[:len(head)-1], ','), body[1:]...), nil
}

// UnmarshalJSON reads the flat wire form. An unknown type, or a known one whose
// members do not fit, becomes an [OtherItem]: a newer Codex must not break us.
func (it *Item) UnmarshalJSON(b []byte) error {
	var head struct {
		Type        string `json:"type"`
		ID          string `json:"id"`
		StartedAt   int64  `json:"startedAtMs"`
		CompletedAt int64  `json:"completedAtMs"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return err
	}
	*it = Item{ID: head.ID, StartedAtMs: head.StartedAt, CompletedAtMs: head.CompletedAt}
	if body := newBody(head.Type); body != nil && json.Unmarshal(b, body) == nil {
		it.Body = body
		return nil
	}
	it.Body = &OtherItem{Type: head.Type, Raw: append(json.RawMessage(nil), b...)}
	return nil
}

func newBody(typ string) ItemBody {
	switch typ {
	case "userMessage":
		return new(UserMessage)
	case "agentMessage":
		return new(AgentMessage)
	case "reasoning":
		return new(Reasoning)
	case "commandExecution":
		return new(CommandExecution)
	case "fileChange":
		return new(FileChange)
	case "mcpToolCall":
		return new(MCPToolCall)
	case "dynamicToolCall":
		return new(DynamicToolCall)
	case "webSearch":
		return new(WebSearch)
	case "imageView":
		return new(ImageView)
	case "plan":
		return new(PlanItem)
	case "contextCompaction":
		return new(ContextCompaction)
	}
	return nil
}
