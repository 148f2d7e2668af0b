package run

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// drive runs req against f in a bubble, where waiting takes no time.
func drive(t *testing.T, f *fake, cfg func(*Config), req Request) (res *Result, out *told, err error) {
	t.Helper()
	return driveCtx(t.Context(), t, f, cfg, func(ctx context.Context, r *Runner) (*Result, error) { return r.Run(ctx, req) })
}

func driveCtx(ctx context.Context, _ *testing.T, f *fake, cfg func(*Config), work func(context.Context, *Runner) (*Result, error)) (res *Result, out *told, err error) {
	out = new(told)
	c := out.config(f)
	if cfg != nil {
		cfg(&c)
	}
	res, err = work(ctx, New(c))
	f.wg.Wait()
	return res, out, err
}

// play sets what happens once the turn was started on the n-th connection.
func (f *fake) play(script func(c *fakeConn)) {
	f.on("turn/start", func(c *fakeConn, _ json.RawMessage) (any, error) {
		f.wg.Go(func() { script(c) })
		return map[string]any{"turn": turnOf("inProgress")}, nil
	})
}

func TestEventsAreCodexs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.play(func(c *fakeConn) {
			c.tell("warning", map[string]any{"message": "mind the gap"})
			c.started()
			c.item("item/started", map[string]any{"type": "userMessage", "id": "u", "content": []any{}})
			c.item("item/completed", map[string]any{"type": "reasoning", "id": "r", "summary": []string{"a", "b"}})
			c.item("item/completed", map[string]any{"type": "reasoning", "id": "r2", "summary": []string{" "}})
			c.tell("turn/plan/updated", map[string]any{"turnId": "t1", "plan": []any{map[string]any{"step": "one", "status": "pending"}}})
			c.item("item/started", command("c", "inProgress", nil))
			c.item("item/completed", command("c", "failed", 2))
			change := []any{map[string]any{"path": "/w/a", "kind": map[string]any{"type": "add"}, "diff": "x"}}
			c.item("item/started", map[string]any{"type": "fileChange", "id": "f", "changes": change, "status": "inProgress"})
			c.item("item/completed", map[string]any{"type": "fileChange", "id": "f", "changes": change, "status": "completed"})
			c.item("item/completed", map[string]any{"type": "webSearch", "id": "w", "query": "<q>", "action": map[string]any{"type": "search"}})
			c.item("item/completed", map[string]any{"type": "mcpToolCall", "id": "m", "server": "s", "tool": "t", "status": "completed", "arguments": map[string]any{"a": 1}, "result": map[string]any{"content": []any{}, "structuredContent": nil}})
			c.item("item/completed", map[string]any{"type": "collabAgentToolCall", "id": "k", "tool": "spawnAgent", "senderThreadId": "x", "receiverThreadIds": []string{"y"}, "agentsStates": map[string]any{"y": map[string]any{"status": "pendingInit"}}, "status": "inProgress"})
			c.tell("thread/tokenUsage/updated", map[string]any{"turnId": "t1", "tokenUsage": map[string]any{
				"total": map[string]any{"inputTokens": 30, "outputTokens": 5}, "last": map[string]any{"inputTokens": 10, "outputTokens": 2},
			}})
			c.item("item/completed", message("x", "of another turn"))
			c.tell("item/completed", map[string]any{"turnId": "other", "item": message("y", "not ours")})
			c.tell("item/completed", map[string]any{"threadId": "other", "turnId": "t1", "item": message("z", "not ours")})
			c.completed("completed", message("x", "the end"))
		})
		res, out, err := drive(t, f, nil, request())
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`{"type":"thread.started","thread_id":"` + threadID + `"}`,
			`{"type":"item.completed","item":{"id":"item_0","type":"error","message":"mind the gap"}}`,
			`{"type":"turn.started"}`,
			`{"type":"item.completed","item":{"id":"item_1","type":"reasoning","text":"a\nb"}}`,
			`{"type":"item.started","item":{"id":"item_2","type":"todo_list","items":[{"text":"one","completed":false}]}}`,
			`{"type":"item.started","item":{"id":"item_3","type":"command_execution","command":"ls","aggregated_output":"","exit_code":null,"status":"in_progress"}}`,
			`{"type":"item.completed","item":{"id":"item_3","type":"command_execution","command":"ls","aggregated_output":"","exit_code":2,"status":"failed"}}`,
			`{"type":"item.started","item":{"id":"item_4","type":"file_change","changes":[{"path":"/w/a","kind":"add"}],"status":"in_progress"}}`,
			`{"type":"item.completed","item":{"id":"item_4","type":"file_change","changes":[{"path":"/w/a","kind":"add"}],"status":"completed"}}`,
			`{"type":"item.completed","item":{"id":"item_5","type":"web_search","query":"<q>","action":{"type":"search"}}}`,
			`{"type":"item.completed","item":{"id":"item_6","type":"mcp_tool_call","server":"s","tool":"t","arguments":{"a":1},"result":{"content":[],"structured_content":null},"error":null,"status":"completed"}}`,
			`{"type":"item.completed","item":{"id":"item_7","type":"collab_tool_call","tool":"spawn_agent","sender_thread_id":"x","receiver_thread_ids":["y"],"prompt":null,"agents_states":{"y":{"status":"pending_init","message":null}},"status":"in_progress"}}`,
			`{"type":"item.completed","item":{"id":"item_8","type":"agent_message","text":"of another turn"}}`,
			`{"type":"item.completed","item":{"id":"item_2","type":"todo_list","items":[{"text":"one","completed":false}]}}`,
			`{"type":"turn.completed","usage":{"input_tokens":30,"cached_input_tokens":0,"cache_write_input_tokens":0,"output_tokens":5,"reasoning_output_tokens":0}}`,
		}
		if got := strings.Join(out.events, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("the events are\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		if res.Status != StatusCompleted || res.ExitCode != 0 || res.Message != "the end" || res.TurnID != "t1" || res.Sandbox != "read-only" {
			t.Errorf("the result is %+v", res)
		}
		if res.Usage == nil || res.Usage.Input != 10 || res.Usage.Output != 2 || res.ThreadUsage.Input != 30 {
			t.Errorf("the usage is %+v of %+v", res.Usage, res.ThreadUsage)
		}
		if len(res.Commands) != 1 || *res.Commands[0].ExitCode != 2 || len(res.Files) != 1 || res.Files[0] != (File{Path: "/w/a", Kind: "add"}) {
			t.Errorf("commands %+v, files %+v", res.Commands, res.Files)
		}
	})
}

func TestFailedTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.play(func(c *fakeConn) {
			c.started()
			c.tell("error", map[string]any{"turnId": "t1", "willRetry": true, "error": map[string]any{"message": "Reconnecting... 1/5", "additionalDetails": "cut"}})
			tn := turnOf("failed")
			tn["error"] = map[string]any{"message": "no\x1b[31m luck"}
			c.tell("turn/completed", map[string]any{"turn": tn})
		})
		res, out, err := drive(t, f, nil, request())
		if res.Status != StatusFailed || config.ExitCode(err) != config.ExitFailure || res.ExitCode != config.ExitFailure {
			t.Errorf("%v, %+v", err, res)
		}
		if strings.ContainsRune(err.Error(), 0x1b) || strings.ContainsRune(res.Error.Message, 0x1b) {
			t.Errorf("the error acts on a terminal: %q", err)
		}
		if got, want := out.types(), "thread.started\nturn.started\nerror\nturn.failed"; got != want {
			t.Errorf("events %s", got)
		}
		if !strings.Contains(out.events[2], "Reconnecting... 1/5 (cut)") {
			t.Error(out.events[2])
		}
	})
}

// What was missed while there was no connection is told once, in order, and what
// comes twice is not told twice.
func TestResumeAfterLostLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.play(func(c *fakeConn) {
			c.started()
			c.item("item/completed", message("a", "one"))
			c.item("item/started", command("c", "inProgress", nil))
			time.Sleep(later)
			c.drop()
		})
		f.on("thread/turns/list", func(c *fakeConn, _ json.RawMessage) (any, error) {
			f.wg.Go(func() {
				c.item("item/completed", message("b", "two")) // the history has it already
				c.item("item/completed", message("d", "three"))
				c.completed("completed", message("d", "three"))
			})
			return map[string]any{"data": []any{turnOf("inProgress", message("a", "one"), command("c", "completed", 0), message("b", "two"))}}, nil
		})
		res, out, err := drive(t, f, nil, request())
		if err != nil {
			t.Fatal(err)
		}
		want := `thread.started
turn.started
item.completed item_0 agent_message
item.started item_1 command_execution
item.completed item_1 command_execution
item.completed item_2 agent_message
item.completed item_3 agent_message
turn.completed`
		if got := out.types(); got != want {
			t.Errorf("the events are\n%s\nwant\n%s", got, want)
		}
		if res.Reconnects != 1 || res.Message != "three" || len(res.Commands) != 1 || f.count("turn/start") != 1 {
			t.Errorf("%+v after %v", res, f.calls())
		}
	})
}

func TestTurnEndedWhileAway(t *testing.T) {
	for status, want := range map[string]struct {
		status string
		exit   int
	}{
		"completed":   {StatusCompleted, 0},
		"failed":      {StatusFailed, config.ExitFailure},
		"interrupted": {StatusLost, config.ExitLost}, // with the server
	} {
		t.Run(status, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.play(func(c *fakeConn) { c.started(); time.Sleep(later); c.drop() })
				f.turns(turnOf(status, message("a", "said")))
				res, _, err := drive(t, f, nil, request())
				if res.Status != want.status || config.ExitCode(err) != want.exit || res.ExitCode != want.exit || res.Message != "said" {
					t.Errorf("%v, %+v", err, res)
				}
			})
		})
	}
}

