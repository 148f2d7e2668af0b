package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

func TestRolesDecideWhatPasses(t *testing.T) {
	for name, tc := range map[string]struct {
		role   protocol.Role
		method string
		passes bool
	}{
		"observer reads":               {protocol.RoleObserver, "thread/list", true},
		"observer does not start":      {protocol.RoleObserver, "turn/start", false},
		"observer does not interrupt":  {protocol.RoleObserver, "turn/interrupt", false},
		"approver interrupts":          {protocol.RoleApprover, "turn/interrupt", true},
		"approver does not steer":      {protocol.RoleApprover, "turn/steer", false},
		"approver reads no files":      {protocol.RoleApprover, "fs/readFile", false},
		"operator runs":                {protocol.RoleOperator, "command/exec", true},
		"operator uses what is new":    {protocol.RoleOperator, "thread/somethingNew", true},
		"approver does not":            {protocol.RoleApprover, "thread/somethingNew", false},
		"operator manages no accounts": {protocol.RoleOperator, "account/logout", false},
		"admin does":                   {protocol.RoleAdmin, "account/logout", true},
		"nobody":                       {protocol.RoleNone, "thread/list", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, false)
			p := dial(t, r.g, "p", tc.role)
			if tc.role != protocol.RoleNone {
				p.must("initialize", map[string]any{"clientInfo": map[string]string{"name": "x", "version": "1"}})
			}
			_, err := p.call(tc.method, map[string]any{})
			r.e.mu.Lock()
			reached := false
			for _, m := range r.e.seen {
				reached = reached || m == tc.method
			}
			r.e.mu.Unlock()
			if reached != tc.passes || (err == nil) != tc.passes {
				t.Fatalf("%s reached the engine: %v, answered %v", tc.method, reached, err)
			}
			if !tc.passes && !strings.Contains(err.Error(), fmt.Sprintf("%q", protocol.LeastRole(tc.method))) {
				t.Errorf("the denial %q does not name the role it wants", err)
			}
		})
	}
}

// A notification has no answer that could say no, so only the handshake's is
// open to all.
func TestObserversSendNoNotifications(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("eve", protocol.RoleObserver, false)
	p.send(`{"method":"thread/doSomething","params":{}}`)
	p.sync()
	p.must("thread/list", nil)
	if r.e.got(`{"method":"thread/doSomething","params":{}}`) {
		t.Error("an observer's notification reached the engine")
	}
	if !r.e.got(`{"method":"initialized","params":{}}`) {
		t.Error("initialized did not reach the engine")
	}
}

func TestResumeBelowOperatorOnlySubscribes(t *testing.T) {
	const sent = `{"id":9,"method":"thread/resume","params":{"threadId":"none","path":"/etc/passwd","model":"m","config":{"a":1},"history":[{}],"excludeTurns":true,"approvalPolicy":"never","initialTurnsPage":{"limit":3},"sandbox":"danger-full-access","cwd":"/"}}`
	for role, want := range map[protocol.Role]string{
		protocol.RoleObserver: `{"id":9,"method":"thread/resume","params":{"excludeTurns":true,"initialTurnsPage":{"limit":3},"threadId":"none"}}`,
		protocol.RoleApprover: `{"id":9,"method":"thread/resume","params":{"excludeTurns":true,"initialTurnsPage":{"limit":3},"threadId":"none"}}`,
		protocol.RoleOperator: sent,
	} {
		r := newRig(t, nil, false)
		p := r.join("p", role, false)
		p.send(sent)
		p.wait("answer", 0, func(e protocol.Envelope) bool { return string(e.ID) == "9" })
		if !r.e.got(want) {
			t.Errorf("%s: the engine did not get %s", role, want)
		}
	}
}

