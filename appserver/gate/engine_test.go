package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/audit"
	"towline/appserver/engine/native"
	nativemodel "towline/appserver/engine/native/model"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config/store"
)

// eachCodex runs a test against every real codex binary of TOWLINE_TEST_CODEX,
// with these lines added to the model provider's configuration.
func eachCodex(t *testing.T, test func(t *testing.T, e *codexEngine), provider ...string) {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX is not set: CI must test against the real codex")
		}
		t.Skip("SKIPPED: set TOWLINE_TEST_CODEX to one or more codex binaries (colon-separated) to test against the real codex")
	}
	for _, bin := range filepath.SplitList(list) {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) { test(t, startCodex(t, bin, provider...)) })
	}
}

// eachEngine runs a test against every real codex and against the native engine.
func eachEngine(t *testing.T, test func(t *testing.T, e Engine, m *model)) {
	t.Helper()
	t.Run("native", func(t *testing.T) { test(startNative(t)) })
	eachCodex(t, func(t *testing.T, e *codexEngine) { test(t, e, e.model) })
}

// startNative runs the native engine on a model of the test's.
func startNative(t *testing.T) (*testing.T, Engine, *model) {
	t.Helper()
	dir := t.TempDir()
	m := new(model)
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	log := slog.New(slog.DiscardHandler)
	e, err := native.New(native.Config{
		Dir: filepath.Join(dir, "threads"), Home: dir, Cwd: dir, Version: "1", Provider: "test",
		Models:   []native.Model{{ID: "gpt-5.5", ContextWindow: 100_000}},
		Streamer: nativemodel.New(nativemodel.Config{BaseURL: srv.URL + "/v1", APIKey: func() string { return "k" }, Log: log}),
		Environ:  os.Environ(), Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("native engine: %v", err)
		}
	})
	return t, e, m
}

// model is a Responses endpoint that does what the test says: each request of a
// turn is handed to the script with the number of the request.
type model struct {
	mu     sync.Mutex
	n      int
	script func(n int, say func(event any))
	raw    func(w io.Writer) // in the place of script
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	m.mu.Lock()
	n, script := m.n, m.script
	m.n++
	m.mu.Unlock()
	w.Header().Set("content-type", "text/event-stream")
	if m.raw != nil {
		m.raw(w)
		_, _ = fmt.Fprintf(w, "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r%d\"}}\n\n", n)
		return
	}
	script(n, func(event any) {
		b, _ := json.Marshal(event)
		_, _ = fmt.Fprintf(w, "data: %s\n\n", b)
		w.(http.Flusher).Flush()
	})
	_, _ = fmt.Fprintf(w, "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r%d\"}}\n\n", n)
}

func done(item map[string]any) map[string]any {
	return map[string]any{"type": "response.output_item.done", "item": item}
}

func message(text string) map[string]any {
	return done(map[string]any{
		"type": "message", "role": "assistant", "id": "msg_1", "content": []any{map[string]any{"type": "output_text", "text": text}},
	})
}

func execCommand(cmd string) map[string]any {
	args, _ := json.Marshal(map[string]any{"cmd": cmd, "sandbox_permissions": "require_escalated", "justification": "the test wants it"})
	return done(map[string]any{"type": "function_call", "call_id": "call_1", "name": "exec_command", "arguments": string(args)})
}

// codexEngine is a real `codex app-server` on a unix socket of its own.
type codexEngine struct {
	model  *model
	socket string
	never  chan struct{}
	kill   func()
}

func (e *codexEngine) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (e *codexEngine) Changed() <-chan struct{}      { return e.never }

func (e *codexEngine) State() protocol.EngineState {
	return protocol.EngineState{Kind: "codex", State: engineReady}
}

func (e *codexEngine) Connect(ctx context.Context) (rpc.Stream, error) {
	return transport.DialEngine(ctx, e.socket)
}

// dial connects as a client without a gate does.
func (e *codexEngine) dial(ctx context.Context) (rpc.Stream, error) {
	return transport.Dial(ctx, "unix://"+e.socket)
}