// A connection that is lost before the answer to turn/start leaves open whether the
// turn has begun: its history tells, and it begins once.
func TestLostBeforeTheAnswer(t *testing.T) {
	for name, begun := range map[string]bool{"begun": true, "not begun": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				var mark string
				f.on("turn/start", func(c *fakeConn, params json.RawMessage) (any, error) {
					mark = protocol.StringField(params, "clientUserMessageId")
					if c.n == 1 {
						return nil, errDrop
					}
					f.wg.Go(func() { c.completed("completed", message("a", "done")) })
					return map[string]any{"turn": turnOf("inProgress")}, nil
				})
				f.on("thread/turns/list", func(*fakeConn, json.RawMessage) (any, error) {
					other := map[string]any{"id": "t0", "status": "completed", "items": []any{}}
					if !begun {
						return map[string]any{"data": []any{other}}, nil
					}
					prompt := map[string]any{"type": "userMessage", "id": "u", "clientId": mark, "content": []any{}}
					return map[string]any{"data": []any{other, turnOf("completed", prompt, message("a", "done"))}}, nil
				})
				res, _, err := drive(t, f, nil, request())
				if err != nil || res.Message != "done" || res.TurnID != "t1" {
					t.Errorf("%v, %+v", err, res)
				}
				if n, want := f.count("turn/start"), map[bool]int{true: 1, false: 2}[begun]; n != want {
					t.Errorf("it was started %d times, want %d", n, want)
				}
			})
		})
	}
}

func TestServerThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.refuse = errors.New("nobody listens there")
		f.play(func(c *fakeConn) { c.started(); time.Sleep(later); c.drop() })
		began := time.Now()
		res, out, err := drive(t, f, func(c *Config) { c.Patience, c.Target = time.Minute, "--host dev" }, request())
		if res.Status != StatusLost || config.ExitCode(err) != config.ExitLost || !strings.Contains(err.Error(), "nobody listens there") {
			t.Errorf("%v, %+v", err, res)
		}
		if h := strings.Join(config.Hints(err), "\n"); !strings.Contains(h, "towline wait "+threadID+" --host dev") {
			t.Errorf("the hints are %s", h)
		}
		if d := time.Since(began); d < 50*time.Second || d > 61*time.Second {
			t.Errorf("it gave up after %v", d)
		}
		if n := out.notes; len(n) < 2 || n[len(n)-1].Kind != NoteLost {
			t.Errorf("%+v", n)
		}
	})
}

// A credential that is taken away meanwhile is no connection to be mended.
func TestCredentialTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.refuse = &config.Problem{Stage: "dial", Err: errors.New("HTTP 401"), Exit: config.ExitDenied}
		f.play(func(c *fakeConn) { c.started(); time.Sleep(later); c.drop() })
		res, _, err := drive(t, f, nil, request())
		if res.Status != StatusDenied || config.ExitCode(err) != config.ExitDenied {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

func TestRefusals(t *testing.T) {
	engine, _ := json.Marshal(map[string]any{"engine": protocol.EngineState{State: "failed", Problem: "codex is not installed", Hints: []string{"install it"}}})
	for name, tc := range map[string]struct {
		method string
		err    *protocol.Error
		status string
		exit   int
		text   string
	}{
		"role":      {"thread/start", protocol.Errorf(`thread/start needs the role "operator"; ci has "observer"`), StatusDenied, config.ExitDenied, "operator"},
		"no engine": {"initialize", &protocol.Error{Code: -32600, Message: "no engine", Data: engine}, StatusNotStarted, config.ExitUnavailable, "codex is not installed"},
		"bad":       {"turn/start", protocol.Errorf("Invalid request: no"), StatusNotStarted, config.ExitFailure, "Invalid request"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.on(tc.method, func(*fakeConn, json.RawMessage) (any, error) { return nil, tc.err })
				res, _, err := drive(t, f, nil, request())
				if res.Status != tc.status || config.ExitCode(err) != tc.exit || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%v, %+v", err, res)
				}
				if f.count(tc.method) != 1 {
					t.Errorf("it was asked %d times", f.count(tc.method))
				}
			})
		})
	}
}

func TestOverloadedServerIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		n := 0
		f.on("thread/start", func(*fakeConn, json.RawMessage) (any, error) {
			if n++; n < 3 {
				return nil, protocol.ErrOverloaded
			}
			return opened("idle"), nil
		})
		f.play(func(c *fakeConn) { c.completed("completed") })
		if res, _, err := drive(t, f, nil, request()); err != nil || n != 3 {
			t.Errorf("%v after %d, %+v", err, n, res)
		}
	})
}
