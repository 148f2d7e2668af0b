package rehearsal

import (
	"encoding/json"
	"fmt"
	"strings"
)

// summaryMark begins every summary this model writes, and is how it finds them
// again in a compacted conversation.
const summaryMark = "Rehearsal summary (written by a script, not an AI)"

// fullContext is claimed as input tokens by "loop": more than any window.
const fullContext = 2_000_000

// loopRounds is when "loop" gives up on being compacted.
const loopRounds = 3

// loop claims a full context until it is compacted.
func loop(c *conversation, _ []string) reply {
	n := c.count(toolExec)
	switch {
	case !c.tools.has(toolExec):
		return reply{usage: fullContext, text: label + "I claim to have used the whole context window. The next turn begins with a compaction."}
	case n < loopRounds:
		return reply{
			usage: fullContext,
			text:  fmt.Sprintf("%sRound %d: I claim to have used the whole context window, so the client should compact it.", label, n+1),
			calls: []toolCall{function(toolExec, execArgs{Cmd: fmt.Sprintf("echo round %d of the rehearsal", n+1), Login: plainShell()})},
		}
	}
	return reply{text: fmt.Sprintf("%sI claimed a full context window %d times and was not compacted. I stop here.", label, n)}
}

// summary is what stands in the place of a conversation after compaction.
func summary(c *conversation) reply {
	var b strings.Builder
	b.WriteString(summaryMark + ".\n\n")
	if len(c.asked) == 0 {
		b.WriteString("Nothing was asked yet.\n")
	} else {
		b.WriteString("The person asked, the last thing last:\n\n")
		for _, a := range c.asked[max(0, len(c.asked)-8):] {
			b.WriteString("- " + quote(a) + "\n")
		}
	}
	if len(c.calls) > 0 {
		fmt.Fprintf(&b, "\n%d tool calls were made for the last of them.\n", len(c.calls))
	}
	return reply{text: b.String()}
}

// maxSchemaDepth bounds how deep an answer to a schema goes.
const maxSchemaDepth = 12

// schemaNode is the part of JSON Schema that is answered.
type schemaNode struct {
	Type       json.RawMessage            `json:"type"` // a string or a list
	Properties map[string]json.RawMessage `json:"properties"`
	Required   []string                   `json:"required"`
	Items      json.RawMessage            `json:"items"`
	Enum       []json.RawMessage          `json:"enum"`
	Const      json.RawMessage            `json:"const"`
	AnyOf      []json.RawMessage          `json:"anyOf"`
	OneOf      []json.RawMessage          `json:"oneOf"`
	MinItems   int                        `json:"minItems"`
	MaxLength  *int                       `json:"maxLength"`
	MinLength  int                        `json:"minLength"`
	Minimum    *float64                   `json:"minimum"`
}

// structured answers with JSON that fits the schema. Its texts say what they are.
func structured(c *conversation) reply {
	b, err := json.Marshal(example(c.schema, "", subject(c.user), 0))
	if err != nil {
		b = []byte("{}") // made of what was parsed from JSON, so this does not happen
	}
	return reply{text: string(b)}
}

// subject is the line of a prompt that says what it is about: clients put their
// instructions first and the person's words last.
func subject(prompt string) string {
	lines := strings.Split(prompt, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if l := strings.TrimSpace(lines[i]); l != "" && !strings.HasPrefix(l, "<") && !strings.HasPrefix(l, "```") {
			return l
		}
	}
	return "nothing"
}

func example(raw json.RawMessage, name, about string, depth int) any {
	var s schemaNode
	if depth > maxSchemaDepth || json.Unmarshal(raw, &s) != nil {
		return nil
	}
	switch {
	case len(s.Const) > 0:
		return s.Const
	case len(s.Enum) > 0:
		return s.Enum[0]
	case len(s.AnyOf) > 0:
		return example(s.AnyOf[0], name, about, depth+1)
	case len(s.OneOf) > 0:
		return example(s.OneOf[0], name, about, depth+1)
	}
	switch schemaType(s) {
	case "object":
		out := make(object, len(s.Properties))
		for k, v := range s.Properties {
			out[k] = example(v, k, about, depth+1)
		}
		for _, k := range s.Required {
			if _, ok := out[k]; !ok {
				out[k] = nil
			}
		}
		return out
	case "array":
		out := []any{}
		for range min(s.MinItems, 16) {
			out = append(out, example(s.Items, name, about, depth+1))
		}
		return out
	case "integer", "number":
		if s.Minimum != nil {
			return *s.Minimum
		}
		return 0
	case "boolean":
		return false
	case "null":
		return nil
	}
	limit := 200
	if name == "title" {
		limit = 36 // what clients show of one
	}
	if s.MaxLength != nil {
		limit = min(limit, *s.MaxLength)
	}
	text := []rune("Rehearsal: " + about)
	for len(text) < min(s.MinLength, 1000) {
		text = append(text, '.')
	}
	if len(text) > limit {
		text = text[:max(limit, 0)]
	}
	return strings.TrimRight(string(text), " ")
}

// schemaType is the first type named that is not null.
func schemaType(s schemaNode) string {
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		return one
	}
	var many []string
	if json.Unmarshal(s.Type, &many) == nil {
		for _, t := range many {
			if t != "null" {
				return t
			}
		}
	}
	if s.Properties != nil {
		return "object"
	}
	return "string"
}
