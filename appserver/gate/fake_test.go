package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config/store"
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
	wg      sync.WaitGroup
}

type fakeThread struct {
	id        string
	subs      map[*fakeConn]bool
	turn      string
	status    string
	items     []json.RawMessage // completed
	ephemeral bool
	fresh     bool // no turn on disk yet: cannot be resumed
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
		th := map[string]any{"id": t.id, "status": t.statusValue(), "ephemeral": t.ephemeral, "turns": []any{}}
		if turns && t.turn != "" {
			th["turns"] = []any{map[string]any{"id": t.turn, "status": "inProgress", "items": append([]json.RawMessage{}, t.items...)}}
		}
		return map[string]any{"thread": th}
	}
	switch env.Method {
	case "initialize":
		c.init, c.name = true, protocol.StringField(protocol.Field(env.Params, "clientInfo"), "name")
		reply(map[string]string{"userAgent": "fake/0.0.1"})
	case "thread/start":
		t = &fakeThread{
			id: fmt.Sprintf("00000000-0000-4000-8000-%012d", len(e.threads)+1), subs: map[*fakeConn]bool{c: true}, status: "idle",
			ephemeral: string(protocol.Field(env.Params, "ephemeral")) == "true", fresh: true,
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
		ids := []string{}
		for id := range e.threads {
			ids = append(ids, id)
		}
		reply(map[string]any{"data": ids})
	case "thread/read":
		if t == nil {
			fail("thread not found")
			return
		}
		reply(opened(t, false))
	case "echo":
		reply(env.Params)
	case "hang":
	default:
		reply(nil)
	}
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

// rig is a gate over a fake engine, with Run running unless told otherwise.
type rig struct {
	t     testing.TB
	e     *fakeEngine
	g     *Gate
	store *store.Store
	audit string
	stop  func()
}

func newRig(t testing.TB, change func(*Config), run bool) *rig {
	t.Helper()
	e := newFake()
	return newRigOn(t, e, change, run)
}

func newRigOn(t testing.TB, e *fakeEngine, change func(*Config), run bool) *rig {
	t.Helper()
	r := &rig{t: t, e: e}
	r.g, r.store, r.audit, r.stop = startGate(t, e, t.TempDir(), change, run)
	t.Cleanup(func() { e.die(); e.wg.Wait() })
	return r
}

func startGate(t testing.TB, e Engine, dir string, change func(*Config), run bool) (*Gate, *store.Store, string, func()) {
	t.Helper()
	dir = filepath.Join(dir, "state")
	s, err := store.Open(t.Context(), filepath.Join(dir, "towline.db"))
	if err != nil {
		t.Fatal(err)
	}
	audit := filepath.Join(dir, "audit.jsonl")
	a, err := OpenAudit(audit, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Engine: e, Store: s, Audit: a, Log: slog.New(slog.DiscardHandler), Host: "box", Project: "/src", Version: "1"}
	if change != nil {
		change(&cfg)
	}
	g := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if run {
		go func() { done <- g.Run(ctx) }()
	} else {
		done <- nil
	}
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			_ = a.Close()
			_ = s.Close()
		})
	}
	t.Cleanup(stop)
	return g, s, audit, stop
}

// person is one client of the gate under test. Everything it is sent is kept in
// order.
type person struct {
	t      testing.TB
	s      rpc.Stream
	served chan error

	mu   sync.Mutex
	cond *sync.Cond
	msgs []protocol.Envelope
	end  error
	id   int64
}

func principal(name string, role protocol.Role) access.Principal {
	return access.Principal{Kind: access.KindKey, ID: "SHA256:" + name, Name: name, Role: role}
}

// join attaches a client that has done its handshake.
func (r *rig) join(name string, role protocol.Role, ext bool) *person {
	r.t.Helper()
	return attach(r.t, r.g, name, role, ext)
}

func attach(t testing.TB, g *Gate, name string, role protocol.Role, ext bool) *person {
	t.Helper()
	p := dial(t, g, name, role)
	caps := map[string]any{"experimentalApi": true}
	if ext {
		caps["extensions"] = map[string]any{"towline": protocol.Extension{Version: 1}}
	}
	if _, err := p.call("initialize", map[string]any{"clientInfo": map[string]string{"name": "tui-" + name, "version": "1"}, "capabilities": caps}); err != nil {
		t.Fatalf("initialize: %v", err)
	}
	p.send(`{"method":"initialized","params":{}}`)
	return p
}

