package tui

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
	"towline/appserver/tui/transcript"
)

// evil is text that would act on a terminal that got it.
const evil = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x9b6n\u009b2J\x1bP1$r\x1b\\\x1b]52;c;aGk=\x07\r\x08\u202eflip\u2066\x00\x1b]8;;http://evil\x07link\x1b"

var sgr = regexp.MustCompile(`\x1b\[[0-9;:]*m`)

// harmless fails the test when a frame holds anything but text and styles.
func harmless(t *testing.T, where string, m *model) {
	t.Helper()
	v := m.View()
	for _, s := range []string{sgr.ReplaceAllString(v.Content, ""), v.WindowTitle} {
		for _, r := range s {
			if r != '\n' && unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
				t.Fatalf("%s: the frame holds %U in %q", where, r, s)
			}
		}
	}
}

func TestRemoteTextCannotReachTheTerminal(t *testing.T) {
	s := ownSession()
	s.Host, s.Project, s.Engine.Version, s.Principal.Name = "h"+evil, "/p"+evil, evil, "n"+evil
	b := newBench(t, 160, 40, theme.Dark(), s)
	o := opened("t-1", "name"+evil, turn("u-0", "completed",
		userItem("i1", "user"+evil), agentItem("i2", "agent "+evil+"\n```\n"+evil+"\n```\n# "+evil+"\n[a"+evil+"](http://x"+evil+")\n"),
		commandItem("i3", "cmd "+evil, "completed", "out"+evil+"\nmore"),
		obj{"type": "fileChange", "id": "i4", "status": "declined", "changes": []any{
			obj{"path": "/home/ana/src/shop/f" + evil, "kind": obj{"type": "add"}, "diff": "line" + evil + "\n"},
			obj{"path": "/x" + evil, "kind": obj{"type": "update", "move_path": "/y" + evil}, "diff": "@@ -1 +1 @@" + evil + "\n-a" + evil + "\n+b" + evil + "\n"},
		}},
		obj{"type": "reasoning", "id": "i5", "summary": []string{"**sum" + evil + "**", evil}},
		obj{"type": "mcpToolCall", "id": "i6", "server": "s" + evil, "tool": "t" + evil, "status": "failed", "arguments": obj{"a": evil}, "error": obj{"message": evil}},
		obj{"type": "webSearch", "id": "i7", "query": evil}, obj{"type": "imageView", "id": "i8", "path": "/i" + evil},
		obj{"type": "odd" + evil, "id": "i9", "name": evil, "status": evil}, obj{"type": "plan", "id": "i10", "text": evil},
		obj{"type": "dynamicToolCall", "id": "i11", "tool": evil, "arguments": obj{}, "status": evil},
	))
	o["model"], o["cwd"] = "m"+evil, "/home/ana/"+evil
	b.open1(o)
	harmless(t, "history", b.model)
	b.event("turn/started", obj{"threadId": "t-1", "turn": turn("u-1", "inProgress")})
	for _, cut := range []string{evil, "\x1b", "[31m", "\x1b]0;", "half\x07"} {
		b.event(transcript.DeltaMessage, obj{"threadId": "t-1", "turnId": "u-1", "itemId": "d1", "delta": cut})
		b.event(transcript.DeltaOutput, obj{"threadId": "t-1", "turnId": "u-1", "itemId": "d2", "delta": cut})
		b.event(transcript.DeltaSummary, obj{"threadId": "t-1", "turnId": "u-1", "itemId": "d3", "delta": cut})
		harmless(t, "delta", b.model)
	}
	b.event("turn/plan/updated", obj{"threadId": "t-1", "plan": []any{obj{"step": evil, "status": "inProgress"}}})
	b.event("error", obj{"threadId": "t-1", "turnId": "u-1", "willRetry": true, "error": obj{"message": evil, "additionalDetails": evil}})
	b.event("warning", obj{"threadId": "t-1", "message": evil})
	b.event("model/rerouted", obj{"threadId": "t-1", "toModel": evil, "fromModel": evil})
	b.event("thread/name/updated", obj{"threadId": "t-1", "threadName": evil})
	t1 := protocol.ThreadID("t-1")
	b.event(protocol.NotePresence, obj{"data": []protocol.Presence{{ID: "x", Kind: "device" + evil, Name: evil, Client: evil, Via: evil, Role: protocol.RoleAdmin, Thread: &t1}}})
	b.event(protocol.NoteEngine, protocol.EngineState{Kind: "codex", State: "failed", Problem: evil, Hints: []string{evil}})
	b.event("thread/started", obj{"thread": listed("t-9", "title"+evil, "active", "waitingOnApproval")})
	b.event(protocol.NoteApprovalOpened, obj{"approval": obj{"id": "a", "threadId": "t-9", "requestId": 4, "method": protocol.ReqCommandApproval, "state": "open", "params": obj{"command": evil}}})
	harmless(t, "events", b.model)
	b.press("/who")
	b.Update(tea.KeyPressMsg{Code: tea.KeyEnter})
	b.press("/status")
	b.Update(tea.KeyPressMsg{Code: tea.KeyEnter})
	harmless(t, "/who and /status", b.model)
	for _, id := range []string{"i3", "i4", "i5", "i6", "i9", "d2"} {
		b.openPager(id)
		harmless(t, "pager "+id, b.model)
	}
	b.press("ctrl+t")
	b.screen = &picker{}
	harmless(t, "threads", b.model)
	b.screen = nil

	asks := map[string]obj{
		protocol.ReqCommandApproval:     {"command": "x" + evil, "cwd": evil, "reason": evil, "proposedExecpolicyAmendment": []string{evil}, "networkApprovalContext": obj{"host": evil, "protocol": evil}},
		protocol.ReqFileApproval:        {"itemId": "i4", "reason": evil, "grantRoot": evil},
		protocol.ReqPermissionsApproval: {"cwd": evil, "reason": evil, "permissions": obj{"fileSystem": obj{"write": []string{evil}, "entries": []any{obj{"access": evil, "path": obj{"type": "path", "path": evil}}}}}},
		protocol.ReqUserInput:           {"questions": []any{obj{"id": "q", "header": evil, "question": evil, "options": []any{obj{"label": evil, "description": evil}}}}},
		protocol.ReqElicitation:         {"serverName": evil, "mode": "form", "message": evil, "requestedSchema": obj{"type": "object", "properties": obj{"a" + evil: obj{"type": "string", "title": evil, "description": evil, "enum": []string{evil}}}}},
		"execCommandApproval":           {"command": []string{"a", evil}, "cwd": evil, "reason": evil},
		"applyPatchApproval":            {"fileChanges": obj{"/a" + evil: obj{"type": "add", "content": evil}}, "reason": evil},
	}
	id := 100
	for method, params := range asks {
		id++
		params["threadId"], params["turnId"] = "t-1", "u-1"
		b.request(id, method, params)
		harmless(t, method, b.model)
		b.settle(b.asking())
	}
	b.event("turn/completed", obj{"threadId": "t-1", "turn": obj{"id": "u-1", "status": "failed", "items": []any{}, "error": obj{"message": evil, "additionalDetails": evil}}})
	b.Update(downMsg{gen: 1, err: fmt.Errorf("lost: %s", evil)})
	harmless(t, "the end", b.model)
	if r := b.farewell(); strings.ContainsAny(r.Text, "\x1b\x07") {
		t.Errorf("the farewell holds an escape: %q", r.Text)
	}
}

