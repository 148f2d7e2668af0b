package protocol

import "encoding/json"

// Requests the server sends to its clients. Each must be answered by someone;
// an error answer counts as a failure of the item, not as a refusal.
const (
	ReqCommandApproval     = "item/commandExecution/requestApproval"
	ReqFileApproval        = "item/fileChange/requestApproval"
	ReqPermissionsApproval = "item/permissions/requestApproval"
	ReqUserInput           = "item/tool/requestUserInput"
	ReqElicitation         = "mcpServer/elicitation/request"
	ReqToolCall            = "item/tool/call"
	ReqTokensRefresh       = "account/chatgptAuthTokens/refresh"
	ReqAttestation         = "attestation/generate"
	ReqCurrentTime         = "currentTime/read"
)

// IsApproval reports whether a server request waits for a person: those become
// approval objects. The others are answered by programs.
func IsApproval(method string) bool {
	switch method {
	case ReqCommandApproval, ReqFileApproval, ReqPermissionsApproval, ReqUserInput, ReqElicitation,
		"applyPatchApproval", "execCommandApproval":
		return true
	}
	return false
}

// CommandApproval is the question whether a command may run.
type CommandApproval struct {
	Kind                        string            `json:"kind,omitempty"` // "command", "humanCommand" or "writeStdin"
	ThreadID                    ThreadID          `json:"threadId"`
	TurnID                      string            `json:"turnId"`
	ItemID                      string            `json:"itemId"`
	StartedAtMs                 int64             `json:"startedAtMs"`
	EnvironmentID               *string           `json:"environmentId,omitempty"`
	Reason                      *string           `json:"reason"`
	Command                     *string           `json:"command,omitempty"`
	Cwd                         *string           `json:"cwd,omitempty"`
	CommandActions              []CommandAction   `json:"commandActions,omitempty"`
	ProposedExecpolicyAmendment []string          `json:"proposedExecpolicyAmendment,omitempty"`
	NetworkApprovalContext      *NetworkContext   `json:"networkApprovalContext,omitempty"`
	AvailableDecisions          []json.RawMessage `json:"availableDecisions,omitempty"`
}

// NetworkContext names the peer a network approval is about.
type NetworkContext struct {
	Host     string `json:"host"`
	Protocol string `json:"protocol"`
}

// FileApproval is the question whether a patch may be applied. The diff itself
// is in the item/started that precedes it.
type FileApproval struct {
	ThreadID    ThreadID `json:"threadId"`
	TurnID      string   `json:"turnId"`
	ItemID      string   `json:"itemId"`
	StartedAtMs int64    `json:"startedAtMs"`
	Reason      *string  `json:"reason"`
	GrantRoot   *string  `json:"grantRoot"`
}

// The decisions both questions share. Command approvals also take the objects
// acceptWithExecpolicyAmendment and applyNetworkPolicyAmendment.
const (
	DecisionAccept        = "accept"
	DecisionAcceptSession = "acceptForSession"
	DecisionDecline       = "decline" // the model is told, the turn goes on
	DecisionCancel        = "cancel"  // the turn ends
)

// Decision is the answer to a command or file approval: one of the Decision
// constants as a JSON string, or an amendment object.
type Decision struct {
	Decision json.RawMessage `json:"decision"`
	// Reason is what the person says with a refusal. It is an addition of ours:
	// the native engine tells the model, Codex ignores it.
	Reason string `json:"reason,omitempty"`
}

// Decide makes the answer for one of the Decision constants.
func Decide(decision string) Decision { return Decision{Decision: StringID(decision)} }

// PermissionsApproval asks for wider permissions. The answer is a
// [PermissionsGranted]; granting nothing is a refusal.
type PermissionsApproval struct {
	ThreadID    ThreadID        `json:"threadId"`
	TurnID      string          `json:"turnId"`
	ItemID      string          `json:"itemId"`
	StartedAtMs int64           `json:"startedAtMs"`
	Cwd         string          `json:"cwd"`
	Reason      *string         `json:"reason"`
	Permissions json.RawMessage `json:"permissions"`
}

// PermissionsGranted answers a [PermissionsApproval].
type PermissionsGranted struct {
	Permissions json.RawMessage `json:"permissions"`
	Scope       string          `json:"scope,omitempty"` // "turn" or "session"
}

// UserInputRequest asks the person questions on the model's behalf.
type UserInputRequest struct {
	ThreadID         ThreadID       `json:"threadId"`
	TurnID           string         `json:"turnId"`
	ItemID           string         `json:"itemId"`
	Questions        []UserQuestion `json:"questions"`
	IsBlocking       bool           `json:"isBlocking"`
	AutoResolutionMs *int64         `json:"autoResolutionMs"`
}

// UserQuestion is one question of a [UserInputRequest].
type UserQuestion struct {
	ID       string       `json:"id"`
	Header   string       `json:"header"`
	Question string       `json:"question"`
	IsOther  bool         `json:"isOther"`  // free text is welcome next to the options
	IsSecret bool         `json:"isSecret"` // do not echo
	Options  []UserOption `json:"options"`
}

// UserOption is one offered answer.
type UserOption struct {
	Label       string `json:"label"`
	Description string `json:"description"`
}

// UserInputAnswer answers a [UserInputRequest], by question id.
type UserInputAnswer struct {
	Answers map[string]UserAnswer `json:"answers"`
}

// UserAnswer holds the chosen labels or the free text.
type UserAnswer struct {
	Answers []string `json:"answers"`
}

// Elicitation is a question an MCP server asks. RequestedSchema is a flat JSON
// schema for the modes with a form.
type Elicitation struct {
	ThreadID        ThreadID        `json:"threadId"`
	ServerName      string          `json:"serverName"`
	Mode            string          `json:"mode"` // "form", "url", …
	Message         string          `json:"message"`
	RequestedSchema json.RawMessage `json:"requestedSchema"`
	URL             string          `json:"url"`
}

// ElicitationAnswer answers an [Elicitation].
type ElicitationAnswer struct {
	Action  string          `json:"action"` // "accept", "decline" or "cancel"
	Content json.RawMessage `json:"content"`
}
