package tui

import (
	"encoding/json"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// pending is a message that was sent and that the conversation does not show yet.
type pending struct {
	id    string // clientUserMessageId
	text  string
	steer bool // a turn was running: the model reads it at its next step
}

// submit is enter in the composer.
func (m *model) submit() tea.Cmd {
	m.sendWhenOpen = false
	s := strings.TrimSpace(m.comp.Text())
	if s == "" {
		return nil
	}
	if name, args, ok := slash(s); ok {
		return m.runSlash(name, args)
	}
	if !m.sendable() {
		return nil
	}
	if !m.live() && m.conn.was {
		// Not sent by itself on return: much may have changed meanwhile.
		m.say("%s: your text is kept", m.away())
		return nil
	}
	if !m.live() || m.busyOpening() {
		m.sendWhenOpen = true
		m.say("sent as soon as the thread is open")
		return nil
	}
	if !m.may(protocol.RoleOperator, "writing to a thread") {
		return nil
	}
	if m.cur.id == "" {
		m.sendWhenOpen = true
		return m.newThread(nil)
	}
	m.comp.Take()
	m.tr.End()
	return m.say1(s)
}

// say1 sends one message to the thread on the screen.
func (m *model) say1(s string) tea.Cmd {
	if cmd, ok := strings.CutPrefix(s, "!"); ok && strings.TrimSpace(cmd) != "" {
		return m.shell(strings.TrimSpace(cmd))
	}
	return m.transmit(pending{id: newID(), text: s}, true)
}

// transmit sends a message: into the running turn when there is one.
func (m *model) transmit(p pending, again bool) tea.Cmd {
	id := m.cur.id
	p.steer = m.cur.turn != ""
	m.cur.pending = append(m.cur.pending, p)
	input := []protocol.UserInput{protocol.Text(p.text)}
	if p.steer {
		params := map[string]any{"threadId": id, "expectedTurnId": m.cur.turn, "input": input, "clientUserMessageId": p.id}
		return call(m.link, "turn/steer", params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
			if _, no := refused(err); no {
				// The turn ended between: then it is a turn of its own, unless its end
				// was heard first and has made it one.
				if !m.steering(id, p.id) || !m.take(id, p.id) {
					return nil
				}
				return m.startTurn(id, p, again)
			}
			return m.notSent(id, p, err)
		})
	}
	m.cur.pending = m.cur.pending[:len(m.cur.pending)-1]
	return m.startTurn(id, p, again)
}

func (m *model) startTurn(id protocol.ThreadID, p pending, again bool) tea.Cmd {
	p.steer = false
	m.cur.pending = append(m.cur.pending, p)
	params := map[string]any{"threadId": id, "input": []protocol.UserInput{protocol.Text(p.text)}, "clientUserMessageId": p.id}
	for k, v := range m.cur.overrides {
		params[k] = v
	}
	return call(m.link, "turn/start", params, func(m *model, v struct{ Turn protocol.Turn }, err error) tea.Cmd {
		if pe, no := refused(err); no && again && strings.Contains(pe.Message, "thread not found") && m.take(id, p.id) {
			// The server put the thread away; it is on disk.
			return m.open(openRequest{id: id, resync: true, then: func(m *model) tea.Cmd { return m.transmit(p, false) }})
		}
		if err == nil && m.cur.id == id {
			m.cur.overrides = nil
			if m.cur.turn == "" && v.Turn.ID != m.cur.done && v.Turn.Status == protocol.TurnInProgress {
				m.cur.turn, m.cur.since = v.Turn.ID, m.now()
			}
		}
		return m.notSent(id, p, err)
	})
}

// notSent gives the text back when it could not be sent.
func (m *model) notSent(id protocol.ThreadID, p pending, err error) tea.Cmd {
	if err == nil || !m.take(id, p.id) {
		return nil
	}
	m.comp.Restore(p.text)
	if _, no := refused(err); no {
		m.tr.Note("", "", transcript.Note{Kind: transcript.NoteFail, Text: "not sent: " + err.Error()})
	}
	return nil
}

// steering reports whether a message is still meant for the turn that ran when
// it was written.
func (m *model) steering(id protocol.ThreadID, clientID string) bool {
	return m.cur.id == id && slices.ContainsFunc(m.cur.pending, func(p pending) bool { return p.id == clientID && p.steer })
}

