package agent_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

// escalate asks to run cmd outside the sandbox.
func escalate(id, cmd string, prefix ...string) any {
	args := m{"cmd": cmd, "sandbox_permissions": "require_escalated", "justification": "May I?"}
	if prefix != nil {
		args["prefix_rule"] = prefix
	}
	return callTool(id, "exec_command", args)
}

func policy(approval, sandbox string) func(*agent.Turn) {
	return func(in *agent.Turn) {
		in.Approval = approval
		in.Sandbox = protocol.SandboxPolicy{Type: sandbox, ExcludeSlashTmp: true, ExcludeTmpdirEnvVar: true}
	}
}

func TestPolicies(t *testing.T) {
	confined(t, protocol.PolicyReadOnly)
	const (
		full  = protocol.PolicyFullAccess
		write = protocol.PolicyWorkspaceWrite
		read  = protocol.PolicyReadOnly
	)
	for _, tc := range []struct {
		approval, sandbox string
		call              string // "in": writes inside, "esc": asks to leave the sandbox, "patch in", "patch out"
		asked             bool
		ran               bool
		says              string // part of the output
	}{
		{"untrusted", write, "in", true, true, ""},
		{"untrusted", full, "in", true, true, ""},
		{"untrusted", write, "esc", true, true, ""},
		{"untrusted", write, "patch in", true, true, "A in.txt"},
		{"on-request", write, "in", false, true, ""},
		{"on-request", write, "esc", true, true, ""},
		{"on-request", full, "esc", false, true, ""},
		{"on-request", write, "patch in", false, true, "A in.txt"},
		{"on-request", write, "patch out", true, true, "Success"},
		{"on-request", read, "patch in", true, true, "A in.txt"},
		{"on-request", full, "patch out", false, true, "Success"},
		{"never", write, "in", false, true, ""},
		{"never", read, "in", false, false, "exited with code 1"},
		{"never", write, "esc", false, false, "approval policy is never"},
		{"never", full, "esc", false, true, ""},
		{"never", write, "patch in", false, true, "A in.txt"},
		{"never", write, "patch out", false, false, "patch rejected"},
		{"never", read, "patch in", false, false, "patch rejected"},
	} {
		t.Run(tc.approval+" "+tc.sandbox+" "+tc.call, func(t *testing.T) {
			outside := filepath.Join(t.TempDir(), "out.txt")
			inside := "in.txt"
			var call any
			switch tc.call {
			case "in":
				call = shell("c", "echo x > in.txt")
			case "esc":
				call, inside = escalate("c", "echo x > "+outside), outside
			case "patch in":
				call = patchCall("c", "*** Add File: in.txt\n+x\n")
			case "patch out":
				call, inside = patchCall("c", "*** Add File: "+outside+"\n+x\n"), outside
			}
			st := newStage(t, say(call), say(words("done")))
			if tc.asked {
				st.decide(protocol.Decide("accept"))
			} else {
				st.decide()
			}
			st.ok("t1", "go", policy(tc.approval, tc.sandbox))
			asks := len(st.of("ask "+protocol.ReqCommandApproval)) + len(st.of("ask "+protocol.ReqFileApproval))
			if (asks > 0) != tc.asked {
				t.Errorf("asked %d times", asks)
			}
			if !filepath.IsAbs(inside) {
				inside = filepath.Join(st.dir, inside)
			}
			rel, _ := filepath.Rel(st.dir, inside)
			if got := st.read(rel); (got == "x\n") != tc.ran {
				t.Errorf("file holds %q", got)
			}
			if out := st.script.outputs(1)["c"]; !strings.Contains(out, tc.says) {
				t.Errorf("output %q", out)
			}
		})
	}
}

