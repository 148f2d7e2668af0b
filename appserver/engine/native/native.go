// Package native is an engine of the app-server protocol in this process: it
// keeps threads, runs turns with an agent against a Responses endpoint, and
// answers the same requests a real codex app-server answers, so that stock
// clients cannot tell the difference. It authorises nobody: whoever holds a
// connection may do everything. The gate in front of it decides who gets one.
//
// Start with [New], then [Engine.Run], then [Engine.Connect] once per client.
// What happens in a turn is package agent's business, what is kept on disk is
// package thread's; this package is connections, subscriptions, settings and
// the requests in both directions.
//
// # How it works
//
// A conn (connection.go) is one client; its requests are looked up in the table
// of methods.go. Those that change something run one after the other in the
// order they came, the slow ones run beside. A live (live.go) is one loaded
// thread: its subscribers, its history, its agent session and, while one runs,
// its turn. A live is the agent's Sink (sink.go). Questions to clients are asks
// (requests.go).
//
// # Locks
//
// Taken in this order, never the other way:
//
//	Engine.loading → live.mu → Engine.mu → Engine.wire, conn.mu
//
// logins.mu (login.go) is held while nothing else is taken.
//
// The agent calls its Sink, and so takes live.mu, with a lock of its own held;
// under live.mu only those of its methods are called that do not take that one.
//
// Under live.mu the thread's file is synced and messages are queued to clients
// (rpc.Peer.Send never waits), so that every client and the file see one order.
package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/sandbox"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// DefaultIdleUnload is how long a thread nobody looks at stays loaded, as in Codex.
const DefaultIdleUnload = 60 * time.Second

// DefaultLoginWait is how long a turn whose login has expired waits for another:
// a night and the day after it.
const DefaultLoginWait = 24 * time.Hour

// pipeDepth is how many messages a connection holds each way before its outbox fills.
const pipeDepth = 256

// Config says where an engine works and with what. Dir, Cwd, Models and
// Streamer are required; the zero value of everything else is a safe default.
type Config struct {
	Dir     string // thread histories live here; made with mode 0700
	Cwd     string // the project: absolute; default working directory of threads
	Home    string // reported to clients as codexHome, its AGENTS.md applies everywhere; default: the parent of Dir
	Version string // of Towline, reported in userAgent and as cliVersion
	// Provider names the endpoint's owner in thread records, "openai" when empty.
	Provider string
	Models   []Model // the first is the default
	Streamer agent.Streamer

	// Accounts is the host's login; nil when there is nothing to log in to.
	Accounts Accounts
	// NeedsLogin says that the endpoint works with the login: the Streamer is
	// authorised by Accounts.
	NeedsLogin bool
	// ChatGPTOrigin is where requests of a ChatGPT login go, such as
	// "https://chatgpt.com", for people to see.
	ChatGPTOrigin string
	// LoginPorts are where a browser login waits; nil is Codex's, which its issuer
	// wants. Tests have others.
	LoginPorts []int
	// LoginWait is how long a turn waits for somebody to log in; default
	// DefaultLoginWait.
	LoginWait time.Duration

	// Remote is the host's switch of remote control; nil when it has none.
	Remote RemoteControl

	Approval string // protocol.Approve…; default on-request
	Sandbox  string // protocol.Sandbox…; default workspace-write

	Environ     []string      // environment of commands, free of secrets; nil: a minimal one
	IdleUnload  time.Duration // default DefaultIdleUnload
	SandboxSelf string        // path of the binary that confines commands when re-executed
	Hidden      []string      // absolute folders confined commands must not see: sockets and secrets
	Elsewhere   Elsewhere     // threads that another process still works on; nil: none
	Log         *slog.Logger
	Clock       func() time.Time
}

// Model is one entry of model/list.
type Model struct {
	ID            string // the slug sent to the endpoint
	Name          string // for people; default ID
	Description   string
	Efforts       []string // reasoning efforts, least first; may be empty
	DefaultEffort string
	ContextWindow int64 // tokens
	NoImages      bool
}

