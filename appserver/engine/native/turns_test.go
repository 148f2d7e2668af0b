package native_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"towline/appserver/protocol"
)

func TestAPlainTurnIsToldInCodexsOrder(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	from := c.mark()
	turn := c.finish(c.say(id, "hello"))
	if turn.Status != protocol.TurnCompleted || len(turn.Items) != 1 || turn.ItemsView != protocol.ViewSummary {
		t.Errorf("turn = %+v", turn)
	}
	want := []string{
		"thread/status/changed active", "turn/started",
		"item/started userMessage", "item/completed userMessage",
		"item/started agentMessage", "item/agentMessage/delta", "item/completed agentMessage",
		"thread/tokenUsage/updated", "thread/readState/changed", "thread/status/changed idle", "turn/completed",
	}
	if got := c.story(from); !slices.Equal(got, want) {
		t.Errorf("heard %q\nwant  %q", got, want)
	}
}

func TestACommandIsApprovedByTheFirstAnswer(t *testing.T) {
	h := start(t, nil)
	a, b := h.connect(), h.connect()
	id := a.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	b.call("thread/resume", map[string]any{"threadId": id})
	turn := a.say(id, "run touch approved.txt")
	ask := a.method(0, protocol.ReqCommandApproval)
	other := b.method(0, protocol.ReqCommandApproval)
	if string(ask.ID) != string(other.ID) {
		t.Errorf("two ids for one question: %s and %s", ask.ID, other.ID)
	}
	a.wait(0, "waiting flag", func(n note) bool {
		return n.Method == "thread/status/changed" && strings.Contains(string(n.Params), protocol.FlagWaitingOnApproval)
	})

	// One who joins now is put the same question; one who was not asked has no say.
	late, stranger := h.connect(), h.connect()
	late.call("thread/resume", map[string]any{"threadId": id})
	if n := late.method(0, protocol.ReqCommandApproval); string(n.ID) != string(ask.ID) {
		t.Errorf("the late joiner got id %s, not %s", n.ID, ask.ID)
	}
	if err := stranger.peer.Send([]byte(`{"id":` + string(ask.ID) + `,"result":{"decision":"cancel"}}`)); err != nil {
		t.Fatal(err)
	}
	stranger.call("thread/loaded/list", map[string]any{}) // it was read
	b.reply(other, protocol.Decide(protocol.DecisionAccept))
	for _, c := range []*client{a, b, late} {
		c.method(0, "serverRequest/resolved")
	}
	a.reply(ask, protocol.Decide(protocol.DecisionCancel)) // too late
	if got := a.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn ended %s", got.Status)
	}
	if _, err := os.Stat(filepath.Join(h.cwd, "approved.txt")); err != nil {
		t.Error(err)
	}
	if slices.Contains(stranger.story(0), "serverRequest/resolved") {
		t.Error("a stranger heard about the request")
	}
}

func TestAnApprovalOutlivesEveryClient(t *testing.T) {
	h := start(t, nil)
	a := h.connect()
	id := a.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	turn := a.say(id, "run echo later")
	a.method(0, protocol.ReqCommandApproval)
	a.close()
	b := h.connect()
	b.call("thread/resume", map[string]any{"threadId": id})
	b.reply(b.method(0, protocol.ReqCommandApproval), protocol.Decide(protocol.DecisionDecline))
	if got := b.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn ended %s", got.Status)
	}
}

func TestAClientThatDoesNotKnowARequestDecidesNothing(t *testing.T) {
	h := start(t, nil)
	a, b := h.connect(), h.connect()
	id := a.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	b.call("thread/resume", map[string]any{"threadId": id})
	turn := a.say(id, "run echo hi")
	ask, other := a.method(0, protocol.ReqCommandApproval), b.method(0, protocol.ReqCommandApproval)
	a.mu.Lock()
	r := a.asked[string(ask.ID)]
	a.mu.Unlock()
	r.Fail(&protocol.Error{Code: protocol.CodeMethodNotFound, Message: "unsupported"})
	a.call("thread/loaded/list", map[string]any{}) // the refusal was read
	b.reply(other, protocol.Decide(protocol.DecisionAccept))
	if got := a.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn ended %s", got.Status)
	}
	raw := a.call("thread/items/list", map[string]any{"threadId": id})
	if !strings.Contains(string(raw), `"aggregatedOutput":"hi\n"`) {
		t.Errorf("the command did not run: %s", raw)
	}
}

