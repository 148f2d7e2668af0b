package bearer

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
)

// greeter answers initialize, and nothing else is asked.
type greeter struct{}

func (greeter) Request(_ context.Context, r *rpc.Request)             { r.Reply(protocol.Initialized{}) }
func (greeter) Notification(context.Context, string, json.RawMessage) {}
func greet(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
	_ = rpc.NewPeer(s, greeter{}).Serve(ctx)
}

// Connecting and initializing through a real listener: with JWTs, over a token that
// is only compared. Goal: at most 1.1 for one that came before. What is behind the
// listener does as little as one can; a daemon does more, and the ratio is less.
func BenchmarkConnect(b *testing.B) {
	keys := testKeys()
	cfg := Config{
		Capability: []Capability{{Name: "x", File: write(b, "f", "let me in"), Role: protocol.RoleOperator}},
		JWT:        []JWT{codexMode(b, nil)}, Now: func() time.Time { return noon },
	}
	tokens := map[string]string{"HS256": signed(fmt.Sprintf(`{"exp":%d}`, noon.Unix()+60))}
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		k := keys[algorithms[alg].kind]
		cfg.JWT = append(cfg.JWT, JWT{
			Name: alg, KeyFile: write(b, "k", pemOf(b, k.Public())), Audience: []string{"towline"}, Algorithms: []string{alg},
			Rules: []Rule{{Claims: []Claim{claim("repository", "octo/*")}, Role: protocol.RoleOperator, NameTemplate: "{repository}@{ref}"}},
		})
		tokens[alg] = sign(b, alg, "", k, github(nil), nil)
	}
	a := open(b, cfg)
	l, err := transport.Listen(b.Context(), "ws://127.0.0.1:0", transport.Options{Auth: a, RequireAuth: true})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- l.Serve(ctx, greet) }()
	b.Cleanup(func() {
		cancel()
		_ = l.Close()
		<-done
	})
	addr := l.URL()[len("ws://"):]
	timed := func(b *testing.B, token string) time.Duration {
		start := time.Now()
		if err := connect(b.Context(), addr, map[string][]string{"Authorization": {"Bearer " + token}}); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	for _, name := range []string{"HS256", "RS256", "ES256", "EdDSA"} {
		for when, forget := range map[string]bool{"first": true, "again": false} {
			b.Run(name+", "+when, func(b *testing.B) {
				var with, without []time.Duration
				for b.Loop() {
					if forget {
						a.proven.mu.Lock()
						clear(a.proven.m)
						a.proven.mu.Unlock()
					}
					with, without = append(with, timed(b, tokens[name])), append(without, timed(b, "let me in"))
				}
				slices.Sort(with)
				slices.Sort(without)
				b.ReportMetric(0, "ns/op") // the ratio is the result
				b.ReportMetric(float64(with[len(with)/2])/float64(without[len(without)/2]), "over-capability")
			})
		}
	}
}

func connect(ctx context.Context, addr string, header map[string][]string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	s, err := rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Host: addr, Header: header})
	if err != nil {
		return err
	}
	p := rpc.NewPeer(s, greeter{})
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Serve(ctx) }()
	err = p.Call(ctx, "initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "b", Version: "1"}}, nil)
	p.Close(nil)
	<-ended
	return err
}
