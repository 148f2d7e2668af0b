// Package codex is the engine that has a real `codex app-server` do the work.
// It joins the daemon that answers on Codex's control socket, or else starts
// one app-server, owns it, restarts it, and says why it died.
//
// Codex allows one writer a thread, so whoever shares threads must share the
// process. That is why a daemon already there is joined, and why the one started
// here is offered on the control socket itself: a plain `codex` typed on this
// host then uses it too. Whether `codex` on its own starts a daemon is its own
// affair; nothing here makes it do so.
//
// Start with [New], then Run; Connect gives one connection a client.
package codex

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

// DefaultMinVersion is the oldest Codex the engine is tested with.
const DefaultMinVersion = "0.166.0"

// The states of protocol.EngineState.
const (
	stateStarting   = "starting"
	stateReady      = "ready"
	stateRestarting = "restarting"
	stateFailed     = "failed"
)

// connectPatience is how long Connect lets Run find out that a server it cannot
// reach has died, before it gives up on it.
const connectPatience = 3 * time.Second

// Config says which Codex and how.
type Config struct {
	// Binary is the codex program; empty searches PATH of Environ, then the
	// usual places.
	Binary string
	// CodexHome is Codex's folder; empty takes CODEX_HOME of Environ, then ~/.codex.
	CodexHome string
	// RuntimeDir is private to this user and holds the socket when the control
	// socket is not shared.
	RuntimeDir string
	// ShareControlSocket offers the app-server we start on Codex's own control
	// socket, so that a plain `codex` typed on this host joins it.
	ShareControlSocket bool
	// Args go before those of the app-server we start: Codex's own settings for it.
	// With any, that server is ours alone, as with Codex: no other is joined.
	Args []string
	// Environ is the environment of every codex process, as os.Environ gives it.
	Environ []string
	// MinVersion is the oldest codex that will do; empty means DefaultMinVersion.
	MinVersion string
	// Cwd is the working directory of the app-server.
	Cwd string
	// DrainTimeout is how long running turns may take to end when Run stops;
	// zero means ten seconds.
	DrainTimeout time.Duration
	// Network says how the app-server we start gets to the network; nil leaves it to
	// Environ.
	Network Network
	Log     *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	c.MinVersion = cmp.Or(c.MinVersion, DefaultMinVersion)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// home is Codex's folder, "" when nothing says where it is.
func (c Config) home() string {
	if h := cmp.Or(c.CodexHome, getenv(c.Environ, "CODEX_HOME")); h != "" {
		return h
	}
	if h := getenv(c.Environ, "HOME"); h != "" {
		return filepath.Join(h, ".codex")
	}
	return ""
}

// environ is what a codex process gets.
func (c Config) environ() []string {
	if c.CodexHome == "" {
		return c.Environ
	}
	env := slices.DeleteFunc(slices.Clone(c.Environ), func(kv string) bool { return strings.HasPrefix(kv, "CODEX_HOME=") })
	return append(env, "CODEX_HOME="+c.CodexHome)
}

// controlSocket is where Codex's own daemon answers.
func (c Config) controlSocket() string {
	return filepath.Join(c.home(), "app-server-control", "app-server-control.sock")
}

// privateSocket is where ours answers when the control socket is not shared.
func (c Config) privateSocket() string { return filepath.Join(c.RuntimeDir, "codex.sock") }

// getenv reads an environment list; the last of a repeated name counts.
func getenv(environ []string, name string) string {
	for _, kv := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// Engine runs or joins a codex app-server. Its methods may be called from any
// goroutine.
type Engine struct {
	cfg   Config
	retry backoff

	mu      sync.Mutex // guards what follows
	state   protocol.EngineState
	socket  string // of the server in use; meaningful when ready
	proxy   ProxyUse
	changed chan struct{}
	owns    bool // a server of ours runs
	retired bool // see retire.go
}

// New makes an engine. It does nothing until Run.
func New(cfg Config) *Engine {
	return &Engine{
		cfg:     cfg.withDefaults(),
		retry:   backoff{first: 250 * time.Millisecond, most: 30 * time.Second},
		state:   protocol.EngineState{Kind: config.EngineCodex, State: stateStarting},
		changed: make(chan struct{}),
	}
}

// State is a snapshot. A ready engine has a Problem when Codex works but has no
// account: clients may attach and log in through the protocol.
func (e *Engine) State() protocol.EngineState {
	st, _, _ := e.snapshot()
	return st
}

// Changed is closed when State changes; ask again for the next change.
func (e *Engine) Changed() <-chan struct{} {
	_, _, changed := e.snapshot()
	return changed
}

func (e *Engine) snapshot() (st protocol.EngineState, socket string, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	st = e.state
	st.Hints = slices.Clone(st.Hints)
	return st, e.socket, e.changed
}

// set replaces the state; socket is "" unless the state is ready.
func (e *Engine) set(st protocol.EngineState, socket string) {
	st.Kind = config.EngineCodex
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.socket == socket && equal(e.state, st) {
		return
	}
	e.state, e.socket = st, socket
	close(e.changed)
	e.changed = make(chan struct{})
}

func equal(a, b protocol.EngineState) bool {
	if !slices.Equal(a.Hints, b.Hints) {
		return false
	}
	return a.Kind == b.Kind && a.State == b.State && a.Version == b.Version && a.Model == b.Model &&
		a.Problem == b.Problem && a.Detail == b.Detail && a.RetryInMs == b.RetryInMs
}

// Connect opens a fresh connection for one client. While the app-server starts
// or restarts it waits, bounded by ctx; in state "failed" it fails at once. Its
// errors are *protocol.Error and say what to do.
func (e *Engine) Connect(ctx context.Context) (rpc.Stream, error) {
	for {
		st, socket, changed := e.snapshot()
		switch st.State {
		case stateReady:
			s, err := transport.DialEngine(ctx, socket)
			if err == nil {
				return s, nil
			}
			// Most likely it has just died, which Run will notice.
			patience := time.NewTimer(connectPatience)
			select {
			case <-changed:
				patience.Stop()
				continue
			case <-patience.C:
			case <-ctx.Done():
				patience.Stop()
			}
			return nil, protocol.Internalf("the Codex app-server cannot be reached: %v", err)
		case stateFailed:
			return nil, refusal(st)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if st.Problem != "" {
				return nil, refusal(st)
			}
			return nil, protocol.Internalf("the Codex app-server is still starting: %v", context.Cause(ctx))
		}
	}
}

// refusal tells a client why there is no engine and what its person can do.
func refusal(st protocol.EngineState) error {
	msg := st.Problem
	for _, h := range st.Hints {
		msg += fmt.Sprintf("; %s", h)
	}
	return protocol.Internalf("%s", msg)
}
