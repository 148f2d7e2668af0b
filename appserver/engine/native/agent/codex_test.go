package agent_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

// parity is a script that is played to the real Codex and to the agent.
func parity(st *script) []step {
	session := regexp.MustCompile(`session ID (\d+)`)
	id := func(request int, call string) string {
		return session.FindStringSubmatch(st.outputs(request)[call])[1]
	}
	return []step{
		func(w io.Writer, _ *http.Request) {
			sse(w, m{"type": "response.output_item.added", "item": m{"type": "reasoning", "id": "rs_1", "summary": []any{}}})
			sse(w, m{"type": "response.reasoning_summary_part.added", "item_id": "rs_1", "summary_index": 0})
			sse(w, m{"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "summary_index": 0, "delta": "Hm"})
			done(w, m{"type": "reasoning", "id": "rs_1", "summary": []any{m{"type": "summary_text", "text": "Hm"}}, "encrypted_content": "x"})
			sse(w, m{"type": "response.output_item.added", "item": m{"type": "message", "id": "msg_1", "role": "assistant", "content": []any{}}})
			sse(w, m{"type": "response.output_text.delta", "item_id": "msg_1", "delta": "I "})
			sse(w, m{"type": "response.output_text.delta", "item_id": "msg_1", "delta": "go"})
			done(w, m{"type": "message", "id": "msg_1", "role": "assistant", "content": []any{m{"type": "output_text", "text": "I go"}}})
			done(w, shell("c1", "cat a.txt | head -1 && ls sub; exit 3"))
			completed(w, 100)
		},
		say(shell("c2", "echo it\\'s $HOME >/dev/null")),
		say(shell("q1", "echo a=b,c%d]~")),
		say(shell("q2", `echo 'a'"b"; echo $'c' ^ !`)),
		say(shell("q3", `echo \\ "\"" é`)),
		say(shell("q4", "cd sub && cat b.txt")),
		say(shell("q5", "grep -rn 'x y' sub")),
		say(shell("q6", "find . -name 'u*.txt'")),
		say(shell("q7", "ls -la sub|grep b.txt|wc -l")),
		say(callTool("c3", "exec_command", m{"cmd": "seq 1 2000", "max_output_tokens": 20, "workdir": "sub", "login": false})),
		say(callTool("c4", "exec_command", `{"cmd":5}`)),
		say(callTool("c5", "nope", `{}`)),
		say(callTool("c6", "update_plan", `{"explanation":"e","plan":[{"step":"a","status":"in_progress"},{"step":"b","status":"pending"}]}`)),
		say(callTool("c7", "view_image", m{"path": "a.png"})),
		say(patchCall("p1", "*** Add File: new.txt\n+hello\n*** Update File: upd.txt\n*** Move to: moved.txt\n@@\n-one\n+two\n*** Delete File: del.txt\n")),
		say(patchCall("p2", "*** Update File: new.txt\n@@\n-hello\n+bye\n")),
		say(patchCall("p3", "*** Update File: new.txt\n@@\n-nowhere\n+x\n")),
		say(callTool("c8", "exec_command", m{"cmd": "read x; echo got $x; read y; exit 4", "tty": true, "yield_time_ms": 300})),
		func(w io.Writer, r *http.Request) {
			say(callTool("c9", "write_stdin", fmt.Sprintf(`{"session_id":%s,"chars":"héllo\n","yield_time_ms":1000}`, id(18, "c8"))))(w, r)
		},
		func(w io.Writer, r *http.Request) {
			say(callTool("c10", "write_stdin", fmt.Sprintf(`{"session_id":%s,"chars":"\n","yield_time_ms":3000}`, id(18, "c8"))))(w, r)
		},
		say(callTool("c11", "write_stdin", `{"session_id":424242,"chars":"x"}`)),
		say(words("done")),
	}
}

// TestSameAsCodex plays one script to both and compares what clients see and
// what the model is told, except for what differs on purpose: see plainItem and
// plainTold.
func TestSameAsCodex(t *testing.T) {
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TOWLINE_TEST_CODEX is not set: the agent cannot be held against the real Codex")
		}
		t.Skip("NOT TESTED against the real Codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	st := newStage(t)
	furnish(t, st.dir)
	st.script.add(parity(st.script)...)
	st.ok("turn", "go", func(in *agent.Turn) { in.Approval = protocol.ApproveNever })
	var ours []string
	st.mu.Lock()
	for _, e := range st.events {
		switch e.what {
		case "started", "completed":
			b, err := json.Marshal(e.item)
			if err != nil {
				t.Fatal(err)
			}
			ours = append(ours, plainItem("item/"+e.what, b, st.dir))
		default:
			ours = append(ours, plainNote(e.what, e.params, st.dir))
		}
	}
	st.mu.Unlock()
	told := plainTold(st.script, st.dir)

	for _, binary := range filepath.SplitList(list) {
		t.Run(filepath.Base(filepath.Dir(binary)), func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			furnish(t, dir)
			sc := newScript(t)
			sc.add(parity(sc)...)
			theirs := playCodex(t, binary, dir, sc)
			compare(t, "seen by clients", slices.DeleteFunc(slices.Clone(ours), empty), slices.DeleteFunc(theirs, empty))
			compare(t, "told to the model", told, plainTold(sc, dir))
			compareRequests(t, st.script.requests, sc.requests)
		})
	}
}

func empty(s string) bool { return s == "" }

func compare(t *testing.T, what string, ours, theirs []string) {
	t.Helper()
	for i := range max(len(ours), len(theirs)) {
		var a, b string
		if i < len(ours) {
			a = ours[i]
		}
		if i < len(theirs) {
			b = theirs[i]
		}
		if a != b {
			t.Errorf("%s, %d:\nagent %s\ncodex %s", what, i, a, b)
		}
	}
}

func furnish(t *testing.T, dir string) {
	t.Helper()
	for name, body := range map[string]string{
		"a.txt": "first\nsecond\n", "sub/b.txt": "", "upd.txt": "one\n", "del.txt": "x\n", ".git/HEAD": "ref: refs/heads/main\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82"
	if err := os.WriteFile(filepath.Join(dir, "a.png"), []byte(png), 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	times     = regexp.MustCompile(`"(?:startedAtMs|completedAtMs|durationMs)":(?:\d+|null),?`)
	absent    = regexp.MustCompile(`"[A-Za-z_]+":null,?`)
	madeUp    = regexp.MustCompile(`"id":"(?:msg_|rs_)?[0-9a-f]{8}-[0-9a-f-]{27}"`)
	process   = regexp.MustCompile(`"processId":"\d+"`)
	trailing  = regexp.MustCompile(`,([}\]])`)
	threadRef = regexp.MustCompile(`"(?:threadId|turnId)":"[^"]*",?`)
)

// plainItem takes what changes from run to run out of an item. Absent and null
// are the same to clients, and Codex has members of its own that are always null.
func plainItem(method string, item json.RawMessage, dir string) string {
	return method + " " + plainJSON(item, dir)
}

func plainJSON(raw json.RawMessage, dir string) string {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return string(raw)
	}
	s := asJSON(v) // members in order
	s = strings.ReplaceAll(s, dir, "DIR")
	s = times.ReplaceAllString(s, "")
	s = madeUp.ReplaceAllString(s, `"id":"ID"`)
	s = process.ReplaceAllString(s, `"processId":"P"`)
	s = threadRef.ReplaceAllString(s, "")
	s = absent.ReplaceAllString(s, "")
	return trailing.ReplaceAllString(s, "$1")
}

// plainNote keeps the notifications about a turn's content. Deltas of output are
// left out: Codex drops early ones. So is the repeated diff Codex sends with
// every response after a patch.
func plainNote(method string, params json.RawMessage, dir string) string {
	switch method {
	case "item/agentMessage/delta", "item/reasoning/summaryPartAdded", "item/reasoning/summaryTextDelta",
		"item/commandExecution/terminalInteraction", "turn/plan/updated":
		return method + " " + plainJSON(params, dir)
	case "thread/tokenUsage/updated":
		return "" // Codex sends it when the calls have ended, the agent when the response has
	}
	return ""
}

// plainTold is what the model was told by the tools, by call.
func plainTold(sc *script, dir string) []string {
	var list []string
	out := sc.outputs(sc.count() - 1)
	for id, s := range out {
		s = strings.ReplaceAll(plainOutput(s), dir, "DIR")
		s = regexp.MustCompile(`session ID \d+`).ReplaceAllString(s, "session ID N")
		switch id {
		case "c4", "p3": // the same beginning, the rest in the words of another parser
			s = cutString(s, 30)
		case "c7": // versions of Codex differ in how closely they look
			s = plainJSON(json.RawMessage(strings.ReplaceAll(s, `"detail":"original"`, `"detail":"high"`)), dir)
		}
		list = append(list, id+" "+s)
	}
	slices.Sort(list)
	return list
}

// playCodex runs a turn in a real app-server and returns what it told.
func playCodex(t *testing.T, binary, dir string, sc *script) []string {
	t.Helper()
	home := t.TempDir()
	config := fmt.Sprintf(`model = "gpt-5.5"
model_provider = "fake"
check_for_update_on_startup = false
[model_providers.fake]
name = "Fake"
base_url = "%s/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[tools.update_plan]
enabled = true
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
[projects."%s"]
trust_level = "trusted"
`, sc.URL, dir)
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), binary, "app-server")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + home, "TMPDIR=" + t.TempDir(), "LANG=C.UTF-8"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close() // ends it
		_ = cmd.Wait() // its exit status is not what is tested
	}()
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	send := func(id int, method string, params any) {
		b, err := protocol.NewRequest(protocol.IntID(int64(id)), method, params)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(append(b, '\n')); err != nil {
			t.Fatal(err)
		}
	}
	send(1, "initialize", m{"clientInfo": m{"name": "test", "version": "1"}, "capabilities": m{"experimentalApi": true}})
	var seen []string
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		e, err := protocol.Peek(lines.Bytes())
		if err != nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if e.Kind == protocol.KindError {
			t.Fatalf("codex: %s", e.Error)
		}
		switch string(e.ID) {
		case "1":
			send(2, "thread/start", m{"cwd": dir, "approvalPolicy": "never", "sandbox": "danger-full-access"})
		case "2":
			id := protocol.StringField(protocol.Field(e.Result, "thread"), "id")
			send(3, "turn/start", m{"threadId": id, "input": []any{m{"type": "text", "text": "go"}}})
		}
		switch e.Method {
		case "item/started", "item/completed":
			seen = append(seen, plainItem(e.Method, protocol.Field(e.Params, "item"), dir))
		case "turn/completed":
			if s := protocol.StringField(protocol.Field(e.Params, "turn"), "status"); s != "completed" {
				t.Errorf("codex: turn %s", s)
			}
			return seen
		default:
			seen = append(seen, plainNote(e.Method, e.Params, dir))
		}
	}
	t.Fatalf("codex ended early: %v", lines.Err())
	return nil
}