func TestCommandApprovalRequest(t *testing.T) {
	st := newStage(t, say(shell("c1", "cat a.txt | head -1")), say(words("done")))
	st.write("a.txt", "one\ntwo\n")
	st.decide(protocol.Decide("accept"))
	st.ok("t1", "go", policy("untrusted", protocol.PolicyFullAccess))
	var got map[string]any
	if err := json.Unmarshal(st.of("ask " + protocol.ReqCommandApproval)[0].params, &got); err != nil {
		t.Fatal(err)
	}
	if ms, ok := got["startedAtMs"].(float64); !ok || ms == 0 {
		t.Errorf("startedAtMs = %v", got["startedAtMs"])
	}
	delete(got, "startedAtMs")
	want := m{
		"kind": "command", "threadId": string(threadID), "turnId": "t1", "itemId": "c1", "environmentId": "local", "reason": nil,
		"command": "/bin/bash -lc 'cat a.txt | head -1'", "cwd": st.dir,
		"commandActions":     []any{m{"type": "read", "command": "cat a.txt", "name": "a.txt", "path": st.dir + "/a.txt"}},
		"availableDecisions": []any{"accept", "acceptForSession", "decline", "cancel"},
	}
	if g, w := asJSON(got), asJSON(want); g != w {
		t.Errorf("request %s\nwant    %s", g, w)
	}
	trace := strings.ReplaceAll(strings.Join(st.trace(), "\n"), "thread/tokenUsage/updated\n", "") // comes when the response ends
	if !strings.Contains(trace, "started commandExecution agent inProgress\nwait waitingOnApproval true\n"+
		"ask item/commandExecution/requestApproval\nwait waitingOnApproval false\n") ||
		!strings.Contains(trace, "completed commandExecution unifiedExecStartup completed") || strings.Count(trace, "started commandExecution") != 1 {
		t.Errorf("events\n%s", trace)
	}
	for _, e := range st.of("started") {
		if b, ok := e.item.Body.(*protocol.CommandExecution); ok && b.ProcessID != nil {
			t.Error("announced with a process before there was one")
		}
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestDecisions(t *testing.T) {
	for name, tc := range map[string]struct {
		answer any
		item   string // status of the command
		patch  string // status of the patch
		turn   string
		says   string
	}{
		"accept":             {protocol.Decide("accept"), protocol.ItemCompleted, protocol.ItemCompleted, protocol.TurnCompleted, ""},
		"acceptForSession":   {protocol.Decide("acceptForSession"), protocol.ItemCompleted, protocol.ItemCompleted, protocol.TurnCompleted, ""},
		"decline":            {protocol.Decide("decline"), protocol.ItemDeclined, protocol.ItemDeclined, protocol.TurnCompleted, "rejected by user"},
		"decline and why":    {m{"decision": "decline", "reason": "use make instead"}, protocol.ItemDeclined, protocol.ItemDeclined, protocol.TurnCompleted, "rejected by user: use make instead"},
		"cancel":             {protocol.Decide("cancel"), protocol.ItemDeclined, protocol.ItemDeclined, protocol.TurnInterrupted, "aborted by user"},
		"unknown word":       {protocol.Decide("maybe"), protocol.ItemFailed, protocol.ItemFailed, protocol.TurnCompleted, "not answered"},
		"nothing":            {m{}, protocol.ItemFailed, protocol.ItemFailed, protocol.TurnCompleted, "not answered"},
		"an error":           {protocol.Errorf("unsupported remote app-server request"), protocol.ItemFailed, protocol.ItemFailed, protocol.TurnCompleted, "unsupported remote"},
		"prefix for a patch": {m{"decision": m{"acceptWithExecpolicyAmendment": m{"execpolicy_amendment": []string{"touch"}}}}, protocol.ItemCompleted, protocol.ItemCompleted, protocol.TurnCompleted, ""},
	} {
		t.Run("command/"+name, func(t *testing.T) {
			st := newStage(t, say(shell("c", "touch ran")), say(words("done")))
			st.decide(tc.answer)
			out := st.run("t1", "go", policy("untrusted", protocol.PolicyFullAccess))
			if out.Status != tc.turn {
				t.Errorf("turn %s", out.Status)
			}
			if got := st.command("c").Status; got != tc.item {
				t.Errorf("item %s", got)
			}
			if ran := st.read("ran") == ""; ran != (tc.item == protocol.ItemCompleted) {
				t.Errorf("ran = %v", ran)
			}
			if h := joined(st.recorded); !strings.Contains(h, tc.says) {
				t.Errorf("%q is not in %s", tc.says, h)
			}
			valid(t, st.recorded)
		})
		t.Run("patch/"+name, func(t *testing.T) {
			st := newStage(t, say(patchCall("c", "*** Add File: ran\n+x\n")), say(words("done")))
			st.decide(tc.answer)
			out := st.run("t1", "go", policy("untrusted", protocol.PolicyFullAccess))
			if out.Status != tc.turn {
				t.Errorf("turn %s", out.Status)
			}
			if got := st.patched("c").Status; got != tc.patch {
				t.Errorf("item %s", got)
			}
			if ran := st.read("ran") == "x\n"; ran != (tc.patch == protocol.ItemCompleted) {
				t.Errorf("applied = %v", ran)
			}
			if h := joined(st.recorded); !strings.Contains(h, tc.says) {
				t.Errorf("%q is not in %s", tc.says, h)
			}
		})
	}
}

func TestAgreedCommandsAreNotAskedAgain(t *testing.T) {
	session := protocol.Decide("acceptForSession")
	prefix := func(words ...string) any {
		return m{"decision": m{"acceptWithExecpolicyAmendment": m{"execpolicy_amendment": words}}}
	}
	for name, tc := range map[string]struct {
		first  any
		answer any
		then   any
		asked  bool
	}{
		"the same":                         {shell("c1", "echo a; echo b"), session, shell("c2", "echo a; echo b"), false},
		"another":                          {shell("c1", "echo a"), session, shell("c2", "echo b"), true},
		"the same elsewhere":               {shell("c1", "echo a"), session, callTool("c2", "exec_command", m{"cmd": "echo a", "workdir": "/"}), true},
		"just once":                        {shell("c1", "echo a"), protocol.Decide("accept"), shell("c2", "echo a"), true},
		"prefix":                           {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo b c"), false},
		"prefix in a chain":                {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo b && echo c | echo d"), false},
		"prefix and something else":        {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo b; touch x"), true},
		"prefix with substitution":         {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo $(touch x)"), true},
		"prefix with a redirection":        {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo b > x"), true},
		"prefix in the background":         {shell("c1", "echo a"), prefix("echo"), shell("c2", "echo b & touch x"), true},
		"prefix under another shell":       {shell("c1", "echo a"), prefix("echo"), callTool("c2", "exec_command", m{"cmd": "echo b", "shell": "/bin/sh"}), true},
		"prefix of a word":                 {shell("c1", "echo a"), prefix("ech"), shell("c2", "echo b"), true},
		"empty prefix":                     {shell("c1", "echo a"), prefix(), shell("c2", "echo b"), true},
		"confined is not unconfined":       {shell("c1", "echo a"), session, escalate("c2", "echo a"), true},
		"confined prefix is no unconfined": {shell("c1", "echo a"), prefix("echo"), escalate("c2", "echo a"), true},
		"unconfined covers confined":       {escalate("c1", "echo a"), session, shell("c2", "echo a"), false},
		"unconfined prefix":                {escalate("c1", "echo a", "echo"), prefix("echo"), escalate("c2", "echo b"), false},
	} {
		t.Run(name, func(t *testing.T) {
			confined(t, protocol.PolicyWorkspaceWrite)
			st := newStage(t, say(tc.first), say(words("one")), say(tc.then), say(words("two")))
			if tc.asked {
				st.decide(tc.answer, protocol.Decide("decline"))
			} else {
				st.decide(tc.answer)
			}
			under := policy("untrusted", protocol.PolicyWorkspaceWrite)
			st.ok("t1", "go", under)
			st.ok("t2", "go", under)
			if n := len(st.of("ask " + protocol.ReqCommandApproval)); (n == 2) != tc.asked {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestProposedPrefix(t *testing.T) {
	for cmd, tc := range map[string]struct {
		model []string
		want  string
	}{
		"git pull origin":    {nil, `["git","pull","origin"]`},
		"git pull -v":        {[]string{"git", "pull"}, `["git","pull"]`},
		"git push":           {[]string{"rm"}, `["git","push"]`},
		"ls && rm x":         {nil, ""},
		"echo $HOME":         {nil, ""},
		"python3 x.py":       {[]string{"python3"}, ""},
		"python3 -c 'x'":     {[]string{"python3", "-c"}, ""},
		"bash -c 'rm -rf /'": {[]string{"bash"}, ""},
		"sudo rm x":          {[]string{"sudo"}, ""},
		"make":               {nil, `["make"]`},
	} {
		t.Run(cmd, func(t *testing.T) {
			confined(t, protocol.PolicyWorkspaceWrite)
			st := newStage(t, say(escalate("c", cmd, tc.model...)), say(words("one")))
			st.decide(protocol.Decide("decline"))
			st.ok("t1", "go", policy("on-request", protocol.PolicyWorkspaceWrite))
			params := st.of("ask " + protocol.ReqCommandApproval)[0].params
			if got := string(protocol.Field(params, "proposedExecpolicyAmendment")); got != tc.want {
				t.Errorf("proposed %s", got)
			}
			if offered := strings.Contains(string(params), `{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":[`); offered != (tc.want != "") {
				t.Errorf("offered %v in %s", offered, params)
			}
			if got := protocol.StringField(params, "reason"); got != "May I?" {
				t.Errorf("reason %q", got)
			}
		})
	}
}

func TestBlockedCommandIsOfferedOutsideTheSandbox(t *testing.T) {
	confined(t, protocol.PolicyReadOnly)
	for name, tc := range map[string]struct {
		approval string
		answer   any
		ran      bool
		status   string
		turn     string
		says     string
	}{
		"yes":       {"on-request", protocol.Decide("accept"), true, protocol.ItemCompleted, protocol.TurnCompleted, "exited with code 0"},
		"no":        {"on-request", m{"decision": "decline", "reason": "not here"}, false, protocol.ItemFailed, protocol.TurnCompleted, "declined to run it again without the sandbox: not here"},
		"stop":      {"on-request", protocol.Decide("cancel"), false, protocol.ItemFailed, protocol.TurnInterrupted, "exited with code 1"},
		"never":     {"never", nil, false, protocol.ItemFailed, protocol.TurnCompleted, "exited with code 1"},
		"untrusted": {"untrusted", protocol.Decide("accept"), false, protocol.ItemFailed, protocol.TurnCompleted, "exited with code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, say(shell("c", "echo x > here")), say(words("done")))
			if tc.answer != nil {
				st.decide(tc.answer)
			} else {
				st.decide()
			}
			out := st.run("t1", "go", policy(tc.approval, protocol.PolicyReadOnly))
			if out.Status != tc.turn {
				t.Errorf("turn %s", out.Status)
			}
			if got := st.command("c").Status; got != tc.status {
				t.Errorf("item %s", got)
			}
			if ran := st.read("here") == "x\n"; ran != tc.ran {
				t.Errorf("ran = %v", ran)
			}
			if h := joined(st.recorded); !strings.Contains(h, tc.says) {
				t.Errorf("%q is not in %s", tc.says, h)
			}
			starts := 0
			for _, e := range st.of("started") {
				if e.item.ID == "c" {
					starts++
				}
			}
			if starts != 1 {
				t.Errorf("the item began %d times", starts)
			}
			if asks := st.of("ask " + protocol.ReqCommandApproval); tc.approval == "on-request" &&
				!strings.Contains(protocol.StringField(asks[0].params, "reason"), "sandbox blocked") {
				t.Errorf("asked %s", asks[0].params)
			}
		})
	}
}

func TestOrdinaryFailureIsNotBlamedOnTheSandbox(t *testing.T) {
	confined(t, protocol.PolicyReadOnly)
	st := newStage(t, say(shell("c", "echo no such thing; exit 1")), say(words("done")))
	st.decide()
	st.ok("t1", "go", policy("on-request", protocol.PolicyReadOnly))
}

func TestInterruptWhileAsked(t *testing.T) {
	st := newStage(t, say(shell("c1", "touch ran"), patchCall("p1", "*** Add File: ran\n+x\n")))
	ended := make(chan agent.Outcome)
	go func() { ended <- st.run("t1", "go", policy("untrusted", protocol.PolicyFullAccess)) }()
	st.wait("ask "+protocol.ReqCommandApproval, nil)
	go st.session.Close()
	if out := <-ended; out.Status != protocol.TurnInterrupted {
		t.Errorf("outcome %+v", out)
	}
	if got := st.command("c1").Status; got != protocol.ItemFailed {
		t.Errorf("item %s", got)
	}
	if got := st.read("ran"); !strings.Contains(got, "no such file") {
		t.Error("it ran")
	}
	valid(t, st.recorded)
	if up, down := len(st.of("wait waitingOnApproval true")), len(st.of("wait waitingOnApproval false")); up != 1 || down != 1 {
		t.Errorf("flag rose %d and fell %d times", up, down)
	}
}

// Several questions at once: the flag rises with the first and falls with the last.
func TestApprovalsSideBySide(t *testing.T) {
	st := newStage(t, say(shell("c1", "true"), shell("c2", "true"), shell("c3", "true")), say(words("done")))
	all := make(chan struct{})
	arrived := make(chan struct{}, 3)
	st.answer = func(string, json.RawMessage) (any, error) {
		arrived <- struct{}{}
		<-all
		return protocol.Decide("accept"), nil
	}
	go func() {
		for range 3 {
			<-arrived
		}
		close(all)
	}()
	st.ok("t1", "go", policy("untrusted", protocol.PolicyFullAccess))
	if up, down := len(st.of("wait waitingOnApproval true")), len(st.of("wait waitingOnApproval false")); up != 1 || down != 1 {
		t.Errorf("flag rose %d and fell %d times", up, down)
	}
}

func TestPatch(t *testing.T) {
	st := newStage(t, say(
		patchCall("p1", "*** Add File: new.txt\n+hello\n*** Update File: upd.txt\n*** Move to: moved.txt\n@@\n-one\n+two\n*** Delete File: del.txt\n"),
		patchCall("p2", "*** Update File: new.txt\n@@\n-hello\n+bye\n"),
		patchCall("p3", "*** Update File: new.txt\n@@\n-nowhere\n+x\n"),
	), say(words("done")))
	st.write("upd.txt", "one\n")
	st.write("del.txt", "x\n")
	st.write(".git/HEAD", "")
	st.ok("t1", "go", nil)
	out := st.script.outputs(1)
	for id, want := range map[string]string{
		"p1": "Exit code: 0\nWall time: T seconds\nOutput:\nSuccess. Updated the following files:\nA new.txt\nM moved.txt\nD del.txt\n",
		"p2": "Exit code: 0\nWall time: T seconds\nOutput:\nSuccess. Updated the following files:\nM new.txt\n",
	} {
		if got := plainOutput(out[id]); got != want {
			t.Errorf("%s: %q", id, got)
		}
	}
	if !strings.HasPrefix(out["p3"], "apply_patch verification failed: ") {
		t.Errorf("p3: %q", out["p3"])
	}
	if st.read("new.txt") != "bye\n" || st.read("moved.txt") != "two\n" {
		t.Error("files are not as patched")
	}
	diffs := st.of("turn/diff/updated")
	if len(diffs) != 2 {
		t.Fatalf("diffs %v", diffs)
	}
	diff := protocol.StringField(diffs[1].params, "diff")
	for _, want := range []string{"diff --git a/del.txt b/del.txt\ndeleted file", "+++ b/new.txt\n@@ -0,0 +1 @@\n+bye\n", "diff --git a/upd.txt b/moved.txt\n"} {
		if !strings.Contains(diff, want) {
			t.Errorf("%q is not in\n%s", want, diff)
		}
	}
	p1 := st.patched("p1")
	if p1.Status != protocol.ItemCompleted || len(p1.Changes) != 3 || p1.Changes[0].Path != filepath.Join(st.dir, "del.txt") {
		t.Errorf("p1 = %+v", p1)
	}
}

func TestAgreedFilesAreNotAskedAgain(t *testing.T) {
	st := newStage(t,
		say(patchCall("p1", "*** Add File: a\n+1\n")), say(words("one")),
		say(patchCall("p2", "*** Update File: a\n@@\n-1\n+2\n"), patchCall("p3", "*** Update File: a\n@@\n-2\n+3\n*** Add File: b\n+1\n")), say(words("two")))
	st.decide(protocol.Decide("acceptForSession"), protocol.Decide("decline"))
	under := policy("untrusted", protocol.PolicyFullAccess)
	st.ok("t1", "go", under)
	st.ok("t2", "go", under)
	if st.read("a") != "2\n" || st.patched("p2").Status != protocol.ItemCompleted || st.patched("p3").Status != protocol.ItemDeclined {
		t.Errorf("a = %q, events %v", st.read("a"), st.trace())
	}
}

func TestEndpointWithoutFreeformTools(t *testing.T) {
	st := newStage(t,
		fail(400, "Invalid value: 'custom'. Supported values are: 'function'"),
		say(callTool("p1", "apply_patch", m{"input": "*** Begin Patch\n*** Add File: a\n+1\n*** End Patch"})),
		say(words("done")))
	st.ok("t1", "go", nil)
	if st.read("a") != "1\n" {
		t.Errorf("a = %q", st.read("a"))
	}
	if tools := string(st.script.requests[1]["tools"]); strings.Contains(tools, `"type":"custom"`) || !strings.Contains(tools, `"name":"apply_patch"`) {
		t.Errorf("tools %s", tools)
	}
	if n := len(st.of("error")); n != 0 {
		t.Errorf("%d errors were shown", n)
	}
}

func TestQuestionsInPlanMode(t *testing.T) {
	ask := callTool("q", "request_user_input", m{"questions": []any{m{
		"id": "which", "header": "Which", "question": "Which one?", "options": []any{m{"label": "A", "description": "the first"}},
	}}})
	st := newStage(t, say(ask), say(words("ok")))
	st.decide(m{"answers": m{"which": m{"answers": []string{"A"}}}})
	st.ok("t1", "go", func(in *agent.Turn) { in.PlanMode = true })
	if out := st.script.outputs(1)["q"]; out != `{"answers":{"which":{"answers":["A"]}}}` {
		t.Errorf("output %s", out)
	}
	if e := st.of("ask " + protocol.ReqUserInput); len(e) != 1 || !strings.Contains(string(e[0].params), `"isOther":true`) {
		t.Errorf("asked %v", e)
	}
	if len(st.of("wait waitingOnUserInput true")) != 1 {
		t.Error("the flag did not rise")
	}
	if !strings.Contains(string(st.script.requests[0]["tools"]), `"request_user_input"`) {
		t.Error("the tool was not offered")
	}
}

func TestClientsTools(t *testing.T) {
	st := newStage(t, say(
		callTool("d1", "ns__look", m{"id": 7}), callTool("d2", "plain", ""), callTool("d3", "hidden", m{}), callTool("d4", "plain", "{oops"),
	), say(words("ok")))
	st.answer = func(method string, params json.RawMessage) (any, error) {
		switch protocol.StringField(params, "tool") {
		case "look":
			return m{"contentItems": []any{m{"type": "inputText", "text": "seen " + string(protocol.Field(params, "arguments"))}}, "success": true}, nil
		default:
			return m{"contentItems": []any{m{"type": "inputText", "text": "a"}, m{"type": "inputImage", "imageUrl": "data:x"}}, "success": false}, nil
		}
	}
	st.ok("t1", "go", func(in *agent.Turn) {
		in.DynamicTools = []json.RawMessage{
			json.RawMessage(`{"type":"namespace","name":"ns","description":"","tools":[{"type":"function","name":"look","description":"looks","inputSchema":{"type":"object"}},{"type":"function","name":"later","deferLoading":true,"description":"","inputSchema":{}}]}`),
			json.RawMessage(`{"type":"function","name":"plain","description":"","inputSchema":null}`),
			json.RawMessage(`{"type":"function","name":"not a name","description":"","inputSchema":{}}`),
			json.RawMessage(`5`),
		}
	})
	out := st.script.outputs(1)
	for id, want := range map[string]string{
		"d1": `seen {"id":7}`, "d2": `[{"text":"a","type":"input_text"},{"detail":"high","image_url":"data:x","type":"input_image"}]`,
		"d3": "unsupported call: hidden", "d4": "failed to parse function arguments: they are not JSON",
	} {
		if out[id] != want {
			t.Errorf("%s: %s", id, out[id])
		}
	}
	tools := string(st.script.requests[0]["tools"])
	if !strings.Contains(tools, `"ns__look"`) || strings.Contains(tools, "later") || strings.Contains(tools, "not a name") {
		t.Errorf("tools %s", tools)
	}
	e := st.wait("completed", func(e event) bool { return e.item.ID == "d1" })
	if b := e.item.Body.(*protocol.DynamicToolCall); *b.Namespace != "ns" || b.Tool != "look" || !*b.Success || b.Status != protocol.ItemCompleted {
		t.Errorf("item %+v", b)
	}
}

// A name the shell would take apart must not smuggle anything past a prefix.
func TestPrefixIsAboutWholeWords(t *testing.T) {
	st := newStage(t, say(shell("c1", "echo a")), say(words("one")))
	st.decide(m{"decision": m{"acceptWithExecpolicyAmendment": m{"execpolicy_amendment": []string{"echo"}}}})
	st.ok("t1", "go", policy("untrusted", protocol.PolicyFullAccess))
	for i, cmd := range []string{
		"echo a\ntouch x", "echo `touch x`", "echo <(touch x)", "echo a |& touch x", "echo ${x:=$(touch x)}", "echo \"$(touch x)\"",
		"X=1 echo a", "echo a; (touch x)", "{ echo a; touch x; }", "echo a # comment\ntouch x", "echo 'a", "! echo a", "echo a ;; touch x",
		"if echo a; then touch x; fi", "echo a \\\n; touch x", "cat <<E\n$(touch x)\nE", "echo a >/dev/null2", "ec'h'o a; \"touch\" x", "echo ~root", "echo\ra",
	} {
		asked := make(chan struct{}, 1)
		st.mu.Lock()
		st.answer = func(string, json.RawMessage) (any, error) {
			asked <- struct{}{}
			return protocol.Decide("decline"), nil
		}
		st.mu.Unlock()
		st.script.add(say(shell(fmt.Sprintf("x%d", i), cmd)), say(words("two")))
		st.ok(fmt.Sprintf("u%d", i), "go", policy("untrusted", protocol.PolicyFullAccess))
		select {
		case <-asked:
		default:
			t.Errorf("%q was not asked about", cmd)
		}
	}
}
