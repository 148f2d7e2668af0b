package protocol

import (
	"encoding/json"
)

// ThreadID names a conversation. Codex clients insist that it parses as a UUID.
type ThreadID string

// Thread is what lists, reads and thread/started say about one conversation.
// Turns is filled only by calls that ask for history; it is never null.
type Thread struct {
	ID              ThreadID        `json:"id"`
	SessionID       string          `json:"sessionId"`
	ForkedFromID    *ThreadID       `json:"forkedFromId"`
	ParentThreadID  *ThreadID       `json:"parentThreadId"`
	Preview         string          `json:"preview"` // first user message, shortened
	Ephemeral       bool            `json:"ephemeral"`
	HistoryMode     string          `json:"historyMode,omitempty"` // "paginated" or "legacy"
	ModelProvider   string          `json:"modelProvider"`
	Model           *string         `json:"model"`
	ReasoningEffort *string         `json:"reasoningEffort"`
	CreatedAt       int64           `json:"createdAt"` // Unix seconds, as UpdatedAt and RecencyAt
	UpdatedAt       int64           `json:"updatedAt"`
	RecencyAt       *int64          `json:"recencyAt"`
	Status          ThreadStatus    `json:"status"`
	Path            *string         `json:"path"`
	Cwd             string          `json:"cwd"` // absolute
	CliVersion      string          `json:"cliVersion"`
	Originator      *string         `json:"originator"` // clientInfo.name of the creator
	Source          json.RawMessage `json:"source"`     // a string or an object
	ThreadSource    *string         `json:"threadSource"`
	GitInfo         *GitInfo        `json:"gitInfo"`
	Name            *string         `json:"name"`
	ProjectID       *string         `json:"projectId"`
	Turns           []Turn          `json:"turns"`
	// InterruptedTurn is the last turn when the end of the host's process cut it
	// short: Towline's own, for clients that offer to go on with it.
	InterruptedTurn string `json:"towlineInterruptedTurn,omitempty"`
}

// GitInfo is the state of the project's repository when the thread began.
type GitInfo struct {
	SHA       *string `json:"sha"`
	Branch    *string `json:"branch"`
	OriginURL *string `json:"originUrl"`
}

// ThreadStatus says whether a thread is loaded and what it is doing.
type ThreadStatus struct {
	Type        string   `json:"type"` // one of the Status constants
	ActiveFlags []string `json:"-"`    // one of the Flag constants; only when active
}

// Values of [ThreadStatus].
const (
	StatusNotLoaded   = "notLoaded"
	StatusIdle        = "idle"
	StatusActive      = "active"
	StatusSystemError = "systemError"

	FlagWaitingOnApproval  = "waitingOnApproval"
	FlagWaitingOnUserInput = "waitingOnUserInput"
)

// MarshalJSON writes activeFlags exactly when the thread is active: the field
// is required there and unknown elsewhere.
func (s ThreadStatus) MarshalJSON() ([]byte, error) {
	if s.Type != StatusActive {
		return json.Marshal(struct {
			Type string `json:"type"`
		}{s.Type})
	}
	flags := s.ActiveFlags
	if flags == nil {
		flags = []string{}
	}
	return json.Marshal(struct {
		Type        string   `json:"type"`
		ActiveFlags []string `json:"activeFlags"`
	}{s.Type, flags})
}