// Engine serves the protocol. Make it with New.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	store   *thread.Store
	box     *sandbox.Runner
	install string // remoteControl's installation id, stable per store
	methods map[string]method

	started chan struct{} // closed by Run
	once    sync.Once
	spare   chan struct{} // capacity 1: a turn has ended

	// life ends when Run does. It is the engine's own lifetime, not a request's.
	life context.Context
	end  context.CancelCauseFunc
	work sync.WaitGroup // connections, turns, shell commands

	loading sync.Mutex // held while a thread is loaded, unloaded, archived or deleted

	mu      sync.Mutex // guards what follows
	threads map[protocol.ThreadID]*live
	ready   bool
	closing bool
	retired bool   // see retire.go
	warning string // what this machine lacks, told to every client
	changed chan struct{}

	wire  sync.Mutex // guards what follows; innermost
	conns map[*conn]struct{}
	asks  map[int64]*ask // server requests that wait, by id
	// tokenAsks are those put to a lender; ids are shared with asks.
	tokenAsks map[int64]*tokenAsk
	nextAsk   int64
	firstAsk  int64

	config overlay // what config/value/write keeps
	logins logins
}

var errStopping = errors.New("the engine is stopping")

// New checks cfg and opens the thread store. It starts nothing.
func New(cfg Config) (*Engine, error) {
	if cfg.Approval == "" {
		cfg.Approval = protocol.ApproveOnRequest
	}
	if cfg.Sandbox == "" {
		cfg.Sandbox = protocol.SandboxWorkspaceWrite
	}
	if cfg.Provider == "" {
		cfg.Provider = "openai"
	}
	if cfg.Home == "" {
		cfg.Home = filepath.Dir(cfg.Dir)
	}
	if cfg.IdleUnload <= 0 {
		cfg.IdleUnload = DefaultIdleUnload
	}
	if cfg.LoginWait <= 0 {
		cfg.LoginWait = DefaultLoginWait
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	st, err := thread.Open(cfg.Dir, thread.Options{Clock: cfg.Clock, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, log: cfg.Log, store: st,
		install: uuid.NewSHA1(uuid.NameSpaceURL, []byte("towline:"+cfg.Dir)).String(),
		methods: table(),
		started: make(chan struct{}), changed: make(chan struct{}), spare: make(chan struct{}, 1),
		threads: make(map[protocol.ThreadID]*live),
		conns:   make(map[*conn]struct{}), asks: make(map[int64]*ask),
		tokenAsks: make(map[int64]*tokenAsk),
	}
	if cfg.SandboxSelf != "" {
		e.box = sandbox.New(cfg.SandboxSelf, cfg.Log, cfg.Hidden...)
	}
	e.life, e.end = context.WithCancelCause(context.Background())
	if cfg.Remote != nil {
		cfg.Remote.Watch(e.tellRemoteControl)
	}
	return e, nil
}

func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("native engine: "+format, args...)) }
	if !filepath.IsAbs(c.Dir) {
		bad("the thread folder %q is not an absolute path", c.Dir)
	}
	if fi, err := os.Stat(c.Cwd); !filepath.IsAbs(c.Cwd) || err != nil || !fi.IsDir() {
		bad("the project %q is not the absolute path of a folder", c.Cwd)
	}
	if len(c.Models) == 0 || slices.ContainsFunc(c.Models, func(m Model) bool { return m.ID == "" }) {
		bad("no model is named")
	}
	if c.Streamer == nil {
		bad("there is no way to reach a model")
	}
	if !slices.Contains([]string{protocol.ApproveUntrusted, protocol.ApproveOnRequest, protocol.ApproveNever}, c.Approval) {
		bad("unknown approval policy %q", c.Approval)
	}
	if _, ok := policyOf(c.Sandbox); !ok {
		bad("unknown sandbox mode %q", c.Sandbox)
	}
	return errors.Join(errs...)
}

// Run keeps the engine alive until ctx ends, then interrupts running turns,
// ends every process and connection, and waits for them. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.store.Sweep(); err != nil {
		e.log.Warn("unused threads not removed", "err", err)
	}
	e.setReady(true)
	e.once.Do(func() { close(e.started) })
	e.spawn(e.checkSandbox)
	if e.cfg.Accounts != nil {
		e.spawn(e.followAccount)
	}

	tick := time.NewTicker(max(e.cfg.IdleUnload/6, 10*time.Millisecond))
	defer tick.Stop()
	save := time.NewTicker(time.Minute)
	defer save.Stop()
	for {
		select {
		case <-tick.C:
			e.unloadIdle()
		case <-save.C:
			e.saveIndex()
		case <-ctx.Done():
			e.shutDown()
			return nil
		}
	}
}

