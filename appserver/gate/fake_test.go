package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"))
}

// fakeEngine is a scripted engine at the Stream seam. It keeps Codex's rules
// for several connections as measured (codex-app-server.md sections 4, 5, 7):
// what is broadcast, what goes to subscribers, what a late joiner is and is not
// told, one id for all recipients, any connection may answer. Tests script what
// happens in a thread; jitter puts the connections out of step.
type fakeEngine struct {
	jitter bool
	// wire makes the two ends of a connection; rpc.Pipe when nil.
	wire func() (client, server rpc.Stream)

	mu      sync.Mutex
	conns   map[*fakeConn]bool
	threads map[string]*fakeThread
	nextReq int64
	pending map[int64]*fakeRequest
	seen    []string        // methods requested, in order
	raw     map[string]bool // messages received, as bytes
	state   protocol.EngineState
	changed chan struct{}
	refuse  error // of Connect
	// The account, as Codex has it: how it is authorised, and with which token.
	auth, token string
	accountless bool           // the provider takes no account
	conf        map[string]any // of config/read
	wg          sync.WaitGroup
}

type fakeThread struct {
	id        string
	subs      map[*fakeConn]bool
	turn      string
	status    string
	items     []json.RawMessage // completed
	ephemeral bool
	fresh     bool // no turn on disk yet: cannot be resumed
	// Where and how it works; told only when there is a folder.
	cwd, sandbox, approval, parent string
}

type fakeRequest struct {
	id      int64
	thread  string
	params  json.RawMessage
	method  string
	answers chan json.RawMessage // every reply that reached the engine, as bytes
	done    bool
}

type fakeConn struct {
	e    *fakeEngine
	s    rpc.Stream
	mu   sync.Mutex
	q    [][]byte
	sig  chan struct{}
	init bool
	name string
}

func newFake() *fakeEngine {
	return &fakeEngine{
		conns: make(map[*fakeConn]bool), threads: make(map[string]*fakeThread), pending: make(map[int64]*fakeRequest),
		raw:   make(map[string]bool),
		state: protocol.EngineState{Kind: "codex", State: "ready", Version: "0.0.1"}, changed: make(chan struct{}),
	}
}

func (e *fakeEngine) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (e *fakeEngine) State() protocol.EngineState {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

func (e *fakeEngine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *fakeEngine) setState(st protocol.EngineState, refuse error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state, e.refuse = st, refuse
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *fakeEngine) Connect(context.Context) (rpc.Stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return nil, e.refuse
	}
	a, b := rpc.Pipe(64)
	if e.wire != nil {
		a, b = e.wire()
	}
	c := &fakeConn{e: e, s: b, sig: make(chan struct{}, 1)}
	e.conns[c] = true
	ctx, cancel := context.WithCancel(context.Background())
	e.wg.Go(func() { c.write(ctx) })
	e.wg.Go(func() { defer cancel(); c.read() })
	return a, nil
}

// die closes every connection, as a killed process does, and forgets all.
func (e *fakeEngine) die() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		_ = c.s.Close(io.EOF)
	}
	e.threads, e.pending, e.nextReq = make(map[string]*fakeThread), make(map[int64]*fakeRequest), 0
}

func (c *fakeConn) put(msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.q = append(c.q, msg)
	poke(c.sig)
}

func (c *fakeConn) write(ctx context.Context) {
	for {
		c.mu.Lock()
		q := c.q
		c.q = nil
		c.mu.Unlock()
		for _, m := range q {
			if c.e.jitter {
				switch rand.N(40) {
				case 0:
					time.Sleep(time.Duration(rand.N(300)) * time.Microsecond)
				case 1, 2, 3:
					runtime.Gosched()
				}
			}
			if c.s.Write(ctx, append([]byte(nil), m...)) != nil {
				return
			}
		}
		if len(q) > 0 {
			continue
		}
		select {
		case <-c.sig:
		case <-ctx.Done():
			return
		}
	}
}

func (c *fakeConn) read() {
	for {
		msg, err := c.s.Read(context.Background())
		if err != nil {
			break
		}
		env, err := protocol.Peek(msg)
		if err == nil {
			c.e.handle(c, env, msg)
		}
	}
	_ = c.s.Close(io.EOF)
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	delete(c.e.conns, c)
	for _, t := range c.e.threads {
		delete(t.subs, c)
	}
}

