package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// conn is one client.
type conn struct {
	e    *Engine
	peer *rpc.Peer
	// ctx is the connection's lifetime; what the client started dies with it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	work sync.WaitGroup // requests that run, and processes

	mu       sync.Mutex     // guards what follows
	queue    []*rpc.Request // requests that run in order; at most rpc.MaxInFlight
	running  bool           // a goroutine takes them
	ready    bool           // initialize was answered
	client   protocol.ClientInfo
	trial    bool // takes experimental methods
	optOut   map[string]bool
	procs    map[string]*process // command/exec and process/spawn, by kind and the client's id
	searches map[string]*searching
	watches  map[string]chan struct{} // closed to stop
}

func newConn(e *Engine, s rpc.Stream) *conn {
	c := &conn{
		e:     e,
		procs: make(map[string]*process), searches: make(map[string]*searching),
		watches: make(map[string]chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(e.life)
	c.peer = rpc.NewPeer(&answers{Stream: s, c: c}, c)
	return c
}

func (c *conn) unsubscribeAll() {
	for _, l := range c.e.loaded() {
		l.unsubscribe(c)
	}
}

// serve begins to carry the client, until it leaves, and cleans up after it; gone
// is called last.
func (c *conn) serve(gone func()) {
	if c.peer.Feed(c.ctx, c.sift, func(err error) { c.left(err); gone() }) {
		return
	}
	go func() { c.left(c.peer.Serve(c.ctx)); gone() }() // whoever gave gone waits
}

// left cleans up after a client.
func (c *conn) left(err error) {
	c.cancel(err)
	c.e.wire.Lock()
	delete(c.e.conns, c)
	c.e.wire.Unlock()
	c.unsubscribeAll()
	c.work.Wait()
	c.e.lenderLeft(c)
	// A request that was under way when the client left may have subscribed it
	// since: a thread that it keeps would never be unloaded.
	c.unsubscribeAll()
	c.e.log.Debug("client left", "client", c.name(), "cause", err)
}

// enqueue runs a request whose order matters after those that came before. Most
// clients are idle, and have no goroutine for that.
func (c *conn) enqueue(r *rpc.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, r)
	if !c.running {
		c.running = true
		c.work.Go(c.inOrder)
	}
}

// inOrder runs the requests that wait.
func (c *conn) inOrder() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 || c.ctx.Err() != nil {
			c.queue, c.running = nil, false
			c.mu.Unlock()
			return
		}
		r := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.mu.Unlock()
		c.answer(r, c.e.methods[r.Method].run)
	}
}

// Request implements rpc.Handler.
func (c *conn) Request(_ context.Context, r *rpc.Request) {
	if r.Method == "initialize" {
		c.initialize(r)
		return
	}
	if !c.isReady() {
		r.Fail(protocol.Errorf("Not initialized"))
		return
	}
	m, known := c.e.methods[r.Method]
	switch {
	case !known:
		r.Fail(c.e.unknownMethod(r.Method))
	case r.Params == nil && !m.noParams:
		r.Fail(protocol.Errorf("Invalid request: missing field `params`"))
	case m.beside:
		c.work.Go(func() { c.answer(r, m.run) })
	default:
		c.enqueue(r)
	}
}

// Notification implements rpc.Handler. Clients have nothing to tell that way:
// initialized is not enforced by Codex, and the rest is unknown.
func (c *conn) Notification(context.Context, string, json.RawMessage) {}

// answer runs a handler. A panic in it is one failed request, not the end of
// everybody's engine.
func (c *conn) answer(r *rpc.Request, run handler) {
	defer func() {
		if p := recover(); p != nil {
			c.e.log.Error("request panicked", "method", r.Method, "panic", p, "stack", stack())
			r.Fail(protocol.Internalf("%s failed inside the engine", r.Method))
		}
	}()
	if err := c.astray(r); err != nil {
		r.Fail(err)
		return
	}
	switch result, err := run(c, r); {
	case errors.Is(err, errLater):
	case err != nil:
		r.Fail(err)
	default:
		r.Reply(result)
	}
}

// errLater says that a handler has seen to it that the answer comes by itself.
var errLater = errors.New("answered later")

func stack() string {
	buf := make([]byte, 16<<10)
	return string(buf[:runtime.Stack(buf, false)])
}

func (c *conn) isReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

func (c *conn) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client.Name
}

// codexVersion is the release whose protocol this engine follows.
const codexVersion = "0.169.0"