// checkSandbox finds out how well commands can be confined here. Where they
// cannot be, those that must be will be refused; where a layer is missing, what
// it would have held is said.
func (e *Engine) checkSandbox() {
	if e.box == nil || e.cfg.Sandbox == protocol.SandboxFullAccess {
		return
	}
	var text string
	if err := e.box.Check(); err != nil {
		e.log.Warn("commands cannot be confined on this machine", "err", err)
		text = err.Error()
	} else if weak := e.box.Weaknesses(); len(weak) > 0 {
		e.log.Warn("commands are confined less well than they could be", "weaknesses", weak)
		text = "The sandbox is weaker here: " + strings.Join(weak, " ")
	} else {
		return
	}
	e.mu.Lock()
	e.warning = text
	e.mu.Unlock()
	e.broadcast("configWarning", configWarning(text))
}

func configWarning(text string) map[string]any {
	return map[string]any{"summary": text, "details": nil}
}

// farewell bounds how long clients are given to hear how their turns ended.
const farewell = 2 * time.Second

// shutDown ends everything the engine started, turns first, and lets clients
// hear how they ended before it ends their connections.
func (e *Engine) shutDown() {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.setReady(false)
	e.loading.Lock()
	for _, l := range e.loaded() { // all at once, and then wait for each
		l.interrupt(errStopping)
	}
	for _, l := range e.loaded() {
		e.release(l, errStopping)
	}
	e.loading.Unlock()
	e.flush()
	e.end(errStopping)
	e.wire.Lock()
	for c := range e.conns {
		c.peer.Close(errStopping)
	}
	e.wire.Unlock()
	e.work.Wait()
	e.saveIndex()
}

// flush waits until every client was told everything, the slow ones not for ever.
func (e *Engine) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	e.wire.Lock()
	conns := slices.Collect(maps.Keys(e.conns))
	e.wire.Unlock()
	for _, c := range conns { // the deadline is everybody's
		if err := c.peer.Flush(ctx); err != nil {
			e.log.Debug("client left before it heard everything", "client", c.name(), "err", err)
		}
	}
}

func (e *Engine) saveIndex() {
	if err := e.store.Save(); err != nil {
		e.log.Warn("thread index not saved", "err", err)
	}
}

// loaded lists the loaded threads.
func (e *Engine) loaded() []*live {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]*live, 0, len(e.threads))
	for _, l := range e.threads {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *live) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return out
}

// spawn runs f as work the engine waits for. It does nothing and returns false
// while the engine is stopping.
func (e *Engine) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.work.Go(f)
	return true
}

// enter counts a client as work the engine waits for, as spawn does.
func (e *Engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closing {
		e.work.Add(1)
	}
	return !e.closing
}

// Connect opens a connection for one client; its handshake is still to come.
// It waits for Run to have begun.
func (e *Engine) Connect(ctx context.Context) (rpc.Stream, error) {
	select {
	case <-e.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	theirs, ours := rpc.Pipe(pipeDepth)
	c := newConn(e, ours)
	e.wire.Lock()
	e.conns[c] = struct{}{}
	e.wire.Unlock()
	if !e.enter() {
		e.wire.Lock()
		delete(e.conns, c)
		e.wire.Unlock()
		return nil, errStopping
	}
	c.serve(e.work.Done)
	return theirs, nil
}

// State is a snapshot of the engine's health.
func (e *Engine) State() protocol.EngineState {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := protocol.EngineState{Kind: "native", State: "starting", Version: e.cfg.Version, Model: e.cfg.Models[0].ID}
	if e.ready {
		s.State = "ready"
	}
	return s
}

func (e *Engine) setReady(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ready = on
	close(e.changed)
	e.changed = make(chan struct{})
}

// Changed is closed, and replaced, when State changes.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *Engine) now() time.Time { return e.cfg.Clock() }