func startCodex(t testing.TB, bin string, provider ...string) *codexEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // unix socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &codexEngine{model: new(model), socket: filepath.Join(dir, "s"), never: make(chan struct{})}
	srv := httptest.NewServer(e.model)
	t.Cleanup(srv.Close)
	for _, d := range []string{"home", "tmp", "project"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf(`model = "gpt-5.5"
model_provider = "fake"
check_for_update_on_startup = false
chatgpt_base_url = "http://127.0.0.1:9/backend-api"
[model_providers.fake]
name = "Fake"
base_url = "%s/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
%s
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
[projects."%s"]
trust_level = "trusted"
`, srv.URL, strings.Join(provider, "\n"), filepath.Join(dir, "project"))
	if err := os.WriteFile(filepath.Join(dir, "home", "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "app-server", "--listen", "unix://"+e.socket)
	cmd.Dir = filepath.Join(dir, "project")
	cmd.Env = []string{
		"CODEX_HOME=" + filepath.Join(dir, "home"), "HOME=" + dir, "TMPDIR=" + filepath.Join(dir, "tmp"), "PATH=" + os.Getenv("PATH"),
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost", // nothing leaves the machine
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	var once sync.Once
	e.kill = func() { once.Do(func() { _ = cmd.Process.Kill(); <-exited }) }
	t.Cleanup(func() {
		e.kill()
		if t.Failed() {
			t.Logf("codex said: %s", stderr.String())
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s, err := e.Connect(t.Context())
		if err == nil {
			_ = s.Close(nil)
			return e
		}
		if time.Now().After(end) {
			t.Fatalf("codex does not listen: %v\n%s", err, stderr.String())
		}
	}
}

func (p *person) turn(thread, text string) {
	p.t.Helper()
	p.must("turn/start", map[string]any{"threadId": thread, "input": []any{protocol.Text(text)}})
}

func TestEngineThreeClientsFirstAnswerWins(t *testing.T) {
	eachEngine(t, func(t *testing.T, e Engine, m *model) {
		g, st, auditPath, stop := startGate(t, e, t.TempDir(), nil, true)
		m.script = func(n int, say func(any)) {
			if n == 0 {
				say(execCommand("echo ran"))
				return
			}
			say(message("all done"))
		}
		ana := attach(t, g, "ana", protocol.RoleOperator, false)
		thread := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"approvalPolicy": "on-request"}), "thread"), "id")
		ana.turn(thread, "go")
		q, _ := ana.wait("question", 0, isAsk)
		bob := attach(t, g, "bob", protocol.RoleApprover, true)
		bob.resume(thread)
		eve := attach(t, g, "eve", protocol.RoleObserver, false)
		eve.resume(thread)
		// The question replayed to bob follows the item it is about.
		_, itemAt := bob.wait("item/started", 0, func(e protocol.Envelope) bool {
			return e.Method == "item/started" && strings.Contains(string(e.Params), "commandExecution")
		})
		bq, askAt := bob.wait("question", 0, isAsk)
		if askAt < itemAt || string(bq.ID) != string(q.ID) {
			t.Errorf("bob was asked %s at %d, the item came at %d; ana was asked %s", bq.ID, askAt, itemAt, q.ID)
		}
		ana.reply(q.ID, `{"decision":"perhaps"}`) // Codex would fail the item
		bob.reply(bq.ID, `{"decision":"accept"}`)
		closed := approvalIn(t, bob.note(protocol.NoteApprovalClosed).Params)
		if closed.By == nil || closed.By.Name != "bob" || !closed.By.You {
			t.Errorf("closed by %+v", closed.By)
		}
		ana.wait("resolved", 0, resolvedNote)
		ana.reply(q.ID, `{"decision":"cancel"}`)
		if m := protocol.StringField(ana.note("warning").Params, "message"); !strings.Contains(m, "bob") {
			t.Errorf("ana was told %q", m)
		}
		for _, p := range []*person{ana, bob, eve} {
			item, _ := p.wait("command's end", 0, func(e protocol.Envelope) bool {
				return e.Method == "item/completed" && strings.Contains(string(e.Params), "commandExecution")
			})
			if s := protocol.StringField(protocol.Field(item.Params, "item"), "status"); s != "completed" {
				t.Errorf("the command is %s", s)
			}
			turn := p.note("turn/completed")
			if s := protocol.StringField(protocol.Field(turn.Params, "turn"), "status"); s != "completed" {
				t.Errorf("the turn is %s", s)
			}
		}
		if eve.count(isAsk) != 0 {
			t.Error("the observer was asked")
		}
		rows, err := st.Approvals(t.Context(), store.ApprovalFilter{})
		if err != nil || len(rows) != 1 || rows[0].State != protocol.ApprovalAnswered {
			t.Errorf("stored %+v, err %v", rows, err)
		}
		for _, p := range []*person{ana, bob, eve} {
			if err := p.leave(); err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
		stop()
		if r, err := audit.Verify(auditPath); err != nil || r.Entries < 9 { // 3 attach, turn, opened, answered, 3 detach
			t.Errorf("audit has %d entries, err %v", r.Entries, err)
		}
	})
}

// The watcher's question is the only one that reaches anyone when nobody is
// attached to the thread.
func TestEngineApprovalWhileNobodyIsThere(t *testing.T) {
	eachEngine(t, func(t *testing.T, e Engine, m *model) {
		g, _, _, _ := startGate(t, e, t.TempDir(), nil, true)
		ask := make(chan struct{})
		m.script = func(n int, say func(any)) {
			if n == 0 {
				<-ask
				say(execCommand("echo ran"))
				return
			}
			say(message("all done"))
		}
		ana := attach(t, g, "ana", protocol.RoleOperator, false)
		thread := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"approvalPolicy": "on-request"}), "thread"), "id")
		ana.turn(thread, "go")
		ana.note("turn/started")
		_ = ana.leave()
		app := attach(t, g, "app", protocol.RoleApprover, true)
		close(ask)
		a := approvalIn(t, app.note(protocol.NoteApprovalOpened).Params)
		if a.Item == nil {
			t.Error("the approval lacks its item")
		}
		app.must(protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": protocol.Decide("accept")})
		back := attach(t, g, "ana", protocol.RoleOperator, true)
		var s protocol.Session
		if err := json.Unmarshal(back.must(protocol.ExtSession, nil), &s); err != nil || s.LastThread == nil || string(*s.LastThread) != thread {
			t.Errorf("session %+v, err %v; want the last thread", s, err)
		}
		eventually(t, "the turn ends", func() bool {
			return strings.Contains(string(back.must("thread/read", map[string]any{"threadId": thread, "includeTurns": true})), "all done")
		})
	})
}

