package agent

import (
	"encoding/json"

	"towline/appserver/protocol"
)

// Repair makes a recorded history replayable, whatever moment it was cut off at:
//   - a call without an output gets one that says it was aborted;
//   - an output without its call before it, or a second one, is dropped;
//   - reasoning that leads to nothing is dropped, because endpoints insist that
//     what was thought is followed by what was said or done.
//
// What needs no repair comes out as it went in. The input is not changed.
func Repair(history []json.RawMessage) []json.RawMessage {
	type entry struct {
		typ, call string
	}
	entries := make([]entry, len(history))
	open := map[string]int{}   // call id -> index of a call without output so far
	dangling := map[int]bool{} // calls that never get one
	keep := make([]bool, len(history))
	for i, raw := range history {
		e := entry{typ: protocol.StringField(raw, "type"), call: protocol.StringField(raw, "call_id")}
		entries[i] = e
		keep[i] = len(raw) > 0
		switch e.typ {
		case "function_call", "custom_tool_call":
			if e.call == "" {
				keep[i] = false
				continue
			}
			if first, again := open[e.call]; again { // ids are only unique where models care
				dangling[first] = true
			}
			open[e.call] = i
		case "function_call_output", "custom_tool_call_output":
			at, ok := open[e.call]
			if !ok || entries[at].typ+"_output" != e.typ {
				keep[i] = false
				continue
			}
			delete(open, e.call)
		}
	}
	for _, i := range open {
		dangling[i] = true
	}
	leads := false // what follows is the model's own
	for i := len(history) - 1; i >= 0; i-- {
		switch e := entries[i]; {
		case !keep[i]:
		case e.typ == "reasoning":
			keep[i] = leads
		default:
			leads = e.typ == "function_call" || e.typ == "custom_tool_call" || e.typ == "web_search_call" ||
				e.typ == "message" && protocol.StringField(history[i], "role") == "assistant"
		}
	}
	out := make([]json.RawMessage, 0, len(history)+len(dangling))
	for i, raw := range history {
		if !keep[i] {
			continue
		}
		out = append(out, raw)
		if dangling[i] {
			c := call{id: entries[i].call, custom: entries[i].typ == "custom_tool_call", out: text(abortedByUser)}
			out = append(out, c.output())
		}
	}
	return out
}