func TestTokensNeverLeave(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("root", protocol.RoleAdmin, false)
	for name, params := range map[string]string{
		"plain":         `{"includeToken":true}`,
		"escaped name":  `{"includeTok\u0065n":true}`,
		"a string":      `{"includeToken":"yes"}`,
		"with a refuse": `{"refreshToken":false,"includeToken":true}`,
	} {
		if _, err := p.call("getAuthStatus", json.RawMessage(params)); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	// Whatever else is in there, the engine is asked no such thing.
	p.send(`{"id":5,"method":"getAuthStatus","params":{"includeToken":false,"IncludeToken":true,"refreshToken":false}}`)
	p.wait("answer", 0, func(e protocol.Envelope) bool { return string(e.ID) == "5" })
	if !r.e.got(`{"id":5,"method":"getAuthStatus","params":{"refreshToken":false}}`) {
		t.Error("the harmless part did not reach the engine")
	}
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	for msg := range r.e.raw {
		if strings.Contains(msg, "ncludeTok") {
			t.Errorf("the engine was sent %s", msg)
		}
	}
}

func TestUnsandboxedMethodsCanBeSwitchedOff(t *testing.T) {
	r := newRig(t, func(c *Config) { c.DisableUnsandboxed = true }, false)
	p := r.join("root", protocol.RoleAdmin, false)
	for _, m := range []string{"fs/readFile", "process/spawn", "command/exec", "thread/shellCommand"} {
		if _, err := p.call(m, map[string]any{}); err == nil || !strings.Contains(err.Error(), "sandbox") {
			t.Errorf("%s: %v", m, err)
		}
	}
	p.must("turn/start", map[string]any{})
}

func TestBytesPassUntouched(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("p", protocol.RoleOperator, false)
	odd := `{ "params" : {"b":1.50,"a":"\u00e9 \/ é","deep":[[{}]],"n":12345678901234567890}, "trace":{"x":1}, "method":"echo", "id":"weird \"id\"" }`
	p.send(odd)
	env, _ := p.wait("answer", 0, func(e protocol.Envelope) bool { return string(e.ID) == `"weird \"id\""` })
	if !r.e.got(odd) {
		t.Error("the request was changed on its way")
	}
	if !bytes.Contains(env.Result, []byte("12345678901234567890")) {
		t.Errorf("got %s", env.Result)
	}
	for _, junk := range []string{`[]`, `{`, `{"id":null,"method":"x"}`, `{"id":1.5,"method":"x","params":{}}`, `nonsense`} {
		p.send(junk)
	}
	p.must("echo", map[string]any{"still": "here"})
}

func TestTooManyRequestsAreRefused(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("p", protocol.RoleOperator, false)
	for i := range rpc.MaxInFlight + 3 {
		p.send(fmt.Sprintf(`{"id":%d,"method":"hang","params":{}}`, 1000+i))
	}
	for i := range 3 {
		env, _ := p.wait("refusal", 0, func(e protocol.Envelope) bool { return string(e.ID) == fmt.Sprint(1000+rpc.MaxInFlight+i) })
		if protocol.Field(env.Error, "code") == nil || string(protocol.Field(env.Error, "code")) != "-32001" {
			t.Errorf("got %s", env.Error)
		}
	}
}

// A client that does not read is dropped and slows nobody.
func TestSlowClientIsDropped(t *testing.T) {
	r := newRig(t, nil, false)
	fast := r.join("fast", protocol.RoleOperator, false)
	thread := fast.startThread()
	r.e.startTurn(thread, "t1")

	// The slow client does its handshake, subscribes and then stops reading.
	a, b := rpc.Pipe(4)
	served := make(chan error, 1)
	go func() {
		served <- r.g.Serve(context.Background(), b, Client{Principal: principal("slow", protocol.RoleOperator), Via: "ws"})
	}()
	for _, m := range []string{
		`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"slow"}}}`,
		`{"id":2,"method":"thread/resume","params":{"threadId":"` + thread + `"}}`,
	} {
		if err := a.Write(t.Context(), []byte(m)); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := a.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if env, _ := protocol.Peek(msg); env.Kind == protocol.KindResponse {
				break
			}
		}
	}
	r.e.itemStarted(thread, "m", "agentMessage", nil)
	big := strings.Repeat("x", 1<<20)
	const n = 80 // more than QueueBytes holds
	for range n {
		r.e.delta(thread, "m", "item/agentMessage/delta", big, nil)
		r.e.breathe()
	}
	if err := <-served; !errors.Is(err, rpc.ErrSlow) {
		t.Errorf("Serve of the slow client: %v, want ErrSlow", err)
	}
	r.e.endTurn(thread)
	fast.note("turn/completed")
	if got := fast.count(func(e protocol.Envelope) bool { return e.Method == "item/agentMessage/delta" }); got != n {
		t.Errorf("the fast client got %d deltas, want %d", got, n)
	}
}

