package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const threadID = "0199c3f2-7f3a-7000-8000-000000000001"

// fake is an app-server at the network's edge: what each connection answers is the
// test's, and what it was asked is kept.
type fake struct {
	t *testing.T
	// answers are by method; a nil result drops the connection instead.
	answers map[string]func(c *fakeConn, params json.RawMessage) (any, error)
	refuse  error // of Dial, when set

	mu    sync.Mutex // guards what follows
	asked []string
	conns []*fakeConn
	wg    sync.WaitGroup
}

// fakeConn is the server's end of one connection.
type fakeConn struct {
	f    *fake
	n    int // 1 is the first
	peer *rpc.Peer
}

var errDrop = errors.New("drop the connection")

func newFake(t *testing.T) *fake {
	f := &fake{t: t}
	f.answers = map[string]func(*fakeConn, json.RawMessage) (any, error){
		"initialize":        func(*fakeConn, json.RawMessage) (any, error) { return map[string]any{"userAgent": "fake/1"}, nil },
		protocol.ExtSession: func(*fakeConn, json.RawMessage) (any, error) { return protocol.Session{}, nil },
		"thread/start":      func(*fakeConn, json.RawMessage) (any, error) { return opened("idle"), nil },
		"thread/resume":     func(*fakeConn, json.RawMessage) (any, error) { return opened("active"), nil },
		"turn/start": func(*fakeConn, json.RawMessage) (any, error) {
			return map[string]any{"turn": map[string]any{"id": "t1", "status": "inProgress"}}, nil
		},
		"turn/interrupt": func(c *fakeConn, _ json.RawMessage) (any, error) {
			c.completed("interrupted")
			return map[string]any{}, nil
		},
	}
	return f
}

func opened(status string) map[string]any {
	th := map[string]any{"id": threadID, "status": map[string]any{"type": status, "activeFlags": []string{}}, "turns": []any{}}
	return map[string]any{"thread": th, "model": "m", "cwd": "/w", "sandbox": map[string]any{"type": "readOnly"}, "approvalPolicy": "never"}
}

// on sets what a method answers.
func (f *fake) on(method string, answer func(c *fakeConn, params json.RawMessage) (any, error)) {
	f.answers[method] = answer
}

// turns makes thread/turns/list answer with a page.
func (f *fake) turns(turns ...map[string]any) {
	f.on("thread/turns/list", func(*fakeConn, json.RawMessage) (any, error) { return map[string]any{"data": turns}, nil })
}

func (f *fake) dial(ctx context.Context) (rpc.Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil && len(f.conns) > 0 {
		return nil, f.refuse
	}
	near, far := rpc.Pipe(64)
	c := &fakeConn{f: f, n: len(f.conns) + 1}
	c.peer = rpc.NewPeer(far, c)
	f.conns = append(f.conns, c)
	f.wg.Go(func() { _ = c.peer.Serve(context.WithoutCancel(ctx)) })
	return near, nil
}

// calls are the methods that were asked for, in order.
func (f *fake) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func (f *fake) count(method string) int {
	n := 0
	for _, m := range f.calls() {
		if m == method {
			n++
		}
	}
	return n
}

func (c *fakeConn) Notification(context.Context, string, json.RawMessage) {}

func (c *fakeConn) Request(_ context.Context, r *rpc.Request) {
	c.f.mu.Lock()
	c.f.asked = append(c.f.asked, r.Method)
	answer := c.f.answers[r.Method]
	c.f.mu.Unlock()
	if answer == nil {
		r.Fail(protocol.Errorf("unknown method %s", r.Method))
		return
	}
	switch result, err := answer(c, r.Params); {
	case errors.Is(err, errDrop):
		c.drop()
	case errors.Is(err, errSilent):
		r.Drop()
	case err != nil:
		r.Fail(err)
	default:
		r.Reply(result)
	}
}

var errSilent = errors.New("say nothing")

// drop ends the connection as a cut does.
func (c *fakeConn) drop() { c.peer.Close(errors.New("cut")) }

// tell sends a notification about the thread.
func (c *fakeConn) tell(method string, params map[string]any) {
	if params["threadId"] == nil {
		params["threadId"] = threadID
	}
	_ = c.peer.Notify(method, params) // the run may have left
}

func (c *fakeConn) started() {
	c.tell("turn/started", map[string]any{"turn": map[string]any{"id": "t1", "status": "inProgress"}})
}

func (c *fakeConn) item(method string, item map[string]any) {
	c.tell(method, map[string]any{"turnId": "t1", "item": item})
}

func (c *fakeConn) completed(status string, items ...map[string]any) {
	c.tell("turn/completed", map[string]any{"turn": turnOf(status, items...)})
}

// ask sends a request of the server's.
func (c *fakeConn) ask(id int, method string, params map[string]any) {
	params["threadId"], params["turnId"] = threadID, "t1"
	msg, err := protocol.NewRequest(protocol.IntID(int64(id)), method, params)
	if err != nil {
		c.f.t.Fatal(err)
	}
	if err := c.peer.Send(msg); err != nil {
		c.f.t.Errorf("ask: %v", err)
	}
}

func turnOf(status string, items ...map[string]any) map[string]any {
	if items == nil {
		items = []map[string]any{}
	}
	return map[string]any{"id": "t1", "status": status, "items": items, "error": nil}
}

func message(id, text string) map[string]any {
	return map[string]any{"type": "agentMessage", "id": id, "text": text}
}

func command(id, status string, exit any) map[string]any {
	return map[string]any{"type": "commandExecution", "id": id, "command": "ls", "cwd": "/w", "status": status, "exitCode": exit, "commandActions": []any{}}
}

// told collects what a run says.
type told struct {
	events []string // JSON, one each
	notes  []Note
}

func (o *told) config(f *fake) Config {
	return Config{
		Dial: f.dial, Version: "test",
		Event: func(_ context.Context, e Event) {
			b, err := Encode(e)
			if err != nil {
				f.t.Error(err)
			}
			o.events = append(o.events, strings.TrimSuffix(string(b), "\n"))
		},
		Note: func(_ context.Context, n Note) { o.notes = append(o.notes, n) },
	}
}

// types are the types of the events, with those of their items.
func (o *told) types() string {
	var out []string
	for _, e := range o.events {
		var v struct {
			Type string `json:"type"`
			Item struct {
				ID   string `json:"id"`
				Type string `json:"type"`
			} `json:"item"`
		}
		_ = json.Unmarshal([]byte(e), &v) // it was just encoded
		out = append(out, strings.TrimSpace(fmt.Sprint(v.Type, " ", v.Item.ID, " ", v.Item.Type)))
	}
	return strings.Join(out, "\n")
}

// request is the usual one.
func request() Request {
	return Request{Input: []protocol.UserInput{protocol.Text("do it")}, Approval: "never", ApprovalTimeout: -1}
}

// later is a moment in a bubble's time.
const later = time.Second
