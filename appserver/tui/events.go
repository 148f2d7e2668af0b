package tui

import (
	"encoding/json"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// events applies what the server said since the last frame, in order.
func (m *model) events(batch []event) tea.Cmd {
	var cmds []tea.Cmd
	for _, e := range batch {
		if e.gen != m.conn.gen {
			continue // of a connection that is gone
		}
		if c := m.event(e); c != nil {
			cmds = append(cmds, c)
		}
	}
	return tea.Batch(cmds...)
}

func (m *model) event(e event) tea.Cmd {
	id := protocol.ThreadID(protocol.StringField(e.params, "threadId"))
	if e.delta != nil {
		id = e.delta.ThreadID
	}
	if e.req == nil && m.listEvent(e, id) && m.opening == nil && id != m.cur.id {
		return m.list.catchUp(m)
	}
	if m.opening != nil && id != "" {
		if len(m.opening.events) >= inboxEvents {
			m.link.drop(errFlood)
			return nil
		}
		m.opening.events = append(m.opening.events, e)
		return nil
	}
	if e.req != nil {
		return m.asked(e)
	}
	if f := hostEvents[e.method]; f != nil {
		return f(m, e.params)
	}
	if id == "" || id != m.cur.id {
		return nil
	}
	if e.delta != nil {
		m.tr.Delta(e.method, e.delta.TurnID, e.delta.ItemID, e.delta.text.String())
		return nil
	}
	if f := threadEvents[e.method]; f != nil {
		return f(m, e.params)
	}
	return nil
}

// hostEvents are about the host, threadEvents about the thread on the screen.
// What is in neither is nothing a person needs to see.
var (
	hostEvents   map[string]func(*model, json.RawMessage) tea.Cmd
	threadEvents map[string]func(*model, json.RawMessage) tea.Cmd
)

func init() {
	hostEvents = map[string]func(*model, json.RawMessage) tea.Cmd{
		protocol.NotePresence:       onPresence,
		protocol.NoteEngine:         onEngine,
		protocol.NoteApprovalOpened: onApprovalOpened,
		protocol.NoteApprovalClosed: onApprovalClosed,
		"serverRequest/resolved":    onResolved,
		protocol.AccountUpdated:     onAccount,
		protocol.AccountCompleted:   onLoginCompleted,
		"configWarning":             onWarning,
		"warning":                   onWarning,
	}
	threadEvents = map[string]func(*model, json.RawMessage) tea.Cmd{
		"turn/started":                 onTurnStarted,
		"turn/completed":               onTurnCompleted,
		"turn/plan/updated":            onPlan,
		"turn/diff/updated":            onDiff,
		"item/started":                 func(m *model, p json.RawMessage) tea.Cmd { return onItem(m, p, false) },
		"item/completed":               func(m *model, p json.RawMessage) tea.Cmd { return onItem(m, p, true) },
		"item/fileChange/patchUpdated": onPatch,
		"thread/tokenUsage/updated":    onUsage,
		"thread/settings/updated":      onSettings,
		"thread/status/changed":        onStatus,
		"thread/name/updated":          onName,
		"thread/closed":                onClosed,
		"thread/deleted":               onClosed,
		"error":                        onError,
		"guardianWarning":              onWarning,
		"model/rerouted":               onRerouted,
	}
}

func onPresence(m *model, p json.RawMessage) tea.Cmd {
	var v presenceList
	if json.Unmarshal(p, &v) == nil {
		m.presence = v.Data
	}
	return nil
}

func onEngine(m *model, p json.RawMessage) tea.Cmd {
	var e protocol.EngineState
	if json.Unmarshal(p, &e) != nil {
		return nil
	}
	if m.setEngine(e) && m.cur.id != "" && m.opening == nil {
		m.say("the engine is back")
		return m.open(openRequest{id: m.cur.id, resync: true})
	}
	return nil
}

func onTurnStarted(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Turn protocol.Turn }
	if json.Unmarshal(p, &v) != nil || v.Turn.ID == "" || v.Turn.ID == m.cur.done {
		return nil
	}
	if m.cur.turn != v.Turn.ID {
		m.cur.turn, m.cur.since, m.cur.plan = v.Turn.ID, m.now(), nil
	}
	m.cur.seen[v.Turn.ID] = true
	return nil
}

func onTurnCompleted(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Turn protocol.Turn }
	if json.Unmarshal(p, &v) != nil {
		return nil
	}
	t := v.Turn
	if t.ID == m.cur.turn && t.DurationMs == nil {
		ms := m.now().Sub(m.cur.since).Milliseconds()
		t.DurationMs = &ms
	}
	m.tr.Remove("retry:" + t.ID)
	if len(m.cur.plan) > 0 && t.ID == m.cur.turn {
		m.tr.Note("plan:"+t.ID, t.ID, transcript.Note{Kind: transcript.NotePlan, Steps: m.cur.plan})
	}
	if t.ID == m.cur.turn || m.cur.turn == "" {
		m.cur.turn, m.cur.plan = "", nil
	}
	m.cur.seen[t.ID] = true
	m.tr.EndTurn(t)
	m.ended(t)
	m.list.ended(m.cur.id, t)
	m.asks.dropTurn(t.ID)
	return m.leftOver(t)
}