func TestWithoutAnEngine(t *testing.T) {
	e := newFake()
	st := protocol.EngineState{Kind: "codex", State: "failed", Problem: "codex was not found", Hints: []string{"run `npm install -g @openai/codex`"}}
	e.setState(st, errors.New("no engine"))
	r := newRigOn(t, e, nil, true)
	p := dial(t, r.g, "ana", protocol.RoleOperator)
	_, err := p.call("initialize", map[string]any{})
	var pe *protocol.Error
	if !errors.As(err, &pe) || !strings.Contains(pe.Message, "npm install") || !strings.Contains(string(pe.Data), "codex was not found") {
		t.Errorf("initialize: %v", err)
	}
	var hs protocol.HostStatus
	if err := json.Unmarshal(p.must(protocol.ExtStatus, nil), &hs); err != nil || hs.Engine.State != "failed" {
		t.Errorf("status %+v, err %v", hs, err)
	}
	e.setState(protocol.EngineState{Kind: "codex", State: "ready"}, nil)
	if err := <-p.served; err != nil { // let go, to come back to an engine
		t.Errorf("Serve: %v", err)
	}
	close(p.served)
	r.join("ana", protocol.RoleOperator, false).must("thread/list", nil)
}

func TestEngineDeathReachesTheClient(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleOperator, true)
	p.startThread()
	r.e.die()
	r.e.setState(protocol.EngineState{Kind: "codex", State: "failed", Problem: "it was killed"}, errors.New("no engine"))
	if err := <-p.served; !errors.Is(err, errEngineGone) {
		t.Errorf("Serve: %v", err)
	}
	close(p.served)
	var last protocol.EngineState
	p.wait("the engine's end", 0, func(e protocol.Envelope) bool { // what was written is read a moment later
		return e.Method == protocol.NoteEngine && json.Unmarshal(e.Params, &last) == nil && last.State == "failed"
	})
	if last.State != "failed" || last.Problem != "it was killed" {
		t.Errorf("the last the client heard of the engine is %+v", last)
	}
}

func TestPresence(t *testing.T) {
	r := newRig(t, nil, true)
	ana := r.join("ana", protocol.RoleOperator, true)
	stock := r.join("bob", protocol.RoleObserver, false)
	thread := ana.startThread()
	seen := func(env protocol.Envelope) map[string]protocol.Presence {
		var v struct{ Data []protocol.Presence }
		if err := json.Unmarshal(env.Params, &v); err != nil {
			t.Fatal(err)
		}
		m := make(map[string]protocol.Presence)
		for _, p := range v.Data {
			m[p.Name] = p
		}
		return m
	}
	ana.wait("both and the thread", 0, func(e protocol.Envelope) bool {
		if e.Method != protocol.NotePresence {
			return false
		}
		m := seen(e)
		a, b := m["ana"], m["bob"]
		return a.You && !b.You && a.Client == "tui-ana" && b.Client == "tui-bob" && b.Role == protocol.RoleObserver && a.Via == "ssh" &&
			a.Thread != nil && string(*a.Thread) == thread
	})
	_ = stock.leave()
	ana.wait("bob gone", 0, func(e protocol.Envelope) bool {
		return e.Method == protocol.NotePresence && len(seen(e)) == 1 && seen(e)["ana"].Thread != nil
	})
	if n := stock.count(func(e protocol.Envelope) bool { return strings.HasPrefix(e.Method, "towline/") }); n != 0 {
		t.Errorf("a stock client was sent %d notifications it does not know", n)
	}
	var st protocol.HostStatus
	if err := json.Unmarshal(ana.must(protocol.ExtStatus, nil), &st); err != nil || len(st.Attached) != 1 || st.Project != "/src" || st.Version != "1" {
		t.Errorf("status %+v, err %v", st, err)
	}
	if _, err := ana.call("towline/no/such", nil); err == nil || strings.Contains(err.Error(), "variant") {
		t.Errorf("an unknown towline method: %v", err)
	}
}

