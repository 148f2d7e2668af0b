package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/integration/peer"
)

// throughGate starts two Codex processes of one version: one on its own, one
// behind a host. They are two because the host's watcher would follow, and so
// slow down, what a direct client does on the host's.
func throughGate(b *testing.B, baseURL string) (direct, gated string) {
	b.Helper()
	codex := peer.Codexes(b)[0]
	alone := spawnCodex(b, codex.Bin, peer.CodexEnv(b, baseURL))
	b.Cleanup(alone.stop)
	h := peer.Start(b, peer.HostConfig{
		TOML: fmt.Sprintf("[engine]\nkind = \"codex\"\n[engine.codex]\nbinary = %q\n", codex.Bin),
		Env:  peer.CodexEnv(b, baseURL),
	})
	return alone.url, h.Listen[len(h.Listen)-1]
}

// BenchmarkGateRoundTrip is one small request to Codex, through Towline's
// socket and gate, and directly. Goal: at most 60 µs more at the median.
func BenchmarkGateRoundTrip(b *testing.B) {
	direct, gated := throughGate(b, "http://127.0.0.1:9/v1")
	d, g := dial(b, direct), dial(b, gated)
	defer d.end()
	defer g.end()
	call := func(c *client) time.Duration {
		start := time.Now()
		if err := c.Call(context.Background(), "thread/loaded/list", nil, nil); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var ds, gs []time.Duration
	for range b.N {
		for range 3000 {
			ds = append(ds, call(d))
			gs = append(gs, call(g))
		}
	}
	slices.Sort(ds)
	slices.Sort(gs)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(gs[len(gs)/2])/float64(ds[len(ds)/2]), "gated/direct")
	b.ReportMetric(float64((gs[len(gs)/2] - ds[len(ds)/2]).Microseconds()), "added-us")
	b.ReportMetric(float64(ds[len(ds)/2].Microseconds()), "direct-us")
}

// deltas is how many pieces one streamed answer has.
const deltas = 20000

// flood is a model that says everything it has as fast as it can.
func flood(b *testing.B) string {
	b.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, `data: {"type":"response.output_item.added","item":{"type":"message","id":"m","role":"assistant","content":[]}}`+"\n\n")
		for i := range deltas {
			_, _ = fmt.Fprintf(w, "data: {\"type\":\"response.output_text.delta\",\"delta\":\"word%d \"}\n\n", i)
		}
		_, _ = fmt.Fprint(w, `data: {"type":"response.output_item.done","item":{"type":"message","id":"m","role":"assistant","content":[{"type":"output_text","text":"all"}]}}`+"\n\n"+
			`data: {"type":"response.completed","response":{"id":"r"}}`+"\n\n")
	}))
	b.Cleanup(srv.Close)
	return srv.URL + "/v1"
}

// BenchmarkGateStreaming is one turn of many deltas from Codex, as a
// throughput: through the gate over directly. Goal: at least 0.95.
func BenchmarkGateStreaming(b *testing.B) {
	direct, gated := throughGate(b, flood(b))
	turn := func(url string) time.Duration {
		c := dial(b, url)
		defer c.end()
		var opened protocol.ThreadOpened
		if err := c.Call(context.Background(), "thread/start", map[string]any{}, &opened); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := c.Call(context.Background(), "turn/start", map[string]any{
			"threadId": opened.Thread.ID, "input": []protocol.UserInput{protocol.Text("go")},
		}, nil); err != nil {
			b.Fatal(err)
		}
		heard := 0
		for n := range c.notes {
			switch n.method {
			case "item/agentMessage/delta":
				heard++
			case "turn/completed":
				if heard < deltas {
					b.Fatalf("heard %d of %d deltas", heard, deltas)
				}
				return time.Since(start)
			}
		}
		return 0
	}
	var ds, gs []time.Duration
	for range b.N {
		turn(direct)
		for range 5 {
			ds = append(ds, turn(direct))
			gs = append(gs, turn(gated))
		}
	}
	d, g := median(ds), median(gs)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(d)/float64(g), "throughput-gated/direct")
	b.ReportMetric(float64(deltas)/d.Seconds(), "direct-deltas/s")
}
