package native_test

import (
	"encoding/json"
	"testing"

	"towline/appserver/engine/native"
	"towline/appserver/engine/native/rehearsal"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
)

// cutTurns are the threads of a list, with the turn that was cut short.
func cutTurns(c *client) map[protocol.ThreadID]string {
	c.t.Helper()
	var list protocol.ThreadList
	c.read(c.call("thread/list", map[string]any{}), &list)
	out := map[protocol.ThreadID]string{}
	for _, th := range list.Data {
		out[th.ID] = th.InterruptedTurn
	}
	return out
}

func TestATurnThatEndsWithItsEngineCanBeGoneOnWith(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	turn := c.say(id, "slow")
	c.method(0, "item/agentMessage/delta")
	if got := cutTurns(c)[id]; got != "" || h.eng.Interrupted() != 0 {
		t.Errorf("a turn at work counts as cut: %q, %d", got, h.eng.Interrupted())
	}
	stopped := c.begin(nil) // a person's own interrupt is no such end
	c.finish(func() string {
		turn := c.say(stopped, "slow")
		c.call("turn/interrupt", map[string]any{"threadId": stopped, "turnId": turn})
		return turn
	}())
	h.stop()

	h = restart(t, h)
	c = h.connect()
	if got := cutTurns(c); got[id] != turn || got[stopped] != "" || h.eng.Interrupted() != 1 {
		t.Errorf("after the end: %v, %d", got, h.eng.Interrupted())
	}
	var opened protocol.ThreadOpened
	c.read(c.call("thread/resume", map[string]any{"threadId": id}), &opened)
	if opened.Thread.InterruptedTurn != turn || opened.Thread.Turns[0].Status != protocol.TurnInterrupted {
		t.Errorf("resumed: %+v", opened.Thread)
	}
	c.finish(c.say(id, "hello again"))
	if got := cutTurns(c)[id]; got != "" || h.eng.Interrupted() != 0 {
		t.Errorf("after going on: %q, %d", got, h.eng.Interrupted())
	}
}

// A process that is killed says nothing: its turn is a line without its end.
func TestATurnThatWasKilledCanBeGoneOnWith(t *testing.T) {
	h := start(t, nil)
	st, err := thread.Open(h.dir, thread.Options{})
	if err != nil {
		t.Fatal(err)
	}
	approval, err := json.Marshal(protocol.ApproveNever)
	if err != nil {
		t.Fatal(err)
	}
	log, err := st.Create(thread.Meta{Provider: "openai", HistoryMode: "paginated", Source: "vscode"},
		thread.Settings{Cwd: h.cwd, Model: rehearsal.Slug, Approval: approval, Sandbox: protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}},
		thread.TurnStarted("turn-1"),
		thread.ItemDone("turn-1", protocol.Item{ID: "i1", Body: &protocol.UserMessage{Content: []protocol.UserInput{protocol.Text("build it")}}}))
	if err != nil {
		t.Fatal(err)
	}
	id := log.Head().ID
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	h.stop()
	h = restart(t, h)
	c := h.connect()
	if got := cutTurns(c)[id]; got != "turn-1" || h.eng.Interrupted() != 1 {
		t.Errorf("listed: %q, %d", got, h.eng.Interrupted())
	}
	c.call("thread/resume", map[string]any{"threadId": id}) // which writes down how it ended
	if got := cutTurns(c)[id]; got != "turn-1" {
		t.Errorf("loaded: %q", got)
	}
	c.finish(c.say(id, "go on"))
	if got := cutTurns(c)[id]; got != "" {
		t.Errorf("after going on: %q", got)
	}
}

var _ interface{ Interrupted() int } = (*native.Engine)(nil)