// take removes a message from those under way and reports whether it was there.
func (m *model) take(id protocol.ThreadID, clientID string) bool {
	if m.cur.id != id {
		return false
	}
	for i, p := range m.cur.pending {
		if p.id == clientID {
			m.cur.pending = append(m.cur.pending[:i:i], m.cur.pending[i+1:]...)
			return true
		}
	}
	return false
}

// delivered: the conversation has a message; it is no longer under way.
func (m *model) delivered(u *protocol.UserMessage) {
	if m.cur.preview == "" {
		// The server's lists say the same from now on.
		m.cur.preview = text.Truncate(text.CleanLine(transcript.UserText(u.Content)), 120, "…")
		if r := m.list.row(m.cur.id); r != nil && r.Preview == "" {
			r.Preview = m.cur.preview
		}
	}
	if u.ClientID != nil {
		m.take(m.cur.id, *u.ClientID)
		return
	}
	s := transcript.UserText(u.Content)
	for _, p := range m.cur.pending {
		if text.Clean(p.text) == s {
			m.take(m.cur.id, p.id)
			return
		}
	}
}

// leftOver handles what was steered into a turn that ended without reading it:
// an interrupted one gives it back, else it becomes the next turn.
func (m *model) leftOver(t protocol.Turn) tea.Cmd {
	var cmds []tea.Cmd
	all := m.cur.pending
	m.cur.pending = nil
	for _, p := range all {
		switch {
		case !p.steer:
			m.cur.pending = append(m.cur.pending, p)
		case t.Status == protocol.TurnCompleted:
			cmds = append(cmds, m.startTurn(m.cur.id, p, true))
		default:
			m.comp.Restore(p.text)
		}
	}
	return tea.Sequence(cmds...)
}

// unsent sorts out what was under way when the connection was lost: what the
// history has arrived, the rest goes back to the composer.
func (m *model) unsent(old []pending, turns []protocol.Turn, seen map[string]bool, done string) {
	m.cur.pending = old
	for i, t := range turns {
		for _, it := range t.Items {
			// A message without our id is known by its words, and the same words may
			// have been sent before: those of turns that were over count for nothing.
			if u, ok := it.Body.(*protocol.UserMessage); ok && (u.ClientID != nil || !seen[t.ID] || i == len(turns)-1 && t.ID != done) {
				m.delivered(u)
			}
		}
	}
	for _, p := range m.cur.pending {
		m.comp.Restore(p.text)
	}
	m.cur.pending = nil
}

// working reports whether the thread does something, or is about to.
func (m *model) working() bool {
	return m.cur.turn != "" || m.cur.status.Type == protocol.StatusActive || len(m.cur.pending) > 0
}

// interrupt stops the running turn.
func (m *model) interrupt() tea.Cmd {
	if m.cur.turn == "" {
		if m.working() {
			m.say("nothing to stop yet: the turn is only beginning")
		}
		return nil
	}
	if !m.live() {
		m.say("not stopped: %s", m.away())
		return nil
	}
	if !m.may(protocol.RoleApprover, "stopping a turn") {
		return nil
	}
	params := map[string]any{"threadId": m.cur.id, "turnId": m.cur.turn}
	m.say("stopping")
	return call(m.link, "turn/interrupt", params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail("stop the turn", err)
		} else if m.notice.text == "stopping" {
			m.notice = notice{}
		}
		return nil
	})
}

// shell runs a command of the person's own on the host, outside the sandbox.
func (m *model) shell(cmd string) tea.Cmd {
	params := map[string]any{"threadId": m.cur.id, "command": cmd}
	return call(m.link, "thread/shellCommand", params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.comp.Restore("!" + cmd)
			m.fail("run the command", err)
		}
		return nil
	})
}

// farewell is what to print when the screen is gone.
func (m *model) farewell() Result {
	r := Result{Thread: m.cur.id, Working: m.working()}
	if m.cur.id == "" {
		return r
	}
	short := string(m.cur.id)
	if n := len(short); n > 4 {
		short = short[n-4:]
	}
	o := m.remote()
	switch {
	case r.Working && o != nil && o.CutEndsTurn:
		r.Working = false
		r.Text = "detached from " + m.host() + "; the running turn ends with the link."
	case r.Working && !m.live():
		r.Text = m.host() + " was still working when last heard of."
	case r.Working:
		r.Text = "still working on " + m.host() + "."
	default:
		r.Text = "detached from " + m.host() + "."
	}
	if m.cfg.ReattachHint != "" {
		r.Text += " Come back: " + m.cfg.ReattachHint
	}
	r.Text += "  (thread " + text.CleanLine(short) + ")"
	return r
}
