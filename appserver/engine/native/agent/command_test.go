package agent_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

// plainOutput takes what changes from run to run out of a tool output.
func plainOutput(s string) string {
	s = regexp.MustCompile(`Chunk ID: [0-9a-f]{6}\n`).ReplaceAllString(s, "Chunk ID: X\n")
	return regexp.MustCompile(`Wall time: \d+(\.\d+)? seconds`).ReplaceAllString(s, "Wall time: T seconds")
}

func TestCommand(t *testing.T) {
	st := newStage(t, say(
		shell("c1", "echo out; exit 3"),
		callTool("c2", "exec_command", m{"cmd": "pwd; echo \"it's\"", "workdir": "sub", "login": false}),
		callTool("c3", "exec_command", m{"cmd": "echo hi", "workdir": "/nonexistent"}),
		shell("c4", `printf 'h\303\251llo \360\237\230\200\377'`),
	), say(words("done")))
	st.write("sub/x", "")
	st.ok("t1", "go", nil)

	out := st.script.outputs(1)
	for id, want := range map[string]string{
		"c1": "Chunk ID: X\nWall time: T seconds\nProcess exited with code 3\nOriginal token count: 1\nOutput:\nout\n",
		"c2": "Chunk ID: X\nWall time: T seconds\nProcess exited with code 0\nOriginal token count: " +
			fmt.Sprint((len(st.dir)+4+1+5+3)/4) + "\nOutput:\n" + st.dir + "/sub\nit's\n",
		"c3": "exec_command failed: the working directory /nonexistent does not exist or is not a directory",
		"c4": "Chunk ID: X\nWall time: T seconds\nProcess exited with code 0\nOriginal token count: 4\nOutput:\nhéllo 😀\uFFFD",
	} {
		if got := plainOutput(out[id]); got != want {
			t.Errorf("%s: %q\nwant %q", id, got, want)
		}
	}

	c1 := st.command("c1")
	if c1.Command != "/bin/bash -lc 'echo out; exit 3'" || c1.Cwd != st.dir || c1.Source != "unifiedExecStartup" ||
		c1.Status != protocol.ItemFailed || *c1.ExitCode != 3 || *c1.AggregatedOutput != "out\n" || c1.DurationMs == nil || c1.ProcessID == nil {
		t.Errorf("c1 = %+v", c1)
	}
	if c2 := st.command("c2"); c2.Command != `/bin/bash -c "pwd; echo \"it's\""` || c2.Cwd != st.dir+"/sub" || c2.Status != protocol.ItemCompleted {
		t.Errorf("c2 = %+v", c2)
	}
	if c3 := st.command("c3"); c3.Status != protocol.ItemFailed || *c3.ExitCode != -1 || c3.ProcessID != nil {
		t.Errorf("c3 = %+v", c3)
	}
	for _, e := range st.of("started") {
		if b, ok := e.item.Body.(*protocol.CommandExecution); ok && (b.Status != protocol.ItemInProgress || b.AggregatedOutput != nil) {
			t.Errorf("started as %+v", b)
		}
	}
	var streamed strings.Builder
	for _, e := range st.of("item/commandExecution/outputDelta") {
		if !utf8.Valid(e.params) {
			t.Errorf("delta is not UTF-8: %s", e.params)
		}
		if protocol.StringField(e.params, "itemId") == "c4" {
			streamed.WriteString(protocol.StringField(e.params, "delta"))
		}
	}
	if streamed.String() != "héllo 😀\uFFFD" {
		t.Errorf("streamed %q", streamed.String())
	}
}