func TestLastThread(t *testing.T) {
	r := newRig(t, nil, true)
	last := func(p *person) string {
		t.Helper()
		var s protocol.Session
		if err := json.Unmarshal(p.must(protocol.ExtSession, nil), &s); err != nil {
			t.Fatal(err)
		}
		if s.LastThread == nil {
			return ""
		}
		return string(*s.LastThread)
	}
	p := r.join("ana", protocol.RoleOperator, true)
	if got := last(p); got != "" {
		t.Errorf("a newcomer was at %q", got)
	}
	thread := p.startThread()
	p.must("thread/start", map[string]any{"ephemeral": true})
	_ = p.leave()
	p = r.join("ana", protocol.RoleOperator, true)
	if got := last(p); got != thread {
		t.Errorf("last thread %q, want %q and not the ephemeral one", got, thread)
	}
	if got := last(r.join("bob", protocol.RoleOperator, true)); got != "" {
		t.Errorf("bob was at %q, which is ana's", got)
	}
	r.e.mu.Lock()
	r.e.allLocked("thread/archived", map[string]any{"threadId": thread})
	r.e.mu.Unlock()
	eventually(t, "forgotten", func() bool { return last(p) == "" })
}

func TestWatcherStandsInForClients(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleOperator, false)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	eventually(t, "booked as working", func() bool { w, _ := r.g.working(); return w == 1 })
	if r.e.watched(thread) {
		t.Error("the watcher burdens a thread that a client watches")
	}
	p.must("thread/unsubscribe", map[string]any{"threadId": thread})
	eventually(t, "subscribed", func() bool { return r.e.watched(thread) })
	p.resume(thread)
	eventually(t, "gone when somebody is back", func() bool { return !r.e.watched(thread) })
	_ = p.leave()
	eventually(t, "subscribed again", func() bool { return r.e.watched(thread) })
	r.e.endTurn(thread)
	eventually(t, "unsubscribed from an idle thread", func() bool { return !r.e.watched(thread) })
	if w, _ := r.g.working(); w != 0 {
		t.Errorf("%d threads work, want 0", w)
	}
	// A new engine: the watcher comes back, and finds what runs there already.
	r.e.die()
	p = r.join("ana", protocol.RoleOperator, false)
	thread = p.startThread()
	r.e.startTurn(thread, "t1")
	_ = p.leave()
	eventually(t, "subscribed after a restart", func() bool { return r.e.watched(thread) })
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	for _, m := range r.e.seen {
		if m != "initialize" && protocol.LeastRole(m) > protocol.RoleObserver && m != "thread/start" {
			t.Errorf("the watcher asked for %s", m)
		}
	}
}

// What runs when its only witness hangs up is not lost to whoever comes next.
func TestTextSurvivesTheLastClient(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleOperator, false)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	r.e.itemStarted(thread, "m", "agentMessage", nil)
	r.e.delta(thread, "m", "item/agentMessage/delta", "one ", nil)
	p.note("item/agentMessage/delta")
	_ = p.leave()
	r.e.delta(thread, "m", "item/agentMessage/delta", "two ", nil)
	late := r.join("ana", protocol.RoleOperator, false)
	late.resume(thread)
	env, _ := late.wait("text", 0, func(e protocol.Envelope) bool { return e.Method == "item/agentMessage/delta" })
	if got := protocol.StringField(env.Params, "delta"); got != "one two " {
		t.Errorf("got %q", got)
	}
	r.e.itemCompleted(thread, "m", "agentMessage", "one two ")
	r.e.endTurn(thread)
	late.note("turn/completed")
	r.g.mu.Lock()
	orphans := len(r.g.orphans)
	r.g.mu.Unlock()
	eventually(t, "the orphan ends with its item", func() bool {
		r.g.mu.Lock()
		defer r.g.mu.Unlock()
		return len(r.g.orphans) == 0
	})
	t.Logf("%d orphans at the end of the turn", orphans)
}

