package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

func TestRetriesAreAnnounced(t *testing.T) {
	st := newStage(t,
		fail(500, "boom"),
		func(w io.Writer, _ *http.Request) { // a stream that breaks off
			sse(w, m{"type": "response.output_item.added", "item": m{"type": "message", "id": "m1", "role": "assistant"}})
			sse(w, m{"type": "response.output_text.delta", "item_id": "m1", "delta": "half a"})
		},
		say(words("whole")))
	out := st.ok("t1", "hi", nil)
	if out.LastMessage.Body.(*protocol.AgentMessage).Text != "whole" {
		t.Errorf("last message %+v", out.LastMessage)
	}
	var told []string
	for _, e := range st.of("error") {
		told = append(told, string(e.params))
	}
	want := []string{
		`{"error":{"message":"Reconnecting... 1/5","codexErrorInfo":{"responseStreamDisconnected":{"httpStatusCode":500}},"additionalDetails":"boom (HTTP 500)"},"willRetry":true,"threadId":"` + string(threadID) + `","turnId":"t1"}`,
		`{"error":{"message":"Reconnecting... 2/5","codexErrorInfo":{"responseStreamDisconnected":{"httpStatusCode":null}},"additionalDetails":"the stream from Test broke off: stream ended before the response was complete"},"willRetry":true,"threadId":"` + string(threadID) + `","turnId":"t1"}`,
	}
	if strings.Join(told, "\n") != strings.Join(want, "\n") {
		t.Errorf("told %s\nwant %s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
	// What was half said is on the screen, so its item ends; the model says it
	// again, so it is not replayed.
	st.wait("completed", func(e event) bool {
		b, ok := e.item.Body.(*protocol.AgentMessage)
		return ok && b.Text == "half a"
	})
	if strings.Contains(joined(st.recorded), "half a") {
		t.Error("half a message was recorded")
	}
}

func TestRetriesEnd(t *testing.T) {
	st := newStage(t, fail(503, "down"), fail(503, "down"), fail(503, "down"), fail(503, "down"), fail(503, "down"), fail(503, "down"))
	out := st.run("t1", "hi", nil)
	if out.Status != protocol.TurnFailed || string(out.Error.CodexErrorInfo) != `"internalServerError"` || out.Error.Message != "down (HTTP 503)" {
		t.Fatalf("outcome %+v %+v", out, out.Error)
	}
	told := st.of("error")
	if len(told) != 6 || !strings.Contains(string(told[4].params), "Reconnecting... 5/5") || !strings.Contains(string(told[5].params), `"willRetry":false`) {
		t.Errorf("told %v", told)
	}
}

func TestFailuresThatStay(t *testing.T) {
	for name, tc := range map[string]struct {
		answer step
		info   string
	}{
		"401":        {fail(401, "who are you"), `"unauthorized"`},
		"400":        {fail(400, "what"), `"other"`},
		"quota":      {fail(429, "x"), ""},
		"incomplete": {func(w io.Writer, _ *http.Request) { sse(w, m{"type": "response.incomplete"}) }, `"other"`},
	} {
		if tc.info == "" {
			tc.answer = func(w io.Writer, _ *http.Request) {
				sse(w, m{"type": "response.failed", "response": m{"error": m{"code": "insufficient_quota", "message": "pay"}}})
			}
			tc.info = `"usageLimitExceeded"`
		}
		t.Run(name, func(t *testing.T) {
			st := newStage(t, tc.answer)
			out := st.run("t1", "hi", nil)
			if out.Status != protocol.TurnFailed || string(out.Error.CodexErrorInfo) != tc.info {
				t.Errorf("outcome %+v", out.Error)
			}
			if told := st.of("error"); len(told) != 1 || !strings.Contains(string(told[0].params), `"willRetry":false`) {
				t.Errorf("told %v", told)
			}
			// The thread is usable afterwards.
			st.script.add(say(words("ok")))
			st.ok("t2", "again", nil)
		})
	}
}

func TestRetryWaitsAsLongAsAsked(t *testing.T) {
	st := newStage(t, func(w io.Writer, _ *http.Request) {
		w.(http.ResponseWriter).Header().Set("Retry-After-Ms", "300")
		fail(429, "slow down")(w, nil)
	}, say(words("ok")))
	began := time.Now()
	st.ok("t1", "hi", nil)
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("asked again after %v", took)
	}
}

// A call whose response broke off afterwards has run: the retry must know.
func TestBrokenStreamDoesNotRunCallsTwice(t *testing.T) {
	st := newStage(t,
		func(w io.Writer, _ *http.Request) { done(w, shell("c1", "echo once >> log")) },
		say(words("done")))
	st.ok("t1", "go", nil)
	if got := st.read("log"); got != "once\n" {
		t.Errorf("log = %q", got)
	}
	if out := st.script.outputs(1)["c1"]; !strings.Contains(out, "exited with code 0") {
		t.Errorf("output %q", out)
	}
	valid(t, st.script.input(1))
}

func window(n int64) func(*agent.Config) {
	return func(c *agent.Config) { c.ContextWindow = n }
}

func TestCompactionWhenTheWindowFills(t *testing.T) {
	png := "data:image/png;base64,AAAA"
	st := newStageWith(t, window(1_000_000), // of the thread's usual model
		func(w io.Writer, _ *http.Request) {
			done(w, shell("c1", "echo hi"))
			completed(w, 950)
		},
		say(words("THE NOTES")),
		say(words("after")))
	st.ok("t1", "", func(in *agent.Turn) {
		in.Input = []protocol.UserInput{protocol.Text("the task"), {Type: "image", URL: png}}
		in.ContextWindow = 1000
	})
	if st.script.count() != 3 || st.replaced != 1 {
		t.Fatalf("%d requests, replaced %d times", st.script.count(), st.replaced)
	}
	asked := st.script.requests[1]
	if _, ok := asked["tools"]; ok {
		t.Error("tools offered for a summary")
	}
	in := st.script.input(2)
	all := joined(in)
	for _, gone := range []string{"function_call", png, "echo hi"} {
		if strings.Contains(all, gone) {
			t.Errorf("%q is still there: %s", gone, all)
		}
	}
	var texts []string
	for _, raw := range in {
		texts = append(texts, cutString(string(protocol.Field(raw, "content")), 60))
	}
	if len(in) != 4 || !strings.Contains(texts[2], "the task") || !strings.Contains(string(in[3]), "THE NOTES") {
		t.Errorf("input %q", texts)
	}
	trace := strings.Join(st.trace(), "\n")
	if !strings.Contains(trace, "started contextCompaction\nthread/tokenUsage/updated\nthread/tokenUsage/updated\ncompleted contextCompaction") {
		t.Errorf("events\n%s", trace)
	}
	usage := st.of("thread/tokenUsage/updated")
	if s := string(usage[0].params); !strings.Contains(s, `"modelContextWindow":1000`) {
		t.Errorf("usage %s", s)
	}
	if got := asJSON(st.recorded[:4]); got != asJSON(in) {
		t.Errorf("recorded %s", got)
	}
}

func TestCompactionWhenTheEndpointSaysSo(t *testing.T) {
	full := func(w io.Writer, _ *http.Request) {
		sse(w, m{"type": "response.failed", "response": m{"error": m{"code": "context_length_exceeded", "message": "too long"}}})
	}
	st := newStage(t, say(words("one")), full, full, say(words("NOTES")), say(words("two")))
	st.ok("t1", "first", nil)
	out := st.ok("t2", "second", nil)
	if out.LastMessage.Body.(*protocol.AgentMessage).Text != "two" {
		t.Errorf("last message %+v", out.LastMessage)
	}
	// The request for the notes was too long as well, so it was made shorter.
	if a, b := len(st.script.input(2)), len(st.script.input(3)); b >= a {
		t.Errorf("asked for notes with %d items, then %d", a, b)
	}

	// An endpoint for which it is never short enough ends the turn.
	st.script.add(full, say(words("NOTES")), full)
	if out := st.run("t3", "third", nil); out.Status != protocol.TurnFailed || string(out.Error.CodexErrorInfo) != `"contextWindowExceeded"` {
		t.Errorf("outcome %+v", out)
	}
}

func TestCompactOnRequest(t *testing.T) {
	st := newStage(t, say(words("one")), say(words("NOTES")))
	st.ok("t1", "first", nil)
	out := st.session.Compact(t.Context(), st.turn("t2", "", nil), st)
	if out.Status != protocol.TurnCompleted || st.replaced != 1 {
		t.Fatalf("outcome %+v", out)
	}
	if e := st.of("completed"); e[len(e)-1].item.Type() != "contextCompaction" || e[len(e)-1].turn != "t2" {
		t.Errorf("last %+v", e[len(e)-1])
	}

	// It takes no input, and can be interrupted without harm.
	release := make(chan struct{})
	st.script.add(func(_ io.Writer, r *http.Request) {
		close(release)
		<-r.Context().Done()
	})
	ended := make(chan agent.Outcome)
	go func() { ended <- st.session.Compact(t.Context(), st.turn("t3", "", nil), st) }()
	<-release
	if err := st.session.Steer([]protocol.UserInput{protocol.Text("x")}, nil); !errors.Is(err, agent.ErrNotSteerable) {
		t.Errorf("steer: %v", err)
	}
	st.session.Close()
	if out := <-ended; out.Status != protocol.TurnInterrupted || st.replaced != 1 {
		t.Errorf("outcome %+v, replaced %d times", out, st.replaced)
	}
}

func TestNoCompactionOfAShortThread(t *testing.T) {
	// The instructions alone fill this window: notes would not help.
	st := newStageWith(t, window(100), say(words("one")))
	st.ok("t1", "first", nil)
	if st.replaced != 0 {
		t.Error("compacted")
	}
}

// Whatever moment a kill picks, the history can be replayed.
func TestRepairAtEveryPoint(t *testing.T) {
	st := newStage(t, say(
		m{"type": "reasoning", "id": "r1", "summary": []any{}},
		shell("c1", "true"), patchCall("p1", "*** Add File: a\n+1\n"),
	), say(m{"type": "reasoning", "id": "r2", "summary": []any{}}, words("done")))
	st.ok("t1", "go", nil)
	valid(t, st.recorded)
	for n := range len(st.recorded) + 1 {
		got := agent.Repair(st.recorded[:n])
		valid(t, got)
		if again := agent.Repair(got); asJSON(again) != asJSON(got) {
			t.Errorf("repairing twice differs at %d", n)
		}
	}
	if got := agent.Repair(st.recorded); asJSON(got) != asJSON(st.recorded) {
		t.Error("a whole history was changed")
	}
}

func FuzzRepair(f *testing.F) {
	f.Add("ccoroCORm")
	f.Add("CcOo")
	f.Add("rrmrco")
	f.Fuzz(func(t *testing.T, in string) {
		var history []json.RawMessage
		for i, r := range cutString(in, 200) {
			id := fmt.Sprint(i % 3)
			switch r {
			case 'c', 'C':
				history = append(history, json.RawMessage(`{"type":"`+map[rune]string{'c': "function", 'C': "custom_tool"}[r]+`_call","call_id":"`+id+`"}`))
			case 'o', 'O':
				history = append(history, json.RawMessage(`{"type":"`+map[rune]string{'o': "function", 'O': "custom_tool"}[r]+`_call_output","call_id":"`+id+`"}`))
			case 'r':
				history = append(history, json.RawMessage(`{"type":"reasoning"}`))
			case 'm':
				history = append(history, json.RawMessage(`{"type":"message","role":"user"}`))
			case 'a':
				history = append(history, json.RawMessage(`{"type":"message","role":"assistant"}`))
			case 'x':
				history = append(history, json.RawMessage(`[1]`), nil)
			}
		}
		got := agent.Repair(history)
		valid(t, got)
		if again := agent.Repair(got); asJSON(again) != asJSON(got) {
			t.Errorf("%s\n%s", asJSON(got), asJSON(again))
		}
	})
}

// A thread whose model was changed carries reasoning its new endpoint cannot read.
func TestForeignReasoningIsLeftOut(t *testing.T) {
	st := newStage(t, say(m{"type": "reasoning", "id": "r1", "summary": []any{}, "encrypted_content": "x"}, words("one")),
		fail(400, "The encrypted content for item r1 could not be verified."), say(words("two")))
	st.ok("t1", "first", nil)
	st.ok("t2", "second", func(in *agent.Turn) { in.Model = "other" })
	if s := joined(st.script.input(2)); strings.Contains(s, `"reasoning"`) || !strings.Contains(s, "one") {
		t.Errorf("input %s", s)
	}
	if n := len(st.of("error")); n != 0 {
		t.Errorf("%d errors were shown", n)
	}
}