// Each of two commands waits for what the other one writes: only side by side
// do they end.
func TestCommandsRunSideBySidePatchesDoNot(t *testing.T) {
	meet := func(mine, other string) string {
		return fmt.Sprintf("touch %s; until test -e %s; do sleep 0.01; done; test ! -e patched && echo ok", mine, other)
	}
	st := newStage(t, say(
		shell("c1", meet("a", "b")),
		shell("c2", meet("b", "a")),
		patchCall("p1", "*** Add File: patched\n+x\n"),
		shell("c3", "cat patched"),
	), say(words("done")))
	st.ok("t1", "go", nil)
	out := st.script.outputs(1)
	for id, want := range map[string]string{"c1": "ok\n", "c2": "ok\n", "c3": "x\n"} {
		if !strings.HasSuffix(out[id], "\nOutput:\n"+want) {
			t.Errorf("%s: %q", id, out[id])
		}
	}
	var order []string
	for _, raw := range st.script.input(1) {
		if id := protocol.StringField(raw, "call_id"); id != "" {
			order = append(order, protocol.StringField(raw, "type")[:8]+" "+id)
		}
	}
	if want := []string{
		"function c1", "function c2", "custom_t p1", "function c3", "function c1", "function c2", "custom_t p1", "function c3",
	}; !reflect.DeepEqual(order, want) {
		t.Errorf("recorded in the order %q", order)
	}
}

func TestCallsTheModelGotWrong(t *testing.T) {
	st := newStage(t, say(
		callTool("b1", "exec_command", `{"cmd":5}`),
		callTool("b2", "exec_command", `{bad`),
		callTool("b3", "exec_command", `{}`),
		callTool("b4", "no_such_tool", `{}`),
		callTool("b5", "write_stdin", `{"session_id":99,"chars":"x"}`),
		callTool("b6", "write_stdin", `{"session_id":"x"}`),
		callTool("b7", "update_plan", `{"plan":[{"step":"a","status":"someday"}]}`),
		callTool("b8", "view_image", `{"path":"/nonexistent.png"}`),
		callTool("b9", "request_user_input", `{"questions":[]}`),
		m{"type": "custom_tool_call", "call_id": "b10", "name": "apply_patch", "input": "garbage"},
		m{"type": "custom_tool_call", "call_id": "b11", "name": "exec_command", "input": "ls"},
		callTool("b12", "exec_command", m{"cmd": "a\x00b"}),
		m{"type": "local_shell_call", "call_id": "b13", "action": m{}},
		m{"type": "function_call", "name": "exec_command", "arguments": "{}"},
	), say(words("sorry")))
	st.ok("t1", "go", nil)
	out := st.script.outputs(1)
	for id, want := range map[string]string{
		"b1": "failed to parse function arguments", "b2": "failed to parse function arguments", "b3": "missing field `cmd`",
		"b4": "unsupported call: no_such_tool", "b5": "write_stdin failed: Unknown process id 99", "b6": "`session_id` must be a number",
		"b7": `unknown status "someday"`, "b8": "unable to locate image at `/nonexistent.png`", "b9": "only available in plan mode",
		"b10": "apply_patch verification failed", "b11": "unsupported call: exec_command", "b12": "zero byte",
	} {
		if !strings.Contains(out[id], want) {
			t.Errorf("%s: %q does not say %q", id, out[id], want)
		}
	}
	if len(out) != 12 {
		t.Errorf("outputs %v", out)
	}
	valid(t, st.script.input(1))
	for _, e := range st.of("started") {
		if e.item.Type() != "userMessage" && e.item.Type() != "agentMessage" {
			t.Errorf("an item for a call that was none: %+v", e.item)
		}
	}
}

func TestHugeOutputIsBoundedEverywhere(t *testing.T) {
	st := newStage(t, say(
		shell("c1", "seq 1 2000000"),
		callTool("c2", "exec_command", m{"cmd": "seq 1 2000", "max_output_tokens": 20}),
	), say(words("done")))
	st.ok("t1", "go", nil)
	out := st.script.outputs(1)
	if n := len(out["c1"]); n > 41_000 || n < 39_000 {
		t.Errorf("the model was given %d bytes", n)
	}
	if !strings.HasPrefix(strings.SplitN(out["c2"], "Output:\n", 2)[1], "Warning: truncated output (original token count: 2224)\nTotal output lines: 2000\n\n1\n2\n") ||
		!strings.HasSuffix(out["c2"], "…2204 tokens truncated…1993\n1994\n1995\n1996\n1997\n1998\n1999\n2000\n") {
		t.Errorf("c2: %q", out["c2"])
	}
	if n := len(*st.command("c1").AggregatedOutput); n > 1<<20+200 {
		t.Errorf("the item holds %d bytes", n)
	}
	total := 0
	for _, e := range st.of("item/commandExecution/outputDelta") {
		total += len(e.params)
	}
	if total > 3<<20 {
		t.Errorf("%d bytes were streamed", total)
	}
}