// UnmarshalJSON reads the shape MarshalJSON writes.
func (s *ThreadStatus) UnmarshalJSON(b []byte) error {
	var v struct {
		Type        string   `json:"type"`
		ActiveFlags []string `json:"activeFlags"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*s = ThreadStatus(v)
	return nil
}

// Turn is one exchange: what the user said and everything done about it.
type Turn struct {
	ID          string     `json:"id"`
	RootTurnID  *string    `json:"rootTurnId"`
	Items       Items      `json:"items"`
	ItemsView   string     `json:"itemsView,omitempty"` // "notLoaded", "summary" or "full"
	Status      string     `json:"status"`              // one of the Turn constants
	Error       *TurnError `json:"error"`
	StartedAt   *int64     `json:"startedAt"` // Unix seconds
	CompletedAt *int64     `json:"completedAt"`
	DurationMs  *int64     `json:"durationMs"`
}

// Values of Turn.Status and Turn.ItemsView.
const (
	TurnInProgress  = "inProgress"
	TurnCompleted   = "completed"
	TurnInterrupted = "interrupted"
	TurnFailed      = "failed"

	ViewNotLoaded = "notLoaded"
	ViewSummary   = "summary"
	ViewFull      = "full"
)

// TurnError says why a turn failed. Info is a string or a one-member object.
type TurnError struct {
	Message           string          `json:"message"`
	CodexErrorInfo    json.RawMessage `json:"codexErrorInfo"`
	AdditionalDetails *string         `json:"additionalDetails"`
}

// SandboxPolicy is the sandbox as turn/start takes it and thread replies report it.
type SandboxPolicy struct {
	Type                string   `json:"type"` // "readOnly", "workspaceWrite", "dangerFullAccess" or "externalSandbox"
	WritableRoots       []string `json:"writableRoots,omitempty"`
	NetworkAccess       any      `json:"networkAccess,omitempty"` // a bool, or for externalSandbox "restricted"/"enabled"
	ExcludeTmpdirEnvVar bool     `json:"excludeTmpdirEnvVar,omitempty"`
	ExcludeSlashTmp     bool     `json:"excludeSlashTmp,omitempty"`
}

// The sandbox modes as thread/start and the configuration spell them, and the
// types [SandboxPolicy] uses for the same.
const (
	SandboxReadOnly       = "read-only"
	SandboxWorkspaceWrite = "workspace-write"
	SandboxFullAccess     = "danger-full-access"

	PolicyReadOnly       = "readOnly"
	PolicyWorkspaceWrite = "workspaceWrite"
	PolicyFullAccess     = "dangerFullAccess"
	PolicyExternal       = "externalSandbox"
)

// Approval policies. A granular object also exists on the wire; whoever reads
// an approvalPolicy keeps it raw until it knows which of the two it is.
const (
	ApproveUntrusted = "untrusted"
	ApproveOnRequest = "on-request"
	ApproveNever     = "never"
)

// ThreadOpened is the common part of the replies to thread/start, thread/resume
// and thread/fork. The paging members are resume's only.
type ThreadOpened struct {
	Thread                Thread          `json:"thread"`
	Model                 string          `json:"model"`
	ModelProvider         string          `json:"modelProvider"`
	ServiceTier           *string         `json:"serviceTier"`
	Cwd                   string          `json:"cwd"`
	RuntimeWorkspaceRoots []string        `json:"runtimeWorkspaceRoots"`
	InstructionSources    []string        `json:"instructionSources"` // absolute paths of AGENTS.md files in force
	ApprovalPolicy        json.RawMessage `json:"approvalPolicy"`
	ApprovalsReviewer     string          `json:"approvalsReviewer"` // "user"
	Sandbox               SandboxPolicy   `json:"sandbox"`
	ReasoningEffort       *string         `json:"reasoningEffort"`
	InitialTurnsPage      *TurnsPage      `json:"initialTurnsPage,omitempty"`
	TurnsBackwardsCursor  *string         `json:"turnsBackwardsCursor,omitempty"`
	ItemsBackwardsCursor  *string         `json:"itemsBackwardsCursor,omitempty"`
}

// TurnsPage is the reply to thread/turns/list.
type TurnsPage struct {
	Data            []Turn  `json:"data"`
	NextCursor      *string `json:"nextCursor"`
	BackwardsCursor *string `json:"backwardsCursor"`
}

// ItemEntry is one row of the reply to thread/items/list.
type ItemEntry struct {
	TurnID        string `json:"turnId"`
	Item          Item   `json:"item"`
	StartedAtMs   *int64 `json:"startedAtMs"`
	CompletedAtMs *int64 `json:"completedAtMs"`
}

// ThreadList is the reply to thread/list. Cursors are opaque to clients.
type ThreadList struct {
	Data            []Thread `json:"data"`
	NextCursor      *string  `json:"nextCursor"`
	BackwardsCursor *string  `json:"backwardsCursor"`
}

// TokenUsage counts tokens of one response or of a whole thread.
type TokenUsage struct {
	TotalTokens           int64 `json:"totalTokens"`
	InputTokens           int64 `json:"inputTokens"`
	CachedInputTokens     int64 `json:"cachedInputTokens"`
	CacheWriteInputTokens int64 `json:"cacheWriteInputTokens"`
	OutputTokens          int64 `json:"outputTokens"`
	ReasoningOutputTokens int64 `json:"reasoningOutputTokens"`
}

// ThreadTokenUsage is the body of thread/tokenUsage/updated.
type ThreadTokenUsage struct {
	Total              TokenUsage `json:"total"`
	Last               TokenUsage `json:"last"`
	ModelContextWindow *int64     `json:"modelContextWindow"` // tokens
}

// PlanStep is one line of turn/plan/updated.
type PlanStep struct {
	Step   string `json:"step"`
	Status string `json:"status"` // "pending", "inProgress" or "completed"
}

// UserInput is one part of what a person (or program) sends to a turn.
type UserInput struct {
	Type         string            `json:"type"` // "text", "image", "localImage", "skill", "mention", …
	Text         string            `json:"text"`
	TextElements []json.RawMessage `json:"text_elements"`
	URL          string            `json:"url"`  // image
	Path         string            `json:"path"` // localImage, skill, mention: absolute
	Name         string            `json:"name"` // skill, mention
	Detail       *string           `json:"detail"`
	raw          json.RawMessage
}

// Text makes the plain-text input.
func Text(s string) UserInput { return UserInput{Type: "text", Text: s} }

// MarshalJSON writes only the members the type has. An input that was read from
// the wire goes out with the bytes it came in, so kinds we do not know survive.
func (u UserInput) MarshalJSON() ([]byte, error) {
	if u.raw != nil {
		return u.raw, nil
	}
	switch u.Type {
	case "text":
		el := u.TextElements
		if el == nil {
			el = []json.RawMessage{}
		}
		return json.Marshal(struct {
			Type string            `json:"type"`
			Text string            `json:"text"`
			El   []json.RawMessage `json:"text_elements"`
		}{u.Type, u.Text, el})
	case "image":
		return json.Marshal(struct {
			Type string `json:"type"`
			URL  string `json:"url"`
		}{u.Type, u.URL})
	case "localImage":
		return json.Marshal(struct {
			Type   string  `json:"type"`
			Path   string  `json:"path"`
			Detail *string `json:"detail,omitempty"`
		}{u.Type, u.Path, u.Detail})
	default:
		return json.Marshal(struct {
			Type string `json:"type"`
			Name string `json:"name"`
			Path string `json:"path"`
		}{u.Type, u.Name, u.Path})
	}
}

// UnmarshalJSON keeps the bytes for MarshalJSON.
func (u *UserInput) UnmarshalJSON(b []byte) error {
	type bare UserInput
	var v bare
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*u = UserInput(v)
	u.raw = append(json.RawMessage(nil), b...)
	return nil
}
