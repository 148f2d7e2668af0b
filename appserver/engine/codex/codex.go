// Package codex is the engine that has a real `codex app-server` do the work.
// It joins the daemon that answers on Codex's control socket, or else starts
// one app-server, owns it, restarts it, and says why it died.
//
// Start with [New], then Run; Connect gives one connection a client.
package codex

import (
	"context"
	"errors"
	"log/slog"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

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
	// Environ is the environment of every codex process, as os.Environ gives it.
	Environ []string
	// MinVersion is the oldest codex that will do; empty means DefaultMinVersion.
	MinVersion string
	// Cwd is the working directory of the app-server.
	Cwd string
	Log *slog.Logger // nil discards
}

// DefaultMinVersion is the oldest Codex the engine is tested with.
const DefaultMinVersion = "0.166.0"

// Engine runs or joins a codex app-server.
type Engine struct{}

// New makes an engine. It does nothing until Run.
func New(cfg Config) *Engine { return &Engine{} }

// Run keeps an app-server at hand until ctx ends, then stops the one it owns.
func (e *Engine) Run(ctx context.Context) error { return errors.ErrUnsupported }

// Connect opens a fresh connection for one client. While the app-server starts
// or restarts it waits, bounded by ctx; in state "failed" it fails at once with
// a *protocol.Error that says what to do.
func (e *Engine) Connect(ctx context.Context) (rpc.Stream, error) { return nil, errors.ErrUnsupported }

// State is a snapshot. A ready engine has a Problem when Codex works but has no
// account: clients may attach and log in through the protocol.
func (e *Engine) State() protocol.EngineState { return protocol.EngineState{} }

// Changed is closed when State changes; ask again for the next change.
func (e *Engine) Changed() <-chan struct{} { return nil }

// Find locates codex for an environment and asks its version, which takes a
// moment. Errors are *config.Problem.
func Find(ctx context.Context, environ []string) (path, version string, err error) {
	return "", "", errors.ErrUnsupported
}

// LoggedIn reports whether Codex could work right now: it has an account, or
// its configuration names a model provider that needs none. It is the cheap
// check that the choice of an engine needs; the truth is what account/read of
// the running app-server says, and State tells that.
func LoggedIn(ctx context.Context, cfg Config) (bool, error) { return false, errors.ErrUnsupported }
