package tui

import (
	"encoding/json"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

func onApprovalOpened(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Approval protocol.Approval }
	if json.Unmarshal(p, &v) == nil {
		m.approvalOpen(v.Approval)
	}
	return nil
}

// approvalOpen learns of an approval object: what the request alone does not
// say, or what waits elsewhere.
func (m *model) approvalOpen(a protocol.Approval) {
	key := string(a.RequestID)
	if a.ThreadID != m.cur.id {
		if m.asks.waiting == nil {
			m.asks.waiting = map[protocol.ThreadID]string{}
		}
		m.asks.waiting[a.ThreadID] = summary(a)
		return
	}
	if m.asks.items == nil {
		m.asks.items = map[string]protocol.Approval{}
	}
	m.asks.items[key] = a
	if m.asks.answered[key] != "" {
		return
	}
	q := m.question(key, a.Method, a.Params)
	q.approval = a.ID
	if it := orItem(nil, a.Item); it != nil {
		q.p.SetItem(*it)
	}
}

func onApprovalClosed(m *model, p json.RawMessage) tea.Cmd {
	var v struct{ Approval protocol.Approval }
	if json.Unmarshal(p, &v) != nil {
		return nil
	}
	a := v.Approval
	key := string(a.RequestID)
	delete(m.asks.items, key)
	if a.ThreadID != m.cur.id {
		delete(m.asks.waiting, a.ThreadID)
		return nil
	}
	mine := m.asks.answered[key]
	if q := m.asks.find(key); q != nil {
		m.settle(q)
		m.asks.release(q)
	} else if mine != "" && a.By != nil && a.By.You || m.asks.closed.key != key && mine == "" {
		return nil // this client answered, or never showed it
	}
	glyph, by := "✔", ""
	word := outcome(a)
	if a.By != nil {
		by = " by " + who(*a.By)
	}
	if word == "denied" || word == "stopped" || word == "refused" {
		glyph = "✘"
	}
	s := glyph + " " + word + by
	if a.State == protocol.ApprovalGone {
		s = "no longer needed: the turn ended"
	}
	m.asks.closed = closedAsk{key: key, text: s, at: m.now()}
	kind := transcript.NoteInfo
	if a.State != protocol.ApprovalGone {
		m.tr.Note("by:"+key, "", transcript.Note{Kind: kind, Text: s})
	}
	return nil
}

// readApprovals asks for what waits, here and elsewhere.
func (m *model) readApprovals() tea.Cmd {
	if m.session == nil {
		return nil
	}
	return call(m.link, protocol.ExtApprovalList, map[string]any{"open": true}, func(m *model, v struct{ Data []protocol.Approval }, err error) tea.Cmd {
		if err != nil {
			return nil // an older gate; the requests themselves still come
		}
		m.asks.waiting = nil
		for _, a := range v.Data {
			if a.State == protocol.ApprovalOpen {
				m.approvalOpen(a)
			}
		}
		return nil
	})
}

// who names a person or device for people.
func who(p protocol.Presence) string {
	if p.You {
		return "you"
	}
	name := text.CleanLine(p.Name)
	switch {
	case p.Kind == "device":
		return "“" + name + "”"
	case p.Via == "ssh" && name != "":
		return name + " (ssh)"
	case name == "":
		return text.CleanLine(p.Kind)
	}
	return name
}

// outcome says what an approval was answered with.
func outcome(a protocol.Approval) string {
	switch d := protocol.StringField(a.Result, "decision"); d {
	case protocol.DecisionAccept, "approved":
		return "approved"
	case protocol.DecisionAcceptSession, "approved_for_session":
		return "approved for the session"
	case protocol.DecisionDecline, "denied":
		return "denied"
	case protocol.DecisionCancel, "abort":
		return "stopped"
	}
	switch {
	case protocol.Field(a.Result, "decision") != nil:
		return "approved with a rule"
	case a.Method == protocol.ReqPermissionsApproval:
		if len(protocol.Field(a.Result, "permissions")) > 2 {
			return "granted"
		}
		return "refused"
	case protocol.StringField(a.Result, "action") == "decline":
		return "declined"
	case protocol.StringField(a.Result, "action") == "cancel":
		return "cancelled"
	}
	return "answered"
}

// summary says what waits, in a few words.
func summary(a protocol.Approval) string {
	switch a.Method {
	case protocol.ReqCommandApproval:
		if c := protocol.StringField(a.Params, "command"); c != "" {
			return "run " + text.CleanLine(transcript.Command(c))
		}
		return "run a command"
	case protocol.ReqFileApproval:
		return "write changes"
	case protocol.ReqPermissionsApproval:
		return "permissions"
	case protocol.ReqUserInput, protocol.ReqElicitation:
		return "a question"
	}
	return "an answer"
}
