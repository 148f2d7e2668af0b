package tui

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/theme"
)

var update = flag.Bool("update", false, "write the golden screens anew")

// bench is a model without a terminal or a server: messages in, screens out.
type bench struct {
	*model
	clock time.Time
}

// newBench makes a connected model showing thread t-1. Commands are not run.
func newBench(tb testing.TB, w, h int, th *theme.Theme, s protocol.Session) *bench {
	tb.Helper()
	ctx := tb.Context()
	cfg := &Config{Host: "dev-server", Size: Size{w, h}, Log: slog.New(slog.DiscardHandler), ReattachHint: "towline dev-server"}
	l := &link{ctx: ctx, cfg: cfg, box: newInbox()}
	l.peer = rpc.NewPeer(nowhere{}, nil)
	b := &bench{model: newModel(cfg, l, 256), clock: time.Unix(1_800_000_000, 0)}
	b.now = func() time.Time { return b.clock }
	b.th = th
	b.tr.SetTheme(th)
	b.Update(tea.WindowSizeMsg{Width: w, Height: h})
	b.conn.gen = 1
	b.Update(upMsg{gen: 1, session: &s})
	b.open(openRequest{id: "t-1"})
	return b
}

// nowhere is a stream that goes nowhere; calls on it are never made.
type nowhere struct{ rpc.Stream }

func (b *bench) event(method string, params any) {
	raw, err := json.Marshal(params)
	if err != nil {
		panic(err)
	}
	e := event{gen: 1, method: method, params: raw}
	box := newInbox()
	box.open(1)
	(&receiver{gen: 1, box: box, over: func() {}}).Notification(context.Background(), method, raw)
	if q := box.take(); len(q) > 0 {
		e = q[0]
	}
	b.Update(eventsMsg{e})
}

func (b *bench) request(id int, method string, params any) {
	raw, err := json.Marshal(params)
	if err != nil {
		panic(err)
	}
	b.Update(eventsMsg{{gen: 1, method: method, params: raw, req: &rpc.Request{ID: protocol.IntID(int64(id)), Method: method, Params: raw}}})
}

func (b *bench) open1(o obj) {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	msg := openedMsg{seq: b.conn.opens, gen: 1}
	if err := json.Unmarshal(raw, &msg.opened); err != nil {
		panic(err)
	}
	msg.history(func(string, any, any) error { return errors.New("no server") })
	b.Update(msg)
}

func (b *bench) press(keys ...string) {
	for _, k := range keys {
		switch k {
		case "ctrl+t":
			b.Update(tea.KeyPressMsg{Code: 't', Mod: tea.ModCtrl})
		case "?":
			b.Update(tea.KeyPressMsg{Code: '?', Text: "?"})
		default:
			for _, r := range k {
				b.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
			}
		}
	}
}

