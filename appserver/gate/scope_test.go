package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// scopedPrincipal is a token with a scope, as ParseScope reads it.
func scopedPrincipal(t testing.TB, name string, role protocol.Role, words ...string) access.Principal {
	t.Helper()
	scope, err := access.ParseScope(words)
	if err != nil {
		t.Fatal(err)
	}
	return access.Principal{Kind: access.KindToken, ID: name, Name: name, Role: role, Scope: scope}
}

// dialAs is dial for any principal.
func dialAs(t testing.TB, g *Gate, who access.Principal) *person {
	t.Helper()
	a, b := rpc.Pipe(64)
	p := newPerson(t, a)
	go func() {
		p.served <- g.Serve(context.Background(), b, Client{Principal: who, Via: "ws", Remote: "test"})
	}()
	go p.read()
	t.Cleanup(func() { p.leave() })
	return p
}

func (r *rig) joinScoped(name string, role protocol.Role, words ...string) *person {
	r.t.Helper()
	p := dialAs(r.t, r.g, scopedPrincipal(r.t, name, role, words...))
	p.hello(name)
	return p
}

// hello does the handshake as a client that speaks towline/*.
func (p *person) hello(name string) {
	p.t.Helper()
	p.must("initialize", map[string]any{
		"clientInfo":   map[string]string{"name": name, "version": "1"},
		"capabilities": map[string]any{"experimentalApi": true, "extensions": map[string]any{"towline": protocol.Extension{Version: 1}}},
	})
	p.send(`{"method":"initialized","params":{}}`)
}

func (e *fakeEngine) forgetSeen() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = nil
}

func (e *fakeEngine) saw(method string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.seen, method)
}

// thread makes one that somebody else has started.
func (e *fakeEngine) thread(id, cwd string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	id = fmt.Sprintf("00000000-0000-4000-9000-%012s", id)
	e.threads[id] = &fakeThread{
		id: id, subs: make(map[*fakeConn]bool), status: "idle", cwd: cwd, sandbox: protocol.PolicyWorkspaceWrite, approval: protocol.ApproveOnRequest,
	}
	return id
}

// last is the request of that method the engine was sent last.
func (e *fakeEngine) last(method string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for msg := range e.raw {
		if protocol.StringField([]byte(msg), "method") == method {
			return msg
		}
	}
	return ""
}

func (e *fakeEngine) forgetRaw() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.raw)
}

// folders makes a host's project, another, and one elsewhere.
func folders(t *testing.T) (home, work, other string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"home/sub", "work/sub", "other"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(root, "home"), filepath.Join(root, "work"), filepath.Join(root, "other")
}

