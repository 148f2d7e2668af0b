package native_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/engine/native"
	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/model"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// host is a running engine.
type host struct {
	t      testing.TB
	eng    *native.Engine
	dir    string // threads
	cwd    string // project
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	sent string // the newest request to the model
}

// Stream implements agent.Streamer: the rehearsal, listened to.
func (h *host) Stream(ctx context.Context, req model.Request, on func(model.Event)) error {
	b, _ := json.Marshal(req) // plain data
	h.mu.Lock()
	h.sent = string(b)
	h.mu.Unlock()
	return rehearse().Stream(ctx, req, on)
}

func rehearse() agent.Streamer {
	return model.New(model.Config{
		BaseURL:    "http://rehearsal.invalid/v1",
		HTTPClient: &http.Client{Transport: rehearsal.New(rehearsal.Config{})},
	})
}

// start runs an engine; change, when not nil, edits its configuration first.
func start(t testing.TB, change func(*native.Config)) *host {
	t.Helper()
	root := t.TempDir()
	cwd := filepath.Join(root, "project")
	if err := os.Mkdir(cwd, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := native.Config{
		Dir: filepath.Join(root, "home", "threads"), Cwd: cwd, Version: "1.2.3",
		Models:      []native.Model{{ID: rehearsal.Slug, Efforts: []string{"low", "high"}, DefaultEffort: "low", ContextWindow: 200_000}, {ID: "other"}},
		SandboxSelf: self, Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "LEFT=over"},
	}
	if change != nil {
		change(&cfg)
	}
	return run(t, cfg)
}

func run(t testing.TB, cfg native.Config) *host {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h := &host{t: t, dir: cfg.Dir, cwd: cfg.Cwd, cancel: cancel, done: make(chan struct{})}
	if cfg.Streamer == nil {
		cfg.Streamer = h
	}
	eng, err := native.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.eng = eng
	go func() {
		defer close(h.done)
		if err := eng.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(h.stop)
	return h
}

// restart runs a new engine on what a stopped one left.
func restart(t testing.TB, h *host) *host {
	t.Helper()
	return run(t, native.Config{Dir: h.dir, Cwd: h.cwd, Version: "1.2.3", Models: []native.Model{{ID: rehearsal.Slug}}})
}

// stop ends the engine and waits for it.
func (h *host) stop() {
	h.cancel()
	select {
	case <-h.done:
	case <-time.After(patience):
		h.t.Fatal("the engine does not stop")
	}
}

// note is something the engine said without being asked.
type note struct {
	Method string
	Params json.RawMessage
	ID     json.RawMessage // of a server request
}

// client is a connection that keeps everything it hears.
type client struct {
	t    testing.TB
	h    *host
	peer *rpc.Peer
	done chan struct{}

	mu    sync.Mutex
	notes []note
	heard chan struct{} // closed and replaced with every note
	asked map[string]*rpc.Request
}

// dial connects without a handshake.
func (h *host) dial() *client {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := h.eng.Connect(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	c := &client{t: h.t, h: h, done: make(chan struct{}), heard: make(chan struct{}), asked: make(map[string]*rpc.Request)}
	c.peer = rpc.NewPeer(record(h.t, s), c)
	go func() { defer close(c.done); _ = c.peer.Serve(context.Background()) }()
	h.t.Cleanup(c.close)
	return c
}

// connect connects and shakes hands.
func (h *host) connect() *client {
	h.t.Helper()
	c := h.dial()
	c.call("initialize", map[string]any{
		"clientInfo":   map[string]any{"name": "tester", "version": "0.1"},
		"capabilities": map[string]any{"experimentalApi": true},
	})
	return c
}

func (c *client) close() {
	c.peer.Close(rpc.ErrClosed)
	<-c.done
}

func (c *client) Request(_ context.Context, r *rpc.Request) {
	c.mu.Lock()
	c.asked[string(r.ID)] = r
	c.mu.Unlock()
	c.hear(note{r.Method, r.Params, r.ID})
}

func (c *client) Notification(_ context.Context, method string, params json.RawMessage) {
	c.hear(note{Method: method, Params: params})
}

func (c *client) hear(n note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, n)
	close(c.heard)
	c.heard = make(chan struct{})
}

// try calls and returns the error.
func (c *client) try(method string, params any) (json.RawMessage, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var raw json.RawMessage
	err := c.peer.Call(ctx, method, params, &raw)
	if errors.Is(err, context.DeadlineExceeded) {
		c.t.Fatalf("%s was not answered", method)
	}
	return raw, err
}

// call calls and insists on a result.
func (c *client) call(method string, params any) json.RawMessage {
	c.t.Helper()
	raw, err := c.try(method, params)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return raw
}

// refused calls and insists on an error with this text in it.
func (c *client) refused(method string, params any, text string) {
	c.t.Helper()
	raw, err := c.try(method, params)
	var pe *protocol.Error
	if !errors.As(err, &pe) || !strings.Contains(pe.Message, text) {
		c.t.Errorf("%s: %s, %v; want an error with %q", method, raw, err, text)
	}
}

// mark is the position after which wait looks.
func (c *client) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.notes)
}

