package gate

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// A client whose link was cut is one client throughout: others see it away and
// back, its threads go on, and it hears what was said meanwhile.
func TestClientWithoutALinkIsAwayAndComesBack(t *testing.T) {
	r := newRig(t, nil, true)
	sessions := rpc.NewSessions(rpc.SessionsConfig{})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = sessions.Run(ctx) })
	var mu sync.Mutex
	var link rpc.Stream
	down := false
	ana := rpc.NewResumable(rpc.ResumeOptions{Dial: func(context.Context) (rpc.Stream, error) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return nil, errors.New("no network")
		}
		a, b := rpc.Pipe(64)
		link = a
		running.Go(func() {
			_ = sessions.Serve(ctx, b, "ana", func(ctx context.Context, s rpc.Stream) {
				_ = r.g.Serve(ctx, s, Client{Principal: principal("ana", protocol.RoleOperator), Via: "ssh", Remote: "test"})
			})
		})
		return a, nil
	}})
	t.Cleanup(func() { _ = ana.Close(nil); stop(); running.Wait() })

	p := &person{t: t, s: ana, served: make(chan error, 1)}
	p.cond = sync.NewCond(&p.mu)
	go p.read()
	p.must("initialize", map[string]any{"clientInfo": map[string]string{"name": "tui-ana", "version": "1"}})
	bob := r.join("bob", protocol.RoleObserver, true)
	seen := func(away bool) func(protocol.Envelope) bool {
		return func(e protocol.Envelope) bool {
			var list struct{ Data []protocol.Presence }
			if e.Method != protocol.NotePresence || json.Unmarshal(e.Params, &list) != nil {
				return false
			}
			for _, c := range list.Data {
				if c.Name == "ana" {
					return (c.AwaySince != 0) == away
				}
			}
			return false
		}
	}
	_, at := bob.wait("ana here", 0, seen(false))
	mu.Lock()
	down = true
	_ = link.Close(nil)
	mu.Unlock()
	_, at = bob.wait("ana away", at, seen(true))
	mu.Lock()
	down = false
	mu.Unlock()
	ana.Retry()
	bob.wait("ana back", at, seen(false))
	p.sync()
	if n := bob.count(func(e protocol.Envelope) bool { return e.Method == protocol.NotePresence }); n < 3 {
		t.Errorf("%d changes of presence", n)
	}
}
