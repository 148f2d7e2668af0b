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
	"towline/appserver/rpc"
	"towline/config"
)

func TestInterrupt(t *testing.T) {
	for name, answers := range map[string]bool{"server answers": true, "server hangs": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				if !answers {
					f.on("turn/interrupt", func(*fakeConn, json.RawMessage) (any, error) { return nil, errSilent })
				}
				f.play(func(c *fakeConn) { c.started() })
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(later, cancel)
				began := time.Now()
				res, _, err := driveCtx(ctx, t, f, nil, func(ctx context.Context, r *Runner) (*Result, error) { return r.Run(ctx, request()) })
				if res.Status != StatusInterrupted || config.ExitCode(err) != config.ExitInterrupted || f.count("turn/interrupt") != 1 {
					t.Errorf("%v, %+v", err, res)
				}
				d, goesOn := time.Since(began), strings.Contains(err.Error(), "may go on")
				if answers && (d != later || goesOn) || !answers && (d != later+goodbye || !goesOn) {
					t.Errorf("after %v: %v", d, err)
				}
			})
		})
	}
}

// A turn that ends well in the moment it is interrupted has ended well.
func TestInterruptTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.on("turn/interrupt", func(c *fakeConn, _ json.RawMessage) (any, error) {
			c.completed("completed", message("a", "done"))
			return nil, protocol.Errorf("no active turn to interrupt")
		})
		f.play(func(c *fakeConn) { c.started() })
		req := request()
		req.Timeout = later
		res, _, err := drive(t, f, nil, req)
		if err != nil || res.Status != StatusCompleted || res.Message != "done" {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

func TestTimeouts(t *testing.T) {
	question := func(c *fakeConn) {
		c.started()
		c.item("item/started", command("c", "inProgress", nil))
		c.ask(7, protocol.ReqCommandApproval, map[string]any{"itemId": "c", "command": "ls", "reason": "why not"})
	}
	for name, tc := range map[string]struct {
		script  func(c *fakeConn)
		timeout time.Duration
		waits   time.Duration
		status  string
		exit    int
		after   time.Duration
	}{
		"time is over":              {func(c *fakeConn) { c.started() }, time.Minute, -1, StatusTimeout, config.ExitTimeout, time.Minute},
		"question at the end":       {question, time.Minute, -1, StatusApproval, config.ExitApproval, time.Minute},
		"question waited enough":    {question, time.Hour, time.Minute, StatusApproval, config.ExitApproval, time.Minute},
		"no question may be waited": {question, 0, 0, StatusApproval, config.ExitApproval, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.play(tc.script)
				req := request()
				req.Timeout, req.ApprovalTimeout = tc.timeout, tc.waits
				began := time.Now()
				res, _, err := drive(t, f, nil, req)
				if res.Status != tc.status || config.ExitCode(err) != tc.exit || time.Since(began) != tc.after || f.count("turn/interrupt") != 1 {
					t.Errorf("after %v: %v, %+v", time.Since(began), err, res)
				}
				if tc.status == StatusApproval {
					if !strings.Contains(err.Error(), "may it run ls") {
						t.Error(err)
					}
					if len(res.Approvals) != 1 || res.Approvals[0].Answered || res.Approvals[0].Subject != "ls" || res.Approvals[0].Reason != "why not" {
						t.Errorf("%+v", res.Approvals)
					}
					if len(res.Commands) != 1 || res.Commands[0].Status != "in_progress" {
						t.Errorf("%+v", res.Commands)
					}
				}
			})
		})
	}
}