func TestTypingIntoACommand(t *testing.T) {
	session := regexp.MustCompile(`session ID (\d+)`)
	var id string
	var st *stage
	st = newStage(t,
		say(callTool("c1", "exec_command", m{"cmd": "read x; echo got $x; read y; exit 4", "tty": true, "yield_time_ms": 250})),
		func(w io.Writer, r *http.Request) {
			id = session.FindStringSubmatch(st.script.outputs(1)["c1"])[1]
			say(callTool("c2", "write_stdin", fmt.Sprintf(`{"session_id":%s,"chars":"héllo\n","yield_time_ms":1000}`, id)))(w, r)
		},
		func(w io.Writer, r *http.Request) {
			say(callTool("c3", "write_stdin", fmt.Sprintf(`{"session_id":"%s","chars":"\n","yield_time_ms":20000}`, id)))(w, r)
		},
		func(w io.Writer, r *http.Request) {
			say(callTool("c4", "write_stdin", m{"session_id": 1}))(w, r)
		},
		say(words("done")))
	st.ok("t1", "go", nil)
	out := st.script.outputs(4)
	if want := "Process running with session ID " + id + "\nOriginal token count: 5\nOutput:\nhéllo\r\ngot héllo\r\n"; !strings.HasSuffix(out["c2"], want) {
		t.Errorf("c2: %q", out["c2"])
	}
	if !strings.Contains(out["c3"], "Process exited with code 4\n") {
		t.Errorf("c3: %q", out["c3"])
	}
	if !strings.HasPrefix(out["c4"], "write_stdin failed: Unknown process id") {
		t.Errorf("c4: %q", out["c4"])
	}
	typed := st.of("item/commandExecution/terminalInteraction")
	if len(typed) != 2 || protocol.StringField(typed[0].params, "stdin") != "héllo\n" || protocol.StringField(typed[0].params, "itemId") != "c1" ||
		protocol.StringField(typed[0].params, "processId") != id {
		t.Errorf("typed %v", typed)
	}
	if c := st.command("c1"); *c.ExitCode != 4 || c.Status != protocol.ItemFailed {
		t.Errorf("c1 = %+v", c)
	}
}

func TestCommandOutlivesItsTurn(t *testing.T) {
	st := newStage(t,
		say(callTool("c1", "exec_command", m{"cmd": "until test -e go; do sleep 0.01; done; echo late", "yield_time_ms": 250})),
		say(words("left it running")))
	st.ok("t1", "go", nil)
	terms := st.session.Terminals()
	if len(terms) != 1 || terms[0].ItemID != "c1" || terms[0].Cwd != st.dir {
		t.Fatalf("terminals = %+v", terms)
	}
	if len(st.of("completed")) != 2 {
		t.Fatalf("events %v", st.trace())
	}
	st.script.add(
		func(w io.Writer, r *http.Request) {
			st.write("go", "")
			say(callTool("c2", "write_stdin", fmt.Sprintf(`{"session_id":%s,"yield_time_ms":20000}`, terms[0].ProcessID)))(w, r)
		},
		say(words("there")))
	st.ok("t2", "and now?", nil)
	e := st.wait("completed", func(e event) bool { return e.item.ID == "c1" })
	if e.turn != "t1" {
		t.Errorf("completed in %s", e.turn)
	}
	if out := st.script.outputs(3)["c2"]; !strings.Contains(out, "Process exited with code 0\n") || !strings.HasSuffix(out, "Output:\nlate\n") {
		t.Errorf("c2: %q", out)
	}

	// An interrupt of another turn leaves background commands alone; Terminate
	// and Close do not.
	st.script.add(say(callTool("c3", "exec_command", m{"cmd": "sleep 1000", "yield_time_ms": 250})), say(words("running")))
	st.ok("t3", "again", nil)
	if terms = st.session.Terminals(); len(terms) != 1 || !st.session.Terminate(terms[0].ProcessID) {
		t.Fatalf("terminals = %+v", terms)
	}
	if e := st.wait("completed", func(e event) bool { return e.item.ID == "c3" }); *e.item.Body.(*protocol.CommandExecution).ExitCode != 137 {
		t.Errorf("c3 = %+v", e.item.Body)
	}
	if st.session.Terminate("no such") {
		t.Error("terminated nothing")
	}
}

