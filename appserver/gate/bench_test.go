package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
)

// socket serves each accepted WebSocket on a unix socket with serve and returns
// how to dial it: what both sides of a gate are made of in practice.
func socket(tb testing.TB, serve func(ctx context.Context, s rpc.Stream)) func(ctx context.Context) (rpc.Stream, error) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		tb.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		s := rpc.NewWebSocket(c)
		serve(r.Context(), s)
		_ = s.Close(nil)
	})}}
	srv.Start()
	tb.Cleanup(srv.Close)
	e := &codexEngine{socket: filepath.Join(dir, "s")}
	return e.Connect
}

// door is the daemon's own socket in front of g, and how to dial it.
func door(tb testing.TB, g *Gate) func(ctx context.Context) (rpc.Stream, error) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := transport.Listen(ctx, "unix://"+filepath.Join(dir, "s"), transport.Options{RuntimeDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- l.Serve(ctx, func(ctx context.Context, s rpc.Stream, _ access.Principal, via, _ string) {
			_ = g.Serve(ctx, s, Client{Principal: principal("ana", protocol.RoleOperator), Via: via})
		})
	}()
	tb.Cleanup(func() {
		cancel()
		<-served
		_ = os.RemoveAll(dir)
	})
	return func(ctx context.Context) (rpc.Stream, error) { return transport.Dial(ctx, l.URL()) }
}

// echoEngine answers every request at once, and "blast" with a number of deltas
// first. It is as fast as an engine can be, so the ratios are the worst case.
type echoEngine struct {
	*fakeEngine
	dial func(ctx context.Context) (rpc.Stream, error)
}

func (e *echoEngine) Connect(ctx context.Context) (rpc.Stream, error) { return e.dial(ctx) }

func newEcho(tb testing.TB) *echoEngine {
	delta := []byte(`{"method":"item/agentMessage/delta","params":{"threadId":"00000000-0000-4000-8000-000000000001","turnId":"00000000-0000-4000-8000-000000000002","itemId":"msg_1","delta":"some words of "},"emittedAtMs":1795340000000}`)
	started := []byte(`{"method":"item/started","params":{"threadId":"00000000-0000-4000-8000-000000000001","turnId":"00000000-0000-4000-8000-000000000002","item":{"type":"agentMessage","id":"msg_1","text":""}}}`)
	completed := []byte(strings.Replace(string(started), "started", "completed", 1))
	return &echoEngine{fakeEngine: newFake(), dial: socket(tb, func(ctx context.Context, s rpc.Stream) {
		for {
			msg, err := s.Read(ctx)
			if err != nil {
				return
			}
			env, err := protocol.Peek(msg)
			if err != nil || env.Kind != protocol.KindRequest {
				continue
			}
			if env.Method == "blast" {
				var n int
				_ = json.Unmarshal(protocol.Field(env.Params, "n"), &n)
				_ = s.Write(ctx, started)
				for range n {
					if s.Write(ctx, delta) != nil {
						return
					}
				}
				_ = s.Write(ctx, completed)
			}
			m, _ := protocol.NewResponse(env.ID, map[string]any{"data": []string{}, "userAgent": "x"})
			if s.Write(ctx, m) != nil {
				return
			}
		}
	})}
}

// sides dials one engine directly and its twin through a gate, handshake done.
// They are two, because the gate's watcher would slow the direct side down.
func sides(b *testing.B, plain func(ctx context.Context) (rpc.Stream, error), e Engine) (direct, gated rpc.Stream) {
	b.Helper()
	g := New(Config{Engine: e, Store: noStore{}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- g.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ran })
	for i, dial := range []func(context.Context) (rpc.Stream, error){plain, door(b, g)} {
		s, err := dial(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close(nil) })
		roundTrip(b, s, `{"id":0,"method":"initialize","params":{"clientInfo":{"name":"bench","version":"1"},"capabilities":{"experimentalApi":true}}}`, "0")
		if i == 0 {
			direct = s
		} else {
			gated = s
		}
	}
	return direct, gated
}

// roundTrip sends a request and reads up to its answer.
func roundTrip(tb testing.TB, s rpc.Stream, msg, id string) json.RawMessage {
	if err := s.Write(context.Background(), []byte(msg)); err != nil {
		tb.Fatal(err)
	}
	for {
		m, err := s.Read(context.Background())
		if err != nil {
			tb.Fatal(err)
		}
		if env, err := protocol.PeekTrusted(m); err == nil && env.Method == "" && string(env.ID) == id {
			return env.Result
		}
	}
}

// BenchmarkGateRoundTrip: the goal is 60 µs added at the median. The two sides
// take turns, so that what else the machine does meets both.
func BenchmarkGateRoundTrip(b *testing.B) {
	direct, gated := sides(b, newEcho(b).Connect, newEcho(b))
	var took [2][]time.Duration
	i := 0
	for b.Loop() {
		for side, s := range []rpc.Stream{direct, gated} {
			i++
			id := fmt.Sprint(i)
			began := time.Now()
			roundTrip(b, s, `{"id":`+id+`,"method":"thread/loaded/list","params":{}}`, id)
			took[side] = append(took[side], time.Since(began))
		}
	}
	d, g := median(took[0]), median(took[1])
	b.ReportMetric(us(d), "direct-µs")
	b.ReportMetric(us(g), "gate-µs")
	b.ReportMetric(us(g-d), "added-µs")
}

