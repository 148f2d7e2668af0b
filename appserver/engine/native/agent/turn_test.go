package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

func TestStreamedAnswer(t *testing.T) {
	reasoning := m{"type": "reasoning", "id": "rs_1", "summary": []any{m{"type": "summary_text", "text": "Let me think"}}, "encrypted_content": "<secret&>"}
	st := newStage(t, func(w io.Writer, _ *http.Request) {
		sse(w, m{"type": "response.output_item.added", "item": m{"type": "reasoning", "id": "rs_1"}})
		sse(w, m{"type": "response.reasoning_summary_part.added", "item_id": "rs_1", "summary_index": 0})
		sse(w, m{"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "summary_index": 0, "delta": "Let me think"})
		done(w, reasoning)
		sse(w, m{"type": "response.output_item.added", "item": m{"type": "message", "id": "msg_1", "role": "assistant"}})
		sse(w, m{"type": "response.output_text.delta", "delta": "Hel"})
		sse(w, m{"type": "response.output_text.delta", "item_id": "msg_1", "delta": "lo"})
		done(w, m{"type": "message", "id": "msg_1", "role": "assistant", "phase": "final_answer", "content": []any{m{"type": "output_text", "text": "Hello"}}})
		completed(w, 42)
	})
	client := "client-1"
	out := st.ok("t1", "hi", func(in *agent.Turn) { in.ClientMessageID = &client })
	if got, want := st.trace(), []string{
		"started userMessage", "completed userMessage",
		"started reasoning", "item/reasoning/summaryPartAdded", "item/reasoning/summaryTextDelta", "completed reasoning",
		`started agentMessage ""`, "item/agentMessage/delta", "item/agentMessage/delta", `completed agentMessage "Hello"`,
		"thread/tokenUsage/updated",
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("events %q\nwant   %q", got, want)
	}
	if out.LastMessage == nil || out.LastMessage.ID != "msg_1" || *out.LastMessage.Body.(*protocol.AgentMessage).Phase != "final_answer" {
		t.Errorf("last message = %+v", out.LastMessage)
	}
	if um := st.events[0].item.Body.(*protocol.UserMessage); *um.ClientID != client || um.Content[0].Text != "hi" {
		t.Errorf("user message = %+v", um)
	}
	if s := string(st.of("item/agentMessage/delta")[1].params); s != `{"threadId":"`+string(threadID)+`","turnId":"t1","itemId":"msg_1","delta":"lo"}` {
		t.Errorf("delta = %s", s)
	}
	if u := st.session.Usage(); u.Total.TotalTokens != 42 || u.Last.OutputTokens != 1 {
		t.Errorf("usage = %+v", u)
	}

	// The next turn replays what the model said byte for byte, and the context
	// only once.
	st.script.add(say(words("again")))
	st.ok("t2", "more", nil)
	in := st.script.input(1)
	want, _ := json.Marshal(reasoning)
	if string(in[3]) != string(want) {
		t.Errorf("replayed %s\nsaid     %s", in[3], want)
	}
	var roles []string
	for _, raw := range in {
		roles = append(roles, protocol.StringField(raw, "type")+" "+protocol.StringField(raw, "role"))
	}
	if want := []string{"message developer", "message user", "message user", "reasoning ", "message assistant", "message user"}; !reflect.DeepEqual(roles, want) {
		t.Errorf("input %q, want %q", roles, want)
	}
	if !reflect.DeepEqual(st.session.History(), st.recorded) {
		t.Error("history in memory is not what was recorded")
	}
}

func TestRequestOffersCodexTools(t *testing.T) {
	st := newStage(t, say(words("ok")))
	st.ok("t1", "hi", func(in *agent.Turn) {
		in.OutputSchema = json.RawMessage(`{"type":"object"}`)
		in.Effort, in.Summary = "high", "auto"
	})
	req := st.script.requests[0]
	var tools []struct {
		Type, Name string
		Parameters struct {
			Properties map[string]struct{ Type string }
			Required   []string
		}
		Format struct{ Type, Syntax string }
	}
	if err := json.Unmarshal(req["tools"], &tools); err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, tool := range tools {
		props := map[string]string{}
		for name, p := range tool.Parameters.Properties {
			props[name] = p.Type
		}
		got[tool.Type+" "+tool.Name+" "+tool.Format.Syntax+strings.Join(tool.Parameters.Required, ",")] = props
	}
	want := map[string]any{
		"function exec_command cmd": map[string]string{
			"cmd": "string", "workdir": "string", "shell": "string", "login": "boolean", "tty": "boolean", "yield_time_ms": "number",
			"max_output_tokens": "number", "sandbox_permissions": "string", "justification": "string", "prefix_rule": "array",
		},
		"function write_stdin session_id": map[string]string{
			"session_id": "number", "chars": "string", "yield_time_ms": "number", "max_output_tokens": "number",
		},
		"custom apply_patch lark":   map[string]string{},
		"function update_plan plan": map[string]string{"explanation": "string", "plan": "array"},
		"function view_image path":  map[string]string{"path": "string"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("tools %v\nwant  %v", got, want)
	}
	if s := string(req["text"]); !strings.Contains(s, `"json_schema"`) || !strings.Contains(s, `"schema":{"type":"object"}`) {
		t.Errorf("text = %s", s)
	}
	if s := string(req["reasoning"]); s != `{"effort":"high","summary":"auto"}` {
		t.Errorf("reasoning = %s", s)
	}
	if s := string(req["prompt_cache_key"]); s != `"`+string(threadID)+`"` {
		t.Errorf("cache key = %s", s)
	}
}

func TestSteerReachesTheNextSample(t *testing.T) {
	release := make(chan struct{})
	st := newStage(t,
		func(w io.Writer, _ *http.Request) {
			done(w, words("first"))
			<-release
			completed(w, 10)
		},
		say(words("second")))
	if err := st.session.Steer([]protocol.UserInput{protocol.Text("too early")}, nil); !errors.Is(err, agent.ErrNoTurn) {
		t.Errorf("steer without a turn: %v", err)
	}
	ended := make(chan agent.Outcome)
	go func() { ended <- st.run("t1", "hi", nil) }()
	st.wait("completed", func(e event) bool { return e.item.Type() == "agentMessage" })
	id := "c2"
	if err := st.session.Steer([]protocol.UserInput{protocol.Text("and also")}, &id); err != nil {
		t.Fatal(err)
	}
	close(release)
	if out := <-ended; out.Status != protocol.TurnCompleted || out.LastMessage.Body.(*protocol.AgentMessage).Text != "second" {
		t.Fatalf("outcome = %+v", out)
	}
	in := st.script.input(1)
	if last := string(in[len(in)-1]); !strings.Contains(last, "and also") {
		t.Errorf("last input = %s", last)
	}
	e := st.wait("completed", func(e event) bool {
		um, ok := e.item.Body.(*protocol.UserMessage)
		return ok && um.ClientID != nil && *um.ClientID == id
	})
	if e.turn != "t1" {
		t.Errorf("steered into %s", e.turn)
	}
	if err := st.session.Steer([]protocol.UserInput{protocol.Text("too late")}, nil); !errors.Is(err, agent.ErrNoTurn) {
		t.Errorf("steer after the turn: %v", err)
	}
}

func TestOneTurnAtATime(t *testing.T) {
	st := newStage(t, func(_ io.Writer, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan agent.Outcome)
	go func() { ended <- st.session.Run(ctx, st.turn("t1", "hi", nil), st) }()
	st.wait("completed", nil)
	if out := st.run("t2", "hi", nil); out.Status != protocol.TurnFailed {
		t.Errorf("second turn: %+v", out)
	}
	cancel()
	if out := <-ended; out.Status != protocol.TurnInterrupted {
		t.Errorf("first turn: %+v", out)
	}
}

func TestInterruptKeepsWhatWasSaid(t *testing.T) {
	st := newStage(t, func(w io.Writer, r *http.Request) {
		done(w, m{"type": "reasoning", "id": "rs", "summary": []any{}})
		done(w, callTool("c1", "exec_command", m{"cmd": "echo ready; sleep 1000"}))
		sse(w, m{"type": "response.output_item.added", "item": m{"type": "message", "id": "msg_1", "role": "assistant"}})
		sse(w, m{"type": "response.output_text.delta", "item_id": "msg_1", "delta": "I was about"})
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan agent.Outcome)
	go func() { ended <- st.session.Run(ctx, st.turn("t1", "go", nil), st) }()
	st.wait("item/agentMessage/delta", nil)
	st.wait("item/commandExecution/outputDelta", nil)
	cancel()
	out := <-ended
	if out.Status != protocol.TurnInterrupted || out.Error != nil || out.LastMessage == nil {
		t.Fatalf("outcome = %+v", out)
	}
	if c := st.command("c1"); c.Status != protocol.ItemFailed || *c.ExitCode != 137 || *c.AggregatedOutput != "ready\n" {
		t.Errorf("command = %+v", c)
	}
	if n := len(st.procs.Running()); n != 0 {
		t.Errorf("%d commands still run", n)
	}
	started, finished := map[string]int{}, map[string]int{}
	for _, e := range st.of("started") {
		started[e.item.ID]++
	}
	for _, e := range st.of("completed") {
		finished[e.item.ID]++
	}
	if !reflect.DeepEqual(started, finished) {
		t.Errorf("started %v, completed %v", started, finished)
	}
	history := joined(st.recorded)
	for _, want := range []string{"I was about", "aborted by user", "<turn_aborted>"} {
		if !strings.Contains(history, want) {
			t.Errorf("%q is not in the history %s", want, history)
		}
	}
	valid(t, agent.Repair(st.recorded))

	st.script.add(say(words("fine")))
	st.ok("t2", "go on", nil)
	valid(t, st.script.input(1))
}

func joined(history []json.RawMessage) string {
	var b strings.Builder
	for _, raw := range history {
		b.Write(raw)
		b.WriteByte('\n')
	}
	return b.String()
}

func TestCloseInterruptsTheTurn(t *testing.T) {
	st := newStage(t, say(shell("c1", "echo up; sleep 1000")))
	ended := make(chan agent.Outcome)
	go func() { ended <- st.run("t1", "go", nil) }()
	st.wait("item/commandExecution/outputDelta", nil)
	closed := make(chan struct{})
	go func() { st.session.Close(); close(closed) }()
	if out := <-ended; out.Status != protocol.TurnInterrupted {
		t.Errorf("outcome = %+v", out)
	}
	<-closed
	if out := st.run("t2", "go", nil); out.Status != protocol.TurnFailed {
		t.Errorf("turn after close: %+v", out)
	}
}

func TestNothingHappensUnlessRecorded(t *testing.T) {
	st := newStage(t, func(w io.Writer, _ *http.Request) {
		done(w, shell("c1", "touch ran"))
		completed(w, 10)
	})
	st.refuse = errors.New("disk full")
	out := st.run("t1", "go", nil)
	if out.Status != protocol.TurnFailed || !strings.Contains(out.Error.Message, "disk full") || st.script.count() != 0 {
		t.Fatalf("outcome = %+v after %d requests", out, st.script.count())
	}
	st.refuse = nil
	st.script.mu.Lock()
	st.script.steps = []step{func(w io.Writer, _ *http.Request) {
		st.mu.Lock()
		st.refuse = errors.New("disk full")
		st.mu.Unlock()
		done(w, shell("c1", "touch ran"))
		completed(w, 10)
	}}
	st.script.mu.Unlock()
	if out := st.run("t2", "go", nil); out.Status != protocol.TurnFailed {
		t.Fatalf("outcome = %+v", out)
	}
	if got := st.read("ran"); !strings.Contains(got, "no such file") {
		t.Error("a call that was not recorded ran")
	}
	if e := st.of("error"); len(e) != 2 || !strings.Contains(string(e[1].params), `"willRetry":false`) {
		t.Errorf("errors = %v", e)
	}
}

// A note waits for the running turn's next sample, and is recorded at once
// without a turn. Nothing is lost between the two.
func TestNotes(t *testing.T) {
	release := make(chan struct{})
	st := newStage(t,
		func(w io.Writer, _ *http.Request) {
			done(w, shell("c1", "echo hi"))
			<-release
			completed(w, 10)
		},
		say(words("second")), say(words("third")))
	ended := make(chan agent.Outcome)
	go func() { ended <- st.run("t1", "hi", nil) }()
	st.wait("completed", func(e event) bool { return e.item.Type() == "commandExecution" })
	if err := st.session.Note(st, "during"); err != nil {
		t.Fatal(err)
	}
	close(release)
	<-ended
	in := st.script.input(1)
	if last := string(in[len(in)-1]); !strings.Contains(last, "during") {
		t.Errorf("the last input is %s", last)
	}
	before := len(st.recorded)
	if err := st.session.Note(st, "between"); err != nil || len(st.recorded) != before+1 {
		t.Errorf("%d recorded, %v", len(st.recorded)-before, err)
	}
	st.ok("t2", "more", nil)
	joinedIn := joined(st.script.input(2))
	if a, b := strings.Index(joinedIn, "between"), strings.Index(joinedIn, "more"); a < 0 || b < a {
		t.Errorf("input %s", joinedIn)
	}
	valid(t, st.recorded)
	if a, b := asJSON(st.recorded), asJSON(st.session.History()); a != b {
		t.Errorf("on disk %s\nin memory %s", a, b)
	}
}