// What people answered is in the result, with who did where the server says so; a
// no that ended the turn is the result.
func TestApprovals(t *testing.T) {
	by := map[string]any{"name": "ann", "kind": "key", "role": "approver", "via": "ssh"}
	answer := func(c *fakeConn, decision string, gate bool) {
		c.tell("serverRequest/resolved", map[string]any{"requestId": 7})
		if gate {
			params, _ := json.Marshal(map[string]any{"threadId": threadID, "turnId": "t1", "itemId": "c", "command": "ls"})
			if err := c.peer.Notify(protocol.NoteApprovalClosed, map[string]any{"approval": map[string]any{
				"id": "A1", "threadId": threadID, "requestId": 7, "method": protocol.ReqCommandApproval, "params": json.RawMessage(params),
				"state": "answered", "by": by, "result": map[string]any{"decision": decision},
			}}); err != nil {
				t.Error(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		decision string
		gate     bool
		item     string // its status at the end
		turn     string
		status   string
		exit     int
		want     string
	}{
		"yes":                  {"accept", true, "completed", "completed", StatusCompleted, 0, "accept"},
		"yes of a stock one":   {"accept", false, "completed", "completed", StatusCompleted, 0, "accept"},
		"no, and it went on":   {"decline", true, "declined", "completed", StatusCompleted, 0, "decline"},
		"no, and it ended":     {"cancel", true, "declined", "interrupted", StatusDenied, config.ExitDenied, "cancel"},
		"no of a stock one":    {"cancel", false, "declined", "interrupted", StatusDenied, config.ExitDenied, "decline"},
		"yes, and interrupted": {"accept", true, "completed", "interrupted", StatusInterrupted, config.ExitFailure, "accept"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.play(func(c *fakeConn) {
					c.started()
					c.item("item/started", command("c", "inProgress", nil))
					c.ask(7, protocol.ReqCommandApproval, map[string]any{"itemId": "c", "command": "ls"})
					time.Sleep(later)
					answer(c, tc.decision, tc.gate)
					c.item("item/completed", command("c", tc.item, nil))
					c.completed(tc.turn)
				})
				res, out, err := drive(t, f, nil, request())
				if res.Status != tc.status || config.ExitCode(err) != tc.exit || len(res.Approvals) != 1 {
					t.Fatalf("%v, %+v", err, res)
				}
				a := res.Approvals[0]
				if a.Decision != tc.want || !a.Answered || a.WaitedMs != later.Milliseconds() || tc.gate != (a.By != nil) {
					t.Errorf("%+v", a)
				}
				if tc.gate && (*a.By != By{Name: "ann", Kind: "key", Role: "approver", Via: "ssh"} || a.ID != "A1") {
					t.Errorf("%+v by %+v", a, a.By)
				}
				if tc.status == StatusDenied && tc.gate && !strings.Contains(err.Error(), "ann said no: ls") {
					t.Error(err)
				}
				var kinds []NoteKind
				for _, n := range out.notes {
					kinds = append(kinds, n.Kind)
				}
				if len(kinds) != 3 || kinds[1] != NoteWaiting || kinds[2] != NoteAnswered {
					t.Errorf("notes %v", kinds)
				}
			})
		})
	}
}

// A question is not answered by a connection that comes anew: it is the same one
// when the server asks again, and was answered when it does not.
func TestQuestionOutlivesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.play(func(c *fakeConn) {
			c.started()
			c.ask(7, protocol.ReqCommandApproval, map[string]any{"itemId": "c", "command": "ls"})
			time.Sleep(later)
			c.drop()
		})
		f.on("thread/turns/list", func(c *fakeConn, _ json.RawMessage) (any, error) {
			f.wg.Go(func() {
				c.ask(7, protocol.ReqCommandApproval, map[string]any{"itemId": "c", "command": "ls"})
				time.Sleep(later)
				c.tell("serverRequest/resolved", map[string]any{"requestId": 7})
				c.item("item/completed", command("c", "completed", 0))
				c.completed("completed")
			})
			return map[string]any{"data": []any{turnOf("inProgress")}}, nil
		})
		req := request()
		req.ApprovalTimeout = time.Minute
		res, _, err := drive(t, f, nil, req)
		if err != nil || len(res.Approvals) != 1 || res.Approvals[0].WaitedMs != 2*later.Milliseconds() || res.Approvals[0].Decision != "accept" {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.play(func(c *fakeConn) { c.started() })
		req := request()
		req.Detach = true
		res, _, err := drive(t, f, nil, req)
		if err != nil || res.Status != StatusStarted || res.ThreadID != threadID || res.TurnID != "t1" || f.count("turn/interrupt") != 0 {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

func TestWait(t *testing.T) {
	for name, tc := range map[string]struct {
		turns   []map[string]any
		then    func(c *fakeConn)
		timeout time.Duration
		status  string
		exit    int
	}{
		"it runs":        {[]map[string]any{turnOf("inProgress", message("a", "x"))}, func(c *fakeConn) { c.completed("completed", message("b", "y")) }, 0, StatusCompleted, 0},
		"it has ended":   {[]map[string]any{turnOf("completed", message("b", "y"))}, nil, 0, StatusCompleted, 0},
		"it was stopped": {[]map[string]any{turnOf("interrupted", message("b", "y"))}, nil, 0, StatusInterrupted, config.ExitFailure},
		"it takes long":  {[]map[string]any{turnOf("inProgress", message("b", "y"))}, nil, time.Minute, StatusTimeout, config.ExitTimeout},
		"nothing":        {nil, nil, 0, StatusNotStarted, config.ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.on("thread/turns/list", func(c *fakeConn, _ json.RawMessage) (any, error) {
					if tc.then != nil {
						f.wg.Go(func() { time.Sleep(later); tc.then(c) })
					}
					return map[string]any{"data": append([]map[string]any{}, tc.turns...)}, nil
				})
				res, _, err := driveCtx(t.Context(), t, f, nil, func(ctx context.Context, r *Runner) (*Result, error) { return r.Wait(ctx, threadID, tc.timeout) })
				if res.Status != tc.status || config.ExitCode(err) != tc.exit || res.ExitCode != tc.exit {
					t.Fatalf("%v, %+v", err, res)
				}
				if len(tc.turns) > 0 && res.Message != "y" {
					t.Errorf("%+v", res)
				}
				if f.count("turn/interrupt") != 0 || f.count("turn/start") != 0 {
					t.Errorf("it did something: %v", f.calls())
				}
			})
		})
	}
}

