package native_test

import (
	"strings"
	"testing"

	"towline/appserver/protocol"
)

type goalReply struct {
	Goal *struct {
		ThreadID    string
		Objective   string
		Status      string
		TokenBudget *int64
		TokensUsed  int64
	}
}

func TestAGoalIsKeptToldAndCounted(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	set := func(p map[string]any) (out goalReply) {
		t.Helper()
		p["threadId"] = id
		from := c.mark()
		c.read(c.call("thread/goal/set", p), &out)
		c.method(from, "thread/goal/updated")
		return out
	}
	if raw := c.call("thread/goal/get", map[string]any{"threadId": id}); string(protocol.Field(raw, "goal")) != "null" {
		t.Errorf("a new thread has a goal: %s", raw)
	}
	for text, p := range map[string]map[string]any{
		"no goal exists":            {"status": "paused"},
		"must not be empty":         {"objective": " "},
		"must be positive":          {"objective": "x", "tokenBudget": 0},
		"unknown variant `resting`": {"objective": "x", "status": "resting"},
		"longer than":               {"objective": strings.Repeat("x", 40_000)},
	} {
		p["threadId"] = id
		c.refused("thread/goal/set", p, text)
	}
	if got := set(map[string]any{"objective": "ship <it>", "tokenBudget": 5}); got.Goal.Status != "active" || *got.Goal.TokenBudget != 5 {
		t.Errorf("goal = %+v", got.Goal)
	}

	// The model hears of it, and what it costs is counted until the budget is used up.
	c.finish(c.say(id, "hello"))
	h.mu.Lock()
	if !strings.Contains(h.sent, `ship`) || !strings.Contains(h.sent, "goal for this thread") {
		t.Errorf("the model was sent %s", h.sent)
	}
	h.mu.Unlock()
	var got goalReply
	c.read(c.call("thread/goal/get", map[string]any{"threadId": id}), &got)
	if got.Goal.TokensUsed < 5 || got.Goal.Status != "budgetLimited" {
		t.Errorf("after a turn: %+v", got.Goal)
	}

	// It survives the server, and a resume tells it.
	h.stop()
	h = restart(t, h)
	c = h.connect()
	c.read(c.call("thread/goal/get", map[string]any{"threadId": id}), &got)
	if got.Goal == nil || got.Goal.Objective != "ship <it>" {
		t.Fatalf("after a restart: %+v", got.Goal)
	}
	from := c.mark()
	c.call("thread/resume", map[string]any{"threadId": id})
	if n := c.method(from, "thread/goal/updated"); !strings.Contains(string(n.Params), "budgetLimited") {
		t.Errorf("resume told %s", n.Params)
	}
	if got := set(map[string]any{"status": "complete", "tokenBudget": nil}); got.Goal.TokenBudget != nil || got.Goal.Status != "complete" {
		t.Errorf("goal = %+v", got.Goal)
	}
	if got := set(map[string]any{"objective": "the next"}); got.Goal.Status != "active" || got.Goal.TokensUsed != 0 {
		t.Errorf("a goal after a completed one: %+v", got.Goal)
	}
	from = c.mark()
	for _, want := range []string{"true", "false"} {
		if raw := c.call("thread/goal/clear", map[string]any{"threadId": id}); string(protocol.Field(raw, "cleared")) != want {
			t.Errorf("clear = %s, want %s", raw, want)
		}
	}
	c.method(from, "thread/goal/cleared")
	c.refused("thread/goal/get", map[string]any{"threadId": "00000000-0000-7000-8000-000000000000"}, "thread not found")
}

func TestQueuedMessagesAreChangedReorderedAndStarted(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "untrusted", "sandbox": "danger-full-access"})
	input := func(text string) []any { return []any{map[string]any{"type": "text", "text": text}} }
	turn := c.say(id, "run echo one")
	c.method(0, protocol.ReqCommandApproval)
	var ids []string
	for _, text := range []string{"hello one", "hello two", "hello three"} {
		raw := c.call("thread/queue/add", map[string]any{"threadId": id, "clientUserMessageId": text, "input": input(text)})
		ids = append(ids, protocol.StringField(protocol.Field(raw, "queuedSubmission"), "id"))
	}
	c.call("thread/queue/update", map[string]any{"threadId": id, "queuedSubmissionId": ids[0], "input": input("hello ONE")})
	c.refused("thread/queue/update", map[string]any{"threadId": id, "queuedSubmissionId": "nope", "input": input("x")}, "not found: nope")
	c.refused("thread/queue/update", map[string]any{"threadId": id, "queuedSubmissionId": ids[0], "input": []any{}}, "empty")
	for _, wrong := range [][]string{{}, {ids[0]}, {ids[0], ids[0], ids[1]}, {ids[0], ids[1], "nope"}, {ids[0], ids[1], ids[2], ids[0]}} {
		c.refused("thread/queue/reorder", map[string]any{"threadId": id, "queuedSubmissionIds": wrong}, "exactly once")
	}
	from := c.mark()
	c.call("thread/queue/reorder", map[string]any{"threadId": id, "queuedSubmissionIds": []string{ids[2], ids[0], ids[1]}})
	c.method(from, "thread/queue/changed")
	c.refused("thread/queue/start", map[string]any{"threadId": id}, "active or pending turn")
	list := string(c.call("thread/queue/list", map[string]any{"threadId": id}))
	if a, b, z := strings.Index(list, "hello three"), strings.Index(list, "hello ONE"), strings.Index(list, "hello two"); a < 0 || b < a || z < b {
		t.Errorf("queue = %s", list)
	}
	one := c.call("thread/queue/list", map[string]any{"threadId": id, "limit": 2})
	two := c.call("thread/queue/list", map[string]any{"threadId": id, "limit": 2, "cursor": protocol.StringField(one, "nextCursor")})
	if strings.Contains(string(one), "hello two") || !strings.Contains(string(two), "hello two") || protocol.StringField(two, "nextCursor") != "" {
		t.Errorf("pages %s and %s", one, two)
	}
	c.refused("thread/queue/list", map[string]any{"threadId": id, "cursor": "x"}, "invalid cursor")

	// An interrupt leaves the queue alone until somebody starts it.
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": turn})
	c.finish(turn)
	c.refused("thread/queue/start", map[string]any{"threadId": id, "queuedSubmissionId": "nope"}, "not found: nope")
	raw := c.call("thread/queue/start", map[string]any{"threadId": id, "queuedSubmissionId": ids[1]})
	started := protocol.StringField(protocol.Field(raw, "turn"), "id")
	if got := c.finish(started); got.Status != protocol.TurnCompleted {
		t.Errorf("turn ended %s", got.Status)
	}
	last := c.wait(0, "the last message", func(n note) bool {
		return n.Method == "item/completed" && strings.Contains(string(n.Params), `"text":"hello ONE"`)
	})
	c.finish(protocol.StringField(last.Params, "turnId"))
	items := string(c.call("thread/items/list", map[string]any{"threadId": id}))
	second, third, first := strings.Index(items, `"text":"hello two"`), strings.Index(items, `"text":"hello three"`), strings.Index(items, `"text":"hello ONE"`)
	if second < 0 || third < second || first < third {
		t.Errorf("items = %s", items)
	}
	c.refused("thread/queue/start", map[string]any{"threadId": id}, "queue is empty")
}
