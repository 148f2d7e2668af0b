package rehearsal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// request is what is read of a Responses API request.
type request struct {
	Model        string          `json:"model"`
	Stream       bool            `json:"stream"`
	Instructions string          `json:"instructions"`
	Input        json.RawMessage `json:"input"` // a string or an array of items
	Tools        []toolDef       `json:"tools"`
	Text         struct {
		Format *struct {
			Type   string          `json:"type"`
			Schema json.RawMessage `json:"schema"`
		} `json:"format"`
	} `json:"text"`
}

type toolDef struct {
	Type string `json:"type"`
	Name string `json:"name"`
}

// item is one input item of any type.
type item struct {
	Type      string          `json:"type"`
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"` // a string or parts
	CallID    string          `json:"call_id"`
	Name      string          `json:"name"`
	Arguments string          `json:"arguments"` // function_call
	Input     string          `json:"input"`     // custom_tool_call
	Output    json.RawMessage `json:"output"`    // a string, parts, or an object
}

// part is one piece of a message or of a tool's output.
type part struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// conversation is a request as a model would read it: what the person wants, and
// what was done about it so far.
type conversation struct {
	user      string          // the last thing the person said
	images    int             // shown with it
	asked     []string        // everything the person said, oldest first
	calls     []call          // tool calls since then, in order
	compacted bool            // a summary of this model's stands in the place of what was done
	compact   bool            // this request asks for such a summary
	tools     toolset         // what may be called
	schema    json.RawMessage // the answer must be JSON of this schema; nil: text
	items     int
	chars     int    // of the whole input, for usage numbers
	tail      int    // of what came with and after the last user message
	key       string // hash of the request's content; names everything made in the answer
}

// call is a tool call with its output.
type call struct {
	id, name string
	input    string // JSON arguments, or the raw input of a custom tool
	output   string
	answered bool
	images   int
}

// toolset maps the names of offered tools to their types.
type toolset map[string]string

func (t toolset) has(name string) bool { _, ok := t[name]; return ok }

var errNoInput = errors.New(`the request has no "input"`)

// decode reads a request body.
func decode(body []byte) (*request, error) {
	req := new(request)
	if err := json.Unmarshal(body, req); err != nil {
		return nil, errors.New("the request is not valid JSON of the Responses API: " + err.Error())
	}
	if len(req.Input) == 0 || string(req.Input) == "null" {
		return nil, errNoInput
	}
	return req, nil
}

// conversation reads the input items. Items it does not know are skipped.
func (r *request) conversation() *conversation {
	sum := sha256.New()
	_, _ = sum.Write([]byte(r.Instructions))
	_, _ = sum.Write(r.Input)
	c := &conversation{
		tools: make(toolset), key: hex.EncodeToString(sum.Sum(nil)[:12]),
		chars: len(r.Instructions),
	}
	for _, t := range r.Tools {
		if t.Name != "" {
			c.tools[t.Name] = t.Type
		}
	}
	if f := r.Text.Format; f != nil && f.Type == "json_schema" {
		c.schema = f.Schema
	}
	var text string
	if json.Unmarshal(r.Input, &text) == nil {
		c.say(text, 0)
		return c
	}
	var raw []json.RawMessage
	if json.Unmarshal(r.Input, &raw) != nil {
		return c
	}
	for _, b := range raw {
		var it item
		if json.Unmarshal(b, &it) == nil {
			c.read(it)
		}
	}
	return c
}

// read takes the next item.
func (c *conversation) read(it item) {
	c.items++
	switch it.Type {
	case "message", "":
		text, images := content(it.Content)
		size := weigh(it.Content, images)
		c.chars += size
		c.tail += size
		if it.Role == "user" {
			c.say(text, images)
		}
	case "function_call", "custom_tool_call":
		input := it.Arguments + it.Input
		c.chars += len(input)
		c.tail += len(input)
		c.calls = append(c.calls, call{id: it.CallID, name: it.Name, input: input})
	case "function_call_output", "custom_tool_call_output":
		text, images := content(it.Output)
		size := weigh(it.Output, images)
		c.chars += size
		c.tail += size
		for i := len(c.calls) - 1; i >= 0; i-- {
			if k := &c.calls[i]; k.id == it.CallID && !k.answered {
				k.output, k.images, k.answered = text, images, true
				break
			}
		}
	}
}

