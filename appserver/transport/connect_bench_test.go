//go:build unix

package transport

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// What it costs to come in: a handshake and its end.
func BenchmarkConnect(b *testing.B) {
	for name, tc := range map[string]struct {
		url    string
		header http.Header
	}{
		"ws, same user":    {"ws://127.0.0.1:0", nil},
		"ws, a credential": {"ws://127.0.0.1:0", http.Header{"Authorization": {"Bearer good"}}},
	} {
		b.Run(name, func(b *testing.B) {
			l, err := Listen(b.Context(), tc.url, Options{Auth: &prover{known: map[string]access.Principal{"good": ci}}, Limits: Limits{PerPrincipal: 1 << 20}})
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() { defer close(done); _ = l.Serve(b.Context(), echo) }()
			defer func() { _ = l.Close(); <-done }()
			for b.Loop() {
				c, err := net.Dial("tcp", strings.TrimPrefix(l.URL(), "ws://"))
				if err != nil {
					b.Fatal(err)
				}
				s, err := rpc.DialWebSocket(b.Context(), c, rpc.WebSocketOptions{Header: tc.header})
				if err != nil {
					b.Fatal(err)
				}
				_ = s.Close(nil)
			}
		})
	}
}
