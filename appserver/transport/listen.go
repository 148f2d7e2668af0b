package transport

import (
	"context"
	"errors"
	"log/slog"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// Options tune a Listener. The zero value is a safe default.
type Options struct {
	Log *slog.Logger // nil discards
	// RuntimeDir is where a unix socket really lives when its path is too long
	// for the kernel; a symlink stands at the path asked for. It must be short
	// and is made private. Empty: a private temporary directory.
	RuntimeDir string
	// MaxConns bounds connections in all, MaxPending those that have not
	// finished their handshake. Zero means the default of each.
	MaxConns, MaxPending int
}

// AcceptFunc serves one connection and returns when it is over; the stream is
// closed afterwards. via is "unix" or "ws". remote is for people and logs.
type AcceptFunc func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string)

// Listener takes connections from clients.
type Listener struct{}

// Listen opens url: "unix://PATH" or "ws://IP:PORT" (port 0 lets the system
// choose). Errors are *config.Problem.
func Listen(ctx context.Context, url string, o Options) (*Listener, error) {
	return nil, errors.ErrUnsupported
}

// URL is the address clients dial, with the port that was chosen.
func (l *Listener) URL() string { return "" }

// Serve runs accept for each connection, in a goroutine of its own, until ctx
// ends or the listener is closed, and returns when all of them have. The error
// is nil in those cases.
func (l *Listener) Serve(ctx context.Context, accept AcceptFunc) error { return nil }

// Close stops listening and removes the socket file. It is idempotent. Serve
// then ends its connections and returns.
func (l *Listener) Close() error { return nil }