func (c *conn) initialize(r *rpc.Request) {
	var p protocol.InitializeParams
	if err := decode(r, &p, "clientInfo"); err != nil {
		r.Fail(err)
		return
	}
	if err := needs(protocol.Field(r.Params, "clientInfo"), "name", "version"); err != nil {
		r.Fail(err)
		return
	}
	c.mu.Lock()
	if c.ready {
		c.mu.Unlock()
		r.Fail(protocol.Errorf("Already initialized"))
		return
	}
	c.ready = true
	c.client = p.ClientInfo
	if caps := p.Capabilities; caps != nil {
		c.trial = caps.ExperimentalAPI
		c.optOut = make(map[string]bool, len(caps.OptOutNotificationMethods))
		for _, m := range caps.OptOutNotificationMethods {
			c.optOut[m] = true
		}
	}
	c.mu.Unlock()
	r.Reply(protocol.Initialized{
		UserAgent: c.userAgent(p.ClientInfo), CodexHome: c.e.cfg.Home,
		PlatformFamily: "unix", PlatformOS: platformOS(),
	})
	c.e.mu.Lock()
	warning := c.e.warning
	c.e.mu.Unlock()
	if warning != "" {
		c.notify("configWarning", configWarning(warning))
	}
	c.notify("remoteControl/status/changed", c.e.remoteControl())
}

// userAgent names a protocol version a stock client does not find older than
// its own: this engine follows the protocol, not one release of the CLI.
func (c *conn) userAgent(ci protocol.ClientInfo) string {
	v := codexVersion
	if strings.HasPrefix(ci.Name, "codex") && newer(ci.Version, v) {
		v = ci.Version
	}
	return fmt.Sprintf("%s/%s (%s; %s) towline/%s (%s; %s)", ci.Name, v, runtime.GOOS, runtime.GOARCH, c.e.cfg.Version, ci.Name, ci.Version)
}

// newer compares versions of the form N.N.N and whatever follows.
func newer(a, b string) bool {
	parse := func(s string) (v [3]int, ok bool) {
		n, _ := fmt.Sscanf(s, "%d.%d.%d", &v[0], &v[1], &v[2])
		return v, n == 3
	}
	x, okx := parse(a)
	y, oky := parse(b)
	return okx && oky && slices.Compare(x[:], y[:]) > 0
}

func platformOS() string {
	if runtime.GOOS == "darwin" {
		return "macos"
	}
	return runtime.GOOS
}

// notify sends a notification to this client only.
func (c *conn) notify(method string, params any) {
	msg, err := protocol.NewNotification(method, params, c.e.now().UnixMilli())
	if err != nil {
		c.e.log.Error("notification not encoded", "method", method, "err", err)
		return
	}
	c.send(method, msg)
}

// send queues an encoded notification unless the client does not want it.
func (c *conn) send(method string, msg []byte) {
	c.mu.Lock()
	want := c.ready && !c.optOut[method]
	c.mu.Unlock()
	if want {
		_ = c.peer.Send(msg) // a client that is gone misses nothing it could still see
	}
}

// broadcast sends a notification to every initialized client.
func (e *Engine) broadcast(method string, params any) {
	msg, err := protocol.NewNotification(method, params, e.now().UnixMilli())
	if err != nil {
		e.log.Error("notification not encoded", "method", method, "err", err)
		return
	}
	e.wire.Lock()
	defer e.wire.Unlock()
	for c := range e.conns {
		c.send(method, msg)
	}
}

// answers is a client's stream with its answers to server requests taken out:
// those go to the ask they belong to, which may have been put to several clients
// under one id, and so is nothing a Peer could pair.
type answers struct {
	rpc.Stream
	c *conn
}

// Over is what the answers are taken out of: what is said goes there as it is.
func (a *answers) Over() rpc.Stream { return a.Stream }

func (a *answers) Read(ctx context.Context) ([]byte, error) {
	for {
		msg, err := a.Stream.Read(ctx)
		if err != nil {
			return nil, err
		}
		if !a.c.sift(msg) {
			return msg, nil
		}
	}
}

// sift takes an answer to where it belongs, and reports whether msg was one, or
// nothing that can be read.
func (c *conn) sift(msg []byte) bool {
	e, err := protocol.Peek(msg)
	switch {
	case err != nil: // Codex drops what it cannot read
	case e.Kind == protocol.KindResponse:
		c.e.answered(c, e.ID, e.Result, nil)
	case e.Kind == protocol.KindError:
		pe := new(protocol.Error)
		if json.Unmarshal(e.Error, pe) != nil {
			pe = protocol.Internalf("unreadable error: %s", e.Error)
		}
		c.e.answered(c, e.ID, nil, pe)
	default:
		return false
	}
	return true
}

// decode reads a request's params and insists on the named members.
func decode(r *rpc.Request, into any, required ...string) error {
	if err := needs(r.Params, required...); err != nil {
		return err
	}
	if len(r.Params) == 0 {
		return nil
	}
	if err := json.Unmarshal(r.Params, into); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return protocol.Errorf("Invalid request: invalid type: %s for `%s`", te.Value, te.Field)
		}
		return protocol.Errorf("Invalid request: %v", err)
	}
	return nil
}

func needs(obj json.RawMessage, required ...string) error {
	for _, name := range required {
		if v := protocol.Field(obj, name); v == nil || string(v) == "null" {
			return protocol.Errorf("Invalid request: missing field `%s`", name)
		}
	}
	return nil
}
