package tui

import (
	"context"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/text"
)

// remote is what is known of the connection that Connect made, nil without one.
func (m *model) remote() *Opened {
	if m.boot == nil {
		return nil
	}
	return m.boot.opened
}

// blocked is why nothing may be sent to this host, "" when it may.
func (m *model) blocked() string {
	if o := m.remote(); o != nil && o.Skew.Blocked {
		return orString(text.CleanLine(o.Skew.Notice), "its version and this one do not understand each other")
	}
	return ""
}

// sendable reports whether turns may be sent, and says so when not.
func (m *model) sendable() bool {
	why := m.blocked()
	if why == "" {
		return true
	}
	s := "not sent: " + why
	if m.remote().Skew.Update != nil {
		s += " · /update"
	}
	m.notice = notice{text: s, bad: true, until: m.now().Add(2 * noticeTime)}
	return false
}

// bootBanner is what has to be known about the connection while it works: a
// version that is not ours, and a link whose end is a turn's end. What does not
// keep anybody from working can be sent away.
func (m *model) bootBanner() (out []string) {
	o := m.remote()
	if o == nil || m.boot.phase != bootIdle {
		return nil
	}
	blocked := m.blocked()
	keys := ""
	if o.Skew.Update != nil {
		keys += "   u update"
	}
	switch {
	case blocked != "":
		out = append(out, " ▲ sending is blocked: "+blocked+keys)
	case m.boot.hidden:
	case o.Skew.Notice != "":
		out = append(out, " ▲ "+text.CleanLine(o.Skew.Notice)+keys+"   x hide")
	}
	if o.CutEndsTurn && !m.boot.hidden {
		out = append(out, " ▲ a cut link, or leaving, ends the running turn   x hide")
	}
	return out
}

// transport is how the host is reached, for the footer.
func (m *model) transport() string {
	o := m.remote()
	if o == nil {
		return ""
	}
	s := text.CleanLine(o.Transport)
	if o.CutEndsTurn {
		return "▲ " + orString(s, "stdio")
	}
	return s
}

// updateHost puts another version on the host.
func (m *model) updateHost() tea.Cmd {
	o := m.remote()
	if o == nil || o.Skew.Update == nil {
		m.say("there is no update to offer for this host")
		return nil
	}
	update := o.Skew.Update
	return m.beginConnect(func(ctx context.Context, _ Connecting) (Opened, error) {
		return update(ctx, m.link.person)
	})
}

// detach leaves, unless that ends a turn, which takes a second try.
func (m *model) detach() tea.Cmd {
	now := m.now()
	o := m.remote()
	ends := o != nil && o.CutEndsTurn && m.working()
	armed := now.Before(m.quitArm.Add(quitWindow))
	switch {
	case armed:
	case ends:
		m.quitArm = now
		m.say("leaving ends the running turn: this host is reached by plain stdio. Once more to leave")
		return nil
	case !m.comp.Empty():
		m.quitArm = now
		m.say("what you wrote would be lost. Once more to leave")
		return nil
	}
	return m.leave()
}
