package tui

import (
	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
)

// A question may come up under the fingers of somebody who is typing. The letters
// they are about to type are no answers: a question gets keys only once it was on
// the screen for readingGrace, and only after a pause in the typing as long.
// Until then keys do what they did before, and the question shows none.

// typingNow reports whether a key came a moment ago.
func (m *model) typingNow() bool { return m.now().Sub(m.lastKey) < readingGrace }

// askQuiet reports whether the question on the screen gets no keys yet.
func (m *model) askQuiet() bool {
	q := m.asking()
	if q == nil || m.role() < protocol.RoleApprover {
		return false
	}
	if q.since.IsZero() && m.screen == nil && !m.bootCovers() {
		q.since = m.now()
	}
	if !q.live && !q.since.IsZero() && m.now().Sub(q.since) >= readingGrace && !m.typingNow() {
		q.live = true
	}
	return !q.live
}

// askTick looks again when the question on the screen may have become live.
func (m *model) askTick() tea.Cmd {
	if m.asks.ticking || !m.askQuiet() || m.asking().since.IsZero() {
		return nil
	}
	m.asks.ticking = true
	wait := readingGrace - min(m.now().Sub(m.asking().since), m.now().Sub(m.lastKey))
	return m.link.after(max(wait, readingGrace/20), func(m *model) tea.Cmd {
		m.asks.ticking = false
		return nil
	})
}

// hasty reports whether a letter came so soon after an answer that it was meant
// as another one, for a question that nobody can have read.
func (m *model) hasty(k tea.KeyPressMsg) bool {
	if k.Text == "" || !m.askQuiet() || m.now().Sub(m.asks.last) >= readingGrace {
		return false
	}
	m.asks.last = m.now()
	return true
}
