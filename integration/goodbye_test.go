package integration

import (
	"context"
	"encoding/json"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

// listener is a client that hears.
type listener struct{ heard chan string }

func (listener) Request(_ context.Context, r *rpc.Request) { r.Fail(protocol.Errorf("not here")) }

func (l listener) Notification(_ context.Context, method string, params json.RawMessage) {
	switch method {
	case "item/agentMessage/delta":
		method += " of " + protocol.StringField(params, "turnId")
	case "turn/completed":
		method += " " + protocol.StringField(protocol.Field(params, "turn"), "status")
	}
	l.heard <- method
}

// A host that is told to stop ends its turns, says so to whoever listens, and
// only then closes the line.
func TestStoppingTellsClientsHowTheirTurnsEnded(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	s, err := transport.Dial(t.Context(), h.Listen[len(h.Listen)-1])
	if err != nil {
		t.Fatal(err)
	}
	l := listener{make(chan string, 4096)}
	p := rpc.NewPeer(s, l)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Serve(context.Background()) }()
	var opened protocol.ThreadOpened
	for _, c := range []struct {
		method         string
		params, result any
	}{
		{"initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "t", Version: "1"}}, nil},
		{"thread/start", map[string]any{}, &opened},
	} {
		if err := p.Call(t.Context(), c.method, c.params, c.result); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Call(t.Context(), "turn/start", map[string]any{
		"threadId": opened.Thread.ID, "input": []protocol.UserInput{protocol.Text("count to 500 slowly")},
	}, nil); err != nil {
		t.Fatal(err)
	}
	for m := range l.heard {
		if len(m) > 24 && m[:24] == "item/agentMessage/delta " {
			break
		}
	}
	if err := h.Stop(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	<-ended
	close(l.heard)
	told := false
	for m := range l.heard {
		told = told || m == "turn/completed interrupted"
	}
	if !told {
		t.Error("the line was closed before the turn's end was told")
	}
}