func TestEngineLateJoinerGetsExactText(t *testing.T) {
	eachEngine(t, func(t *testing.T, e Engine, m *model) {
		g, _, _, _ := startGate(t, e, t.TempDir(), nil, true)
		const deltas = 2000
		want := new(strings.Builder)
		for i := range deltas {
			fmt.Fprintf(want, "%d ", i%10)
		}
		step := make(chan int) // how many deltas to say next; closed to say the rest
		m.script = func(_ int, say func(any)) {
			say(map[string]any{"type": "response.output_item.added", "item": map[string]any{"type": "message", "role": "assistant", "id": "msg_1", "content": []any{}}})
			said := 0
			for n := range step {
				for range n {
					say(map[string]any{"type": "response.output_text.delta", "delta": fmt.Sprintf("%d ", said%10)})
					said++
				}
			}
			for ; said < deltas; said++ {
				say(map[string]any{"type": "response.output_text.delta", "delta": fmt.Sprintf("%d ", said%10)})
			}
			say(message(want.String()))
		}
		owner := attach(t, g, "owner", protocol.RoleOperator, false)
		thread := protocol.StringField(protocol.Field(owner.must("thread/start", map[string]any{}), "thread"), "id")
		owner.turn(thread, "go")
		isDelta := func(e protocol.Envelope) bool { return e.Method == "item/agentMessage/delta" }
		var late []*person
		for i := range 4 {
			step <- 100
			owner.wait("delta", 0, isDelta)
			p := attach(t, g, fmt.Sprint("late", i), protocol.RoleObserver, false)
			p.must("thread/resume", map[string]any{"threadId": thread, "excludeTurns": i%2 == 0})
			late = append(late, p)
			if i == 1 {
				// Everyone who saw the message begin leaves; the text must survive that.
				_ = owner.leave()
				owner = p
			}
		}
		close(step)
		for i, p := range late {
			p.note("turn/completed")
			got, started, ended := new(strings.Builder), 0, false
			p.mu.Lock()
			for _, m := range p.msgs {
				item := protocol.Field(m.Params, "item")
				switch {
				case m.Method == "item/started" && protocol.StringField(item, "type") == "agentMessage":
					started++
				case isDelta(m):
					if started != 1 || ended {
						t.Errorf("joiner %d: text outside its item", i)
					}
					got.WriteString(protocol.StringField(m.Params, "delta"))
				case m.Method == "item/completed" && protocol.StringField(item, "type") == "agentMessage":
					ended = true
				}
			}
			p.mu.Unlock()
			if got.String() != want.String() || started != 1 || !ended {
				t.Errorf("joiner %d: %d bytes of text, want %d; started %d times, ended %v\n%.120q", i, got.Len(), want.Len(), started, ended, got.String())
			}
		}
	})
}

