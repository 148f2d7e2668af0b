package codex

import (
	"context"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Codex takes a refusal of ours for the lender's answer: there must be none, and
// the connection must not choke on what stays unanswered.
func TestWatchDoesNotAnswerForTheLender(t *testing.T) {
	near, far := rpc.Pipe(256)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	served := make(chan struct{})
	w := &watch{account: make(chan struct{}, 1)}
	w.peer = rpc.NewPeer(near, w)
	go func() { defer close(served); _ = w.peer.Serve(ctx) }()
	t.Cleanup(func() { w.peer.Close(nil); <-served })

	ask := func(id int64, method string) {
		t.Helper()
		msg, err := protocol.NewRequest(protocol.IntID(id), method, protocol.TokensRefresh{Reason: "unauthorized"})
		if err == nil {
			err = far.Write(ctx, msg)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	next := func() string {
		t.Helper()
		msg, err := far.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		env, err := protocol.Peek(msg)
		if err != nil {
			t.Fatal(err)
		}
		return string(env.ID)
	}
	const many = rpc.MaxInFlight * 2
	for id := range int64(maxTokenAsks) {
		ask(id, protocol.ReqTokensRefresh)
	}
	ask(many, "something/else")
	if got := next(); got != string(protocol.IntID(many)) {
		t.Fatalf("the first answer is to request %s: the lender's was ruined", got)
	}
	for id := int64(maxTokenAsks); id < many; id++ {
		ask(id, protocol.ReqTokensRefresh)
		if got := next(); got != string(protocol.IntID(id-maxTokenAsks)) {
			t.Fatalf("request %s was answered after %d came", got, id)
		}
	}
}
