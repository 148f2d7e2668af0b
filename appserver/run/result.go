package run

import (
	"encoding/json"
	"errors"

	"towline/config"
)

// ResultType is the type of the last line of `towline exec --json`: one that Codex
// does not have, so programs that read its lines pass over it.
const ResultType = "result"

// How a run ended. Each has an exit status of its own, but for the first two.
const (
	StatusCompleted   = "completed"       // 0
	StatusStarted     = "started"         // 0, of a run that was left to itself
	StatusFailed      = "failed"          // config.ExitFailure: the agent, or the model behind it
	StatusNotStarted  = "not_started"     // before there was a turn; any status
	StatusDenied      = "denied"          // config.ExitDenied: somebody, or a rule, said no
	StatusApproval    = "approval_needed" // config.ExitApproval: nobody answered
	StatusLost        = "lost"            // config.ExitLost: the connection; the turn may go on
	StatusTimeout     = "timeout"         // config.ExitTimeout
	StatusInterrupted = "interrupted"     // config.ExitInterrupted by a signal, config.ExitFailure by somebody else
)

// Result is the record of one run. Scripts rely on its members; new ones may come.
type Result struct {
	Type     string `json:"type"`
	Status   string `json:"status"`
	ExitCode int    `json:"exit_code"`
	ThreadID string `json:"thread_id,omitempty"`
	TurnID   string `json:"turn_id,omitempty"`
	// Message is the last thing the agent said. Output is the same as JSON, when a
	// schema was given and it is JSON.
	Message string          `json:"message"`
	Output  json.RawMessage `json:"output,omitempty"`
	Error   *Fault          `json:"error,omitempty"`
	// Usage counts the tokens of this turn, ThreadUsage those of the whole thread;
	// absent when the server said nothing.
	Usage       *Usage     `json:"usage,omitempty"`
	ThreadUsage *Usage     `json:"thread_usage,omitempty"`
	Files       []File     `json:"files"`
	Commands    []Command  `json:"commands"`
	Approvals   []Approval `json:"approvals"`
	// Truncated: there were more than MaxListed of something.
	Truncated bool   `json:"truncated,omitempty"`
	Model     string `json:"model,omitempty"`
	Cwd       string `json:"cwd,omitempty"`
	Sandbox   string `json:"sandbox,omitempty"`
	// Reconnects is how often the connection was made anew.
	Reconnects int   `json:"reconnects"`
	StartedAt  int64 `json:"started_at_ms,omitempty"` // Unix milliseconds
	DurationMs int64 `json:"duration_ms"`
}

// Fault is why a run did not end well: a config.Problem as data.
type Fault struct {
	Stage   string   `json:"stage,omitempty"`
	Message string   `json:"message"`
	Hints   []string `json:"hints,omitempty"`
}

// File is a file that the turn changed.
type File struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // "add", "delete" or "update"
	MoveTo string `json:"move_to,omitempty"`
}

// Command is a command that the turn ran.
type Command struct {
	Command    string `json:"command"`
	Cwd        string `json:"cwd,omitempty"`
	Status     string `json:"status"` // "in_progress", "completed", "failed" or "declined"
	ExitCode   *int   `json:"exit_code"`
	DurationMs *int64 `json:"duration_ms,omitempty"`
}

// Approval is a question that the agent asked a person.
type Approval struct {
	ID       string `json:"id,omitempty"` // a Towline gate's: `towline approvals show ID`
	Kind     string `json:"kind"`         // "command", "file_change", "permissions" or "question"
	Subject  string `json:"subject"`      // the command, the files, the question
	Reason   string `json:"reason,omitempty"`
	Decision string `json:"decision,omitempty"` // "" while nobody answered, or when it is not known
	By       *By    `json:"by,omitempty"`       // who, where a gate says so
	Answered bool   `json:"answered"`
	WaitedMs int64  `json:"waited_ms"`
}

// By is who answered.
type By struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Role string `json:"role"`
	Via  string `json:"via"`
}

// Usage counts tokens, as `codex exec --json` does.
type Usage struct {
	Input      int64 `json:"input_tokens"`
	Cached     int64 `json:"cached_input_tokens"`
	CacheWrite int64 `json:"cache_write_input_tokens"`
	Output     int64 `json:"output_tokens"`
	Reasoning  int64 `json:"reasoning_output_tokens"`
}

// faultOf is an error as data.
func faultOf(err error) *Fault {
	if err == nil {
		return nil
	}
	f := &Fault{Message: err.Error(), Hints: config.Hints(err)}
	var p *config.Problem
	if errors.As(err, &p) {
		f.Stage, f.Message = p.Stage, p.Err.Error()
	}
	return f
}
