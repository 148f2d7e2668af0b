package tui

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
	"towline/appserver/tui/transcript"
)

// longConversation fills a model with n items of every kind.
func longConversation(tb testing.TB, n int) *bench {
	b := newBench(tb, 120, 40, theme.Dark(), ownSession())
	var turns []any
	for i := 0; i < n; i += 5 {
		id := fmt.Sprint(i)
		turns = append(turns, turn("u-"+id, "completed",
			userItem("q"+id, "please do number "+id),
			agentItem("a"+id, "I will **do** it.\n\n- one\n- two\n\n```go\nfunc main() { println("+id+") }\n```\n"),
			commandItem("c"+id, "make step-"+id, "completed", strings.Repeat("some output line\n", 20)),
			obj{"type": "fileChange", "id": "f" + id, "status": "completed", "changes": []any{obj{"path": "/home/ana/src/shop/a.go", "kind": obj{"type": "update"}, "diff": "@@ -1,2 +1,2 @@\n-old\n+new\n ctx\n"}}},
			agentItem("d"+id, "Done with "+id+"."),
		))
	}
	o := opened("t-1", "long")
	raw, err := json.Marshal(turns)
	if err != nil {
		tb.Fatal(err)
	}
	b.open1(o)
	var ts []protocol.Turn
	if err := json.Unmarshal(raw, &ts); err != nil {
		tb.Fatal(err)
	}
	for _, t := range ts {
		b.tr.Turn(t)
	}
	return b
}

func BenchmarkFrameOfLongConversation(b *testing.B) {
	m := longConversation(b, 10_000)
	m.View()
	for b.Loop() {
		m.View()
	}
}

func BenchmarkScrollLongConversation(b *testing.B) {
	m := longConversation(b, 10_000)
	for b.Loop() {
		m.Update(tea.MouseWheelMsg{Button: tea.MouseWheelUp})
		m.View()
	}
}

// BenchmarkDelta is one streamed delta of a long answer and the frame after it.
func BenchmarkDelta(b *testing.B) {
	m := longConversation(b, 1000)
	m.event("turn/started", obj{"threadId": "t-1", "turn": turn("u-x", "inProgress")})
	m.event(transcript.DeltaMessage, obj{"threadId": "t-1", "turnId": "u-x", "itemId": "stream", "delta": strings.Repeat("A paragraph of text that is already there.\n\n", 200)})
	raw, _ := json.Marshal(obj{"threadId": "t-1", "turnId": "u-x", "itemId": "stream", "delta": "word "})
	b.ResetTimer()
	for b.Loop() {
		box := newInbox()
		box.open(1)
		(&receiver{gen: 1, box: box}).Notification(context.Background(), transcript.DeltaMessage, raw)
		m.Update(eventsMsg(box.take()))
		m.View()
	}
}

// BenchmarkReceive is what the reader of the connection spends on a delta.
func BenchmarkReceive(b *testing.B) {
	box := newInbox()
	box.open(1)
	r := &receiver{gen: 1, box: box, over: func() {}}
	raw, _ := json.Marshal(obj{"threadId": "t-1", "turnId": "u-x", "itemId": "stream", "delta": "word "})
	n := 0
	for b.Loop() {
		r.Notification(context.Background(), transcript.DeltaMessage, raw)
		if n++; n%1000 == 0 {
			box.take()
		}
	}
}
