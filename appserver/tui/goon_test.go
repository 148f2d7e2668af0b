package tui

import (
	"strings"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

// cutShort is the reply about a thread whose last turn the end of its host cut short.
func cutShort() obj {
	o := opened("t-1", "", turn("u-1", "interrupted", userItem("i1", "migrate the table")))
	o["thread"].(obj)["towlineInterruptedTurn"] = "u-1"
	return o
}

func TestAnInterruptedTurnIsGoneOnWithByOneKey(t *testing.T) {
	last := protocol.ThreadID("t-1")
	f := newFake(t).session(protocol.Session{LastThread: &last})
	f.reply("thread/resume", cutShort())
	s := start(t, f, 80, 24)
	s.sees("the host stopped during the last turn", "ctrl+r goes on with it", "■ interrupted")
	s.keys("\x12") // ctrl+r
	if p := f.wait("turn/start", 1); !strings.Contains(string(p), goOnText) {
		t.Errorf("turn/start with %s", p)
	}
	f.started("u-2")
	f.item(true, "u-2", userItem("i2", goOnText))
	s.sees("● working")
	f.completed("u-2", "completed")
	s.sees("✔ done")
	s.keys("/continue", "<enter>")
	s.sees("no turn was interrupted here")
}

func TestWhoMayOnlyLookIsNotOfferedToGoOn(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), protocol.Session{Principal: protocol.Presence{Role: protocol.RoleObserver}})
	b.open1(cutShort())
	if got := b.screenText(); strings.Contains(got, "ctrl+r") || !strings.Contains(got, "interrupted") {
		t.Errorf("the screen of an observer:\n%s", got)
	}
}