// wait returns the first note after position from that fits.
func (c *client) wait(from int, what string, fits func(note) bool) note {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		i := -1
		if from < len(c.notes) {
			i = slices.IndexFunc(c.notes[from:], fits)
		}
		var n note
		if i >= 0 {
			n = c.notes[from+i]
		}
		heard := c.heard
		c.mu.Unlock()
		if i >= 0 {
			return n
		}
		select {
		case <-heard:
		case <-deadline:
			c.t.Fatalf("no %s; heard %s", what, c.story(from))
		}
	}
}

// method waits for a note by its method.
func (c *client) method(from int, name string) note {
	c.t.Helper()
	return c.wait(from, name, func(n note) bool { return n.Method == name })
}

// story lists what was heard, for messages and for order.
func (c *client) story(from int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, n := range c.notes[min(from, len(c.notes)):] {
		s := n.Method
		switch n.Method {
		case "thread/status/changed":
			s += " " + protocol.StringField(protocol.Field(n.Params, "status"), "type")
		case "item/started", "item/completed":
			s += " " + protocol.StringField(protocol.Field(n.Params, "item"), "type")
		}
		if len(out) > 0 && out[len(out)-1] == s && strings.HasSuffix(s, "elta") {
			continue
		}
		out = append(out, s)
	}
	return out
}

// reply answers a server request this client was put.
func (c *client) reply(n note, result any) {
	c.t.Helper()
	c.mu.Lock()
	r := c.asked[string(n.ID)]
	c.mu.Unlock()
	if r == nil {
		c.t.Fatalf("request %s was never put to this client", n.ID)
	}
	r.Reply(result)
}

// begin makes a thread and returns its id.
func (c *client) begin(params map[string]any) protocol.ThreadID {
	c.t.Helper()
	from := c.mark()
	raw := c.call("thread/start", params)
	id := protocol.StringField(protocol.Field(raw, "thread"), "id")
	c.wait(from, "thread/started", func(n note) bool {
		return n.Method == "thread/started" && strings.Contains(string(n.Params), id)
	})
	return protocol.ThreadID(id)
}

// say starts a turn and returns its id.
func (c *client) say(id protocol.ThreadID, text string, more ...map[string]any) string {
	c.t.Helper()
	p := map[string]any{"threadId": id, "input": []any{map[string]any{"type": "text", "text": text}}}
	for _, m := range more {
		for k, v := range m {
			p[k] = v
		}
	}
	return protocol.StringField(protocol.Field(c.call("turn/start", p), "turn"), "id")
}

// finish waits for the end of a turn and returns it.
func (c *client) finish(turn string) protocol.Turn {
	c.t.Helper()
	n := c.wait(0, "turn/completed", func(n note) bool {
		return n.Method == "turn/completed" && protocol.StringField(protocol.Field(n.Params, "turn"), "id") == turn
	})
	var p struct {
		Turn protocol.Turn `json:"turn"`
	}
	c.read(n.Params, &p)
	return p.Turn
}

func (c *client) read(raw json.RawMessage, into any) {
	c.t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		c.t.Fatalf("%v in %s", err, raw)
	}
}
