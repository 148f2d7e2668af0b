package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"sync"
)

// call is one tool call of the model.
type call struct {
	id, name string
	input    string // JSON arguments, or the raw text of a custom tool
	custom   bool

	done chan struct{}
	out  result // valid once done is closed
}

// result is what the model gets back: text, or content when there is any.
type result struct {
	text    string
	content json.RawMessage // a list of Responses content parts
}

func text(format string, args ...any) result { return result{text: fmt.Sprintf(format, args...)} }

// calls runs the tool calls of one response. Commands run side by side; a patch
// waits for everything before it and holds back everything after it, because
// what a command reads must not depend on luck.
type calls struct {
	t       *turn
	list    []*call
	last    *call // newest patch
	settled int   // how many calls the response had, once collected
	wg      sync.WaitGroup
}

// start runs c as soon as what it must wait for is done.
func (b *calls) start(c *call) {
	var after []*call
	if c.name == "apply_patch" {
		after = b.list[:len(b.list):len(b.list)]
		b.last = c
	} else if b.last != nil {
		after = []*call{b.last}
	}
	b.list = append(b.list, c)
	b.wg.Go(func() {
		defer close(c.done)
		for _, prev := range after {
			<-prev.done
		}
		c.out = b.t.perform(c)
	})
}

// collect waits for every call and records the outputs in call order. They are
// recorded even for an interrupted turn: a call without output cannot be
// replayed.
func (b *calls) collect() error {
	b.wg.Wait()
	list := b.list
	b.list, b.last, b.settled = nil, nil, len(list)
	for _, c := range list {
		if err := b.t.record(c.output()); err != nil {
			return err
		}
	}
	return nil
}

// output is the Responses item that answers the call.
func (c *call) output() json.RawMessage {
	typ := "function_call_output"
	if c.custom {
		typ = "custom_tool_call_output"
	}
	if c.out.content != nil {
		return mustJSON(map[string]any{"type": typ, "call_id": c.id, "output": c.out.content})
	}
	return mustJSON(map[string]any{"type": typ, "call_id": c.id, "output": c.out.text})
}

// abortedByUser is the output of calls that an interrupt ended or never let begin.
const abortedByUser = "aborted by user"

// perform runs one call. A panic in a tool costs the call, not the daemon.
func (t *turn) perform(c *call) (out result) {
	defer func() {
		if p := recover(); p != nil {
			t.s.cfg.Log.Error("tool panicked", "tool", c.name, "panic", p, "stack", string(debug.Stack()))
			out = text("%s failed: internal error", c.name)
		}
	}()
	if t.ctx.Err() != nil {
		return text(abortedByUser)
	}
	switch c.name {
	case "exec_command":
		if !c.custom {
			return t.execCommand(c)
		}
	case "write_stdin":
		if !c.custom {
			return t.writeStdin(c)
		}
	case "apply_patch":
		return t.applyPatch(c)
	case "update_plan":
		if !c.custom {
			return t.updatePlan(c)
		}
	case "view_image":
		if !c.custom {
			return t.viewImage(c)
		}
	case "request_user_input":
		if !c.custom {
			return t.requestUserInput(c)
		}
	default:
		if d, ok := t.dynamic[c.name]; ok && !c.custom {
			return t.dynamicCall(c, d)
		}
	}
	return text("unsupported call: %s", c.name)
}

// decode reads a call's JSON arguments. The error text goes to the model, which
// then usually does better.
func (c *call) decode(into any) error {
	if err := json.Unmarshal([]byte(c.input), into); err != nil {
		return fmt.Errorf("failed to parse function arguments: %w", err)
	}
	return nil
}

// mustJSON encodes what always encodes: maps of strings and raw JSON we made.
// Text keeps its <, > and &: escaping them would only cost the model tokens'
// worth of bytes on the wire.
func mustJSON(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