func ids(t *testing.T, list json.RawMessage) (out []string) {
	t.Helper()
	var r struct {
		Data []json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(list, &r); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Data {
		id := string(text(row))
		if id == "" {
			id = protocol.StringField(row, "id") + protocol.StringField(protocol.Field(row, "thread"), "id")
		}
		out = append(out, id)
	}
	return out
}

// What a scope does not reach cannot be named in any request, and is the same as
// what does not exist.
func TestScopesReachTheirThreads(t *testing.T) {
	home, work, other := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, true)
	inWork, inSub := r.e.thread("1", work), r.e.thread("2", filepath.Join(work, "sub"))
	elsewhere, beside := r.e.thread("3", other), r.e.thread("4", work+"-not")
	spawned := r.e.thread("5", other)
	r.e.mu.Lock()
	r.e.threads[spawned].parent = inWork
	r.e.mu.Unlock()
	missing := "00000000-0000-4000-9000-999999999999"
	for name, tc := range map[string]struct {
		scope []string
		reach []string
	}{
		"exec reaches nobody's":  {[]string{"exec"}, nil},
		"a project and below":    {[]string{"project:" + work}, []string{inWork, inSub, spawned}},
		"a folder of it":         {[]string{"project:" + filepath.Join(work, "sub")}, []string{inSub}},
		"a thread by name":       {[]string{"threads:" + elsewhere}, []string{elsewhere}},
		"exec in a project":      {[]string{"exec", "project:" + work}, []string{inWork, inSub, spawned}},
		"a project and a thread": {[]string{"project:" + other, "threads:" + inSub}, []string{elsewhere, inSub, spawned}},
		"a folder that is none":  {[]string{"project:" + filepath.Join(work, "gone")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.joinScoped("p", protocol.RoleOperator, tc.scope...)
			for _, id := range []string{inWork, inSub, elsewhere, beside, spawned, missing} {
				in := slices.Contains(tc.reach, id)
				for _, method := range []string{"thread/read", "thread/resume", "thread/turns/list", "turn/interrupt", "turn/steer", "thread/name/set"} {
					if !in {
						r.e.forgetRaw()
					}
					if id == spawned && method == "turn/steer" {
						continue // it may be seen, and works out of the project
					}
					_, err := p.call(method, map[string]any{"threadId": id})
					if (err == nil) != in {
						t.Errorf("%s %s: %v", method, id, err)
					}
					if err != nil && (!strings.Contains(err.Error(), "threads:"+id) || !strings.Contains(err.Error(), "outside the scope of p")) {
						t.Errorf("%s: the denial %q does not say what it needs", method, err)
					}
					if !in && method != "thread/read" && r.e.last(method) != "" {
						t.Errorf("%s %s reached the engine", method, id)
					}
				}
			}
			for _, method := range []string{"thread/list", "thread/loaded/list"} {
				got := ids(t, p.must(method, map[string]any{}))
				slices.Sort(got)
				want := slices.Sorted(slices.Values(tc.reach))
				if !slices.Equal(got, want) {
					t.Errorf("%s has %v, want %v", method, got, want)
				}
			}
			_ = p.leave()
		})
	}
}

// Neither an empty page, nor a cursor, nor what a cursor says tells of threads out
// of reach.
func TestScopedListsTellOfNothingElse(t *testing.T) {
	home, work, other := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, false)
	var in []string
	for i := range 40 {
		dir := other
		if i == 7 || i == 8 || i == 31 {
			dir = work
		}
		id := r.e.thread(fmt.Sprint(i+100), dir)
		if dir == work {
			in = append(in, id)
		}
	}
	for _, role := range []protocol.Role{protocol.RoleObserver, protocol.RoleOperator} {
		p := r.joinScoped("p-"+role.String(), role, "project:"+work)
		for _, method := range []string{"thread/list", "thread/search", "thread/loaded/list"} {
			var got []string
			params := map[string]any{"limit": 2}
			if method == "thread/search" {
				params["searchTerm"] = "word"
			}
			for range 10 {
				raw := p.must(method, params)
				page := ids(t, raw)
				got = append(got, page...)
				if len(page) == 0 {
					t.Errorf("%s: an empty page: %s", method, raw)
				}
				if strings.Contains(string(raw), other) || strings.Contains(string(raw), "back|") || strings.Contains(string(raw), "000000000139") {
					t.Errorf("%s tells of others: %s", method, raw)
				}
				cursor := protocol.StringField(raw, "nextCursor")
				if cursor == "" {
					break
				}
				params["cursor"] = cursor
			}
			if !slices.Equal(got, in) {
				t.Errorf("%s lists %v, want %v", method, got, in)
			}
		}
		if _, err := p.call("thread/list", map[string]any{"cursor": in[0]}); err == nil {
			t.Error("a cursor of the engine's own was taken")
		}
		_ = p.leave()
	}
}

