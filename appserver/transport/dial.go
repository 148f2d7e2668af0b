package transport

import (
	"context"
	"errors"

	"towline/appserver/rpc"
)

// Dial connects to "unix://PATH" or "ws://HOST:PORT" and finishes the WebSocket
// handshake. ctx bounds the dialing only. Errors are *config.Problem.
func Dial(ctx context.Context, url string) (rpc.Stream, error) {
	return nil, errors.ErrUnsupported
}
