package native_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"towline/appserver/engine/native"
	"towline/appserver/protocol"
)

func TestHandshake(t *testing.T) {
	h := start(t, nil)
	c := h.dial()
	c.refused("thread/list", map[string]any{}, "Not initialized")
	c.refused("initialize", map[string]any{}, "missing field `clientInfo`")
	raw := c.call("initialize", map[string]any{
		"clientInfo":   map[string]any{"name": "codex-tui", "version": "0.200.1"},
		"capabilities": map[string]any{"optOutNotificationMethods": []string{"thread/started", "no/such"}},
	})
	if ua := protocol.StringField(raw, "userAgent"); !strings.HasPrefix(ua, "codex-tui/0.200.1 ") {
		t.Errorf("a stock client would call this server old: %q", ua)
	}
	c.refused("initialize", map[string]any{"clientInfo": map[string]any{"name": "x", "version": "1"}}, "Already initialized")
	c.refused("no/such", map[string]any{}, "unknown variant `no/such`, expected one of `account/bedrock")
	if err := c.peer.Send([]byte(`{"id":"s","method":"thread/list"}`)); err != nil {
		t.Fatal(err)
	}
	c.call("configRequirements/read", nil)
	deaf := h.dial() // never shakes hands
	other := h.connect()
	id := other.begin(nil)
	c.call("thread/resume", map[string]any{"threadId": id})
	if slices.Contains(c.story(0), "thread/started") {
		t.Error("a notification was sent that the client had opted out of")
	}
	if got := deaf.story(0); len(got) != 0 {
		t.Errorf("an uninitialized connection heard %q", got)
	}
	other.refused("turn/start", map[string]any{"threadId": id}, "missing field `input`")
	other.refused("turn/start", map[string]any{"threadId": "zz", "input": []any{}}, "invalid thread id")
	other.refused("turn/start", map[string]any{"threadId": id, "input": "text"}, "invalid type")
	if _, err := other.try("turn/start", map[string]any{"threadId": id, "input": []any{}}); err == nil {
		t.Error("an empty input was accepted")
	}
}

func TestStringAndNumberIdsAreAnsweredAsTheyCame(t *testing.T) {
	h := start(t, nil)
	s, err := h.eng.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(nil) }()
	for _, id := range []string{`"initialize"`, `-9007199254740993`} {
		if err := s.Write(t.Context(), []byte(`{"jsonrpc":"2.0","id":`+id+`,"method":"initialize","params":{"clientInfo":{"name":"x","version":"1"}}}`)); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := s.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			e, err := protocol.Peek(msg)
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == protocol.KindNotification {
				continue
			}
			if string(e.ID) != id {
				t.Errorf("asked with id %s, answered %s", id, e.ID)
			}
			break
		}
	}
}

func TestThreadsSurviveTheServer(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "never", "sandbox": "danger-full-access", "ephemeral": false})
	c.finish(c.say(id, "hello there"))
	unused := c.begin(nil)
	c.call("thread/name/set", map[string]any{"threadId": id, "name": "Greeting"})
	c.method(0, "thread/name/updated")
	turn := c.say(id, "slow")
	c.method(0, "turn/started")
	h.stop() // mid-turn
	_ = turn

	h = run(t, native.Config{
		Dir: h.dir, Cwd: h.cwd, Version: "1.2.3", Models: []native.Model{{ID: "gpt-5.5"}},
	})
	c = h.connect()
	var list protocol.ThreadList
	c.read(c.call("thread/list", map[string]any{}), &list)
	if len(list.Data) != 1 || list.Data[0].ID != id || *list.Data[0].Name != "Greeting" || list.Data[0].Status.Type != protocol.StatusNotLoaded ||
		list.Data[0].Preview != "hello there" || *list.Data[0].Originator != "tester" {
		t.Errorf("list = %+v", list.Data)
	}
	var got protocol.ThreadOpened
	c.read(c.call("thread/resume", map[string]any{"threadId": id}), &got)
	if n := len(got.Thread.Turns); n != 2 || got.Thread.Turns[1].Status != protocol.TurnInterrupted || got.Thread.HistoryMode != "paginated" {
		t.Errorf("turns = %+v", got.Thread.Turns)
	}
	if string(got.ApprovalPolicy) != `"never"` || got.Sandbox.Type != protocol.PolicyFullAccess {
		t.Errorf("settings are lost: %+v", got)
	}
	c.method(0, "thread/tokenUsage/updated")
	if got := c.finish(c.say(id, "hello again")); got.Status != protocol.TurnCompleted {
		t.Errorf("turn = %+v", got)
	}
	// A client that lost its server comes back to a thread it had not used yet.
	c.call("thread/resume", map[string]any{"threadId": unused, "excludeTurns": true})
}