// ended remembers how a turn went, for the header.
func (m *model) ended(t protocol.Turn) {
	if t.Status == protocol.TurnInProgress {
		return
	}
	m.cur.last, m.cur.done, m.cur.took = t.Status, t.ID, 0
	if t.DurationMs != nil {
		m.cur.took = time.Duration(*t.DurationMs) * time.Millisecond
	}
}

func onPlan(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Plan []protocol.PlanStep }
	if json.Unmarshal(p, &v) == nil {
		m.cur.plan = v.Plan
	}
	return nil
}

func onDiff(m *model, p json.RawMessage) tea.Cmd {
	m.cur.diff = protocol.StringField(p, "diff")
	return nil
}

func onItem(m *model, p json.RawMessage, done bool) tea.Cmd {
	var v struct {
		TurnID string
		Item   protocol.Item
	}
	if json.Unmarshal(p, &v) != nil || v.Item.ID == "" {
		return nil
	}
	if u, ok := v.Item.Body.(*protocol.UserMessage); ok {
		m.delivered(u)
	}
	m.tr.Upsert(v.TurnID, v.Item, done)
	m.tr.Wait(v.Item.ID, m.asks.item(v.Item) && !done)
	if m.cur.turn == v.TurnID {
		m.tr.Remove("retry:" + v.TurnID)
	}
	return nil
}

func onPatch(m *model, p json.RawMessage) tea.Cmd {
	var v struct {
		ItemID  string
		Changes []protocol.FileUpdate
	}
	if json.Unmarshal(p, &v) != nil {
		return nil
	}
	if it, ok := m.tr.Item(v.ItemID); ok {
		if f, ok := it.Body.(*protocol.FileChange); ok {
			it.Body = &protocol.FileChange{Changes: v.Changes, Status: f.Status}
			m.tr.Upsert("", it, false)
		}
	}
	return nil
}

func onUsage(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ TokenUsage protocol.ThreadTokenUsage }
	if json.Unmarshal(p, &v) == nil {
		m.cur.usage = &v.TokenUsage
	}
	return nil
}

func onSettings(m *model, p json.RawMessage) tea.Cmd {
	var v struct {
		ThreadSettings struct {
			Model          string
			Effort         *string
			Cwd            string
			ApprovalPolicy json.RawMessage
			SandboxPolicy  protocol.SandboxPolicy
		}
	}
	if json.Unmarshal(p, &v) != nil {
		return nil
	}
	s := v.ThreadSettings
	if s.Model != "" {
		m.cur.model, m.cur.effort = s.Model, str(s.Effort)
	}
	if s.Cwd != "" {
		m.cur.cwd = s.Cwd
		m.tr.SetCwd(s.Cwd)
	}
	if len(s.ApprovalPolicy) > 0 {
		m.cur.approval = approvalName(s.ApprovalPolicy)
	}
	if s.SandboxPolicy.Type != "" {
		m.cur.sandbox = s.SandboxPolicy
	}
	return nil
}

func onStatus(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Status protocol.ThreadStatus }
	if json.Unmarshal(p, &v) == nil {
		m.cur.status = v.Status
	}
	return nil
}

func onName(m *model, p json.RawMessage) tea.Cmd {
	m.cur.name = protocol.StringField(p, "threadName")
	return nil
}

// onClosed: the server has put the thread away while we were looking at it.
func onClosed(m *model, p json.RawMessage) tea.Cmd {
	m.cur.turn = ""
	m.cur.status = protocol.ThreadStatus{Type: protocol.StatusNotLoaded}
	return nil
}

func onError(m *model, p json.RawMessage) tea.Cmd {
	var v struct {
		Error     protocol.TurnError
		WillRetry bool
		TurnID    string
	}
	if json.Unmarshal(p, &v) != nil {
		return nil
	}
	reread := m.unauthorized(v.Error)
	if !v.WillRetry {
		return reread // the failed turn says the same
	}
	n := transcript.Note{Kind: transcript.NoteRetry, Text: v.Error.Message}
	if d := v.Error.AdditionalDetails; d != nil {
		n.Detail = *d
	}
	m.tr.Note("retry:"+v.TurnID, v.TurnID, n)
	return reread
}

func onWarning(m *model, p json.RawMessage) tea.Cmd {
	if id := protocol.StringField(p, "threadId"); id != "" && id != string(m.cur.id) {
		return nil
	}
	n := transcript.Note{Kind: transcript.NoteWarn, Text: protocol.StringField(p, "message"), Detail: protocol.StringField(p, "details")}
	if n.Text == "" {
		n.Text = protocol.StringField(p, "summary")
	}
	if n.Text != "" {
		// The same warning comes with every connection; once is enough.
		m.tr.Note("warn:"+n.Text, "", n)
	}
	return nil
}

func onRerouted(m *model, p json.RawMessage) tea.Cmd {
	to := protocol.StringField(p, "toModel")
	m.tr.Note("", "", transcript.Note{Kind: transcript.NoteWarn, Text: "the provider answers with " + text.CleanLine(to) + " in place of " + text.CleanLine(protocol.StringField(p, "fromModel"))})
	m.cur.model = to
	return nil
}
