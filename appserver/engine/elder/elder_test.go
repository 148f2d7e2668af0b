//go:build linux || darwin

package elder

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/engine/native"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/handover"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 45 * time.Second

// pair is an elder and its successor, over one folder of threads.
type pair struct {
	t       *testing.T
	home    string
	old     *native.Engine
	host    *Host
	endOld  func()
	fresh   *native.Engine
	engine  *Engine
	stopNew func()
}

func newNative(t *testing.T, home string, elsewhere native.Elsewhere) *native.Engine {
	t.Helper()
	e, err := native.New(native.Config{
		Dir: filepath.Join(home, "threads"), Cwd: home, Version: "test", Provider: "rehearsal", Elsewhere: elsewhere,
		Models:   []native.Model{{ID: rehearsal.Slug, Efforts: []string{"low"}, DefaultEffort: "low"}},
		Streamer: model.New(model.Config{BaseURL: "http://rehearsal.invalid/v1", HTTPClient: &http.Client{Transport: rehearsal.New(rehearsal.Config{})}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func run(t *testing.T, f func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// begin starts the old engine alone.
func begin(t *testing.T) *pair {
	p := &pair{t: t, home: t.TempDir()}
	p.old = newNative(t, p.home, nil)
	p.endOld = run(t, p.old.Run)
	return p
}

// succeed retires the old engine and starts the new one.
func (p *pair) succeed() {
	p.t.Helper()
	p.old.Retire()
	dir := p.home
	ln, err := handover.ListenPrivate(Socket(dir, 4242)) // this process's own would not be looked for
	if err != nil {
		p.t.Fatal(err)
	}
	p.host = &Host{e: p.old, ln: ln, version: "old", log: slog.New(slog.DiscardHandler), since: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	end := p.endOld
	endHost := run(p.t, func(ctx context.Context) error {
		p.host.Run(ctx)
		end()
		p.host.Ended()
		return nil
	})
	p.endOld = sync.OnceFunc(func() { endHost(); _ = p.host.Close() })
	p.engine = NewEngine(Config{Dir: func() string { return dir }, Log: slog.New(slog.NewTextHandler(p.t.Output(), nil))})
	p.fresh = newNative(p.t, p.home, p.engine)
	p.engine.Use(p.fresh)
	p.stopNew = run(p.t, p.engine.Run)
	p.t.Cleanup(func() { p.stopNew(); p.endOld() })
}

// talker is a client.
type talker struct {
	*rpc.Peer
	t    *testing.T
	done chan struct{}

	mu      sync.Mutex // guards what follows
	heard   []string   // method and params
	asked   []*rpc.Request
	changed chan struct{}
}

func talk(t *testing.T, connect func(context.Context) (rpc.Stream, error)) *talker {
	t.Helper()
	s, err := connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &talker{t: t, done: make(chan struct{}), changed: make(chan struct{})}
	c.Peer = rpc.NewPeer(s, c)
	go func() { defer close(c.done); _ = c.Serve(context.Background()) }()
	t.Cleanup(func() { c.Close(nil); <-c.done })
	c.must("initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "t", Version: "1"}}, nil)
	return c
}

func (c *talker) must(method string, params, result any) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.Call(ctx, method, params, result); err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
}

func (c *talker) Request(_ context.Context, r *rpc.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r)
	c.wake()
}

func (c *talker) Notification(_ context.Context, method string, params json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, method+" "+string(params))
	c.wake()
}

func (c *talker) wake() { close(c.changed); c.changed = make(chan struct{}) }

// count is how often something was heard that begins with method and holds all of
// the words.
func (c *talker) count(method string, words ...string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
next:
	for _, h := range c.heard {
		if !strings.HasPrefix(h, method+" ") {
			continue
		}
		for _, w := range words {
			if !strings.Contains(h, w) {
				continue next
			}
		}
		n++
	}
	return n
}

func (c *talker) until(what string, ok func() bool) {
	c.t.Helper()
	limit := time.After(patience)
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-limit:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("%s did not happen; heard:\n%s", what, strings.Join(c.heard, "\n"))
		}
	}
}

func (c *talker) begin(dir, prompt string) (protocol.ThreadID, string) {
	c.t.Helper()
	var opened protocol.ThreadOpened
	c.must("thread/start", map[string]any{"cwd": dir}, &opened)
	return opened.Thread.ID, c.turn(opened.Thread.ID, prompt)
}

func (c *talker) turn(id protocol.ThreadID, prompt string) string {
	c.t.Helper()
	var r struct {
		Turn struct {
			ID string `json:"id"`
		} `json:"turn"`
	}
	c.must("turn/start", map[string]any{"threadId": id, "input": []protocol.UserInput{protocol.Text(prompt)}}, &r)
	return r.Turn.ID
}

func (c *talker) status(id protocol.ThreadID) string {
	c.t.Helper()
	var r struct {
		Data []struct {
			ID     protocol.ThreadID     `json:"id"`
			Status protocol.ThreadStatus `json:"status"`
		} `json:"data"`
	}
	c.must("thread/list", struct{}{}, &r)
	for _, th := range r.Data {
		if th.ID == id {
			return th.Status.Type
		}
	}
	return ""
}

// A thread stays where its turn runs, and then changes hands: whoever watches sees
// one thread, and every engine has what is its own.
func TestThreadChangesHandsWhenItsTurnHasEnded(t *testing.T) {
	t.Parallel()
	p := begin(t)
	first := talk(t, p.old.Connect)
	id, turn := first.begin(p.home, "count to 8 slowly")
	idle, _ := first.begin(p.home, "count to 2")
	first.until("the short turn's end", func() bool { return first.count("turn/completed", string(idle)) == 1 })
	p.succeed()
	if held := p.old.Held(); len(held) != 1 || held[0].ID != id {
		t.Fatalf("the elder holds %+v", held)
	}

	watcher, starter := talk(t, p.engine.Connect), talk(t, p.engine.Connect)
	var loaded struct {
		Data []protocol.ThreadID `json:"data"`
	}
	watcher.must("thread/loaded/list", struct{}{}, &loaded)
	if len(loaded.Data) != 1 || loaded.Data[0] != id || watcher.status(id) != protocol.StatusActive || watcher.status(idle) != protocol.StatusNotLoaded {
		t.Errorf("loaded: %v; %s, %s", loaded.Data, watcher.status(id), watcher.status(idle))
	}
	watcher.must("thread/resume", map[string]any{"threadId": id}, nil)
	starter.turn(idle2(starter, idle), "count to 2") // elsewhere nothing waits
	starter.must("turn/steer", map[string]any{"threadId": id, "expectedTurnId": turn, "input": []protocol.UserInput{protocol.Text("count to 3")}}, nil)
	watcher.until("the turn's end", func() bool { return watcher.count("turn/completed", turn, `"completed"`) == 1 })
	// The next is the successor's, and the watcher sees all of it without asking.
	next := starter.turn(id, "count to 4")
	watcher.until("the next turn's end", func() bool { return watcher.count("turn/completed", next, `"completed"`) == 1 })
	if watcher.count("turn/started", next) != 1 || watcher.count("thread/closed") != 0 {
		t.Error("the watcher missed the beginning, or was told of an end")
	}
	here := false
	for _, h := range p.fresh.Held() {
		here = here || h.ID == id
	}
	if !here || len(p.old.Held()) != 0 {
		t.Errorf("here: %v, there: %v", p.fresh.Held(), p.old.Held())
	}
	for end := time.Now().Add(patience); len(p.engine.Elders()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the elder is still there")
		}
	}
	if s, err := p.engine.Connect(t.Context()); err != nil {
		t.Error(err)
	} else {
		if _, wrapped := s.(*client); wrapped {
			t.Error("without elders a connection still costs something")
		}
		_ = s.Close(nil)
	}
}

// idle2 opens a thread that was idle.
func idle2(c *talker, id protocol.ThreadID) protocol.ThreadID {
	c.t.Helper()
	c.must("thread/resume", map[string]any{"threadId": id}, nil)
	return id
}

// A question that waited in the elder is asked again, and its answer arrives there.
func TestQuestionOutlivesTheUpgrade(t *testing.T) {
	t.Parallel()
	p := begin(t)
	first := talk(t, p.old.Connect)
	id, turn := first.begin(p.home, "run echo yes >>said.txt outside the sandbox")
	asked := func(c *talker) func() bool {
		return func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asked) == 1 }
	}
	first.until("the question", asked(first))
	p.succeed()
	c := talk(t, p.engine.Connect)
	c.must("thread/resume", map[string]any{"threadId": id}, nil)
	c.until("the question, again", asked(c))
	if string(c.asked[0].ID) != string(first.asked[0].ID) {
		t.Errorf("it was %s and is %s", first.asked[0].ID, c.asked[0].ID)
	}
	c.asked[0].Reply(protocol.Decide("accept"))
	c.until("the turn's end", func() bool { return c.count("turn/completed", turn, `"completed"`) == 1 })
	if b, err := os.ReadFile(filepath.Join(p.home, "said.txt")); string(b) != "yes\n" {
		t.Errorf("the command ran: %q, %v", b, err)
	}
	// The new engine's own have other numbers.
	c.begin(p.home, "run echo more outside the sandbox")
	c.until("another question", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.asked) == 2 })
	if string(c.asked[0].ID) == string(c.asked[1].ID) {
		t.Error("two engines ask under one id")
	}
}

