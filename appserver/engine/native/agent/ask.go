package agent

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// Bounds of what clients bring and answer.
const (
	maxDynamicTools  = 128
	maxDynamicOutput = 4 << 20
	maxQuestions     = 3
)

// requestUserInput asks the person questions on the model's behalf.
func (t *turn) requestUserInput(call *call) result {
	if !t.PlanMode {
		return text("request_user_input is only available in plan mode")
	}
	var a struct {
		Questions []protocol.UserQuestion `json:"questions"`
	}
	if err := call.decode(&a); err != nil {
		return text("%v", err)
	}
	if len(a.Questions) == 0 || len(a.Questions) > maxQuestions {
		return text("request_user_input takes one to %d questions", maxQuestions)
	}
	for i := range a.Questions {
		q := &a.Questions[i]
		q.IsOther = true // free text is always an answer
		if q.ID == "" || q.Question == "" {
			return text("failed to parse function arguments: every question needs `id` and `question`")
		}
		if q.Options == nil {
			q.Options = []protocol.UserOption{}
		}
	}
	raw, err := t.ask(protocol.FlagWaitingOnUserInput, protocol.ReqUserInput, protocol.UserInputRequest{
		ThreadID: t.s.cfg.ThreadID, TurnID: t.ID, ItemID: call.id, Questions: a.Questions, IsBlocking: true,
	})
	if t.ctx.Err() != nil {
		return text(abortedByUser)
	}
	var answer protocol.UserInputAnswer
	if err != nil || json.Unmarshal(raw, &answer) != nil || answer.Answers == nil {
		return text("request_user_input was cancelled before the user answered")
	}
	return text("%s", mustJSON(answer))
}

// dynamicTool is a tool the client brought and answers itself.
type dynamicTool struct {
	namespace  string
	name       string
	definition json.RawMessage
	order      int
}

// toolName is what endpoints accept as a function's name.
var toolName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// dynamicTools reads thread/start's dynamicTools into what the model is offered,
// by the name the model calls. Tools of a namespace are called namespace__tool,
// because few endpoints know namespaces. A deferred tool is offered only through
// a search that does not exist here, so it is left out.
func dynamicTools(specs []json.RawMessage) map[string]dynamicTool {
	type spec struct {
		Type         string          `json:"type"`
		Name         string          `json:"name"`
		Description  string          `json:"description"`
		InputSchema  json.RawMessage `json:"inputSchema"`
		DeferLoading bool            `json:"deferLoading"`
		Tools        []spec          `json:"tools"`
	}
	out := map[string]dynamicTool{}
	add := func(namespace string, s spec) {
		name := s.Name
		if namespace != "" {
			name = namespace + "__" + s.Name
		}
		if s.DeferLoading || !toolName.MatchString(name) || len(out) >= maxDynamicTools || out[name].definition != nil {
			return
		}
		if len(s.InputSchema) == 0 {
			s.InputSchema = json.RawMessage(`{"type":"object","properties":{}}`)
		}
		out[name] = dynamicTool{namespace: namespace, name: s.Name, order: len(out), definition: mustJSON(map[string]any{
			"type": "function", "name": name, "description": s.Description, "strict": false, "parameters": s.InputSchema,
		})}
	}
	for _, raw := range specs {
		var s spec
		if json.Unmarshal(raw, &s) != nil {
			continue
		}
		if s.Type == "namespace" {
			for _, inner := range s.Tools {
				add(s.Name, inner)
			}
			continue
		}
		add("", s)
	}
	return out
}

// dynamicOrder lists the client's tools as given: a stable order keeps the
// endpoint's cache warm.
func (t *turn) dynamicOrder() []dynamicTool {
	list := make([]dynamicTool, 0, len(t.dynamic))
	for _, d := range t.dynamic {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b dynamicTool) int { return a.order - b.order })
	return list
}

// dynamicCall has the client run its tool.
func (t *turn) dynamicCall(call *call, d dynamicTool) result {
	args := json.RawMessage(call.input)
	if strings.TrimSpace(call.input) == "" {
		args = json.RawMessage("{}")
	}
	if !json.Valid(args) {
		return text("failed to parse function arguments: they are not JSON")
	}
	var namespace *string
	if d.namespace != "" {
		namespace = &d.namespace
	}
	began := t.s.cfg.Clock()
	body := protocol.DynamicToolCall{Namespace: namespace, Tool: d.name, Arguments: args, Status: protocol.ItemInProgress}
	it := protocol.Item{ID: call.id, Body: &body}
	t.started(&it)
	raw, err := t.ask("", protocol.ReqToolCall, map[string]any{
		"threadId": t.s.cfg.ThreadID, "turnId": t.ID, "callId": call.id, "namespace": namespace, "tool": d.name, "arguments": args,
	})
	done := body
	ms := t.s.cfg.Clock().Sub(began).Milliseconds()
	success := false
	done.DurationMs, done.Success, done.Status = &ms, &success, protocol.ItemFailed
	end := func(r result) result {
		it.Body = &done
		t.completed(&it)
		return r
	}
	if t.ctx.Err() != nil {
		return end(text(abortedByUser))
	}
	if err != nil {
		return end(text("%s failed: %v", call.name, err))
	}
	var answer struct {
		Content []struct {
			Type     string `json:"type"`
			Text     string `json:"text"`
			ImageURL string `json:"imageUrl"`
		} `json:"contentItems"`
		Success bool `json:"success"`
	}
	if len(raw) > maxDynamicOutput || json.Unmarshal(raw, &answer) != nil {
		return end(text("%s failed: the client's answer is too large or not understood", call.name))
	}
	success = answer.Success
	done.ContentItems = protocol.Field(raw, "contentItems")
	if success {
		done.Status = protocol.ItemCompleted
	}
	if len(answer.Content) == 1 && answer.Content[0].Type == "inputText" {
		return end(text("%s", shorten(answer.Content[0].Text, 0)))
	}
	parts := []any{}
	for _, c := range answer.Content {
		switch c.Type {
		case "inputText":
			parts = append(parts, map[string]any{"type": "input_text", "text": shorten(c.Text, 0)})
		case "inputImage":
			parts = append(parts, imagePart(c.ImageURL))
		}
	}
	if len(parts) == 0 {
		return end(text("%s", map[bool]string{true: "done", false: "failed"}[success]))
	}
	return end(result{content: mustJSON(parts)})
}
