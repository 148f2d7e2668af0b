package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/sandbox"
	"towline/appserver/engine/native/tool/exec"
	"towline/appserver/protocol"
)

// TestMain lets the test binary be the sandbox helper, as towline is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// box is shared: finding out what the machine can do takes a while.
var box = sync.OnceValue(func() *sandbox.Runner {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return sandbox.New(self, slog.New(slog.DiscardHandler))
})

const threadID = protocol.ThreadID("0190a000-0000-7000-8000-000000000001")

// script is the model: one answer per request, at the HTTP edge.
type script struct {
	t *testing.T
	*httptest.Server

	mu       sync.Mutex
	steps    []step
	requests []map[string]json.RawMessage
}

// step answers one request; it may look at the body and wait.
type step func(w io.Writer, r *http.Request)

func newScript(t *testing.T, steps ...step) *script {
	s := &script{t: t, steps: steps}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var req map[string]json.RawMessage
		if err := json.Unmarshal(body, &req); err != nil {
			t.Errorf("request is not JSON: %v", err)
		}
		s.mu.Lock()
		n := len(s.requests)
		s.requests = append(s.requests, req)
		var st step
		if n < len(s.steps) {
			st = s.steps[n]
		}
		s.mu.Unlock()
		if st == nil {
			t.Errorf("request %d was not expected: %s", n, cutString(string(req["input"]), 2000))
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		st(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *script) add(steps ...step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, steps...)
}

// input is what the model was given in its n-th request, without the base
// instructions.
func (s *script) input(n int) []json.RawMessage {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= len(s.requests) {
		s.t.Fatalf("there were only %d requests", len(s.requests))
	}
	var in []json.RawMessage
	if err := json.Unmarshal(s.requests[n]["input"], &in); err != nil || len(in) == 0 {
		s.t.Fatalf("input %d: %v", n, err)
	}
	return in[1:]
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// outputs are the tool outputs of the n-th request, by call id.
func (s *script) outputs(n int) map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, raw := range s.input(n) {
		if strings.HasSuffix(protocol.StringField(raw, "type"), "_output") {
			v := protocol.Field(raw, "output")
			var text string
			if json.Unmarshal(v, &text) != nil {
				text = string(v)
			}
			out[protocol.StringField(raw, "call_id")] = text
		}
	}
	return out
}

func cutString(s string, n int) string { return s[:min(n, len(s))] }

func sse(w io.Writer, ev any) {
	b, _ := json.Marshal(ev)
	_, _ = fmt.Fprintf(w, "data: %s\n\n", b)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

type m = map[string]any

func done(w io.Writer, item any) { sse(w, m{"type": "response.output_item.done", "item": item}) }

func completed(w io.Writer, total int) {
	sse(w, m{"type": "response.completed", "response": m{"id": "r", "usage": m{
		"input_tokens": total - 1, "output_tokens": 1, "total_tokens": total,
	}}})
}

// say answers with finished items.
func say(items ...any) step {
	return func(w io.Writer, _ *http.Request) {
		for _, it := range items {
			done(w, it)
		}
		completed(w, 100)
	}
}

// fail answers with an HTTP status.
func fail(status int, message string) step {
	return func(w io.Writer, _ *http.Request) {
		w.(http.ResponseWriter).WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"error":{"message":%q}}`, message)
	}
}

func words(s string) any {
	return m{"type": "message", "role": "assistant", "content": []any{m{"type": "output_text", "text": s}}}
}

func callTool(id, name string, args any) any {
	s, ok := args.(string)
	if !ok {
		b, _ := json.Marshal(args)
		s = string(b)
	}
	return m{"type": "function_call", "call_id": id, "name": name, "arguments": s}
}

func shell(id, cmd string) any { return callTool(id, "exec_command", m{"cmd": cmd}) }

func patchCall(id, body string) any {
	return m{"type": "custom_tool_call", "call_id": id, "name": "apply_patch", "input": "*** Begin Patch\n" + body + "*** End Patch\n"}
}

// event is one call of the sink.
type event struct {
	what   string // "started", "completed", a notification's method, "ask METHOD", "wait FLAG true"
	turn   string
	item   protocol.Item
	params json.RawMessage
}

// stage is a session with everything around it: a sink that remembers, a
// scripted model, a folder.
type stage struct {
	t       *testing.T
	dir     string
	script  *script
	session *agent.Session
	procs   *exec.Manager

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each event
	events   []event
	recorded []json.RawMessage
	replaced int
	answer   func(method string, params json.RawMessage) (any, error) // nil: nobody answers
	refuse   error                                                    // what Record returns
}

func newStage(t *testing.T, steps ...step) *stage {
	t.Helper()
	return newStageWith(t, nil, steps...)
}

func newStageWith(t *testing.T, change func(*agent.Config), steps ...step) *stage {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	st := &stage{t: t, dir: dir, script: newScript(t, steps...), changed: make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	// Commands run in login shells: nobody's profile may take part in a test.
	home := t.TempDir()
	env := func() []string { return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home} }
	st.procs = exec.NewManager(exec.Config{Sandbox: box(), Env: env, Log: log})
	client := model.New(model.Config{BaseURL: st.script.URL, Provider: "Test"})
	cfg := agent.Config{ThreadID: threadID, Model: client, Exec: st.procs, RetryDelay: time.Millisecond, Log: log}
	if change != nil {
		change(&cfg)
	}
	st.session = agent.NewSession(cfg)
	t.Cleanup(func() {
		st.session.Close()
		st.procs.Close()
		client.Close()
	})
	return st
}

// turn is a turn with defaults; change adapts it.
func (st *stage) turn(id, input string, change func(*agent.Turn)) agent.Turn {
	in := agent.Turn{
		ID: id, Cwd: st.dir, Model: "m", Approval: protocol.ApproveOnRequest,
		Sandbox: protocol.SandboxPolicy{Type: protocol.PolicyFullAccess},
	}
	if input != "" {
		in.Input = []protocol.UserInput{protocol.Text(input)}
	}
	if change != nil {
		change(&in)
	}
	return in
}

func (st *stage) run(id, input string, change func(*agent.Turn)) agent.Outcome {
	return st.session.Run(st.t.Context(), st.turn(id, input, change), st)
}

// ok runs a turn that must complete.
func (st *stage) ok(id, input string, change func(*agent.Turn)) agent.Outcome {
	st.t.Helper()
	out := st.run(id, input, change)
	if out.Status != protocol.TurnCompleted {
		st.t.Fatalf("turn %s: %s %+v", id, out.Status, out.Error)
	}
	return out
}

func (st *stage) note(e event) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.events = append(st.events, e)
	close(st.changed)
	st.changed = make(chan struct{})
}

func (st *stage) ItemStarted(turnID string, it protocol.Item) {
	st.note(event{what: "started", turn: turnID, item: it})
}

func (st *stage) ItemCompleted(turnID string, it protocol.Item) {
	st.note(event{what: "completed", turn: turnID, item: it})
}

func (st *stage) Notify(method string, params any) {
	b, err := json.Marshal(params)
	if err != nil {
		st.t.Errorf("%s: %v", method, err)
	}
	st.note(event{what: method, turn: protocol.StringField(b, "turnId"), params: b})
}

func (st *stage) Waiting(flag string, on bool) {
	st.note(event{what: fmt.Sprintf("wait %s %v", flag, on)})
}

func (st *stage) Record(input json.RawMessage) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.refuse != nil {
		return st.refuse
	}
	st.recorded = append(st.recorded, append(json.RawMessage(nil), input...))
	return nil
}

func (st *stage) Replace(history []json.RawMessage) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.recorded = append([]json.RawMessage(nil), history...)
	st.replaced++
	return nil
}

func (st *stage) Ask(ctx context.Context, method string, params any) (json.RawMessage, error) {
	b, err := json.Marshal(params)
	if err != nil {
		st.t.Errorf("%s: %v", method, err)
	}
	st.note(event{what: "ask " + method, params: b})
	st.mu.Lock()
	answer := st.answer
	st.mu.Unlock()
	if answer == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	v, err := answer(method, b)
	if err != nil {
		return nil, err
	}
	raw, _ := json.Marshal(v)
	return raw, nil
}

// decide answers approvals one after the other with the given results.
func (st *stage) decide(results ...any) {
	st.mu.Lock()
	defer st.mu.Unlock()
	n := 0
	var mu sync.Mutex
	st.answer = func(method string, _ json.RawMessage) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		if n >= len(results) {
			st.t.Errorf("one question too many: %s", method)
			return nil, protocol.Errorf("no more answers")
		}
		n++
		if err, ok := results[n-1].(error); ok {
			return nil, err
		}
		return results[n-1], nil
	}
}

// wait blocks until an event that matches has happened, and returns it.
func (st *stage) wait(what string, match func(event) bool) event {
	st.t.Helper()
	deadline := time.After(20 * time.Second)
	seen := 0
	for {
		st.mu.Lock()
		list, changed := st.events, st.changed
		st.mu.Unlock()
		for ; seen < len(list); seen++ {
			if list[seen].what == what && (match == nil || match(list[seen])) {
				return list[seen]
			}
		}
		select {
		case <-changed:
		case <-deadline:
			st.t.Fatalf("no %s came; there were %v", what, st.trace())
		}
	}
}

// of lists the events of a kind.
func (st *stage) of(what string) []event {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []event
	for _, e := range st.events {
		if e.what == what {
			out = append(out, e)
		}
	}
	return out
}

// trace is the sequence of events, in short.
func (st *stage) trace() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []string
	for _, e := range st.events {
		s := e.what
		if e.item.Body != nil {
			s += " " + e.item.Type()
			switch b := e.item.Body.(type) {
			case *protocol.CommandExecution:
				s += " " + b.Source + " " + b.Status
			case *protocol.FileChange:
				s += " " + b.Status
			case *protocol.AgentMessage:
				s += fmt.Sprintf(" %q", b.Text)
			}
		}
		out = append(out, s)
	}
	return out
}

func (st *stage) command(id string) *protocol.CommandExecution {
	st.t.Helper()
	for _, e := range st.of("completed") {
		if b, ok := e.item.Body.(*protocol.CommandExecution); ok && e.item.ID == id {
			return b
		}
	}
	st.t.Fatalf("command %s did not complete: %v", id, st.trace())
	return nil
}

func (st *stage) patched(id string) *protocol.FileChange {
	st.t.Helper()
	for _, e := range st.of("completed") {
		if b, ok := e.item.Body.(*protocol.FileChange); ok && e.item.ID == id {
			return b
		}
	}
	st.t.Fatalf("patch %s did not complete: %v", id, st.trace())
	return nil
}

func (st *stage) write(name, body string) {
	st.t.Helper()
	path := filepath.Join(st.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		st.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		st.t.Fatal(err)
	}
}

func (st *stage) read(name string) string {
	b, err := os.ReadFile(filepath.Join(st.dir, name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(b)
}

// valid fails the test unless a history can be replayed to an endpoint.
func valid(t *testing.T, history []json.RawMessage) {
	t.Helper()
	open := map[string]bool{}
	for i, raw := range history {
		id := protocol.StringField(raw, "call_id")
		switch typ := protocol.StringField(raw, "type"); typ {
		case "function_call", "custom_tool_call":
			if open[id] {
				t.Errorf("item %d: call %s twice", i, id)
			}
			open[id] = true
		case "function_call_output", "custom_tool_call_output":
			if !open[id] {
				t.Errorf("item %d: output without call %s", i, id)
			}
			delete(open, id)
		case "reasoning":
			if i+1 == len(history) || protocol.StringField(history[i+1], "role") == "user" {
				t.Errorf("item %d: reasoning leads to nothing", i)
			}
		}
	}
	for id := range open {
		t.Errorf("call %s has no output", id)
	}
}

// confined is a restricted policy, where this machine can enforce one.
func confined(t *testing.T, typ string) protocol.SandboxPolicy {
	t.Helper()
	if err := box().Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this machine cannot confine commands: %v", err)
		}
		t.Skipf("NOT TESTED: this machine cannot confine commands: %v", err)
	}
	return protocol.SandboxPolicy{Type: typ, ExcludeSlashTmp: true, ExcludeTmpdirEnvVar: true}
}
