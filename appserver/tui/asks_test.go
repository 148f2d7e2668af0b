package tui

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

// expect waits for the answer to a request and compares it as JSON.
func expect(t *testing.T, got <-chan answered, want string) {
	t.Helper()
	select {
	case a := <-got:
		if a.err != nil {
			t.Fatalf("answered with an error: %v", a.err)
		}
		var x, y any
		if json.Unmarshal(a.result, &x) != nil || json.Unmarshal([]byte(want), &y) != nil || fmt.Sprint(x) != fmt.Sprint(y) {
			t.Errorf("answered %s, want %s", a.result, want)
		}
	case <-time.After(patience):
		t.Fatal("no answer")
	}
}

func commandAsk(item, cmd string) obj {
	return obj{
		"kind": "command", "threadId": "t-1", "turnId": "u-1", "itemId": item, "startedAtMs": 1, "command": "/bin/bash -lc '" + cmd + "'",
		"cwd": "/home/ana/src/shop", "reason": "the migration has to be applied", "proposedExecpolicyAmendment": []string{"psql"},
	}
}

// working brings a session with a running turn to the screen.
func working(t *testing.T, w, h int, s protocol.Session) (*fake, *tty) {
	t.Helper()
	f := newFake(t).session(s)
	st := start(t, f, w, h)
	st.sees("○ new")
	f.started("u-1")
	st.sees("● working")
	return f, st
}

func TestCommandApprovalAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		keys []string
		want string
	}{
		"once":        {[]string{"y"}, `{"decision":"accept"}`},
		"session":     {[]string{"a"}, `{"decision":"acceptForSession"}`},
		"prefix rule": {[]string{"p"}, `{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["psql"]}}}`},
		"deny":        {[]string{"d"}, `{"decision":"decline"}`},
		"reason":      {[]string{"r", "use the mock", "<enter>"}, `{"decision":"decline","reason":"use the mock"}`},
		"stop":        {[]string{"<esc>"}, `{"decision":"cancel"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := working(t, 80, 24, protocol.Session{})
			f.item(false, "u-1", commandItem("c1", "psql -c 1", "inProgress", ""))
			got := f.ask(protocol.ReqCommandApproval, commandAsk("c1", "psql -h staging"))
			s.sees("Run this command?", "$ psql -h staging", "in /home/ana/src/shop", "why: the migration", "always allow `psql …`", "▲ waiting for you")
			s.decides(tc.keys...)
			expect(t, got, tc.want)
			s.not("Run this command?")
		})
	}
}

func TestDenialReasonIsSteeredForCodex(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{Engine: protocol.EngineState{Kind: "codex", State: "ready"}})
	got := f.ask(protocol.ReqCommandApproval, commandAsk("c1", "rm -rf build"))
	s.sees("Run this command?")
	s.decides("r", "keep the cache", "<enter>")
	expect(t, got, `{"decision":"decline","reason":"keep the cache"}`)
	if p := string(f.wait("turn/steer", 1)); !strings.Contains(p, "keep the cache") {
		t.Errorf("steered %s", p)
	}
}

func TestFileApprovalShowsTheDiff(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	f.item(false, "u-1", obj{"type": "fileChange", "id": "p1", "status": "inProgress", "changes": []any{
		obj{"path": "/home/ana/src/shop/new.txt", "kind": obj{"type": "add"}, "diff": "hello\nworld\n"},
	}})
	got := f.ask(protocol.ReqFileApproval, obj{"threadId": "t-1", "turnId": "u-1", "itemId": "p1", "startedAtMs": 1, "reason": nil, "grantRoot": nil})
	s.sees("Write these changes?", "new.txt", "hello", "world")
	s.decides("y")
	expect(t, got, `{"decision":"accept"}`)
}

func TestLongRequestMustBeSeenBeforeItIsApproved(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	var script strings.Builder
	for i := range 60 {
		fmt.Fprintf(&script, "echo step %d\n", i)
	}
	got := f.ask(protocol.ReqCommandApproval, commandAsk("c1", script.String()+"rm -rf /important"))
	s.sees("Run this command?", "more lines: space to read on")
	s.decides("y") // reads on instead
	s.sees("echo step 15")
	select {
	case a := <-got:
		t.Fatalf("approved unseen: %s", a.result)
	default:
	}
	for range 12 {
		s.keys("<space>")
	}
	s.sees("rm -rf /important", "the end of the request")
	s.decides("y")
	expect(t, got, `{"decision":"accept"}`)
}

func TestQueueAndAnswerFromElsewhere(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	f.ask(protocol.ReqCommandApproval, commandAsk("c1", "first"))
	s.sees("$ first")
	second := f.ask(protocol.ReqCommandApproval, commandAsk("c2", "second"))
	s.sees("$ first", "1 of 2")
	// A phone answers the first. The object says who, the request is resolved.
	f.tell("serverRequest/resolved", obj{"threadId": "t-1", "requestId": 1})
	f.tell(protocol.NoteApprovalClosed, obj{"approval": obj{
		"id": "a1", "threadId": "t-1", "requestId": 1, "method": protocol.ReqCommandApproval, "state": "answered",
		"by": obj{"id": "c9", "kind": "device", "name": "Ana's iPhone", "role": "approver"}, "result": obj{"decision": "accept"},
	}})
	s.sees("✔ approved by “Ana's iPhone”", "$ second")
	s.not("1 of 2")
	s.decides("y")
	expect(t, second, `{"decision":"accept"}`)
}

func TestApprovalObjectBringsTheItemAndTheReplayIsOnePrompt(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	params := obj{"threadId": "t-1", "turnId": "u-1", "itemId": "p1", "startedAtMs": 1, "reason": nil, "grantRoot": nil}
	got := f.ask(protocol.ReqFileApproval, params)
	s.sees("Write these changes?", "did not say what would change")
	f.tell(protocol.NoteApprovalOpened, obj{"approval": obj{
		"id": "a1", "threadId": "t-1", "requestId": 1, "method": protocol.ReqFileApproval, "state": "open", "params": params,
		"item": obj{"type": "fileChange", "id": "p1", "status": "inProgress", "changes": []any{obj{"path": "/home/ana/src/shop/late.txt", "kind": obj{"type": "add"}, "diff": "late joiner\n"}}},
	}})
	s.sees("late.txt", "late joiner")
	s.not("1 of 2")
	s.decides("d")
	expect(t, got, `{"decision":"decline"}`)
}

func TestApprovalKnownOnlyAsObjectIsAnsweredAsOne(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	f.tell(protocol.NoteApprovalOpened, obj{"approval": obj{
		"id": "a7", "threadId": "t-1", "requestId": 99, "method": protocol.ReqCommandApproval, "state": "open", "params": commandAsk("c1", "make deploy"),
	}})
	s.sees("$ make deploy")
	s.decides("y")
	p := f.wait(protocol.ExtApprovalAnswer, 1)
	if field(p, "id") != "a7" || field(p, "result", "decision") != "accept" {
		t.Errorf("answered with %s", p)
	}
}

func TestObserverWatches(t *testing.T) {
	f := newFake(t).session(protocol.Session{Principal: protocol.Presence{ID: "c1", Kind: "key", Name: "guest", Role: protocol.RoleObserver, You: true}})
	f.reply("thread/resume", opened("t-1", "watched", turn("u-1", "inProgress", userItem("i1", "go"))))
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("● working", "you (observer)")
	f.ask(protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	s.sees("$ make deploy", "your role here is observer")
	s.decides("y")
	s.keys("<bs>", "do it", "<enter>")
	s.sees("needs the role operator")
	for _, m := range f.methods() {
		if m == "turn/start" || m == "turn/steer" {
			t.Errorf("an observer sent %s", m)
		}
	}
}

func TestPermissions(t *testing.T) {
	params := obj{
		"threadId": "t-1", "turnId": "u-1", "itemId": "x", "startedAtMs": 1, "cwd": "/home/ana", "reason": "to fetch",
		"permissions": obj{"network": obj{"enabled": true}, "fileSystem": obj{"write": []string{"/srv/data"}}},
	}
	perms := `{"network":{"enabled":true},"fileSystem":{"write":["/srv/data"]}}`
	for key, want := range map[string]string{
		"y": `{"permissions":` + perms + `,"scope":"turn"}`,
		"a": `{"permissions":` + perms + `,"scope":"session"}`,
		"d": `{"permissions":{},"scope":"turn"}`,
	} {
		f, s := working(t, 80, 24, protocol.Session{})
		got := f.ask(protocol.ReqPermissionsApproval, params)
		s.sees("Grant these permissions?", "use the network", "/srv/data", "why: to fetch")
		s.decides(key)
		expect(t, got, want)
	}
}

func TestQuestions(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	got := f.ask(protocol.ReqUserInput, obj{
		"threadId": "t-1", "turnId": "u-1", "itemId": "x", "isBlocking": true, "autoResolutionMs": nil,
		"questions": []any{
			obj{"id": "db", "header": "Database", "question": "Which one?", "isOther": true, "isSecret": false, "options": []any{obj{"label": "Postgres", "description": "the big one"}, obj{"label": "SQLite", "description": ""}}},
			obj{"id": "pw", "header": "Password", "question": "For staging?", "isOther": false, "isSecret": true, "options": nil},
		},
	})
	s.sees("The agent asks", "Database", "1. Postgres  the big one", "2. SQLite")
	s.decides("<down>", "<down>", "DuckDB", "<enter>")
	s.sees("Password", "For staging?")
	s.keys("hunter2")
	s.sees("•••••••")
	if screen := s.text(); strings.Contains(screen, "hunter2") {
		t.Errorf("the secret is on the screen:\n%s", screen)
	}
	s.keys("<enter>")
	expect(t, got, `{"answers":{"db":{"answers":["DuckDB"]},"pw":{"answers":["hunter2"]}}}`)
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(s.raw.String(), "hunter2") {
		t.Error("the secret was written to the terminal")
	}
}

func TestElicitationForm(t *testing.T) {
	f, s := working(t, 80, 24, protocol.Session{})
	got := f.ask(protocol.ReqElicitation, obj{
		"threadId": "t-1", "serverName": "tickets", "mode": "form", "message": "A ticket is needed",
		"requestedSchema": obj{"type": "object", "required": []string{"title", "count"}, "properties": json.RawMessage(`{
			"title":{"type":"string","title":"Title","minLength":3},
			"count":{"type":"integer","minimum":1,"maximum":5},
			"urgent":{"type":"boolean"},
			"kind":{"type":"string","oneOf":[{"const":"bug","title":"A bug"},{"const":"wish","title":"A wish"}]},
			"tags":{"type":"array","items":{"enum":["ui","db","ci"]},"default":["db"]}}`)},
	})
	s.sees("tickets asks", "A ticket is needed", "Title (needed)", "1 of 5")
	s.decides("ab", "<enter>")
	s.sees("at least 3 characters")
	s.keys("c", "<enter>")
	s.sees("count (needed)")
	s.keys("9", "<enter>")
	s.sees("at most 5")
	s.keys("<bs>", "4", "<enter>")
	s.sees("urgent", "1. yes", "2. no")
	s.keys("<down>", "<enter>")
	s.sees("1. A bug")
	s.keys("2", "<enter>")
	s.sees("[ ] ui", "[x] db")
	s.keys("<space>", "<enter>")
	expect(t, got, `{"action":"accept","content":{"title":"abc","count":4,"urgent":false,"kind":"wish","tags":["ui","db"]}}`)
}

func TestElicitationURLAndRefusals(t *testing.T) {
	for key, want := range map[string]string{
		"y": `{"action":"accept","content":null}`, "d": `{"action":"decline","content":null}`, "<esc>": `{"action":"cancel","content":null}`,
	} {
		f, s := working(t, 80, 24, protocol.Session{})
		got := f.ask(protocol.ReqElicitation, obj{"threadId": "t-1", "serverName": "sso", "mode": "url", "message": "Sign in", "url": "https://sso.example/x?y=1", "elicitationId": "e"})
		s.sees("sso asks", "Sign in", "https://sso.example/x?y=1")
		s.decides(key)
		expect(t, got, want)
	}
}

func TestRequestsForProgramsAreAnswered(t *testing.T) {
	f, _ := working(t, 80, 24, protocol.Session{})
	now := f.ask(protocol.ReqCurrentTime, obj{"threadId": "t-1"})
	tool := f.ask(protocol.ReqToolCall, obj{"threadId": "t-1", "turnId": "u-1", "callId": "x", "tool": "t", "arguments": obj{}})
	tokens := f.ask(protocol.ReqTokensRefresh, obj{})
	unknown := f.ask("new/request", obj{"threadId": "t-1"})
	if a := <-now; a.err != nil || !strings.Contains(string(a.result), "currentTimeAt") {
		t.Errorf("currentTime: %s, %v", a.result, a.err)
	}
	if a := <-tool; a.err != nil || field(a.result, "success") != "false" {
		t.Errorf("tool call: %s, %v", a.result, a.err)
	}
	if a := <-tokens; a.err == nil {
		t.Errorf("tokens refresh: %s", a.result)
	}
	if a := <-unknown; a.err == nil {
		t.Errorf("unknown request: %s", a.result)
	}
}

func TestLetterMeantForTheComposerDoesNotApprove(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	b.open1(opened("t-1", ""))
	b.press("an")
	b.request(1, protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	b.draw()
	b.press("y")
	if len(b.asks.open) != 1 || b.comp.Text() != "any" {
		t.Fatalf("a letter being typed went to the question; the composer has %q", b.comp.Text())
	}
	b.clock = b.clock.Add(2 * readingGrace)
	b.press("z") // after a pause the question has the keys, and z means nothing to it
	if b.comp.Text() != "any" {
		t.Errorf("the composer has %q", b.comp.Text())
	}
}