func TestTwoServersDoNotWriteOneThread(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	c.finish(c.say(id, "hello"))
	other := run(t, native.Config{Dir: h.dir, Cwd: h.cwd, Version: "1", Models: []native.Model{{ID: "m"}}})
	d := other.connect()
	d.refused("thread/resume", map[string]any{"threadId": id}, "thread "+string(id)+" already has an active writer")
	d.refused("thread/delete", map[string]any{"threadId": id}, "already has an active writer")
	d.call("thread/read", map[string]any{"threadId": id, "includeTurns": true})
}

func TestUnknownThreads(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	const nobody = "00000000-0000-7000-8000-000000000000"
	for method, text := range map[string]string{
		"thread/resume": "no rollout found for thread id " + nobody, "thread/fork": "no rollout found", "thread/archive": "no rollout found",
		"thread/delete": "no rollout found", "thread/unarchive": "no rollout found", "thread/turns/list": "no rollout found",
		"thread/read": "thread not loaded: " + nobody, "thread/compact/start": "thread not found: " + nobody,
	} {
		c.refused(method, map[string]any{"threadId": nobody}, text)
		c.refused(method, map[string]any{}, "missing field `threadId`")
	}
	c.refused("thread/resume", map[string]any{"threadId": "../../etc/passwd"}, "invalid session id")
	c.refused("thread/delete", map[string]any{"threadId": "../../etc/passwd"}, "invalid thread id")
	c.refused("thread/start", map[string]any{"threadSource": "thread_title", "ephemeral": true}, "titles")
	if raw := c.call("thread/unsubscribe", map[string]any{"threadId": nobody}); protocol.StringField(raw, "status") != "notLoaded" {
		t.Errorf("unsubscribe = %s", raw)
	}
}

