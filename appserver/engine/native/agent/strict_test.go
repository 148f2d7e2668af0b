package agent_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

// What the Responses API takes, by the public reference: a strict endpoint
// refuses every other member.
var (
	requestMembers = split("model input tools tool_choice parallel_tool_calls reasoning store stream include prompt_cache_key text")
	itemMembers    = map[string][]string{
		"message":                 split("type id role content status phase"),
		"reasoning":               split("type id summary content encrypted_content"),
		"function_call":           split("type id call_id name arguments status namespace"),
		"function_call_output":    split("type id call_id output status"),
		"custom_tool_call":        split("type id call_id name input status namespace"),
		"custom_tool_call_output": split("type id call_id output status"),
		"web_search_call":         split("type id status action"),
	}
	partMembers = map[string][]string{
		"input_text": split("type text"), "input_image": split("type image_url detail"),
		"output_text": split("type text annotations logprobs"), "refusal": split("type refusal"),
		"summary_text": split("type text"), "reasoning_text": split("type text"),
	}
	toolMembers = map[string][]string{
		"function": split("type name description parameters strict"), "custom": split("type name description format"),
	}
	itemIDs = map[string]string{
		"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "web_search_call": "ws",
		"function_call_output": "fc", "custom_tool_call_output": "ctc",
	}
)

func split(s string) []string { return strings.Fields(s) }

// refusals is what a strict endpoint would not take of a request.
func refusals(req map[string]json.RawMessage) (no []string) {
	say := func(format string, args ...any) { no = append(no, fmt.Sprintf(format, args...)) }
	list := func(raw json.RawMessage) (out []map[string]json.RawMessage) {
		if err := json.Unmarshal(raw, &out); err != nil {
			say("%v in %.200s", err, raw)
		}
		return out
	}
	unknown := func(where string, obj map[string]json.RawMessage, known []string) {
		for name, v := range obj {
			if !slices.Contains(known, name) {
				say("unknown parameter %s.%s", where, name)
			}
			if string(v) == "null" {
				say("%s.%s is null", where, name)
			}
		}
	}
	str := func(raw json.RawMessage) (s string) { _ = json.Unmarshal(raw, &s); return s } // "" when it is none
	unknown("request", req, requestMembers)
	if string(req["store"]) != "false" || string(req["stream"]) != "true" {
		say("store %s, stream %s", req["store"], req["stream"])
	}
	if req["tools"] == nil && (req["tool_choice"] != nil || req["parallel_tool_calls"] != nil) {
		say("how to use tools, without tools")
	}
	parts := func(where string, raw json.RawMessage, kinds ...string) {
		for _, p := range list(raw) {
			kind := str(p["type"])
			unknown(where+"."+kind, p, partMembers[kind])
			if !slices.Contains(kinds, kind) {
				say("%s holds a %s", where, kind)
			}
		}
	}
	for i, it := range list(req["input"]) {
		typ := str(it["type"])
		where := fmt.Sprintf("input[%d] %s", i, typ)
		unknown(where, it, itemMembers[typ])
		if id := str(it["id"]); id != "" && !strings.HasPrefix(id, itemIDs[typ]) {
			say("%s: id %s", where, id)
		}
		switch typ {
		case "message":
			if str(it["role"]) == "assistant" {
				parts(where, it["content"], "output_text", "refusal")
			} else {
				parts(where, it["content"], "input_text", "input_image")
			}
		case "reasoning":
			if it["encrypted_content"] == nil && it["content"] == nil {
				say("%s: item %s not found: items are not persisted when store is false", where, it["id"])
			}
			parts(where, it["summary"], "summary_text")
		case "function_call_output", "custom_tool_call_output":
			if raw := it["output"]; raw[0] != '"' {
				parts(where, raw, "input_text", "input_image")
			}
		}
	}
	if req["tools"] == nil {
		return no
	}
	for _, tool := range list(req["tools"]) {
		typ, name := str(tool["type"]), str(tool["name"])
		unknown("tool "+name, tool, toolMembers[typ])
		if typ == "custom" {
			var f struct{ Type, Syntax, Definition string }
			if json.Unmarshal(tool["format"], &f) != nil || f.Type != "grammar" || f.Syntax != "lark" || f.Definition == "" {
				say("tool %s: format %s", name, tool["format"])
			}
			continue
		}
		if string(tool["strict"]) != "false" || str(protocol.Field(tool["parameters"], "type")) != "object" {
			say("tool %s: strict %s, parameters %s", name, tool["strict"], tool["parameters"])
		}
	}
	return no
}