func (e *fakeEngine) handle(c *fakeConn, env protocol.Envelope, msg []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.raw[string(msg)] = true
	reply := func(v any) { m, _ := protocol.NewResponse(env.ID, v); c.put(m) }
	fail := func(f string, a ...any) { c.put(protocol.NewError(env.ID, protocol.Errorf(f, a...))) }
	switch env.Kind {
	case protocol.KindResponse, protocol.KindError:
		var id int64
		if json.Unmarshal(env.ID, &id) != nil || e.pending[id] == nil {
			return
		}
		r := e.pending[id]
		r.answers <- append(json.RawMessage(nil), msg...)
		if !r.done {
			r.done = true
			e.toLocked(r.thread, "serverRequest/resolved", map[string]any{"threadId": r.thread, "requestId": id})
		}
		return
	case protocol.KindNotification:
		return
	}
	e.seen = append(e.seen, env.Method)
	if env.Method != "initialize" && !c.init {
		fail("Not initialized")
		return
	}
	t := e.threads[protocol.StringField(env.Params, "threadId")]
	opened := func(t *fakeThread, turns bool) map[string]any {
		th := t.view()
		if turns && t.turn != "" {
			th["turns"] = []any{map[string]any{"id": t.turn, "status": "inProgress", "items": append([]json.RawMessage{}, t.items...)}}
		}
		out := map[string]any{"thread": th}
		if t.cwd != "" {
			out["cwd"], out["approvalPolicy"], out["sandbox"] = t.cwd, t.approval, map[string]string{"type": t.sandbox}
		}
		return out
	}
	switch env.Method {
	case "initialize":
		c.init, c.name = true, protocol.StringField(protocol.Field(env.Params, "clientInfo"), "name")
		reply(map[string]string{"userAgent": "fake/0.0.1"})
	case "thread/start":
		t = &fakeThread{
			id: fmt.Sprintf("00000000-0000-4000-8000-%012d", len(e.threads)+1), subs: map[*fakeConn]bool{c: true}, status: "idle",
			ephemeral: string(protocol.Field(env.Params, "ephemeral")) == "true", fresh: true,
			cwd: protocol.StringField(env.Params, "cwd"), sandbox: protocol.PolicyWorkspaceWrite, approval: protocol.ApproveOnRequest,
		}
		if s, ok := map[string]string{
			protocol.SandboxReadOnly: protocol.PolicyReadOnly, protocol.SandboxFullAccess: protocol.PolicyFullAccess,
		}[protocol.StringField(env.Params, "sandbox")]; ok {
			t.sandbox = s
		}
		e.threads[t.id] = t
		reply(opened(t, false))
		e.allLocked("thread/started", opened(t, false))
	case "thread/resume":
		if t == nil || t.fresh {
			fail("no rollout found for thread id %s", protocol.StringField(env.Params, "threadId"))
			return
		}
		t.subs[c] = true
		reply(opened(t, string(protocol.Field(env.Params, "excludeTurns")) != "true"))
		for id := int64(0); id < e.nextReq; id++ {
			if r := e.pending[id]; r != nil && !r.done && r.thread == t.id {
				m, _ := protocol.NewRequest(protocol.IntID(r.id), r.method, r.params)
				c.put(m)
			}
		}
	case "thread/unsubscribe":
		if t != nil {
			delete(t.subs, c)
		}
		reply(map[string]string{"status": "unsubscribed"})
	case "thread/loaded/list":
		ids, next := e.pageLocked(env.Params)
		reply(map[string]any{"data": ids, "nextCursor": next})
	case "thread/list", "thread/search":
		ids, next := e.pageLocked(env.Params)
		rows, states := []any{}, map[string]any{}
		for _, id := range ids {
			row := any(e.threads[id].view())
			if env.Method == "thread/search" {
				row = map[string]any{"snippet": "the word in " + id, "thread": row}
			}
			rows, states[id] = append(rows, row), map[string]any{"revision": 1}
		}
		reply(map[string]any{"data": rows, "readStates": states, "nextCursor": next, "backwardsCursor": "back|" + fmt.Sprint(ids)})
	case "config/read":
		reply(map[string]any{"config": e.conf, "origins": map[string]any{}})
	case "thread/read":
		if t == nil {
			fail("thread not found")
			return
		}
		reply(opened(t, false))
	case protocol.AuthStatus:
		reply(map[string]any{"authMethod": e.auth, "authToken": nil, "requiresOpenaiAuth": !e.accountless})
	case protocol.AccountStart:
		var p protocol.LoginStart
		_ = json.Unmarshal(env.Params, &p)
		if p.AccountID == "acct-bad" {
			fail("failed to set external auth")
			return
		}
		e.auth, e.token = p.Type, p.AccessToken
		reply(protocol.LoginStarted{Type: p.Type})
		e.allLocked(protocol.AccountCompleted, protocol.LoginCompleted{Success: true})
		e.allLocked(protocol.AccountUpdated, protocol.AccountChange{AuthMode: &p.Type})
	case protocol.AccountLogout:
		e.auth, e.token = "", ""
		reply(struct{}{})
		e.allLocked(protocol.AccountUpdated, protocol.AccountChange{})
	case "echo":
		reply(env.Params)
	case "hang":
	default:
		reply(nil)
	}
}