// TestAnySizeAnyMoment resizes through everything between huge and one cell
// while the rest of the screen lives.
func TestAnySizeAnyMoment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, scene := range scenes {
		b := newBench(t, 80, 24, theme.Plain(), ownSession())
		scene(b)
		for i := range 300 {
			w, h := 1+r.IntN(220), 1+r.IntN(60)
			if i%3 == 0 {
				w, h = 1+r.IntN(24), 1+r.IntN(8)
			}
			b.Update(tea.WindowSizeMsg{Width: w, Height: h})
			switch r.IntN(8) {
			case 0:
				b.Update(tea.MouseWheelMsg{Button: tea.MouseWheelUp, Y: r.IntN(h)})
			case 1:
				b.Update(tea.KeyPressMsg{Code: tea.KeyPgDown})
			case 2:
				b.Update(tea.MouseClickMsg{Button: tea.MouseLeft, X: r.IntN(w), Y: r.IntN(h)})
			case 3:
				b.Update(tea.PasteMsg{Content: "漢字 👨‍👩‍👧 " + strings.Repeat("long ", 20)})
			case 4:
				b.Update(tea.KeyPressMsg{Code: tea.KeyUp})
			case 5:
				b.clock = b.clock.Add(time.Second)
			}
			lines, x, y := b.draw()
			if b.fatal != nil {
				t.Fatalf("%s at %dx%d: %v", name, w, h, b.fatal)
			}
			if len(lines) != h {
				t.Fatalf("%s at %dx%d: %d lines", name, w, h, len(lines))
			}
			if x >= w && w > 8 || y >= h {
				t.Fatalf("%s at %dx%d: the cursor is at %d,%d", name, w, h, x, y)
			}
			for _, l := range lines {
				if n := ansi.StringWidth(l); n > w && w >= 20 {
					t.Fatalf("%s at %dx%d: a line of %d cells: %q", name, w, h, n, l)
				}
			}
		}
	}
}
