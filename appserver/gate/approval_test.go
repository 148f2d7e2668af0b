package gate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/config/store"
)

func isAsk(e protocol.Envelope) bool { return e.Kind == protocol.KindRequest }

func resolvedNote(e protocol.Envelope) bool { return e.Method == "serverRequest/resolved" }

// command asks for a command, the usual way.
func (r *rig) command(thread string) *fakeRequest {
	return r.e.ask(thread, protocol.ReqCommandApproval, map[string]any{
		"itemId": "cmd", "startedAtMs": 7, "command": "make", "availableDecisions": []any{
			"accept", map[string]any{"acceptWithExecpolicyAmendment": map[string]any{"execpolicy_amendment": []string{"make"}}}, "cancel",
		},
	})
}

func approvalIn(t *testing.T, raw json.RawMessage) protocol.Approval {
	t.Helper()
	var v struct {
		Approval protocol.Approval `json:"approval"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v.Approval
}

func TestFirstAnswerWins(t *testing.T) {
	r := newRig(t, nil, true)
	ana := r.join("ana", protocol.RoleOperator, false)
	thread := ana.startThread()
	r.e.startTurn(thread, "t1")
	bob := r.join("bob", protocol.RoleApprover, false)
	bob.resume(thread)
	app := r.join("app", protocol.RoleApprover, true)
	q := r.command(thread)
	for _, p := range []*person{ana, bob} {
		p.wait("question", 0, isAsk)
	}
	opened := approvalIn(t, app.note(protocol.NoteApprovalOpened).Params)

	bob.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
	if got := string(<-q.answers); got != `{"id":0,"result":{"decision":"accept"}}` {
		t.Errorf("the engine got %s, want bob's bytes", got)
	}
	ana.wait("resolved", 0, resolvedNote)
	ana.reply(protocol.IntID(q.id), `{"decision":"cancel"}`)
	warning := ana.note("warning")
	if m := protocol.StringField(warning.Params, "message"); !strings.Contains(m, "bob") || !strings.Contains(m, "accept") {
		t.Errorf("the late answer was told %q, want who answered what", m)
	}
	ana.sync()
	if n := ana.count(resolvedNote); n != 1 {
		t.Errorf("ana was told %d times that it is closed", n)
	}
	if len(q.answers) != 0 {
		t.Errorf("a second answer reached the engine: %s", <-q.answers)
	}
	closed := approvalIn(t, app.note(protocol.NoteApprovalClosed).Params)
	if closed.ID != opened.ID || closed.State != protocol.ApprovalAnswered || closed.By == nil || closed.By.Name != "bob" || closed.By.You {
		t.Errorf("closed as %+v", closed)
	}
	rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{})
	if err != nil || len(rows) != 1 {
		t.Fatalf("stored %d approvals, err %v; want one for all deliveries", len(rows), err)
	}
	if rows[0].State != protocol.ApprovalAnswered || string(rows[0].Result) != `{"decision":"accept"}` || !strings.Contains(string(rows[0].By), "bob") {
		t.Errorf("stored %+v", rows[0])
	}
}

// A client that has not heard yet that the question is closed hears it from the
// gate, once.
func TestLateAnswerClosesThePrompt(t *testing.T) {
	r := newRig(t, nil, true)
	ana := r.join("ana", protocol.RoleOperator, false)
	thread := ana.startThread()
	r.e.startTurn(thread, "t1")
	q := r.command(thread)
	ana.wait("question", 0, isAsk)
	app := r.join("app", protocol.RoleApprover, true)
	var list struct{ Data []protocol.Approval }
	if err := json.Unmarshal(app.must(protocol.ExtApprovalList, map[string]any{"open": true}), &list); err != nil || len(list.Data) != 1 {
		t.Fatalf("%d open approvals, err %v", len(list.Data), err)
	}
	// Hold the engine's own notice back: answer, and answer again at once.
	r.e.mu.Lock()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = app.call(protocol.ExtApprovalAnswer, map[string]any{"id": list.Data[0].ID, "result": protocol.Decide("decline")})
	}()
	eventually(t, "answered in the store", func() bool {
		rows, _ := r.store.Approvals(t.Context(), store.ApprovalFilter{State: protocol.ApprovalAnswered})
		return len(rows) == 1
	})
	ana.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
	ana.wait("resolved", 0, resolvedNote)
	r.e.mu.Unlock()
	if got := string(<-q.answers); !strings.Contains(got, "decline") {
		t.Errorf("the engine got %s", got)
	}
	app.note(protocol.NoteApprovalClosed)
	r.e.endTurn(thread)
	ana.note("turn/completed")
	if n := ana.count(resolvedNote); n != 1 {
		t.Errorf("told %d times that it is closed", n)
	}
	<-answered
}

func TestWhatCountsAsAnAnswer(t *testing.T) {
	ok := func(s string) string { return `{"id":%s,"result":` + s + `}` }
	for name, tc := range map[string]struct {
		role   protocol.Role
		answer string
		counts bool
	}{
		"accept":               {protocol.RoleApprover, ok(`{"decision":"accept"}`), true},
		"session":              {protocol.RoleApprover, ok(`{"decision":"acceptForSession"}`), true},
		"offered amendment":    {protocol.RoleApprover, ok(`{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["make"]}}}`), true},
		"own amendment":        {protocol.RoleApprover, ok(`{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["rm"]}}}`), false},
		"operator's amendment": {protocol.RoleOperator, ok(`{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["rm"]}}}`), true},
		"two amendments":       {protocol.RoleOperator, ok(`{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["a"]},"applyNetworkPolicyAmendment":{"network_policy_amendment":{}}}}`), false},
		"unknown decision":     {protocol.RoleApprover, ok(`{"decision":"approve"}`), false},
		"empty object":         {protocol.RoleApprover, ok(`{}`), false},
		"null":                 {protocol.RoleApprover, ok(`null`), false},
		"error":                {protocol.RoleApprover, `{"id":%s,"error":{"code":-32601,"message":"unsupported remote app-server request"}}`, false},
		"nobody's id":          {protocol.RoleApprover, `{"id":77,"result":{"decision":"accept"},"was":%s}`, false},
		"the id as text":       {protocol.RoleApprover, `{"id":"%s","result":{"decision":"accept"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, false)
			owner := r.join("owner", protocol.RoleOperator, false)
			thread := owner.startThread()
			r.e.startTurn(thread, "t1")
			p := r.join("p", tc.role, false)
			p.resume(thread)
			q := r.command(thread)
			p.wait("question", 0, isAsk)
			owner.wait("question", 0, isAsk)
			p.send(fmt.Sprintf(tc.answer, protocol.IntID(q.id)))
			p.sync()
			owner.reply(protocol.IntID(q.id), `{"decision":"cancel"}`)
			want := "cancel"
			if tc.counts {
				want = `"result"`
			}
			got := string(<-q.answers)
			if !strings.Contains(got, want) || tc.counts == strings.Contains(got, "cancel") {
				t.Errorf("the engine got %s", got)
			}
		})
	}
}

func TestOtherQuestionsHaveTheirAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		method, bad, good string
		params            map[string]any
	}{
		"file":        {protocol.ReqFileApproval, `{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["x"]}}}`, `{"decision":"decline"}`, nil},
		"permissions": {protocol.ReqPermissionsApproval, `{"permissions":null}`, `{"permissions":{},"scope":"turn"}`, nil},
		"user input":  {protocol.ReqUserInput, `{"answers":{"a":null}}`, `{"answers":{"a":{"answers":["yes"]}}}`, map[string]any{"questions": []any{}}},
		"elicitation": {protocol.ReqElicitation, `{"action":"maybe"}`, `{"action":"decline","content":null}`, nil},
		"legacy":      {"execCommandApproval", `{"decision":"accept"}`, `{"decision":"approved"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, false)
			p := r.join("p", protocol.RoleOperator, false)
			thread := p.startThread()
			r.e.startTurn(thread, "t1")
			q := r.e.ask(thread, tc.method, tc.params)
			p.wait("question", 0, isAsk)
			p.reply(protocol.IntID(q.id), tc.bad)
			p.reply(protocol.IntID(q.id), tc.good)
			if got := string(<-q.answers); !strings.Contains(got, tc.good) {
				t.Errorf("the engine got %s", got)
			}
		})
	}
}

func TestSecretsAreNotRecorded(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("p", protocol.RoleOperator, false)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	q := r.e.ask(thread, protocol.ReqUserInput, map[string]any{"questions": []any{
		map[string]any{"id": "pw", "isSecret": true}, map[string]any{"id": "color"},
	}})
	p.wait("question", 0, isAsk)
	p.reply(protocol.IntID(q.id), `{"answers":{"pw":{"answers":["hunter2"]},"color":{"answers":["blue"]}}}`)
	if got := string(<-q.answers); !strings.Contains(got, "hunter2") {
		t.Errorf("the engine got %s, want the secret", got)
	}
	rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{})
	if err != nil || len(rows) != 1 || strings.Contains(string(rows[0].Result), "hunter2") || !strings.Contains(string(rows[0].Result), "blue") {
		t.Errorf("stored %s, err %v", rows[0].Result, err)
	}
}

func TestAnswersBindToSubscribers(t *testing.T) {
	r := newRig(t, nil, false)
	owner := r.join("owner", protocol.RoleOperator, false)
	thread := owner.startThread()
	r.e.startTurn(thread, "t1")
	stranger := r.join("stranger", protocol.RoleAdmin, false)
	left := r.join("left", protocol.RoleOperator, false)
	left.resume(thread)
	q := r.command(thread)
	left.wait("question", 0, isAsk)
	left.must("thread/unsubscribe", map[string]any{"threadId": thread})
	for _, p := range []*person{stranger, left} { // one guesses the small id, one was asked and left
		p.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
		p.sync()
	}
	left.note("warning")
	owner.wait("question", 0, isAsk)
	owner.reply(protocol.IntID(q.id), `{"decision":"decline"}`)
	if got := string(<-q.answers); !strings.Contains(got, "decline") {
		t.Errorf("the engine got %s", got)
	}
}

func TestObserversAreNotAsked(t *testing.T) {
	r := newRig(t, nil, false)
	owner := r.join("owner", protocol.RoleOperator, false)
	thread := owner.startThread()
	r.e.startTurn(thread, "t1")
	eve := r.join("eve", protocol.RoleObserver, false)
	eve.resume(thread)
	q := r.command(thread)
	owner.wait("question", 0, isAsk)
	eve.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
	eve.sync()
	if _, err := eve.call(protocol.ExtApprovalAnswer, map[string]any{"id": "x", "result": protocol.Decide("accept")}); err == nil {
		t.Error("an observer may answer by id")
	}
	r.e.endTurn(thread)
	eve.note("turn/completed")
	if n := eve.count(isAsk); n != 0 {
		t.Errorf("an observer was shown %d questions", n)
	}
	if len(q.answers) != 0 {
		t.Errorf("an observer's answer reached the engine: %s", <-q.answers)
	}
}

func TestDisconnectNeverAnswers(t *testing.T) {
	r := newRig(t, nil, true)
	app := r.join("app", protocol.RoleApprover, true)
	owner := r.join("owner", protocol.RoleOperator, false)
	thread := owner.startThread()
	r.e.startTurn(thread, "t1")
	q := r.command(thread)
	owner.wait("question", 0, isAsk)
	if err := owner.leave(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	a := approvalIn(t, app.note(protocol.NoteApprovalOpened).Params)
	eventually(t, "the watcher stands in", func() bool { return r.e.watched(thread) })
	if _, err := app.call(protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": map[string]any{"decision": "yes"}}); err == nil {
		t.Error("a malformed answer by id was taken")
	}
	var done struct{ Approval protocol.Approval }
	if err := json.Unmarshal(app.must(protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": protocol.Decide("accept")}), &done); err != nil {
		t.Fatal(err)
	}
	if done.Approval.By == nil || !done.Approval.By.You {
		t.Errorf("answered by %+v, want you", done.Approval.By)
	}
	if got := string(<-q.answers); got != `{"id":0,"result":{"decision":"accept"}}` {
		t.Errorf("the engine got %s", got)
	}
	if _, err := app.call(protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": protocol.Decide("accept")}); err == nil || !strings.Contains(err.Error(), "app (ssh) had answered: accept") {
		t.Errorf("a second answer by id: %v", err)
	}
}

func TestQuestionsCloseWithoutAnAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		how   func(r *rig, q *fakeRequest)
		state string
	}{
		"turn ends":          {func(r *rig, q *fakeRequest) { r.e.endTurn(q.thread) }, protocol.ApprovalGone},
		"engine dies":        {func(r *rig, q *fakeRequest) { r.e.die() }, protocol.ApprovalGone},
		"answered elsewhere": {func(r *rig, q *fakeRequest) { r.e.resolve(q) }, protocol.ApprovalAnswered},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, true)
			// An engine that was not met before it died cannot be missed.
			eventually(t, "the engine is watched", r.g.watching.Load)
			owner := r.join("owner", protocol.RoleOperator, false)
			thread := owner.startThread()
			r.e.startTurn(thread, "t1")
			q := r.command(thread)
			owner.wait("question", 0, isAsk)
			tc.how(r, q)
			eventually(t, "closed as "+tc.state, func() bool {
				rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{})
				return err == nil && len(rows) == 1 && rows[0].State == tc.state && rows[0].By == nil
			})
		})
	}
}

// A daemon Towline joined outlives it: the same question opens the same object.
func TestApprovalOutlivesTheGate(t *testing.T) {
	e := newFake()
	dir := t.TempDir()
	g1, s1, _, stop1 := startGate(t, e, dir, nil, true)
	owner := attach(t, g1, "owner", protocol.RoleOperator, false)
	thread := owner.startThread()
	e.startTurn(thread, "t1")
	e.itemStarted(thread, "patch", "fileChange", map[string]any{"changes": []any{map[string]any{"path": "/a", "diff": "the diff"}}})
	q := e.ask(thread, protocol.ReqFileApproval, map[string]any{"itemId": "patch", "startedAtMs": 9})
	owner.wait("question", 0, isAsk)
	rows, err := s1.Approvals(t.Context(), store.ApprovalFilter{State: store.StateOpen})
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d open, err %v", len(rows), err)
	}
	id := rows[0].ID
	_ = owner.leave()
	eventually(t, "the watcher stands in", func() bool { return e.watched(thread) })
	stop1()

	r := &rig{t: t, e: e}
	r.g, r.store, _, r.stop = startGate(t, e, dir, nil, true)
	t.Cleanup(func() { r.stop(); e.die(); e.wg.Wait() })
	back := r.join("owner", protocol.RoleOperator, true)
	back.resume(thread)
	_, shown := back.wait("the diff", 0, func(e protocol.Envelope) bool {
		return e.Method == "item/started" && strings.Contains(string(e.Params), "the diff")
	})
	if _, asked := back.wait("question", 0, isAsk); asked < shown {
		t.Error("the question came before the diff it is about")
	}
	eventually(t, "open again", func() bool {
		rows, err := r.store.Approvals(t.Context(), store.ApprovalFilter{State: store.StateOpen})
		return err == nil && len(rows) == 1 && rows[0].ID == id
	})
	back.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
	<-q.answers
	eventually(t, "answered", func() bool {
		rows, _ := r.store.Approvals(t.Context(), store.ApprovalFilter{})
		return len(rows) == 1 && rows[0].ID == id && rows[0].State == protocol.ApprovalAnswered
	})
}

func TestReplayedQuestionFollowsItsItem(t *testing.T) {
	r := newRig(t, nil, true)
	owner := r.join("owner", protocol.RoleOperator, false)
	thread := owner.startThread()
	r.e.startTurn(thread, "t1")
	r.e.itemStarted(thread, "patch", "fileChange", map[string]any{"changes": []any{map[string]any{"path": "/a", "diff": "the diff"}}})
	q := r.e.ask(thread, protocol.ReqFileApproval, map[string]any{"itemId": "patch", "startedAtMs": 9})
	owner.wait("question", 0, isAsk)
	late := r.join("late", protocol.RoleApprover, false)
	late.resume(thread)
	_, at := late.wait("item/started", 0, func(e protocol.Envelope) bool {
		return e.Method == "item/started" && strings.Contains(string(e.Params), "the diff")
	})
	if _, asked := late.wait("question", 0, isAsk); asked < at {
		t.Error("the question came before the diff it is about")
	}
	var list struct{ Data []protocol.Approval }
	if err := json.Unmarshal(late.must(protocol.ExtApprovalList, map[string]any{}), &list); err != nil || len(list.Data) != 1 || !strings.Contains(string(list.Data[0].Item), "the diff") {
		t.Errorf("approvals %+v, err %v; want the diff in the object", list.Data, err)
	}
	late.reply(protocol.IntID(q.id), `{"decision":"accept"}`)
	<-q.answers
}

func TestProgramsAnswerOnce(t *testing.T) {
	r := newRig(t, nil, false)
	a := r.join("a", protocol.RoleOperator, false)
	thread := a.startThread()
	r.e.startTurn(thread, "t1")
	b := r.join("b", protocol.RoleOperator, false)
	b.resume(thread)
	approver := r.join("c", protocol.RoleApprover, false)
	approver.resume(thread)
	unsupported := `{"id":%d,"error":{"code":-32601,"message":"no such tool"}}`

	q := r.e.ask(thread, protocol.ReqToolCall, map[string]any{"callId": "1", "tool": "t"})
	for _, p := range []*person{a, b} {
		p.wait("question", 0, isAsk)
	}
	b.send(fmt.Sprintf(unsupported, q.id)) // does not know the tool; a does
	b.sync()
	a.reply(protocol.IntID(q.id), `{"success":true}`)
	a.sync()
	b.reply(protocol.IntID(q.id), `{"success":false}`)
	b.sync()
	if got := string(<-q.answers); !strings.Contains(got, "true") || len(q.answers) != 0 {
		t.Errorf("the engine got %s and %d more", got, len(q.answers))
	}

	q = r.e.ask(thread, protocol.ReqToolCall, map[string]any{"callId": "2", "tool": "t"})
	for _, p := range []*person{a, b} {
		p.wait("question", 0, func(e protocol.Envelope) bool { return isAsk(e) && string(e.ID) == string(protocol.IntID(q.id)) })
	}
	b.send(fmt.Sprintf(unsupported, q.id))
	b.sync()
	_ = a.leave()
	if got := string(<-q.answers); !strings.Contains(got, "no such tool") {
		t.Errorf("the engine got %s, want the error when nobody is left", got)
	}
	r.e.endTurn(thread)
	approver.note("turn/completed")
	if n := approver.count(isAsk); n != 0 {
		t.Errorf("an approver was asked %d times in a program's place", n)
	}
	if rows, _ := r.store.Approvals(t.Context(), store.ApprovalFilter{}); len(rows) != 0 {
		t.Errorf("%d approvals for questions to programs", len(rows))
	}
}
