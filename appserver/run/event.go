package run

import (
	"encoding/json"

	"towline/appserver/protocol"
)

// Types of events, as `codex exec --json` calls them.
const (
	ThreadStarted = "thread.started"
	TurnStarted   = "turn.started"
	TurnCompleted = "turn.completed"
	TurnFailed    = "turn.failed"
	ItemStarted   = "item.started"
	ItemUpdated   = "item.updated"
	ItemCompleted = "item.completed"
	Failure       = "error" // of one attempt, or for good
)

// Event is one line of `codex exec --json`: it encodes to just that.
type Event struct {
	Type     string     `json:"type"`
	ThreadID string     `json:"thread_id,omitempty"` // ThreadStarted
	Item     *Item      `json:"item,omitempty"`
	Usage    *Usage     `json:"usage,omitempty"`   // TurnCompleted: of the whole thread
	Error    *ErrorText `json:"error,omitempty"`   // TurnFailed
	Message  string     `json:"message,omitempty"` // Failure
	// Source is the item as the server sent it, for those who show more of it.
	Source *protocol.Item `json:"-"`
}

// ErrorText is why a turn failed.
type ErrorText struct {
	Message string `json:"message"`
}

// Item is one thing of a turn. Its ID counts from item_0 and is not the server's.
type Item struct {
	ID   string
	Type string
	Body any // one of the types below
}

// MarshalJSON writes the flat form: id, type, and the members of the body.
func (it *Item) MarshalJSON() ([]byte, error) {
	head, err := marshal(struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}{it.ID, it.Type})
	if err != nil {
		return nil, err
	}
	body, err := marshal(it.Body)
	if err != nil {
		return nil, err
	}
	return append(append(head[:len(head)-1], ','), body[1:]...), nil
}

// The bodies of items. Their order of members is Codex's.
type (
	// Text is the body of agent_message and reasoning.
	Text struct {
		Text string `json:"text"`
	}
	// CommandItem is the body of command_execution.
	CommandItem struct {
		Command  string `json:"command"`
		Output   string `json:"aggregated_output"`
		ExitCode *int   `json:"exit_code"`
		Status   string `json:"status"`
	}
	// FilesItem is the body of file_change.
	FilesItem struct {
		Changes []FileChange `json:"changes"`
		Status  string       `json:"status"`
	}
	// FileChange is one file of a FilesItem.
	FileChange struct {
		Path string `json:"path"`
		Kind string `json:"kind"`
	}
	// ToolItem is the body of mcp_tool_call.
	ToolItem struct {
		Server    string          `json:"server"`
		Tool      string          `json:"tool"`
		Arguments json.RawMessage `json:"arguments"`
		Result    json.RawMessage `json:"result"`
		Error     *ErrorText      `json:"error"`
		Status    string          `json:"status"`
	}
	// SearchItem is the body of web_search. The search's own id is not in it: the
	// line has one already.
	SearchItem struct {
		Query  string          `json:"query"`
		Action json.RawMessage `json:"action"`
	}
	// CollabItem is the body of collab_tool_call.
	CollabItem struct {
		Tool      string                 `json:"tool"`
		Sender    string                 `json:"sender_thread_id"`
		Receivers []string               `json:"receiver_thread_ids"`
		Prompt    *string                `json:"prompt"`
		Agents    map[string]CollabAgent `json:"agents_states"`
		Status    string                 `json:"status"`
	}
	// CollabAgent is how an agent of a CollabItem is.
	CollabAgent struct {
		Status  string  `json:"status"`
		Message *string `json:"message"`
	}
	// TodoList is the body of todo_list.
	TodoList struct {
		Items []Todo `json:"items"`
	}
	// Todo is one line of a TodoList.
	Todo struct {
		Text      string `json:"text"`
		Completed bool   `json:"completed"`
	}
	// Warning is the body of error: something that is no reason to stop.
	Warning struct {
		Message string `json:"message"`
	}
)