// Who has a scope hears nothing of threads out of reach, from the engine or from
// the gate, and of those within everything.
func TestScopedClientsHearOfTheirThreadsOnly(t *testing.T) {
	home, work, other := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, true)
	ana := r.join("ana", protocol.RoleOperator, true)
	mine := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"cwd": work}), "thread"), "id")
	hidden := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"cwd": other}), "thread"), "id")
	for _, role := range []protocol.Role{protocol.RoleObserver, protocol.RoleApprover, protocol.RoleOperator} {
		p := r.joinScoped("p", role, "project:"+work)
		r.e.startTurn(mine, "t1")
		r.e.startTurn(hidden, "t2")
		p.resume(mine)
		ana.resume(mine)
		if _, err := p.call("thread/resume", map[string]any{"threadId": hidden}); err == nil {
			t.Fatal("a thread out of reach was resumed")
		}
		r.e.itemStarted(hidden, "i", "agentMessage", nil)
		r.e.delta(hidden, "i", "item/agentMessage/delta", "secret", nil)
		r.e.itemStarted(mine, "i"+role.String(), "agentMessage", nil)
		r.e.delta(mine, "i"+role.String(), "item/agentMessage/delta", "word", nil)
		away := r.e.ask(hidden, protocol.ReqCommandApproval, map[string]any{"itemId": "i", "command": "secret-command"})
		here := r.e.ask(mine, protocol.ReqCommandApproval, map[string]any{"itemId": "i" + role.String(), "command": "make"})
		p.note("item/agentMessage/delta")
		p.note(protocol.NoteApprovalOpened)
		var list struct {
			Data []protocol.Approval `json:"data"`
		}
		eventually(t, "both questions are open", func() bool {
			_ = json.Unmarshal(ana.must(protocol.ExtApprovalList, map[string]any{"open": true}), &list)
			return len(list.Data) == 2
		})
		theirs := ""
		for _, a := range list.Data {
			if a.ThreadID == protocol.ThreadID(hidden) {
				theirs = a.ID
			}
		}
		told := string(p.must(protocol.ExtApprovalList, map[string]any{})) + string(p.must(protocol.ExtStatus, map[string]any{})) +
			string(p.must(protocol.ExtPresence, map[string]any{})) + string(p.must(protocol.ExtSession, map[string]any{}))
		if _, err := p.call(protocol.ExtApprovalList, map[string]any{"threadId": hidden}); err == nil {
			t.Error("the approvals of a thread out of reach were listed")
		}
		_, err := p.call(protocol.ExtApprovalAnswer, map[string]any{"id": theirs, "result": map[string]string{"decision": "accept"}})
		if err == nil {
			t.Errorf("a %s answered for a thread out of reach", role)
		}
		p.reply(protocol.IntID(away.id), `{"decision":"accept"}`)
		if role >= protocol.RoleApprover {
			p.wait("question", 0, isAsk)
			p.reply(protocol.IntID(here.id), `{"decision":"accept"}`)
			<-here.answers
		}
		p.sync()
		if len(away.answers) != 0 {
			t.Errorf("a %s's answer for a thread out of reach counted", role)
		}
		r.e.endTurn(mine)
		r.e.endTurn(hidden)
		p.wait("end", 0, func(e protocol.Envelope) bool { return e.Method == "turn/completed" })
		p.sync()
		p.mu.Lock()
		for _, m := range p.msgs {
			told += string(m.Method) + string(m.Params) + string(m.Result)
		}
		p.mu.Unlock()
		for _, word := range []string{hidden, other, "secret", home} {
			if strings.Contains(told, word) {
				t.Errorf("a %s was told %q", role, word)
			}
		}
		_ = p.leave()
	}
}

// exec asks for people and does not answer for them, on its own threads neither.
func TestExecAnswersNothing(t *testing.T) {
	home, _, _ := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, true)
	ci := r.joinScoped("ci", protocol.RoleOperator, "exec")
	thread := ci.startThread()
	r.e.startTurn(thread, "t1")
	for _, method := range []string{protocol.ReqCommandApproval, protocol.ReqUserInput, protocol.ReqToolCall, protocol.ReqElicitation} {
		q := r.e.ask(thread, method, map[string]any{"itemId": "i"})
		ci.must("model/list", nil) // what the engine sent before the answer has come
		ci.reply(protocol.IntID(q.id), `{"decision":"accept","answers":{},"action":"accept","contentItems":[],"success":true}`)
		ci.sync()
		if n := ci.count(isAsk); n != 0 || len(q.answers) != 0 {
			t.Errorf("%s: exec was asked %d times, and answered %d", method, n, len(q.answers))
		}
	}
	open := ci.must(protocol.ExtApprovalList, map[string]any{"open": true})
	var list struct {
		Data []protocol.Approval `json:"data"`
	}
	if err := json.Unmarshal(open, &list); err != nil || len(list.Data) != 3 {
		t.Fatalf("what waits on its thread is told: %s", open)
	}
	if _, err := ci.call(protocol.ExtApprovalAnswer, map[string]any{"id": list.Data[0].ID, "result": map[string]string{"decision": "accept"}}); err == nil ||
		!strings.Contains(err.Error(), "scope") {
		t.Errorf("exec answered: %v", err)
	}
}

