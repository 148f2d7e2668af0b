package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config/store"
)

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
	// Runs after the gate has stopped, which connects anew until then.
	t.Cleanup(func() { e.die(); e.wg.Wait() })
	r.g, r.store, r.audit, r.stop = startGate(t, e, t.TempDir(), change, run)
	return r
}

func startGate(t testing.TB, e Engine, dir string, change func(*Config), run bool) (*Gate, *store.Store, string, func()) {
	t.Helper()
	dir = filepath.Join(dir, "state")
	s, err := store.Open(t.Context(), filepath.Join(dir, "towline.db"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.jsonl")
	a, err := audit.Open(path, audit.Options{})
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
	return g, s, path, stop
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
	p := newPerson(t, a)
	go func() {
		p.served <- g.Serve(context.Background(), b, Client{Principal: principal(name, role), Via: "ssh", Remote: "test"})
	}()
	go p.read()
	t.Cleanup(func() { p.leave() })
	return p
}

func newPerson(t testing.TB, s rpc.Stream) *person {
	p := &person{t: t, s: s, served: make(chan error, 1)}
	p.cond = sync.NewCond(&p.mu)
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