func median(d []time.Duration) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[len(d)/2]
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// BenchmarkGateDeltas streams from an engine that does nothing else; both ends
// and the gate share the machine's cores, so a ratio near 1 would need more of
// them than two. BenchmarkCodexDeltas is the one with the goal.
func BenchmarkGateDeltas(b *testing.B) {
	direct, gated := sides(b, newEcho(b).Connect, newEcho(b))
	const n = 20_000
	var took [2]time.Duration
	for b.Loop() {
		for side, s := range []rpc.Stream{direct, gated} {
			began := time.Now()
			roundTrip(b, s, fmt.Sprintf(`{"id":1,"method":"blast","params":{"n":%d}}`, n), "1")
			took[side] += time.Since(began)
		}
	}
	per := func(d time.Duration) float64 { return us(d) / float64(n*b.N) }
	b.ReportMetric(per(took[0]), "direct-µs/delta")
	b.ReportMetric(per(took[1]), "gate-µs/delta")
	b.ReportMetric(float64(took[0])/float64(took[1]), "throughput-ratio")
}

// BenchmarkCodexRoundTrip and BenchmarkCodexDeltas are the same with the real
// codex: the first binary of TOWLINE_TEST_CODEX.
func BenchmarkCodexRoundTrip(b *testing.B) {
	direct, gated := sides(b, benchCodex(b).dial, benchCodex(b))
	var took [2][]time.Duration
	i := 0
	for b.Loop() {
		for side, s := range []rpc.Stream{direct, gated} {
			i++
			id := fmt.Sprint(i)
			began := time.Now()
			roundTrip(b, s, `{"id":`+id+`,"method":"thread/loaded/list","params":{}}`, id)
			took[side] = append(took[side], time.Since(began))
		}
	}
	d, g := median(took[0]), median(took[1])
	b.ReportMetric(us(d), "direct-µs")
	b.ReportMetric(us(g), "gate-µs")
	b.ReportMetric(us(g-d), "added-µs")
}

func benchCodex(b *testing.B) *codexEngine {
	b.Helper()
	list := filepath.SplitList(os.Getenv("TOWLINE_TEST_CODEX"))
	if len(list) == 0 {
		b.Skip("SKIPPED: set TOWLINE_TEST_CODEX to a codex binary to measure against the real codex")
	}
	return startCodex(b, list[0])
}

// BenchmarkCodexDeltas: the goal is 0.95 of the direct throughput.
func BenchmarkCodexDeltas(b *testing.B) {
	plain, e := benchCodex(b), benchCodex(b)
	const n = 10_000
	line := "data: {\"type\":\"response.output_text.delta\",\"delta\":\"some words of \"}\n\n"
	say := func(w io.Writer) {
		_, _ = io.WriteString(w, `data: {"type":"response.output_item.added","item":{"type":"message","role":"assistant","id":"msg_1","content":[]}}`+"\n\n")
		_, _ = io.WriteString(w, strings.Repeat(line, n))
		_, _ = io.WriteString(w, `data: {"type":"response.output_item.done","item":{"type":"message","role":"assistant","id":"msg_1","content":[{"type":"output_text","text":"x"}]}}`+"\n\n")
	}
	plain.model.raw, e.model.raw = say, say
	direct, gated := sides(b, plain.dial, e)
	var threads [2]string
	for side, s := range []rpc.Stream{direct, gated} {
		threads[side] = protocol.StringField(protocol.Field(roundTrip(b, s, `{"id":1,"method":"thread/start","params":{}}`, "1"), "thread"), "id")
	}
	var took [2]time.Duration
	for b.Loop() {
		for side, s := range []rpc.Stream{direct, gated} {
			msg := fmt.Sprintf(`{"id":2,"method":"turn/start","params":{"threadId":%q,"input":[{"type":"text","text":"go"}]}}`, threads[side])
			if err := s.Write(b.Context(), []byte(msg)); err != nil {
				b.Fatal(err)
			}
			began, deltas := time.Time{}, 0
			for ended := false; !ended; {
				m, err := s.Read(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				env, err := protocol.PeekTrusted(m)
				if err != nil {
					b.Fatal(err)
				}
				switch env.Method {
				case "item/agentMessage/delta":
					if deltas++; deltas == 1 {
						began = time.Now()
					}
				case "turn/completed":
					ended = true
				}
			}
			if deltas != n {
				b.Fatalf("%d deltas, want %d", deltas, n)
			}
			took[side] += time.Since(began)
		}
	}
	per := func(d time.Duration) float64 { return us(d) / float64(n*b.N) }
	b.ReportMetric(per(took[0]), "direct-µs/delta")
	b.ReportMetric(per(took[1]), "gate-µs/delta")
	b.ReportMetric(float64(took[0])/float64(took[1]), "throughput-ratio")
}
