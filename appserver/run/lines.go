package run

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"towline/appserver/protocol"
)

// marshal is JSON as Codex writes it: without escapes that only a web page needs.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Encode writes an event or a result as one line.
func Encode(v any) ([]byte, error) {
	b, err := marshal(v)
	return append(b, '\n'), err
}

// lines makes events of what the server says: it gives items the ids that Codex
// gives them, and tells each of their steps once, though some come twice after a
// connection was lost: from the thread's history, and from the server as it goes on.
// While none was lost the server is believed: one that retries may use an id again.
type lines struct {
	next    int
	running map[string]string // the server's id of an item that was told to have begun -> ours
	done    map[string]bool   // told to have ended
	past    map[string]bool   // and found in the history when a connection was made anew
	todo    string            // our id of the plan, "" before there is one
	plan    []Todo
}

func newLines() *lines {
	return &lines{running: make(map[string]string), done: make(map[string]bool), past: make(map[string]bool)}
}

// known reports whether the end of an item was told already. past: it comes from the
// history.
func (l *lines) known(id string, past bool) bool {
	if past {
		return l.done[id]
	}
	return l.past[id]
}

func (l *lines) id() string {
	l.next++
	return "item_" + strconv.Itoa(l.next-1)
}

// started is what to tell of an item that has begun, if anything: messages and
// thoughts are told when they are whole.
func (l *lines) started(it protocol.Item) (Event, bool) {
	switch it.Body.(type) {
	case *protocol.AgentMessage, *protocol.Reasoning:
		return Event{}, false
	}
	typ, body := bodyOf(it)
	if body == nil || l.past[it.ID] {
		return Event{}, false
	}
	id, again := l.running[it.ID]
	if !again {
		id = l.id()
		l.running[it.ID] = id
	}
	e := Event{Type: ItemStarted, Item: &Item{ID: id, Type: typ, Body: body}, Source: &it}
	if again {
		if _, ok := it.Body.(*protocol.FileChange); !ok {
			return Event{}, false
		}
		e.Type = ItemUpdated
	}
	return e, true
}

// completed is what to tell of an item that has ended, if anything.
func (l *lines) completed(it protocol.Item) (Event, bool) {
	typ, body := bodyOf(it)
	if body == nil {
		return Event{}, false
	}
	id, ok := l.running[it.ID]
	if !ok {
		id = l.id()
	}
	delete(l.running, it.ID)
	return Event{Type: ItemCompleted, Item: &Item{ID: id, Type: typ, Body: body}, Source: &it}, true
}

// planned is what to tell of a plan.
func (l *lines) planned(steps []protocol.PlanStep) Event {
	l.plan = make([]Todo, len(steps))
	for i, s := range steps {
		l.plan[i] = Todo{s.Step, s.Status == protocol.TurnCompleted}
	}
	typ := ItemUpdated
	if l.todo == "" {
		typ, l.todo = ItemStarted, l.id()
	}
	return Event{Type: typ, Item: &Item{ID: l.todo, Type: "todo_list", Body: TodoList{l.plan}}}
}

// ended is what to tell when the turn is over: its plan, which nothing else ends.
func (l *lines) ended() (Event, bool) {
	if l.todo == "" {
		return Event{}, false
	}
	e := Event{Type: ItemCompleted, Item: &Item{ID: l.todo, Type: "todo_list", Body: TodoList{l.plan}}}
	l.todo = ""
	return e, true
}

// warned tells of something that is no reason to stop.
func (l *lines) warned(message string) Event {
	return Event{Type: ItemCompleted, Item: &Item{ID: l.id(), Type: "error", Body: Warning{message}}}
}

// bodyOf is an item as `codex exec --json` has it; nil for what is not told there.
func bodyOf(it protocol.Item) (typ string, body any) {
	switch b := it.Body.(type) {
	case *protocol.AgentMessage:
		return "agent_message", Text{b.Text}
	case *protocol.Reasoning:
		text := strings.Join(b.Summary, "\n")
		if strings.TrimSpace(text) == "" {
			return "", nil
		}
		return "reasoning", Text{text}
	case *protocol.CommandExecution:
		c := CommandItem{Command: b.Command, ExitCode: b.ExitCode, Status: snake(b.Status)}
		if b.AggregatedOutput != nil {
			c.Output = *b.AggregatedOutput
		}
		return "command_execution", c
	case *protocol.FileChange:
		f := FilesItem{Changes: make([]FileChange, len(b.Changes)), Status: snake(b.Status)}
		for i, c := range b.Changes {
			f.Changes[i] = FileChange{c.Path, c.Kind.Type}
		}
		if b.Status == protocol.ItemDeclined {
			f.Status = protocol.ItemFailed
		}
		return "file_change", f
	case *protocol.MCPToolCall:
		m := ToolItem{Server: b.Server, Tool: b.Tool, Arguments: orNull(b.Arguments), Result: toolResult(b.Result), Status: snake(b.Status)}
		if b.Error != nil {
			m.Error = &ErrorText{b.Error.Message}
		}
		return "mcp_tool_call", m
	case *protocol.WebSearch:
		s := SearchItem{b.Query, b.Action}
		if len(s.Action) == 0 || string(s.Action) == "null" {
			s.Action = json.RawMessage(`{"type":"other"}`)
		}
		return "web_search", s
	case *protocol.OtherItem:
		if b.Type == "collabAgentToolCall" {
			return collab(b.Raw)
		}
	}
	return "", nil
}

// toolResult is what an MCP tool gave, without what is for screens only.
func toolResult(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return json.RawMessage("null")
	}
	out, err := marshal(struct {
		Content    json.RawMessage `json:"content"`
		Structured json.RawMessage `json:"structured_content"`
	}{orNull(protocol.Field(raw, "content")), orNull(protocol.Field(raw, "structuredContent"))})
	if err != nil {
		return json.RawMessage("null")
	}
	return out
}

func collab(raw json.RawMessage) (string, any) {
	var c struct {
		Tool      string   `json:"tool"`
		Sender    string   `json:"senderThreadId"`
		Receivers []string `json:"receiverThreadIds"`
		Prompt    *string  `json:"prompt"`
		Agents    map[string]struct {
			Status  string  `json:"status"`
			Message *string `json:"message"`
		} `json:"agentsStates"`
		Status string `json:"status"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return "", nil
	}
	out := CollabItem{
		Tool: snake(c.Tool), Sender: c.Sender, Receivers: append([]string{}, c.Receivers...), Prompt: c.Prompt,
		Agents: make(map[string]CollabAgent, len(c.Agents)), Status: snake(c.Status),
	}
	for id, a := range c.Agents {
		out.Agents[id] = CollabAgent{snake(a.Status), a.Message}
	}
	return "collab_tool_call", out
}

// running reports whether an item is one that has not ended.
func running(it protocol.Item) bool {
	var status string
	switch b := it.Body.(type) {
	case *protocol.CommandExecution:
		status = b.Status
	case *protocol.FileChange:
		status = b.Status
	case *protocol.MCPToolCall:
		status = b.Status
	case *protocol.DynamicToolCall:
		status = b.Status
	case *protocol.OtherItem:
		status = protocol.StringField(b.Raw, "status")
	}
	return status == protocol.ItemInProgress
}

// snake is a word of the app-server's in the spelling of `codex exec`.
func snake(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