// A model's items come with members endpoints do not take back, and a thread
// may have been begun with another endpoint.
func TestAStrictEndpointTakesEveryRequest(t *testing.T) {
	st := newStage(t,
		say(
			m{"type": "reasoning", "id": "rs_1", "status": "completed", "summary": []any{m{"type": "summary_text", "text": "hm"}}, "content": nil, "encrypted_content": "x"},
			m{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "phase": "commentary", "content": []any{
				m{"type": "output_text", "text": "I look", "annotations": []any{}, "logprobs": []any{}},
			}},
			m{"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c1", "name": "exec_command", "arguments": `{"cmd":"echo hi"}`, "namespace": nil},
			m{"type": "custom_tool_call", "id": "ctc_1", "status": "completed", "call_id": "c2", "name": "apply_patch", "input": "*** Begin Patch\n*** Add File: a.txt\n+x\n*** End Patch\n"},
			m{"type": "web_search_call", "id": "ws_1", "status": "completed", "action": m{"type": "search", "query": "q"}},
		),
		say( // another endpoint's: its own ids, nothing encrypted
			m{"type": "reasoning", "id": "think-7", "summary": []any{}, "encrypted_content": nil},
			m{"type": "function_call", "id": "call_abc", "call_id": "c3", "name": "view_image", "arguments": `{"path":"a.png"}`},
			m{"type": "function_call", "id": "call_abd", "call_id": "c4", "name": "update_plan", "arguments": `{"plan":[]}`},
		),
		say(words("done")),
		say(words("a summary")),
		say(words("after")),
	)
	furnish(t, st.dir)
	st.ok("t1", "go", func(in *agent.Turn) {
		in.Effort, in.Summary = "high", "auto"
		in.OutputSchema = json.RawMessage(`{"type":"object","properties":{},"additionalProperties":false}`)
		in.Input = append(in.Input, protocol.UserInput{Type: "localImage", Path: st.dir + "/a.png"})
		in.DynamicTools = []json.RawMessage{json.RawMessage(`{"name":"mine","description":"d","inputSchema":{"type":"object","properties":{}}}`)}
	})
	if err := st.session.Note(st, "<user_shell_command>ls</user_shell_command>"); err != nil {
		t.Fatal(err)
	}
	if out := st.session.Compact(t.Context(), st.turn("t2", "", nil), st); out.Status != protocol.TurnCompleted {
		t.Fatalf("compaction: %+v", out)
	}
	st.ok("t3", "again", func(in *agent.Turn) { in.PlanMode = true })
	if n := st.script.count(); n != 5 {
		t.Errorf("%d requests", n)
	}
	for i, req := range st.script.requests {
		for _, no := range refusals(req) {
			t.Errorf("request %d: %s", i, no)
		}
	}
	// What matters is still there.
	in := joined(st.script.input(2))
	for _, want := range []string{`"encrypted_content":"x"`, `"id":"rs_1"`, `"phase":"commentary"`, `"id":"fc_1"`, `"call_id":"c3"`} {
		if !strings.Contains(in, want) {
			t.Errorf("no %s in %s", want, in)
		}
	}
	if strings.Contains(in, "think-7") || strings.Contains(in, "call_abc") {
		t.Errorf("another endpoint's ids are sent: %s", in)
	}
}

// Some models have no encrypted reasoning to give and refuse the wish for it.
func TestAModelWithoutReasoning(t *testing.T) {
	st := newStage(t, fail(400, "Encrypted content is not supported with this model."), say(words("one")), say(words("two")))
	st.ok("t1", "first", nil)
	st.ok("t2", "second", nil)
	for i, want := range []bool{true, false, false} {
		if got := st.script.requests[i]["include"] != nil; got != want {
			t.Errorf("request %d: include %v", i, got)
		}
	}
	if n := len(st.of("error")); n != 0 {
		t.Errorf("%d errors were shown", n)
	}
}

// compareRequests holds what is sent for a script against what the real Codex
// sends for it: the same tools with the same parameters, and in no item a member
// that Codex does not send.
func compareRequests(t *testing.T, ours, theirs []map[string]json.RawMessage) {
	t.Helper()
	tools := func(req map[string]json.RawMessage) map[string]string {
		var list []map[string]any
		if err := json.Unmarshal(req["tools"], &list); err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, tool := range list {
			name, _ := tool["name"].(string)
			plainTool(tool)
			out[name] = asJSON(tool)
		}
		return out
	}
	a, b := tools(ours[0]), tools(theirs[0])
	for name, def := range a {
		// Codex 0.166 let the model choose, 0.169 does not.
		if def != strings.Replace(b[name], `"detail":{"enum":["high","original"],"type":"string"},`, "", 1) {
			t.Errorf("tool %s\nagent %s\ncodex %s", name, def, b[name])
		}
	}
	for name, v := range ours[0] {
		if w, ok := theirs[0][name]; !ok {
			t.Errorf("codex sends no %s", name)
		} else if slices.Contains(split("store stream include tool_choice parallel_tool_calls"), name) && string(v) != string(w) {
			t.Errorf("%s: agent %s, codex %s", name, v, w)
		}
	}
	members := func(reqs []map[string]json.RawMessage) map[string][]string {
		var items []map[string]json.RawMessage
		if err := json.Unmarshal(reqs[len(reqs)-1]["input"], &items); err != nil {
			t.Fatal(err)
		}
		sets := map[string]map[string]bool{}
		for _, it := range items {
			typ := string(it["type"]) + string(it["role"])
			if sets[typ] == nil {
				sets[typ] = map[string]bool{}
			}
			for name := range it {
				sets[typ][name] = true
			}
		}
		out := map[string][]string{}
		for typ, set := range sets {
			out[typ] = slices.Sorted(maps.Keys(set))
		}
		return out
	}
	known := members(theirs)
	for typ, names := range members(ours) {
		for _, name := range names {
			if !slices.Contains(known[typ], name) {
				t.Errorf("%s.%s is not sent by codex, which sends %v", typ, name, known[typ])
			}
		}
	}
}

// plainTool leaves out what is in our own words.
func plainTool(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, text := v["description"].(string); text {
			delete(v, "description")
		}
		if _, text := v["definition"].(string); text {
			v["definition"] = "…"
		}
		for _, x := range v {
			plainTool(x)
		}
	case []any:
		for _, x := range v {
			plainTool(x)
		}
	}
}