// What the gate takes from Codex on trust, measured: extension capabilities are
// tolerated, and a message with a member twice cannot mean one thing to the gate
// and another to Codex.
func TestCodexReadsMessagesAsWeDo(t *testing.T) {
	eachCodex(t, func(t *testing.T, e *codexEngine) {
		s, err := e.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(nil) }()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		ask := func(msg, id string) protocol.Envelope {
			t.Helper()
			if err := s.Write(ctx, []byte(msg)); err != nil {
				t.Fatal(err)
			}
			// A message Codex drops gets no answer; what is sent after it does.
			if err := s.Write(ctx, []byte(`{"id":"after","method":"thread/loaded/list","params":{}}`)); err != nil {
				t.Fatal(err)
			}
			var found protocol.Envelope
			for {
				m, err := s.Read(ctx)
				if err != nil {
					t.Fatal(err)
				}
				env, _ := protocol.Peek(m)
				if string(env.ID) == id {
					found = env
				}
				if string(env.ID) == `"after"` {
					return found
				}
			}
		}
		init := `{"id":1,"method":"initialize","params":{"clientInfo":{"name":"x","version":"1"},"capabilities":{"experimentalApi":true,"extensions":{"towline":{"version":1,"label":"l"}}}}}`
		if env := ask(init, "1"); env.Kind != protocol.KindResponse {
			t.Fatalf("initialize with our extension: %s", env.Error)
		}
		for name, msg := range map[string]string{
			"method": `{"id":2,"method":"thread/start","method":"account/read","params":{}}`,
			"id":     `{"id":3,"id":2,"method":"account/read","params":{}}`,
			"params": `{"id":2,"method":"thread/read","params":{"threadId":"a"},"params":{"threadId":"b"}}`,
		} {
			env := ask(msg, "2")
			ours, err := protocol.Peek([]byte(msg))
			t.Logf("%s twice: codex answered %.120s%.120s; we read %s %s %v", name, env.Result, env.Error, ours.Method, ours.Params, err)
			if env.Kind == protocol.KindInvalid {
				continue // dropped: no harm whatever we read
			}
			if name == "method" && strings.Contains(string(env.Result), "thread") || name == "params" && !strings.Contains(string(env.Error)+string(env.Result), "b") {
				t.Errorf("%s twice: Codex took the first, we the last", name)
			}
		}
	})
}

func TestCodexDies(t *testing.T) {
	eachCodex(t, func(t *testing.T, e *codexEngine) {
		g, _, _, _ := startGate(t, e, t.TempDir(), nil, true)
		p := attach(t, g, "ana", protocol.RoleOperator, true)
		e.kill()
		p.note(protocol.NoteEngine)
		if err := <-p.served; !errors.Is(err, errEngineGone) {
			t.Errorf("Serve: %v, want that the engine went", err)
		}
		close(p.served)
	})
}