func TestPlan(t *testing.T) {
	st := newStage(t, say(callTool("c1", "update_plan",
		`{"explanation":"why","plan":[{"step":"one","status":"completed"},{"step":"two","status":"in_progress"}]}`)), say(words("ok")))
	st.ok("t1", "go", nil)
	want := `{"explanation":"why","plan":[{"step":"one","status":"completed"},{"step":"two","status":"inProgress"}],"threadId":"` + string(threadID) + `","turnId":"t1"}`
	if e := st.of("turn/plan/updated"); len(e) != 1 || string(e[0].params) != want {
		t.Errorf("plan = %v", e)
	}
	if out := st.script.outputs(1)["c1"]; out != "Plan updated" {
		t.Errorf("output = %q", out)
	}
}

func TestImages(t *testing.T) {
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	st := newStage(t, say(
		callTool("c1", "view_image", m{"path": "a.png"}), callTool("c2", "view_image", m{"path": "text.png"}), callTool("c3", "view_image", m{"path": "pipe.png"}),
	), say(words("pretty")))
	st.write("a.png", png)
	st.write("text.png", "just text")
	mkfifo(t, filepath.Join(st.dir, "pipe.png"))
	st.ok("t1", "", func(in *agent.Turn) {
		in.Input = []protocol.UserInput{
			protocol.Text("look"),
			{Type: "localImage", Path: filepath.Join(st.dir, "a.png")},
			{Type: "image", URL: "data:image/png;base64,AAAA"},
			{Type: "localImage", Path: "/nope.png"},
			{Type: "image", URL: "data:image/png;base64," + strings.Repeat("A", 17<<20)},
		}
	})
	in := st.script.input(0)
	user := string(in[len(in)-1])
	for _, want := range []string{
		`{"text":"look","type":"input_text"}`,
		`{"detail":"high","image_url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==","type":"input_image"}`,
		`{"detail":"high","image_url":"data:image/png;base64,AAAA","type":"input_image"}`,
		"The local image at `/nope.png` could not be read: no such file or directory",
		"too large to be shown",
	} {
		if !strings.Contains(user, want) {
			t.Errorf("%s is not in %s", want, cutString(user, 3000))
		}
	}
	out := st.script.outputs(1)
	if want := `[{"detail":"high","image_url":"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==","type":"input_image"}]`; out["c1"] != want {
		t.Errorf("c1: %s", out["c1"])
	}
	if !strings.Contains(out["c2"], "not a PNG") || !strings.Contains(out["c3"], "not a regular file") {
		t.Errorf("outputs %v", out)
	}
	e := st.wait("completed", func(e event) bool { return e.item.ID == "c1" })
	if e.item.Body.(*protocol.ImageView).Path != filepath.Join(st.dir, "a.png") {
		t.Errorf("image view = %+v", e.item.Body)
	}
}

func TestWebSearchIsShown(t *testing.T) {
	st := newStage(t, say(m{"type": "web_search_call", "id": "ws_1", "status": "completed", "action": m{"type": "search", "query": "go release"}}, words("found")))
	st.ok("t1", "go", nil)
	e := st.wait("completed", func(e event) bool { return e.item.ID == "ws_1" })
	if e.item.Body.(*protocol.WebSearch).Query != "go release" {
		t.Errorf("web search = %+v", e.item.Body)
	}
}