func TestArchiveAndDelete(t *testing.T) {
	h := start(t, nil)
	c, other := h.connect(), h.connect()
	id := c.begin(nil)
	c.finish(c.say(id, "hello"))
	c.call("thread/archive", map[string]any{"threadId": id})
	other.method(0, "thread/archived")
	other.method(0, "thread/closed")
	count := func(p map[string]any) int {
		var l protocol.ThreadList
		c.read(c.call("thread/list", p), &l)
		return len(l.Data)
	}
	if n, a := count(map[string]any{}), count(map[string]any{"archived": true}); n != 0 || a != 1 {
		t.Errorf("%d listed, %d archived", n, a)
	}
	c.refused("thread/resume", map[string]any{"threadId": id}, "is archived")
	raw := c.call("thread/unarchive", map[string]any{"threadId": id})
	if protocol.StringField(protocol.Field(raw, "thread"), "id") != string(id) {
		t.Errorf("unarchive = %s", raw)
	}
	other.method(0, "thread/unarchived")
	c.call("thread/resume", map[string]any{"threadId": id})
	turn := c.say(id, "slow")
	c.method(0, "turn/started")
	c.call("thread/delete", map[string]any{"threadId": id})
	if got := c.finish(turn); got.Status != protocol.TurnInterrupted {
		t.Errorf("the running turn ended %s", got.Status)
	}
	other.method(0, "thread/deleted")
	c.refused("thread/read", map[string]any{"threadId": id}, "thread not loaded")
	if left, _ := filepath.Glob(filepath.Join(h.dir, string(id)+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFork(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"approvalPolicy": "never"})
	first := c.say(id, "hello one")
	c.finish(first)
	c.finish(c.say(id, "hello two"))
	for name, tc := range map[string]struct {
		params map[string]any
		turns  int
	}{
		"whole":           {map[string]any{}, 2},
		"to a turn":       {map[string]any{"lastTurnId": first}, 1},
		"before a turn":   {map[string]any{"beforeTurnId": first}, 0},
		"not kept":        {map[string]any{"ephemeral": true}, 2},
		"without history": {map[string]any{"excludeTurns": true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tc.params["threadId"] = id
			var got protocol.ThreadOpened
			c.read(c.call("thread/fork", tc.params), &got)
			if len(got.Thread.Turns) != tc.turns || *got.Thread.ForkedFromID != id || string(got.ApprovalPolicy) != `"never"` {
				t.Errorf("fork = %+v", got.Thread)
			}
			if end := c.finish(c.say(got.Thread.ID, "hello fork")); end.Status != protocol.TurnCompleted {
				t.Errorf("turn = %+v", end)
			}
		})
	}
	c.refused("thread/fork", map[string]any{"threadId": id, "lastTurnId": "nope"}, "turn not found")
	mid := c.say(id, "slow")
	c.method(0, "turn/started")
	c.call("thread/fork", map[string]any{"threadId": id})
	c.call("turn/interrupt", map[string]any{"threadId": id, "turnId": mid})
	c.finish(mid)
}

func TestAnEphemeralThreadLeavesNoFile(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(map[string]any{"ephemeral": true})
	c.finish(c.say(id, "hello"))
	var got struct{ Thread protocol.Thread }
	c.read(c.call("thread/read", map[string]any{"threadId": id, "includeTurns": true}), &got)
	if !got.Thread.Ephemeral || got.Thread.Path != nil || len(got.Thread.Turns) != 1 {
		t.Errorf("thread = %+v", got.Thread)
	}
	c.call("thread/fork", map[string]any{"threadId": id})
	if files, _ := filepath.Glob(filepath.Join(h.dir, string(id)+"*")); len(files) != 0 {
		t.Errorf("files: %v", files)
	}
}

func TestPagesOfTurnsAndItems(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	var turns []string
	for _, text := range []string{"hello 1", "hello 2", "hello 3"} {
		turns = append(turns, c.say(id, text))
		c.finish(turns[len(turns)-1])
	}
	list := func(p map[string]any) protocol.TurnsPage {
		p["threadId"] = id
		var pg protocol.TurnsPage
		c.read(c.call("thread/turns/list", p), &pg)
		return pg
	}
	ids := func(pg protocol.TurnsPage) (out []string) {
		for _, t := range pg.Data {
			out = append(out, t.ID)
		}
		return out
	}
	pg := list(map[string]any{"limit": 2})
	if want := []string{turns[2], turns[1]}; !slices.Equal(ids(pg), want) || len(pg.Data[0].Items) != 2 || pg.Data[0].ItemsView != protocol.ViewSummary {
		t.Errorf("first page %v, want %v: %+v", ids(pg), want, pg)
	}
	rest := list(map[string]any{"limit": 2, "cursor": *pg.NextCursor, "itemsView": "notLoaded"})
	if want := []string{turns[0]}; !slices.Equal(ids(rest), want) || rest.NextCursor != nil || len(rest.Data[0].Items) != 0 {
		t.Errorf("second page %+v", rest)
	}
	// Backwards, the page's first turn comes again: it may have changed.
	back := list(map[string]any{"cursor": *rest.BackwardsCursor, "sortDirection": "asc", "itemsView": "full"})
	if !slices.Equal(ids(back), turns) {
		t.Errorf("backwards %v, want %v", ids(back), turns)
	}
	c.refused("thread/turns/list", map[string]any{"threadId": id, "cursor": "nope"}, "invalid cursor")

	var opened protocol.ThreadOpened
	c.read(c.call("thread/resume", map[string]any{"threadId": id, "excludeTurns": true, "initialTurnsPage": map[string]any{"limit": 1}}), &opened)
	if len(opened.InitialTurnsPage.Data) != 1 || len(opened.Thread.Turns) != 0 {
		t.Errorf("resume = %+v", opened)
	}
	type items struct {
		Data       []protocol.ItemEntry
		NextCursor *string
	}
	get := func(p map[string]any) (out items) {
		p["threadId"] = id
		c.read(c.call("thread/items/list", p), &out)
		return out
	}
	if all := get(map[string]any{}); len(all.Data) != 6 || all.Data[0].TurnID != turns[0] || all.Data[0].StartedAtMs == nil {
		t.Errorf("items = %+v", all)
	}
	newest := get(map[string]any{"cursor": *opened.ItemsBackwardsCursor, "sortDirection": "desc", "limit": 1})
	if len(newest.Data) != 1 || newest.Data[0].TurnID != turns[2] || newest.Data[0].Item.Type() != "agentMessage" || newest.NextCursor == nil {
		t.Errorf("newest = %+v", newest)
	}
	one := get(map[string]any{"turnId": turns[1]})
	if len(one.Data) != 2 {
		t.Errorf("one turn = %+v", one)
	}
	after := get(map[string]any{"turnId": turns[1], "cursor": map[string]any{"type": "item", "itemId": one.Data[0].Item.ID}})
	if len(after.Data) != 1 || after.Data[0].Item.ID != one.Data[1].Item.ID {
		t.Errorf("after an item = %+v", after)
	}
}

func TestThreadLists(t *testing.T) {
	h := start(t, nil)
	sub := filepath.Join(h.cwd, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	c := h.connect()
	a := c.begin(nil)
	c.finish(c.say(a, "hello from the boiler room"))
	b := c.begin(map[string]any{"cwd": "sub"})
	c.finish(c.say(b, "hello again"))
	ids := func(p map[string]any) (out []protocol.ThreadID) {
		var l protocol.ThreadList
		c.read(c.call("thread/list", p), &l)
		for _, th := range l.Data {
			out = append(out, th.ID)
		}
		return out
	}
	for name, tc := range map[string]struct {
		p    map[string]any
		want []protocol.ThreadID
	}{
		"all":         {map[string]any{}, []protocol.ThreadID{b, a}},
		"oldest":      {map[string]any{"sortDirection": "asc", "limit": 1}, []protocol.ThreadID{a}},
		"one folder":  {map[string]any{"cwd": sub}, []protocol.ThreadID{b}},
		"folders":     {map[string]any{"cwd": []string{sub, h.cwd}}, []protocol.ThreadID{b, a}},
		"title":       {map[string]any{"searchTerm": "BOILER"}, []protocol.ThreadID{a}},
		"exec only":   {map[string]any{"sourceKinds": []string{"exec"}}, nil},
		"children":    {map[string]any{"parentThreadId": a}, nil},
		"no section":  {map[string]any{"sectionId": nil}, []protocol.ThreadID{b, a}},
		"excluded":    {map[string]any{"excludedThreadIds": []protocol.ThreadID{b}}, []protocol.ThreadID{a}},
		"by recency":  {map[string]any{"sortKey": "recency_at"}, []protocol.ThreadID{b, a}},
		"no provider": {map[string]any{"modelProviders": []string{"none"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ids(tc.p); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	c.refused("thread/list", map[string]any{"cursor": "nope"}, "invalid cursor")
	var found struct {
		Data []struct {
			Snippet string
			Thread  protocol.Thread
		}
	}
	c.read(c.call("thread/search", map[string]any{"searchTerm": "Boiler"}), &found)
	if len(found.Data) != 1 || found.Data[0].Thread.ID != a || !strings.Contains(found.Data[0].Snippet, "boiler room") {
		t.Errorf("found %+v", found)
	}
	c.call("thread/search", map[string]any{"searchTerm": " "})
	var loaded struct{ Data []protocol.ThreadID }
	c.read(c.call("thread/loaded/list", map[string]any{}), &loaded)
	if len(loaded.Data) != 2 {
		t.Errorf("loaded %v", loaded.Data)
	}
}

func TestReadState(t *testing.T) {
	h := start(t, nil)
	c, other := h.connect(), h.connect()
	id := c.begin(nil)
	other.call("thread/resume", map[string]any{"threadId": id})
	turn := c.say(id, "hello")
	c.finish(turn)
	var got struct {
		ReadState struct {
			Revision    string
			FirstUnread *struct{ Type, TurnID string }
		}
	}
	c.read(c.call("thread/read", map[string]any{"threadId": id}), &got)
	if got.ReadState.FirstUnread == nil || got.ReadState.FirstUnread.TurnID != turn {
		t.Errorf("read state = %+v", got)
	}
	from := other.mark()
	c.refused("thread/readState/update", map[string]any{"threadId": id, "expectedRevision": "old", "operation": map[string]any{"type": "read"}}, "changed meanwhile")
	c.read(c.call("thread/readState/update", map[string]any{
		"threadId": id, "expectedRevision": got.ReadState.Revision, "operation": map[string]any{"type": "read"},
	}), &got)
	other.method(from, "thread/readState/changed")
	var again struct{ ReadState json.RawMessage }
	c.read(c.call("thread/read", map[string]any{"threadId": id}), &again)
	if !strings.Contains(string(again.ReadState), `"firstUnread":null`) {
		t.Errorf("read state = %s", again.ReadState)
	}
}

func TestAnIdleThreadIsUnloaded(t *testing.T) {
	h := start(t, func(c *native.Config) { c.IdleUnload = 50 * time.Millisecond })
	c, other := h.connect(), h.connect()
	id := c.begin(nil)
	c.finish(c.say(id, "hello"))
	kept := c.begin(nil)
	c.call("thread/unsubscribe", map[string]any{"threadId": id})
	n := other.method(0, "thread/closed")
	if protocol.StringField(n.Params, "threadId") != string(id) {
		t.Errorf("closed %s", n.Params)
	}
	story := other.story(0)
	if i := slices.Index(story, "thread/closed"); i < 1 || story[i-1] != "thread/status/changed notLoaded" {
		t.Errorf("heard %q", story)
	}
	var loaded struct{ Data []protocol.ThreadID }
	c.read(c.call("thread/loaded/list", map[string]any{}), &loaded)
	if !slices.Equal(loaded.Data, []protocol.ThreadID{kept}) {
		t.Errorf("loaded %v, want %v", loaded.Data, kept)
	}
	c.refused("turn/start", map[string]any{"threadId": id, "input": []any{map[string]any{"type": "text", "text": "x"}}}, "thread not found")
	// A turn keeps its thread loaded though everybody left.
	turn := c.say(kept, "count to 5 slowly")
	c.close()
	d := h.connect()
	d.call("thread/resume", map[string]any{"threadId": kept})
	if got := d.finish(turn); got.Status != protocol.TurnCompleted {
		t.Errorf("turn = %+v", got)
	}
}

// A client that vanishes while its thread is being made keeps nothing loaded.
func TestAClientThatVanishesMidRequestLetsGo(t *testing.T) {
	h := start(t, func(c *native.Config) { c.IdleUnload = 50 * time.Millisecond })
	for i := range 100 {
		s, err := h.eng.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{
			`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"t","version":"1"}}}`,
			`{"id":2,"method":"thread/start","params":{}}`, `{"id":3,"method":"thread/start","params":{}}`,
		}[:2+i%2] {
			if err := s.Write(t.Context(), []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		if i%3 > 0 {
			_, _ = s.Read(t.Context()) // the handshake's answer: the thread is under way
		}
		_ = s.Close(nil)
	}
	c := h.connect()
	var loaded struct{ Data []protocol.ThreadID }
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c.read(c.call("thread/loaded/list", map[string]any{}), &loaded)
		if len(loaded.Data) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d threads stay loaded", len(loaded.Data))
		}
	}
}

func TestALateJoinerSeesTheRunningTurn(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	id := c.begin(nil)
	turn := c.say(id, "count to 12 slowly")
	c.method(0, "item/agentMessage/delta")
	d := h.connect()
	var got protocol.ThreadOpened
	d.read(d.call("thread/resume", map[string]any{"threadId": id}), &got)
	if n := len(got.Thread.Turns); n != 1 || got.Thread.Turns[0].Status != protocol.TurnInProgress ||
		len(got.Thread.Turns[0].Items) != 1 || got.Thread.Status.Type != protocol.StatusActive {
		t.Errorf("thread = %+v", got.Thread)
	}
	d.method(0, "item/agentMessage/delta")
	if a, b := c.finish(turn), d.finish(turn); a.Status != b.Status || len(b.Items) != 1 {
		t.Errorf("%+v and %+v", a, b)
	}
}