func (b *bench) screenText() string {
	lines, _, _ := b.draw()
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// session is the owner's, on a host with the native engine.
func ownSession() protocol.Session {
	return protocol.Session{
		Principal: protocol.Presence{ID: "c1", Kind: "key", Name: "ana@laptop", Role: protocol.RoleAdmin, Via: "ssh", You: true},
		Host:      "dev-server", Project: "/home/ana/src/shop", Engine: protocol.EngineState{Kind: "native", State: "ready", Version: "0.1.0"},
	}
}

// conversation is the one of the sketch in the UI document.
func (b *bench) conversation() {
	long := strings.Builder{}
	long.WriteString("--- FAIL: TestPay (0.08s)\n    pay_test.go:41: got 2 charges, want 1\n")
	for i := range 212 {
		fmt.Fprintf(&long, "=== RUN   TestPay/%d\n", i)
	}
	long.WriteString("FAIL\texample.com/shop/checkout\t12.1s\n")
	fail := commandItem("c1", "/bin/bash -lc 'go test ./checkout -run TestPay -count=50'", "failed", long.String())
	fail["exitCode"], fail["durationMs"] = 1, 12100
	b.open1(opened("t-1", "fix flaky checkout test", turn("u-1", "inProgress",
		userItem("i1", "The checkout test fails one run in ten. Find out why."),
		agentItem("i2", "I'll run it repeatedly and look at the failures."), fail,
		obj{"type": "reasoning", "id": "r1", "summary": []string{"**Looking at the lock**\nThe map is read without it."}},
		obj{"type": "fileChange", "id": "f1", "status": "completed", "changes": []any{obj{
			"path": "/home/ana/src/shop/checkout/pay.go", "kind": obj{"type": "update"},
			"diff": "@@ -38,3 +38,4 @@\n func (s *Service) Pay(ctx context.Context, id string) error {\n-\tif s.seen[id] { return nil }\n+\ts.mu.Lock()\n+\tdefer s.mu.Unlock()\n \treturn s.charge(ctx, id)\n",
		}}},
		obj{"type": "webSearch", "id": "w1", "query": "go map race detector"},
		obj{"type": "mcpToolCall", "id": "m1", "server": "tickets", "tool": "find", "status": "completed", "arguments": obj{"q": "flaky"}, "durationMs": 340},
		obj{"type": "brandNewThing", "id": "n1", "status": "inProgress", "name": "from a newer Codex"},
	)))
	b.cur.since = b.clock.Add(-42 * time.Second)
	b.event("turn/plan/updated", obj{"threadId": "t-1", "plan": []any{
		obj{"step": "reproduce", "status": "completed"}, obj{"step": "fix the race", "status": "inProgress"}, obj{"step": "run the suite", "status": "pending"},
	}})
	b.event("thread/tokenUsage/updated", obj{"threadId": "t-1", "tokenUsage": obj{
		"total": obj{"totalTokens": 12400, "inputTokens": 12000, "outputTokens": 400}, "last": obj{"totalTokens": 12400}, "modelContextWindow": 272000,
	}})
	me := ownSession().Principal
	t1 := protocol.ThreadID("t-1")
	me.Thread = &t1
	b.event(protocol.NotePresence, obj{"data": []protocol.Presence{me, {ID: "c2", Kind: "device", Name: "phone", Role: protocol.RoleApprover, Thread: &t1}}})
	var l protocol.ThreadList
	raw, _ := json.Marshal(obj{"data": []any{
		listed("t-1", "fix flaky checkout test", "active"), listed("t-2", "migrate orders table", "active", "waitingOnApproval"),
		listed("t-3", "bump dependencies", "idle"), listed("t-4", "nightly import", "systemError"),
	}})
	if err := json.Unmarshal(raw, &l); err != nil {
		panic(err)
	}
	for i := range l.Data {
		l.Data[i].UpdatedAt = b.clock.Unix() - int64(i)*3600
	}
	b.list.take(b.model, l, false)
	b.event(protocol.NoteApprovalOpened, obj{"approval": obj{"id": "a", "threadId": "t-2", "requestId": 9, "method": protocol.ReqCommandApproval, "state": "open", "params": obj{"command": "psql -h staging"}}})
}

var scenes = map[string]func(b *bench){
	"empty": func(b *bench) { b.open1(opened("t-1", "")) },
	"rehearsal": func(b *bench) {
		b.session.Rehearsal = true
		b.open1(opened("t-1", ""))
	},
	"conversation": (*bench).conversation,
	"approval": func(b *bench) {
		b.conversation()
		b.request(1, protocol.ReqCommandApproval, obj{
			"kind": "command", "threadId": "t-1", "turnId": "u-1", "itemId": "c2", "startedAtMs": 1, "cwd": "/home/ana/src/shop",
			"command": "psql -h staging -c 'ALTER TABLE orders ADD COLUMN note text'", "reason": "the migration has to be applied before the test can pass",
		})
		b.request(2, protocol.ReqFileApproval, obj{"threadId": "t-1", "turnId": "u-1", "itemId": "f1", "startedAtMs": 1})
		b.draw()
		b.clock = b.clock.Add(readingGrace)
	},
	"interrupted": func(b *bench) {
		o := opened("t-1", "fix flaky checkout test", turn("u-1", "interrupted",
			userItem("i1", "The checkout test fails one run in ten. Find out why."), agentItem("i2", "I'll run it repeatedly.")))
		o["thread"].(obj)["towlineInterruptedTurn"] = "u-1"
		b.open1(o)
	},
	"threads": func(b *bench) {
		b.conversation()
		b.press("ctrl+t")
	},
	"help": func(b *bench) {
		b.conversation()
		b.press("?")
	},
	"lost": func(b *bench) {
		b.conversation()
		b.press("still here")
		b.Update(downMsg{gen: 1, err: errors.New("EOF")})
		b.Update(downMsg{gen: 1, err: errors.New("EOF")})
		b.clock = b.clock.Add(14 * time.Second)
		b.conn.next = b.clock.Add(4 * time.Second)
	},
	"completion": func(b *bench) {
		b.conversation()
		b.press("/")
	},
}

// themed are the scenes that are kept in every theme.
var themed = map[string]bool{
	"approval": true, "conversation": true, "connecting": true, "hostkey": true, "upload": true, "failed": true, "folders": true, "skew": true,
}

func TestGoldenScreens(t *testing.T) {
	themes := map[string]*theme.Theme{"plain": theme.Plain(), "dark": theme.Dark(), "light": theme.Light(), "ansi16": theme.ANSI16()}
	sizes := []Size{{80, 24}, {200, 50}, {40, 12}, {20, 6}}
	for name, scene := range scenes {
		for _, sz := range sizes {
			for thName, th := range themes {
				// Layout does not depend on the theme: all of them once, the rest plain.
				if thName != "plain" && (sz != sizes[0] || !themed[name]) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%dx%d/%s", name, sz.Cols, sz.Rows, thName), func(t *testing.T) {
					b := newBench(t, sz.Cols, sz.Rows, th, ownSession())
					scene(b)
					got := b.screenText()
					for i, l := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
						if n := ansi.StringWidth(l); n > sz.Cols {
							t.Errorf("line %d is %d cells wide: %q", i, n, l)
						}
					}
					if thName == "plain" {
						got = ansi.Strip(got)
					}
					golden(t, fmt.Sprintf("%s-%dx%d-%s.txt", name, sz.Cols, sz.Rows, thName), got)
				})
			}
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the screen changed (-want +got):\n%s", diff)
	}
}
