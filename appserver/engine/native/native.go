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
package native

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Config says where an engine works and with what. Dir, Cwd and Models are
// required; the zero value of everything else is a safe default.
type Config struct {
	Dir     string // thread histories live here; made with mode 0700
	Cwd     string // the project: absolute; default working directory of threads
	Home    string // reported to clients as codexHome; default: the parent of Dir
	Version string // of Towline, reported in userAgent and as cliVersion
	// Provider names the endpoint's owner in thread records, "openai" when empty.
	Provider string
	Models   []Model // the first is the default

	Approval string // protocol.Approve…; default on-request
	Sandbox  string // protocol.Sandbox…; default workspace-write

	Environ     []string // environment of commands the agent runs; nil: this process's
	IdleUnload  time.Duration
	Log         *slog.Logger
	Clock       func() time.Time
	SandboxSelf string // path of the binary that confines commands when re-executed
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
	cfg Config
}

// New checks cfg and opens the thread store. It starts nothing.
func New(cfg Config) (*Engine, error) {
	return &Engine{cfg: cfg}, nil
}

// Run keeps the engine alive until ctx ends, then interrupts running turns,
// ends every process and connection, and waits for them.
func (e *Engine) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Connect opens a connection for one client; its handshake is still to come.
// It waits for Run to have begun.
func (e *Engine) Connect(ctx context.Context) (rpc.Stream, error) {
	return nil, errors.New("native engine: not running")
}

// State is a snapshot of the engine's health.
func (e *Engine) State() protocol.EngineState {
	return protocol.EngineState{Kind: "native", State: "starting", Version: e.cfg.Version}
}

// Changed is closed, and replaced, when State changes.
func (e *Engine) Changed() <-chan struct{} { return nil }