func dial(t testing.TB, g *Gate, name string, role protocol.Role) *person {
	t.Helper()
	a, b := rpc.Pipe(64)
	p := &person{t: t, s: a, served: make(chan error, 1)}
	p.cond = sync.NewCond(&p.mu)
	go func() {
		p.served <- g.Serve(context.Background(), b, Client{Principal: principal(name, role), Via: "ssh", Remote: "test"})
	}()
	go p.read()
	t.Cleanup(func() { p.leave() })
	return p
}

func (p *person) read() {
	for {
		msg, err := p.s.Read(context.Background())
		p.mu.Lock()
		if err != nil {
			p.end = err
			p.cond.Broadcast()
			p.mu.Unlock()
			return
		}
		env, err := protocol.Peek(msg)
		if err != nil {
			p.t.Errorf("gate sent %q: %v", msg, err)
		}
		p.msgs = append(p.msgs, env)
		p.cond.Broadcast()
		p.mu.Unlock()
	}
}

// leave closes the client's end and waits for Serve.
func (p *person) leave() error {
	_ = p.s.Close(nil)
	err, ok := <-p.served
	if ok {
		close(p.served)
	}
	return err
}

func (p *person) send(msg string) {
	p.t.Helper()
	if err := p.s.Write(context.Background(), []byte(msg)); err != nil {
		p.t.Errorf("send: %v", err)
	}
}

const patience = 20 * time.Second

// wait returns the first message from position from on that match accepts, and
// the position after it.
func (p *person) wait(what string, from int, match func(protocol.Envelope) bool) (protocol.Envelope, int) {
	p.t.Helper()
	late := time.AfterFunc(patience, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.end == nil {
			p.end = fmt.Errorf("waited %v", patience)
		}
		p.cond.Broadcast()
	})
	defer late.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := from; ; i++ {
		for i >= len(p.msgs) {
			if p.end != nil {
				var got []string
				for _, m := range p.msgs {
					got = append(got, fmt.Sprintf("%s %s %.150s%.150s%.150s", m.Method, m.ID, m.Params, m.Result, m.Error))
				}
				if len(got) > 30 {
					got = got[len(got)-30:]
				}
				p.t.Fatalf("no %s: %v; got %q", what, p.end, got)
			}
			p.cond.Wait()
		}
		if match(p.msgs[i]) {
			return p.msgs[i], i + 1
		}
	}
}

func (p *person) note(method string) protocol.Envelope {
	p.t.Helper()
	env, _ := p.wait(method, 0, func(e protocol.Envelope) bool { return e.Method == method })
	return env
}

func (p *person) count(match func(protocol.Envelope) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.msgs {
		if match(m) {
			n++
		}
	}
	return n
}

func (p *person) call(method string, params any) (json.RawMessage, error) {
	p.t.Helper()
	p.mu.Lock()
	p.id++
	id := protocol.StringID(fmt.Sprintf("q%d", p.id))
	p.mu.Unlock()
	msg, err := protocol.NewRequest(id, method, params)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.s.Write(context.Background(), msg); err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
	env, _ := p.wait("answer to "+method, 0, func(e protocol.Envelope) bool { return e.Method == "" && string(e.ID) == string(id) })
	if env.Kind == protocol.KindError {
		pe := new(protocol.Error)
		_ = json.Unmarshal(env.Error, pe)
		return nil, pe
	}
	return env.Result, nil
}

func (p *person) must(method string, params any) json.RawMessage {
	p.t.Helper()
	r, err := p.call(method, params)
	if err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
	return r
}

func (p *person) startThread() string {
	p.t.Helper()
	return protocol.StringField(protocol.Field(p.must("thread/start", map[string]any{}), "thread"), "id")
}

func (p *person) resume(thread string) json.RawMessage {
	p.t.Helper()
	return p.must("thread/resume", map[string]any{"threadId": thread})
}

// reply answers the question with the id as a client does.
func (p *person) reply(id json.RawMessage, result string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"id":%s,"result":%s}`, id, result))
}

// sync returns when the gate has handled everything sent before.
func (p *person) sync() { p.t.Helper(); p.must(protocol.ExtStatus, nil) }

// eventually waits for something that has no event of its own.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