// say takes a message of role user, which is not always the person: clients
// send context and summaries under that role too.
func (c *conversation) say(text string, images int) {
	trimmed := strings.TrimSpace(text)
	switch {
	case strings.Contains(trimmed, summaryMark):
		c.compacted, c.calls = true, nil
		return
	case asksForSummary(trimmed), len(c.tools) == 0 && c.schema == nil && asksForNotes(trimmed):
		c.compact = true
		return
	case trimmed == "" && images == 0, notThePerson(trimmed):
		return
	}
	c.user, c.images, c.calls = trimmed, images, nil
	c.compacted, c.compact, c.tail = false, false, 0
	c.asked = append(c.asked, trimmed)
}

// notThePerson knows the context messages of Codex and of the native engine.
func notThePerson(text string) bool {
	if strings.HasPrefix(text, "# AGENTS.md instructions") {
		return true
	}
	for _, tag := range []string{"environment_context", "user_instructions", "turn_aborted", "INSTRUCTIONS", "skill", "subagent_notification", "user_shell_command", "system-reminder"} {
		if strings.HasPrefix(text, "<"+tag+">") || strings.HasPrefix(text, "<"+tag+"\n") {
			return true
		}
	}
	return false
}

// asksForSummary knows the prompts with which clients ask to compact a
// conversation.
func asksForSummary(text string) bool {
	low := strings.ToLower(text)
	return strings.Contains(low, "context checkpoint compaction") ||
		strings.Contains(low, "handoff summary") && strings.Contains(low, "another")
}

// asksForNotes knows the native engine's, and others like it: a long request for
// a summary that comes without tools.
func asksForNotes(text string) bool {
	low := strings.ToLower(text)
	return len(text) > 200 && strings.Contains(low, "conversation") &&
		(strings.Contains(low, "notes") || strings.Contains(low, "summar"))
}

// content is the text of a string, of a list of parts, or of an object with an
// "output" or "content" member; and how many images are in it.
func content(raw json.RawMessage) (text string, images int) {
	if len(raw) == 0 {
		return "", 0
	}
	switch raw[0] {
	case '"':
		_ = json.Unmarshal(raw, &text) // a broken string is an empty one
	case '[':
		var parts []part
		if json.Unmarshal(raw, &parts) != nil {
			return "", 0
		}
		var b strings.Builder
		for _, p := range parts {
			switch {
			case strings.HasSuffix(p.Type, "image"):
				images++
			case p.Text == "" || isContext(p):
			default:
				if b.Len() > 0 {
					b.WriteByte('\n')
				}
				b.WriteString(p.Text)
			}
		}
		text = b.String()
	case '{':
		var o struct {
			Output  json.RawMessage `json:"output"`
			Content json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &o) != nil {
			return "", 0
		}
		inner := o.Output
		if inner == nil {
			inner = o.Content
		}
		if len(inner) > 0 && inner[0] != '{' { // one level is what is used; more would be somebody digging
			return content(inner)
		}
	}
	return strings.ToValidUTF8(text, string(utf8.RuneError)), images
}

// imageChars is what an image counts as, whatever its encoding weighs.
const imageChars = 4000

// weigh is about how many characters of text there are in raw content.
func weigh(raw json.RawMessage, images int) int {
	if images > 0 {
		return images * imageChars
	}
	return len(raw)
}

// isContext is a part that a client put beside the person's words.
func isContext(p part) bool {
	return p.Type == "input_text" && notThePerson(strings.TrimSpace(p.Text))
}
