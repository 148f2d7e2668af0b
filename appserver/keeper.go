package appserver

import (
	"context"
	"encoding/json"

	"towline/appserver/engine/codex"
	"towline/appserver/engine/elder"
	"towline/appserver/engine/native"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// joined is the Codex engine as package elder has one: a successor's Codex is the
// same process as its elder's, so nothing is held anywhere else, and it numbers its
// requests itself.
type joined struct{ *codex.Engine }

func (joined) AsksFrom(int64) {}

// keeper is what an elder offers that has only to keep a Codex running.
type keeper struct {
	*codex.Engine
}

var _ elder.Retired = keeper{}

func (keeper) Held() []native.Held { return []native.Held{} }
func (keeper) FirstAsk() int64     { return 0 }

// Connect gives a connection on which nothing can be had.
func (keeper) Connect(context.Context) (rpc.Stream, error) {
	near, far := rpc.Pipe(1)
	p := rpc.NewPeer(far, nobody{})
	go func() { _ = p.Serve(context.Background()) }() // ends with the connection
	return near, nil
}

type nobody struct{}

func (nobody) Request(_ context.Context, r *rpc.Request) {
	if r.Method == "initialize" {
		r.Reply(protocol.Initialized{})
		return
	}
	r.Fail(protocol.Errorf("this process only keeps a Codex running"))
}

func (nobody) Notification(context.Context, string, json.RawMessage) {}
