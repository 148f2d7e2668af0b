// Package agentfwd keeps a forwarded SSH agent reachable on the remote under one
// path that stays the same across reconnects and clients.
//
// sshd gives each connection's agent a socket of its own, with a random name, and
// removes it when the connection goes. A daemon that outlives connections can
// therefore not be told such a path. [Hold] opens one channel with agent
// forwarding and keeps, for as long as that channel lives, a symbolic link
//
//	RUNTIME/agent.sock -> RUNTIME/agents/ID -> the connection's own socket
//
// RUNTIME being Towline's private folder on the remote ($TOWLINE_HOME/run,
// $XDG_RUNTIME_DIR/towline, or under $HOME). Each client has an ID; who came or
// claimed last is served, and when it leaves the link goes to the latest of the
// others, or away. The remote end is a few lines of POSIX sh that notice the end
// of the channel by the end of their input, so a cut link needs no cleaning up by
// anyone.
package agentfwd

import (
	"context"
	"errors"

	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// ErrNotAllowed is returned by Hold when the configuration does not forward.
var ErrNotAllowed = errors.New("agent forwarding is not turned on for this host")

// Policy is what the configuration allows of forwarding: the zero value nothing.
type Policy struct {
	// Socket is the local agent to serve to the remote; "" forwards nothing.
	Socket string
}

// PolicyFor reads ForwardAgent of the target: nothing unless it is turned on,
// and then the agent it names. getenv is os.Getenv.
func PolicyFor(t sshconfig.Target, getenv func(string) string) Policy { return Policy{} }

// Options for Hold. The zero value is ready to use.
type Options struct {
	Policy Policy
}

// Holder keeps the stable path pointing at this connection's agent.
type Holder struct{ path string }

// Hold makes the remote's stable agent path lead here until the connection ends
// or Close. Call it again on each new connection.
func Hold(ctx context.Context, c remote.Conn, o Options) (*Holder, error) {
	return nil, ErrNotAllowed
}

// Path is the stable socket path on the remote: what SSH_AUTH_SOCK should be
// there.
func (h *Holder) Path() string { return h.path }

// Claim makes this client's agent the one that is served, when another client
// came later. Call it when a person does something at this client.
func (h *Holder) Claim(ctx context.Context) error { return nil }

// Done is closed when the path leads here no longer; Err then says why.
func (h *Holder) Done() <-chan struct{} { return nil }

// Err is nil until Done is closed, and after Close.
func (h *Holder) Err() error { return nil }

// Close gives the path back and waits for it. Idempotent.
func (h *Holder) Close() error { return nil }