func TestReasoningIsReplayedByPart(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("ana", protocol.RoleOperator, false)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	r.e.itemStarted(thread, "r", "reasoning", nil)
	for part := range 2 {
		r.e.mu.Lock()
		r.e.toLocked(thread, "item/reasoning/summaryPartAdded", map[string]any{"threadId": thread, "turnId": "t1", "itemId": "r", "summaryIndex": part})
		r.e.mu.Unlock()
		for _, s := range []string{"a", "b"} {
			r.e.delta(thread, "r", "item/reasoning/summaryTextDelta", s, map[string]any{"summaryIndex": part})
		}
	}
	p.wait("all", 0, func(e protocol.Envelope) bool {
		return e.Method == "item/reasoning/summaryTextDelta" && string(protocol.Field(e.Params, "summaryIndex")) == "1" && protocol.StringField(e.Params, "delta") == "b"
	})
	late := r.join("late", protocol.RoleObserver, false)
	late.resume(thread)
	_, _ = late.wait("second part", 0, func(e protocol.Envelope) bool {
		return string(protocol.Field(e.Params, "summaryIndex")) == "1" && protocol.StringField(e.Params, "delta") == "ab"
	})
	var order []string
	late.mu.Lock()
	for _, m := range late.msgs {
		if strings.HasPrefix(m.Method, "item/") {
			order = append(order, m.Method[strings.LastIndexByte(m.Method, '/')+1:]+string(protocol.Field(m.Params, "summaryIndex")))
		}
	}
	late.mu.Unlock()
	if got, want := strings.Join(order, " "), "started summaryPartAdded0 summaryTextDelta0 summaryPartAdded1 summaryTextDelta1"; got != want {
		t.Errorf("replayed %s, want %s", got, want)
	}
}

func TestLongOutputKeepsItsEnd(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("ana", protocol.RoleOperator, false)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	r.e.itemStarted(thread, "c", "commandExecution", nil)
	line := strings.Repeat("é\n", 5000)
	for range 200 {
		r.e.delta(thread, "c", "item/commandExecution/outputDelta", line, nil)
		r.e.breathe()
	}
	r.e.delta(thread, "c", "item/commandExecution/outputDelta", "the end", nil)
	p.wait("all", 0, func(e protocol.Envelope) bool { return protocol.StringField(e.Params, "delta") == "the end" })
	late := r.join("late", protocol.RoleObserver, false)
	late.resume(thread)
	env, _ := late.wait("text", 0, func(e protocol.Envelope) bool { return strings.HasSuffix(e.Method, "outputDelta") })
	got := protocol.StringField(env.Params, "delta")
	head, rest, _ := strings.Cut(got, "\n")
	n := 0
	if _, err := fmt.Sscanf(head, "[%d earlier bytes are not kept]", &n); err != nil {
		t.Fatalf("begins with %.80q", got)
	}
	if !strings.HasSuffix(got, "the end") || n+len(rest) != 200*len(line)+len("the end") || len(rest) > maxItemText {
		t.Errorf("%d bytes dropped and %d kept of %d", n, len(rest), 200*len(line)+7)
	}
}

func TestAuditOfAConnection(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleObserver, false)
	for range maxDenials + 7 {
		_, _ = p.call("turn/start", map[string]any{"input": "the prompt"})
	}
	_ = p.leave()
	r.stop()
	verified, err := audit.Verify(r.audit)
	n := verified.Entries
	if err != nil || n < maxDenials+2 {
		t.Errorf("%d entries, err %v", n, err)
	}
	raw, err := os.ReadFile(r.audit)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{`"event":"attach"`, `"client":"tui-ana"`, `"role":"observer"`, `"deniedMore":7`, `"event":"detach"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the audit lacks %s", want)
		}
	}
	if strings.Contains(text, "the prompt") {
		t.Error("the audit has prompt text")
	}
}
