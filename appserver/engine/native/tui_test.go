package native_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"

	"towline/appserver/rpc"
)

// listen serves the engine over WebSocket on addr, without the gate, and returns
// the ws:// address a stock client takes.
func (h *host) listen(addr string) string {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		down := rpc.NewWebSocket(ws)
		up, err := h.eng.Connect(r.Context())
		if err != nil {
			_ = down.Close(err)
			return
		}
		carry(r, down, record(h.t, up))
	}))
	_ = srv.Listener.Close() // ours instead
	srv.Listener = ln
	srv.Start()
	h.t.Cleanup(srv.Close)
	return "ws" + srv.URL[len("http"):]
}

// carry copies messages both ways until either end leaves.
func carry(r *http.Request, a, b rpc.Stream) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pump(r, a, b)
		_ = b.Close(rpc.ErrClosed)
	}()
	pump(r, b, a)
	_ = a.Close(rpc.ErrClosed)
	<-done
}

func pump(r *http.Request, from, to rpc.Stream) {
	for {
		msg, err := from.Read(r.Context())
		if err != nil {
			return
		}
		if to.Write(r.Context(), msg) != nil {
			return
		}
	}
}

var _ testing.TB