func TestResumeOfABusyThread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		req := request()
		req.Resume = threadID
		res, _, err := drive(t, f, nil, req)
		if config.ExitCode(err) != config.ExitUnavailable || f.count("turn/start") != 0 || !strings.Contains(strings.Join(config.Hints(err), " "), "towline wait "+threadID) {
			t.Errorf("%v, %+v", err, res)
		}
	})
}

func TestFindingAThread(t *testing.T) {
	for name, tc := range map[string]struct {
		req  Request
		want string
	}{
		"by id":   {Request{Resume: threadID}, ""},
		"by name": {Request{Resume: "nightly"}, `"sourceKinds":`},
		"newest":  {Request{Last: true, Cwd: "/w"}, `"cwd":"/w"`},
		"any":     {Request{Last: true, Cwd: "/w", All: true}, `"limit":1`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				asked := ""
				f.on("thread/list", func(_ *fakeConn, params json.RawMessage) (any, error) {
					asked = string(params)
					other := map[string]any{"id": "0199c3f2-7f3a-7000-8000-00000000000f", "name": nil}
					found := map[string]any{"id": threadID, "name": "nightly"}
					if tc.req.Last {
						return map[string]any{"data": []any{found}}, nil
					}
					return map[string]any{"data": []any{other, found}}, nil
				})
				f.on("thread/resume", func(_ *fakeConn, params json.RawMessage) (any, error) {
					if protocol.StringField(params, "threadId") != threadID {
						t.Errorf("resumed %s", params)
					}
					return opened("idle"), nil
				})
				f.play(func(c *fakeConn) { c.completed("completed") })
				tc.req.Input = request().Input
				if _, _, err := drive(t, f, nil, tc.req); err != nil {
					t.Error(err)
				}
				if !strings.Contains(asked, tc.want) || (tc.want == "") != (asked == "") || name == "any" && strings.Contains(asked, "cwd") {
					t.Errorf("asked %s", asked)
				}
			})
		})
	}
}

// brokenLink is a stream whose link is down for good.
type brokenLink struct{ rpc.Stream }

func (brokenLink) State() rpc.LinkState {
	return rpc.LinkState{Err: errors.New("no route"), Since: time.Now()}
}
func (brokenLink) Changed() <-chan struct{} { return nil }

// A stream that mends itself never gives up; the run does.
func TestLinkThatStaysDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		down := time.Now()
		f.play(func(c *fakeConn) { c.started() })
		res, _, err := drive(t, f, func(c *Config) {
			dial := c.Dial
			c.Dial = func(ctx context.Context) (rpc.Stream, error) {
				s, err := dial(ctx)
				return downSince{brokenLink{s}, down}, err
			}
		}, request())
		if res.Status != StatusLost || config.ExitCode(err) != config.ExitLost || time.Since(down) != DefaultPatience {
			t.Errorf("after %v: %v, %+v", time.Since(down), err, res)
		}
	})
}

type downSince struct {
	brokenLink
	at time.Time
}

func (d downSince) State() rpc.LinkState {
	return rpc.LinkState{Err: errors.New("no route"), Since: d.at}
}