func TestInterruptKeepsWhatWasSaidAndKillsWhatRan(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "never", "sandbox": "danger-full-access"})
	c.refused("turn/interrupt", map[string]any{"threadId": id, "turnId": "x"}, "no active turn to interrupt")
	turn := c.say(id, "slow")
	c.method(0, "item/agentMessage/delta")
	c.refused("turn/interrupt", map[string]any{"threadId": id, "turnId": "x"}, "expected active turn id x but found "+turn)
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": turn})
	got := c.finish(turn)
	if got.Status != protocol.TurnInterrupted || len(got.Items) != 0 {
		t.Errorf("turn = %+v", got)
	}
	raw := c.call("thread/items/list", map[string]any{"threadId": id})
	if !strings.Contains(string(raw), `"agentMessage"`) {
		t.Errorf("the partial answer is lost: %s", raw)
	}

	from := c.mark()
	turn = c.say(id, "run sleep 300")
	c.wait(from, "running command", func(n note) bool {
		return n.Method == "item/started" && strings.Contains(string(n.Params), "commandExecution")
	})
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": turn})
	c.finish(turn)
	if raw := c.call("thread/backgroundTerminals/list", map[string]any{"threadId": id}); string(protocol.Field(raw, "data")) != "[]" {
		t.Errorf("still running: %s", raw)
	}
}