// Threads of a principal stay within its reach: on another connection, and after
// the daemon has been restarted. They are not another's.
func TestStartedThreadsAreRemembered(t *testing.T) {
	home, _, _ := folders(t)
	dir := t.TempDir()
	e := newFake()
	t.Cleanup(func() { e.die(); e.wg.Wait() })
	project := func(c *Config) { c.Project = home }
	g, _, _, stop := startGate(t, e, dir, project, false)
	enter := func(g *Gate, name string) *person {
		p := dialAs(t, g, scopedPrincipal(t, name, protocol.RoleOperator, "exec"))
		p.hello(name)
		return p
	}
	first := enter(g, "ci")
	thread := first.startThread()
	e.startTurn(thread, "t1")
	fork := protocol.StringField(protocol.Field(first.must("thread/resume", map[string]any{"threadId": thread}), "thread"), "id")
	_ = first.leave()
	for i := range 2 {
		again, other := enter(g, "ci"), enter(g, "other")
		again.must("thread/resume", map[string]any{"threadId": thread})
		if got := ids(t, again.must("thread/list", map[string]any{})); !slices.Equal(got, []string{fork}) {
			t.Errorf("its list is %v", got)
		}
		if _, err := other.call("thread/read", map[string]any{"threadId": thread}); err == nil {
			t.Error("another token reads it")
		}
		_, _ = again.leave(), other.leave()
		if i == 0 {
			stop()
			g, _, _, _ = startGate(t, e, dir, project, false)
		}
	}
}

// A thread that is moved out of a project leaves its reach at once, and whoever
// watched it hears no more.
func TestMovedThreadsLeaveTheReach(t *testing.T) {
	home, work, other := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, true)
	ana := r.join("ana", protocol.RoleOperator, false)
	thread := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"cwd": work}), "thread"), "id")
	r.e.startTurn(thread, "t1")
	p := r.joinScoped("p", protocol.RoleOperator, "project:"+work)
	p.resume(thread)
	r.e.mu.Lock()
	r.e.threads[thread].cwd = other
	r.e.toLocked(thread, "thread/settings/updated", map[string]any{"threadId": thread, "threadSettings": map[string]any{
		"cwd": other, "approvalPolicy": "never", "sandboxPolicy": map[string]string{"type": "workspaceWrite"},
	}})
	r.e.mu.Unlock()
	r.e.itemStarted(thread, "i", "agentMessage", nil)
	r.e.delta(thread, "i", "item/agentMessage/delta", "secret", nil)
	eventually(t, "it is unsubscribed", func() bool { return r.e.saw("thread/unsubscribe") })
	if _, err := p.call("turn/steer", map[string]any{"threadId": thread, "input": []any{}, "expectedTurnId": "t1"}); err == nil {
		t.Error("it was steered")
	}
	if n := p.count(func(e protocol.Envelope) bool { return strings.Contains(string(e.Params), "secret") }); n != 0 {
		t.Error("it was heard")
	}
	// One that is moved by somebody who is on it with nobody watching: the request
	// itself is enough to ask again.
	second := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"cwd": work}), "thread"), "id")
	p.must("thread/read", map[string]any{"threadId": second})
	r.e.mu.Lock()
	r.e.threads[second].cwd = other
	r.e.mu.Unlock()
	ana.must("turn/start", map[string]any{"threadId": second, "cwd": other, "input": []any{}})
	if _, err := p.call("thread/read", map[string]any{"threadId": second}); err == nil {
		t.Error("it was read after it was moved")
	}
}
