// Package rpc moves protocol messages: it finds their ends on a byte stream,
// bounds them, pairs answers with requests, and says no when a peer is too fast
// or too slow.
//
// A [Stream] carries whole messages over something: lines on stdio or an SSH
// channel ([NewLines]), text frames on a WebSocket ([NewWebSocket]), memory
// ([Pipe]). A [Peer] is one end of a conversation on a Stream: it calls, is
// called, and dispatches. A relay such as the gate uses Streams alone and never
// re-encodes what it carries.
package rpc

import (
	"context"
	"errors"
	"time"
)

// Limits on what one peer can make the other hold.
const (
	// MaxMessage bounds one message, in bytes: what Codex accepts on a WebSocket.
	MaxMessage = 64 << 20
	// MaxInFlight bounds requests one peer may have unanswered before further
	// ones get -32001. Codex's own queue holds 128.
	MaxInFlight = 128
	// WriteTimeout is how long a peer may leave a message unread before the
	// stream is given up.
	WriteTimeout = 20 * time.Second
	// QueueBytes and QueueMessages bound what waits for a slow reader, see Outbox.
	QueueBytes    = 64 << 20
	QueueMessages = 32768
)

// Errors every Stream reports, wrapped or bare.
var (
	// ErrClosed: this end was closed. A peer's orderly end is io.EOF.
	ErrClosed = errors.New("stream closed")
	// ErrTooLarge: a message exceeded MaxMessage. The stream is unusable after it.
	ErrTooLarge = errors.New("message too large")
	// ErrSlow: the peer did not read for too long.
	ErrSlow = errors.New("peer does not read")
)

// Stream carries whole messages both ways. One goroutine reads; any number may
// write, and each message arrives unbroken. The bytes Read returns belong to
// the caller. Close is idempotent, safe from any goroutine, unblocks both
// directions, and gives the reason to peers that can hear one.
type Stream interface {
	Read(ctx context.Context) ([]byte, error)
	Write(ctx context.Context, msg []byte) error
	Close(reason error) error
}