func TestSteering(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	input := []any{map[string]any{"type": "text", "text": "and then this"}}
	c.refused("turn/steer", map[string]any{"threadId": id, "expectedTurnId": "x", "input": input}, "no active turn to steer")
	turn := c.say(id, "run echo one")
	ask := c.method(0, protocol.ReqCommandApproval)
	c.refused("turn/steer", map[string]any{"threadId": id, "input": input}, "missing field `expectedTurnId`")
	c.refused("turn/steer", map[string]any{"threadId": id, "expectedTurnId": "x", "input": input}, "expected active turn id `x` but found `"+turn+"`")
	raw := c.call("turn/steer", map[string]any{"threadId": id, "expectedTurnId": turn, "input": input, "clientUserMessageId": "mine"})
	if protocol.StringField(raw, "turnId") != turn {
		t.Errorf("steer = %s", raw)
	}
	if again := c.say(id, "and that", map[string]any{"clientUserMessageId": "too"}); again != turn {
		t.Errorf("turn/start during a turn made turn %s", again)
	}
	c.reply(ask, protocol.Decide(protocol.DecisionAccept))
	c.finish(turn)
	raw = c.call("thread/items/list", map[string]any{"threadId": id})
	for _, want := range []string{`"clientId":"mine"`, `"clientId":"too"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is missing in %s", want, raw)
		}
	}
}

func TestAPatchIsShownBeforeItIsApproved(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "on-request", "sandbox": "read-only"})
	turn := c.say(id, "create hello.go")
	ask := c.method(0, protocol.ReqFileApproval)
	started := c.wait(0, "file change", func(n note) bool {
		return n.Method == "item/started" && strings.Contains(string(n.Params), `"fileChange"`)
	})
	if !strings.Contains(string(started.Params), "package main") {
		t.Errorf("no diff in %s", started.Params)
	}
	c.reply(ask, protocol.Decide(protocol.DecisionAccept))
	if got := c.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn ended %s: %+v", got.Status, got.Error)
	}
	if _, err := os.Stat(filepath.Join(h.cwd, "hello.go")); err != nil {
		t.Error(err)
	}
	c.method(0, "turn/diff/updated")
}

func TestAFailedTurnSaysWhy(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	got := c.finish(c.say(id, "fail"))
	if got.Status != protocol.TurnFailed || got.Error == nil || got.Error.Message == "" {
		t.Errorf("turn = %+v", got)
	}
	n := c.method(0, "error")
	if string(protocol.Field(n.Params, "willRetry")) != "false" {
		t.Errorf("error = %s", n.Params)
	}
	if got := c.finish(c.say(id, "hello")); got.Status != protocol.TurnCompleted {
		t.Errorf("the next turn ended %s", got.Status)
	}
}

func TestQueuedMessagesWaitTheirTurn(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	first := c.say(id, "run echo one")
	ask := c.method(0, protocol.ReqCommandApproval)
	add := func(text string) string {
		raw := c.call("thread/queue/add", map[string]any{
			"threadId": id, "clientUserMessageId": text, "input": []any{map[string]any{"type": "text", "text": text}},
		})
		return protocol.StringField(protocol.Field(raw, "queuedSubmission"), "id")
	}
	add("hello one")
	gone := add("hello two")
	if raw := c.call("thread/queue/delete", map[string]any{"threadId": id, "queuedSubmissionId": gone}); string(protocol.Field(raw, "deleted")) != "true" {
		t.Errorf("delete = %s", raw)
	}
	if raw := c.call("thread/queue/list", map[string]any{"threadId": id}); !strings.Contains(string(raw), "hello one") || strings.Contains(string(raw), "hello two") {
		t.Errorf("queue = %s", raw)
	}
	c.reply(ask, protocol.Decide(protocol.DecisionAccept))
	c.finish(first)
	n := c.wait(0, "second turn", func(n note) bool {
		return n.Method == "turn/completed" && protocol.StringField(protocol.Field(n.Params, "turn"), "id") != first
	})
	if protocol.StringField(protocol.Field(n.Params, "turn"), "status") != protocol.TurnCompleted {
		t.Errorf("%s", n.Params)
	}
	if raw := c.call("thread/queue/list", map[string]any{"threadId": id}); string(protocol.Field(raw, "data")) != "[]" {
		t.Errorf("queue = %s", raw)
	}

	// codex queue sends to threads nobody has open, and leaves.
	sender := h.connect()
	other := sender.begin(nil)
	sender.call("thread/unsubscribe", map[string]any{"threadId": other})
	from := sender.mark()
	sender.call("thread/queue/add", map[string]any{"threadId": other, "clientUserMessageId": "q", "input": []any{map[string]any{"type": "text", "text": "hello"}}})
	sender.wait(from, "idle again", func(n note) bool {
		return n.Method == "thread/status/changed" && strings.Contains(string(n.Params), string(other)) && strings.Contains(string(n.Params), "idle")
	})
}

func TestShellCommand(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"sandbox": "read-only"})
	from := c.mark()
	c.call("thread/shellCommand", map[string]any{"threadId": id, "command": "echo 'it''s' > made.txt; cat made.txt; exit 3"})
	n := c.method(from, "turn/completed")
	if protocol.StringField(protocol.Field(n.Params, "turn"), "status") != protocol.TurnCompleted {
		t.Errorf("%s", n.Params)
	}
	done := c.wait(from, "command", func(n note) bool { return n.Method == "item/completed" })
	var p struct {
		Item protocol.Item `json:"item"`
	}
	c.read(done.Params, &p)
	body := p.Item.Body.(*protocol.CommandExecution)
	if body.Source != "userShell" || *body.ExitCode != 3 || *body.AggregatedOutput != "its\n" || body.Status != protocol.ItemFailed {
		t.Errorf("item = %+v", body)
	}
	// The model is told, those who look on are not told twice.
	c.finish(c.say(id, "hello"))
	h.mu.Lock()
	if !strings.Contains(h.sent, "user_shell_command") || !strings.Contains(h.sent, "Exit code: 3") {
		t.Errorf("the model was sent %s", h.sent)
	}
	h.mu.Unlock()
	if raw := string(c.call("thread/items/list", map[string]any{"threadId": id})); strings.Contains(raw, "user_shell_command") {
		t.Errorf("clients see %s", raw)
	}

	// While a turn runs it is part of that turn.
	turn := c.say(id, "slow")
	c.method(from, "item/agentMessage/delta")
	mark := c.mark()
	c.call("thread/shellCommand", map[string]any{"threadId": id, "command": "echo during"})
	n = c.wait(mark, "command", func(n note) bool { return n.Method == "item/completed" })
	if protocol.StringField(n.Params, "turnId") != turn {
		t.Errorf("the command is in turn %s", n.Params)
	}
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": turn})
	c.finish(turn)

	// What is said while a command runs is answered when it has ended.
	from = c.mark()
	if err := syscall.Mkfifo(filepath.Join(h.cwd, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.call("thread/shellCommand", map[string]any{"threadId": id, "command": "read line < fifo; echo $line"})
	started := c.method(from, "item/started")
	turn = protocol.StringField(started.Params, "turnId")
	for _, text := range []string{"hello one", "hello two"} {
		if got := c.say(id, text); got != turn {
			t.Errorf("%q is in turn %s, not %s", text, got, turn)
		}
	}
	if err := os.WriteFile(filepath.Join(h.cwd, "fifo"), []byte("over\n"), 0); err != nil {
		t.Fatal(err)
	}
	c.finish(turn)
	raw := string(c.call("thread/items/list", map[string]any{"threadId": id, "turnId": turn}))
	if strings.Count(raw, `"userMessage"`) != 2 || strings.Count(raw, `"agentMessage"`) == 0 || !strings.Contains(raw, `"aggregatedOutput":"over\n"`) {
		t.Errorf("items = %s", raw)
	}
}

func TestTwoTurnsAtOnceAreOne(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	results := make(chan string, 2)
	for range 2 { // pipelined: neither waits for the other's answer
		go func() {
			raw, _ := c.try("turn/start", map[string]any{"threadId": id, "input": []any{map[string]any{"type": "text", "text": "hello"}}})
			results <- protocol.StringField(protocol.Field(raw, "turn"), "id")
		}()
	}
	a, b := <-results, <-results
	if a != b || a == "" {
		t.Errorf("turns %q and %q", a, b)
	}
	c.finish(a)
	if raw := string(c.call("thread/items/list", map[string]any{"threadId": id})); strings.Count(raw, `"userMessage"`) != 2 {
		t.Errorf("items = %s", raw)
	}
}

func TestCompact(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	c.finish(c.say(id, "hello"))
	from := c.mark()
	c.call("thread/compact/start", map[string]any{"threadId": id})
	c.method(from, "turn/completed")
	if !slices.Contains(c.story(from), "item/completed contextCompaction") {
		t.Errorf("heard %q", c.story(from))
	}
	if got := c.finish(c.say(id, "hello again")); got.Status != protocol.TurnCompleted {
		t.Errorf("after compaction: %+v", got)
	}
}

func TestSettingsStick(t *testing.T) {
	h := start(t, nil)
	c, watcher := h.connect(), h.connect()
	id := c.begin(nil)
	watcher.call("thread/resume", map[string]any{"threadId": id})
	c.call("thread/settings/update", map[string]any{"threadId": id, "approvalPolicy": "never", "permissions": ":read-only"})
	n := watcher.method(0, "thread/settings/updated")
	s := protocol.Field(n.Params, "threadSettings")
	if protocol.StringField(s, "approvalPolicy") != "never" || protocol.StringField(protocol.Field(s, "sandboxPolicy"), "type") != "readOnly" {
		t.Errorf("settings = %s", s)
	}
	c.method(0, "thread/settings/updated")
	from := c.mark()
	c.finish(c.say(id, "hello", map[string]any{"collaborationMode": map[string]any{
		"mode": "plan", "settings": map[string]any{"model": "other", "reasoning_effort": "high"},
	}}))
	n = c.method(from, "thread/settings/updated")
	if s := protocol.Field(n.Params, "threadSettings"); protocol.StringField(s, "model") != "other" ||
		protocol.StringField(protocol.Field(s, "collaborationMode"), "mode") != "plan" {
		t.Errorf("settings = %s", s)
	}
	from = c.mark()
	c.finish(c.say(id, "hello")) // nothing new
	if slices.Contains(c.story(from), "thread/settings/updated") {
		t.Error("unchanged settings were announced")
	}
	for _, bad := range []map[string]any{
		{"approvalPolicy": "sometimes"},
		{"sandboxPolicy": map[string]any{"type": "loose"}},
		{"permissions": ":all"},
		{"cwd": "/nowhere/at/all"},
		{"collaborationMode": map[string]any{"mode": "dance"}},
	} {
		bad["threadId"] = id
		if raw, err := c.try("thread/settings/update", bad); err == nil {
			t.Errorf("%v was accepted: %s", bad, raw)
		}
	}
}

func TestAskingIsPutToClients(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	turn := c.say(id, "ask me", map[string]any{"collaborationMode": map[string]any{"mode": "plan", "settings": map[string]any{"model": "gpt-5.5"}}})
	q := c.method(0, protocol.ReqUserInput)
	var p protocol.UserInputRequest
	c.read(q.Params, &p)
	if len(p.Questions) != 1 {
		t.Fatalf("questions = %s", q.Params)
	}
	c.wait(0, "flag", func(n note) bool { return strings.Contains(string(n.Params), protocol.FlagWaitingOnUserInput) })
	c.reply(q, protocol.UserInputAnswer{Answers: map[string]protocol.UserAnswer{p.Questions[0].ID: {Answers: []string{"Green"}}}})
	if got := c.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn = %+v", got)
	}
	b, _ := json.Marshal(c.finish(turn).Items)
	if !strings.Contains(string(b), "Green") {
		t.Errorf("the answer did not arrive: %s", b)
	}
}

// A command that the sandbox stopped and that was allowed to run again is still
// one item with one process: clients list running terminals by it.
func TestARepeatedCommandKeepsItsProcessID(t *testing.T) {
	h := start(t, nil)
	needSandbox(t)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "on-request", "sandbox": "read-only"})
	turn := c.say(id, "run touch made.txt")
	c.reply(c.method(0, protocol.ReqCommandApproval), protocol.Decide(protocol.DecisionAccept))
	c.finish(turn)
	pid := func(method string) string {
		n := c.wait(0, method, func(n note) bool { return n.Method == method && strings.Contains(string(n.Params), "commandExecution") })
		return protocol.StringField(protocol.Field(n.Params, "item"), "processId")
	}
	if a, b := pid("item/started"), pid("item/completed"); a == "" || a != b {
		t.Errorf("announced as process %q, completed as %q", a, b)
	}
	if _, err := os.Stat(filepath.Join(h.cwd, "made.txt")); err != nil {
		t.Error(err)
	}
}

func TestStoppingTellsHowTurnsEnded(t *testing.T) {
	h := start(t, nil)
	a, b := h.connect(), h.connect()
	one := a.begin(nil)
	two := a.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	b.call("thread/resume", map[string]any{"threadId": two})
	slow := a.say(one, "slow")
	asked := a.say(two, "run echo never")
	a.method(0, "item/agentMessage/delta")
	b.method(0, protocol.ReqCommandApproval)
	h.stop()
	for c, turns := range map[*client][]string{a: {slow, asked}, b: {asked}} {
		<-c.done // the connection has ended, and everything said on it was heard
		for _, turn := range turns {
			c.mu.Lock()
			if !slices.ContainsFunc(c.notes, func(n note) bool {
				end := protocol.Field(n.Params, "turn")
				return n.Method == "turn/completed" && protocol.StringField(end, "id") == turn && protocol.StringField(end, "status") == protocol.TurnInterrupted
			}) {
				t.Errorf("a client was not told that turn %s was interrupted", turn)
			}
			c.mu.Unlock()
		}
	}
	c := restart(t, h).connect()
	for _, id := range []protocol.ThreadID{one, two} {
		var page protocol.TurnsPage
		c.read(c.call("thread/turns/list", map[string]any{"threadId": id}), &page)
		if len(page.Data) != 1 || page.Data[0].Status != protocol.TurnInterrupted || page.Data[0].CompletedAt == nil {
			t.Errorf("stored: %+v", page.Data)
		}
	}
}

func TestSettingsOfARunningTurn(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	turn := c.say(id, "run echo hi")
	ask := c.method(0, protocol.ReqCommandApproval)
	update := func(p map[string]any) string {
		t.Helper()
		p["threadId"] = id
		return protocol.StringField(c.call("turn/settings/update", p), "status")
	}
	if got := update(map[string]any{"turnId": "nope", "effort": "high"}); got != "targetUnavailable" {
		t.Errorf("another turn: %s", got)
	}
	if got := update(map[string]any{"turnId": turn, "effort": "high", "model": "other"}); got != "applied" {
		t.Errorf("this turn: %s", got)
	}
	c.refused("turn/settings/update", map[string]any{"threadId": id, "turnId": turn, "environments": []any{}}, "cannot be changed")
	c.reply(ask, protocol.Decide(protocol.DecisionAccept))
	c.finish(turn)
	sent := func(want string) {
		t.Helper()
		h.mu.Lock()
		defer h.mu.Unlock()
		if !strings.Contains(h.sent, want) {
			t.Errorf("no %s in %.300s", want, h.sent)
		}
	}
	sent(`"Model":"other"`)
	sent(`"Effort":"high"`)
	if got := update(map[string]any{"turnId": turn, "effort": "low"}); got != "targetUnavailable" {
		t.Errorf("an ended turn: %s", got)
	}
	c.finish(c.say(id, "hello"))
	sent(`"Model":"gpt-5.5"`) // the thread's own again
}

// A granular policy asks about leaving the sandbox, or refuses it.
func TestGranularApprovals(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	granular := func(sandbox bool) map[string]any {
		return map[string]any{"granular": map[string]any{"mcp_elicitations": true, "rules": true, "sandbox_approval": sandbox}}
	}
	for asks, says := range map[bool]string{true: "Approvals: on-request", false: "Approvals: never"} {
		id := c.begin(map[string]any{"approvalPolicy": granular(asks), "sandbox": "read-only"})
		c.finish(c.say(id, "hello"))
		h.mu.Lock()
		if !strings.Contains(h.sent, says) {
			t.Errorf("sandbox_approval %v: no %q in what the model is told", asks, says)
		}
		h.mu.Unlock()
		var got protocol.ThreadOpened
		c.read(c.call("thread/resume", map[string]any{"threadId": id}), &got)
		if protocol.Field(got.ApprovalPolicy, "granular") == nil {
			t.Errorf("clients see %s", got.ApprovalPolicy)
		}
	}
	c.refused("thread/start", map[string]any{"approvalPolicy": map[string]any{"granular": map[string]any{"rules": true}}}, "unknown variant")
}

// The window is that of the model a turn runs with, not of the thread's first.
func TestTheWindowFollowsTheModel(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	for _, tc := range []struct{ model, want string }{{"gpt-5.5", "200000"}, {"other", "null"}, {"gpt-5.5", "200000"}} {
		from := c.mark()
		c.finish(c.say(id, "hello", map[string]any{"model": tc.model}))
		n := c.method(from, "thread/tokenUsage/updated")
		if got := string(protocol.Field(protocol.Field(n.Params, "tokenUsage"), "modelContextWindow")); got != tc.want {
			t.Errorf("%s: a window of %s, want %s", tc.model, got, tc.want)
		}
	}
}

// What a person ran belongs to the conversation, whatever becomes of the server.
func TestShellCommandsAreRememberedAfterARestart(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	from := c.mark()
	c.call("thread/shellCommand", map[string]any{"threadId": id, "command": "echo one; echo two >&2; echo three"})
	c.method(from, "turn/completed")
	h.stop()
	h = restart(t, h)
	c = h.connect()
	c.call("thread/resume", map[string]any{"threadId": id})
	c.finish(c.say(id, "hello"))
	h.mu.Lock()
	defer h.mu.Unlock()
	if !strings.Contains(h.sent, "user_shell_command") || !strings.Contains(h.sent, `one\\ntwo\\nthree`) && !strings.Contains(h.sent, `one\ntwo\nthree`) {
		t.Errorf("the model was sent %s", h.sent)
	}
}