// pageLocked is a page of threads' ids, oldest first.
func (e *fakeEngine) pageLocked(params json.RawMessage) (ids []string, next *string) {
	limit := 25
	_ = json.Unmarshal(protocol.Field(params, "limit"), &limit)
	after := protocol.StringField(params, "cursor")
	ids = []string{}
	for _, id := range slices.Sorted(maps.Keys(e.threads)) {
		if id <= after {
			continue
		}
		if len(ids) == limit {
			return ids, &ids[limit-1]
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (t *fakeThread) view() map[string]any {
	th := map[string]any{"id": t.id, "status": t.statusValue(), "ephemeral": t.ephemeral, "turns": []any{}}
	if t.cwd != "" {
		th["cwd"] = t.cwd
	}
	if t.parent != "" {
		th["parentThreadId"] = t.parent
	}
	return th
}

func (t *fakeThread) statusValue() any {
	if t.status == "active" {
		return map[string]any{"type": "active", "activeFlags": []string{}}
	}
	return map[string]any{"type": t.status}
}

func (e *fakeEngine) allLocked(method string, params any) {
	m, _ := protocol.NewNotification(method, params, 1)
	for c := range e.conns {
		if c.init {
			c.put(m)
		}
	}
}

func (e *fakeEngine) toLocked(thread, method string, params any) {
	m, _ := protocol.NewNotification(method, params, 1)
	if t := e.threads[thread]; t != nil {
		for c := range t.subs {
			c.put(m)
		}
	}
}

// breathe waits until no connection has much left to be written, as a model
// that is no faster than its readers.
func (e *fakeEngine) breathe() {
	for {
		e.mu.Lock()
		most := 0
		for c := range e.conns {
			c.mu.Lock()
			most = max(most, len(c.q))
			c.mu.Unlock()
		}
		e.mu.Unlock()
		if most < 100 {
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// The script of a turn.

func (e *fakeEngine) startTurn(thread, turn string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.threads[thread]
	t.turn, t.status, t.items, t.fresh = turn, "active", nil, false
	e.allLocked("thread/status/changed", map[string]any{"threadId": thread, "status": t.statusValue()})
	e.toLocked(thread, "turn/started", map[string]any{"threadId": thread, "turn": map[string]any{"id": turn}})
}

func (e *fakeEngine) endTurn(thread string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.threads[thread]
	t.status = "idle"
	e.allLocked("thread/status/changed", map[string]any{"threadId": thread, "status": t.statusValue()})
	e.toLocked(thread, "turn/completed", map[string]any{"threadId": thread, "turn": map[string]any{"id": t.turn, "status": "completed", "items": []any{}}})
	for _, r := range e.pending {
		if r.thread == thread && !r.done {
			r.done = true
			e.toLocked(thread, "serverRequest/resolved", map[string]any{"threadId": thread, "requestId": r.id})
		}
	}
	t.turn = ""
}

func (e *fakeEngine) itemStarted(thread, id, typ string, more map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	item := map[string]any{"type": typ, "id": id}
	for k, v := range more {
		item[k] = v
	}
	e.toLocked(thread, "item/started", map[string]any{"threadId": thread, "turnId": e.threads[thread].turn, "item": item, "startedAtMs": 1})
}

func (e *fakeEngine) delta(thread, id, method, text string, more map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := map[string]any{"threadId": thread, "turnId": e.threads[thread].turn, "itemId": id, "delta": text}
	for k, v := range more {
		p[k] = v
	}
	e.toLocked(thread, method, p)
}

func (e *fakeEngine) itemCompleted(thread, id, typ, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	item, _ := json.Marshal(map[string]any{"type": typ, "id": id, "text": text})
	t := e.threads[thread]
	t.items = append(t.items, item)
	e.toLocked(thread, "item/completed", map[string]any{"threadId": thread, "turnId": t.turn, "item": json.RawMessage(item), "completedAtMs": 1})
}

func (e *fakeEngine) ask(thread, method string, params map[string]any) *fakeRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := map[string]any{"threadId": thread, "turnId": e.threads[thread].turn}
	for k, v := range params {
		p[k] = v
	}
	raw, _ := json.Marshal(p)
	r := &fakeRequest{id: e.nextReq, thread: thread, method: method, params: raw, answers: make(chan json.RawMessage, 16)}
	e.nextReq++
	e.pending[r.id] = r
	m, _ := protocol.NewRequest(protocol.IntID(r.id), method, json.RawMessage(raw))
	for c := range e.threads[thread].subs {
		c.put(m)
	}
	return r
}

// refresh asks for a new token, as Codex does: everybody, whoever lent the old one.
func (e *fakeEngine) refresh() *fakeRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &fakeRequest{id: e.nextReq, method: protocol.ReqTokensRefresh, answers: make(chan json.RawMessage, 16)}
	e.nextReq++
	e.pending[r.id] = r
	was := "acct-1"
	m, _ := protocol.NewRequest(protocol.IntID(r.id), r.method, protocol.TokensRefresh{Reason: "unauthorized", PreviousAccount: &was})
	for c := range e.conns {
		if c.init {
			c.put(m)
		}
	}
	return r
}

func (e *fakeEngine) account() (auth, token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.auth, e.token
}

// resolve closes a request as if answered by a client the gate does not carry.
func (e *fakeEngine) resolve(r *fakeRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.done = true
	e.toLocked(r.thread, "serverRequest/resolved", map[string]any{"threadId": r.thread, "requestId": r.id})
}

// watched reports whether the gate's watcher is on the thread.
func (e *fakeEngine) watched(thread string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.threads[thread]; t != nil {
		for c := range t.subs {
			if c.name == "towline-watcher" {
				return true
			}
		}
	}
	return false
}

func (e *fakeEngine) got(msg string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.raw[msg]
}
