package tui

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

func TestDroppedLinkIsBridged(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	f.item(true, "u-1", userItem("i1", "go on"))
	f.item(false, "u-1", agentItem("m1", ""))
	f.tell("item/agentMessage/delta", obj{"threadId": "t-1", "turnId": "u-1", "itemId": "m1", "delta": "half an ans"})
	s.sees("half an ans")
	s.keys("typed before the drop")
	s.sees("› typed before the drop")
	f.ask(protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	s.sees("Run this command?")

	f.cut(false)
	s.sees("⟳ unreachable", "(attempt", "typed before the drop", "half an ans")
	s.not("Run this command?")
	// Meanwhile the turn went on; the question still waits.
	f.reply("thread/resume", opened("t-1", "", turn("u-1", "inProgress", userItem("i1", "go on"), agentItem("m1", "half an answer, whole now"), commandItem("c9", "make", "completed", "built\n"))))
	f.mu.Lock()
	f.down = false
	f.mu.Unlock()
	screen := s.sees("back after", "half an answer, whole now", "$ make")
	if strings.Count(screen, "half an ans") != 1 || strings.Count(screen, "› go on") != 1 {
		t.Errorf("repeated after the return:\n%s", screen)
	}
	again := f.ask(protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	s.sees("Run this command?", "typed before the drop")
	s.decides("y")
	expect(t, again, `{"decision":"accept"}`)
	s.sees("› typed before the drop")
}

func TestUnsentMessageComesBackAfterADrop(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	f.reply("thread/resume", opened("t-1", "", turn("u-0", "completed", userItem("i0", "before"))))
	block := make(chan struct{})
	f.set("turn/start", func(json.RawMessage) (any, error) { <-block; return obj{}, nil })
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("› before")
	s.keys("lost on the way", "<enter>")
	s.sees("sending")
	f.cut(true)
	close(block)
	s.sees("back after", "› lost on the way")
}

func TestBannerKeys(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.cut(false)
	s.sees("unreachable", "r retry   d detach")
	s.keys("dont lose me")
	s.sees("› dont lose me")
	s.keys("<ctrl+c>")
	s.sees("cleared")
	s.keys("d")
	if _, err := s.ends(); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestEngineStateIsABanner(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply("thread/resume", opened("t-1", "", turn("u-0", "completed", userItem("i0", "before"))))
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("› before")
	f.tell(protocol.NoteEngine, protocol.EngineState{Kind: "codex", State: "failed", Problem: "codex is not logged in", Hints: []string{"run `codex login`"}})
	s.sees("▲ the codex engine has failed: codex is not logged in · run `codex login`")
	f.tell(protocol.NoteEngine, protocol.EngineState{Kind: "codex", State: "ready"})
	f.wait("thread/resume", 2)
	s.not("has failed")
}

func TestFloodIsReadAnew(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	f.reply("thread/resume", opened("t-1", "", turn("u-1", "completed", userItem("i1", "count"), agentItem("m1", "counted"))))
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("counted")
	s.mu.Lock() // the terminal does not read
	for i := range inboxEvents + 200 {
		f.tell("item/completed", obj{"threadId": "t-1", "turnId": "u-2", "item": agentItem(fmt.Sprintf("x%d", i), "more")})
	}
	s.mu.Unlock()
	s.sees("counted")
}

func TestThreadThatNeverRanIsBegunAgain(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	f.refuse("thread/resume", "no rollout found for thread id t-1")
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.cut(true)
	f.wait("thread/start", 2)
	s.sees("○ new")
}

func TestOlderTurnsAreReadAtTheTop(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	page := func(from, to int) []any {
		var ts []any
		for i := to; i >= from; i-- {
			id := fmt.Sprint(i)
			ts = append(ts, turn("u-"+id, "completed", userItem("q"+id, "question "+id), agentItem("a"+id, "answer "+id)))
		}
		return ts
	}
	o := opened("t-1", "", page(20, 39)...)
	o["initialTurnsPage"].(obj)["nextCursor"] = "c1"
	f.reply("thread/resume", o)
	f.reply("thread/turns/list", obj{"data": page(0, 19), "nextCursor": nil})
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("answer 39")
	s.keys("<home>")
	p := f.wait("thread/turns/list", 1)
	if field(p, "cursor") != "c1" {
		t.Errorf("read %s", p)
	}
	s.sees("question 20") // the place did not move
	s.keys("<home>")
	s.sees("question 0", "↓ more below")
	s.keys("<end>")
	s.sees("answer 39")
	s.not("more below")
}

func TestEventsWhileAThreadIsOpenedAreNotLost(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	release := make(chan struct{})
	f.set("thread/resume", func(json.RawMessage) (any, error) {
		// Everything of this thread arrives before the reply is used.
		f.started("u-1")
		f.item(true, "u-1", userItem("i1", "early bird"))
		<-release
		return opened("t-1", "", turn("u-1", "inProgress")), nil
	})
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("opening")
	close(release)
	s.sees("› early bird", "● working")
}