// The end of the daemon is the end of what is left of the ones before.
func TestDaemonThatStopsStopsItsElders(t *testing.T) {
	t.Parallel()
	p := begin(t)
	first := talk(t, p.old.Connect)
	id, turn := first.begin(p.home, "count to 90 slowly")
	p.succeed()
	c := talk(t, p.engine.Connect)
	c.must("thread/resume", map[string]any{"threadId": id}, nil)
	p.stopNew()
	if held := p.old.Held(); len(held) != 0 {
		t.Errorf("still at work: %+v", held)
	}
	c.until("the turn's end", func() bool { return c.count("turn/completed", turn, `"interrupted"`) == 1 })
	p.endOld()
	if _, err := os.Lstat(Socket(p.home, 4242)); err == nil {
		t.Error("the socket is left behind")
	}
}

// What nobody listens on any more is no elder, and is swept away.
func TestLeftSocketIsNoElder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ln, err := net.Listen("unix", Socket(dir, 77))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()
	e := NewEngine(Config{Dir: func() string { return dir }})
	e.Use(newNative(t, dir, e))
	run(t, e.Run)
	c := talk(t, e.Connect)
	if id, _ := c.begin(dir, "count to 2"); id == "" || len(e.Elders()) != 0 {
		t.Errorf("%q, %v", id, e.Elders())
	}
	if _, err := os.Lstat(Socket(dir, 77)); err == nil {
		t.Error("the socket is left")
	}
}
