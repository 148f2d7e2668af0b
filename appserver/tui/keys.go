package tui

import (
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/google/uuid"

	"towline/appserver/protocol"
	"towline/appserver/tui/composer"
)

// quitWindow is how soon the second ctrl+c has to follow to leave.
const quitWindow = 2 * time.Second

// bannerWait is how long a letter the banner offers waits for another.
const bannerWait = 400 * time.Millisecond

// newID names a message of ours.
func newID() string { return uuid.NewString() }

// key decides who gets a key: what covers the conversation, then a question,
// then the composer, then the conversation.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	if m.bootCovers() && !(m.boot.phase == bootLanding && m.conn.was) { // what is typed ahead is for the composer
		return m.bootKey(k)
	}
	if m.notice.text != "" && !m.notice.bad {
		m.notice = notice{}
	}
	s := k.String()
	if cmd, ok := m.bannerKey(k); ok {
		return cmd
	}
	if m.screen != nil {
		if s == "ctrl+c" {
			m.screen = nil
			return nil
		}
		return m.screen.key(m, k)
	}
	if q := m.asking(); q != nil && m.role() >= protocol.RoleApprover && !m.askQuiet() {
		if cmd, ok := m.askKey(q, k); ok {
			return cmd
		}
		return m.chromeKey(k)
	}
	if m.hasty(k) || s == "?" && m.comp.Empty() {
		return m.chromeKey(k)
	}
	m.sendWhenOpen = false
	switch m.comp.Key(k) {
	case composer.Send:
		return m.submit()
	case composer.Full:
		m.say("that does not fit: the composer holds 4 MiB")
		return nil
	case composer.Handled:
		return m.complete()
	}
	return m.chromeKey(k)
}

// bannerKey is for the keys the banner of a lost connection offers. They are
// letters, and somebody may be about to write: a letter that another follows at
// once was the beginning of a word.
func (m *model) bannerKey(k tea.KeyPressMsg) (tea.Cmd, bool) {
	was := m.bannerLetter
	m.bannerLetter = ""
	if was != "" && k.Text != "" && m.screen == nil {
		m.comp.Set(was)
		return nil, false
	}
	s := k.String()
	lost := !m.live() && m.conn.met
	if lost && s == "ctrl+r" {
		return m.retry(), true
	}
	letters := m.lettersAreFree()
	if !letters && (m.screen != nil || !m.comp.Empty() || m.asking() != nil && !m.askQuiet()) {
		return nil, false
	}
	act := m.bannerAct(s)
	if act == nil {
		return nil, false
	}
	if letters {
		return act(m), true
	}
	m.bannerLetter = s
	return m.link.after(bannerWait, func(m *model) tea.Cmd {
		if m.bannerLetter != s {
			return nil
		}
		m.bannerLetter = ""
		return act(m)
	}), true
}

// lettersAreFree reports whether the screen is one where letters are no text.
func (m *model) lettersAreFree() bool {
	p, ok := m.screen.(*picker)
	return ok && !p.typing
}

// bannerAct is what a letter means that a banner offers; nil for any other.
func (m *model) bannerAct(s string) func(m *model) tea.Cmd {
	lost := !m.live() && m.conn.met
	switch o := m.remote(); {
	case lost && s == "r":
		return (*model).retry
	case lost && s == "d":
		return (*model).detach
	case s == "l" && m.live() && m.account.missing() && m.role() >= protocol.RoleAdmin:
		return func(m *model) tea.Cmd { return slashLogin(m, "") }
	case s == "u" && o != nil && o.Skew.Update != nil && (o.Skew.Blocked || !m.boot.hidden):
		return (*model).updateHost
	case s == "x" && len(m.bootBanner()) > 0 && !m.boot.hidden:
		return func(m *model) tea.Cmd { m.boot.hidden = true; return nil }
	}
	return nil
}

// chromeKey is for keys that are neither text nor answers.
func (m *model) chromeKey(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "ctrl+c":
		return m.ctrlC()
	case "ctrl+d":
		if m.comp.Empty() || !m.live() {
			return m.detach()
		}
	case "esc":
		return m.interrupt()
	case "ctrl+t":
		return m.openPicker()
	case "ctrl+r":
		return m.goOn()
	case "ctrl+o":
		m.openPager(m.tr.LastFoldable())
	case "ctrl+l":
		return tea.ClearScreen
	case "?", "f1":
		if m.comp.Empty() || k.String() == "f1" {
			m.screen = &pager{title: "help", lines: helpLines}
		}
	case "pgup", "ctrl+pgup":
		return m.scroll(-max(m.bodyHeight()-2, 1))
	case "pgdown", "ctrl+pgdown":
		return m.scroll(max(m.bodyHeight()-2, 1))
	case "shift+up", "ctrl+up":
		return m.scroll(-1)
	case "shift+down", "ctrl+down":
		return m.scroll(1)
	case "home":
		m.tr.Home()
		return m.fetchOlder()
	case "end":
		m.tr.End()
	}
	return nil
}

// scroll moves the conversation and fetches more at its beginning.
func (m *model) scroll(n int) tea.Cmd {
	if m.tr.Scroll(n) && n < 0 {
		return m.fetchOlder()
	}
	return nil
}

// ctrlC clears what is written, else stops the turn, else leaves at the second.
func (m *model) ctrlC() tea.Cmd {
	now := m.now()
	switch {
	case !m.comp.Empty():
		m.comp.Clear()
		m.say("cleared; up brings it back")
		return nil
	case m.working() && m.cur.turn != "" && m.live() && now.After(m.quitArm.Add(quitWindow)):
		m.quitArm = now
		return m.interrupt()
	case now.Before(m.quitArm.Add(quitWindow)):
		return m.leave()
	}
	m.quitArm = now
	m.say("ctrl+c again to leave; the thread stays on %s", m.host())
	return nil
}

func (m *model) paste(s string) {
	if m.bootCovers() {
		if q := m.boot.asking(); q != nil {
			q.paste(s)
		}
		return
	}
	if m.screen != nil {
		m.screen.paste(m, s)
		return
	}
	if q := m.asking(); q != nil && q.p.Typing() && !m.askQuiet() {
		q.p.Paste(s)
		return
	}
	if m.comp.Paste(s) == composer.Full {
		m.say("that does not fit: the composer holds 4 MiB")
	}
}

func (m *model) wheel(w tea.MouseWheelMsg) tea.Cmd {
	n := 3
	switch w.Button {
	case tea.MouseWheelUp:
		n = -3
	case tea.MouseWheelDown:
	default:
		return nil
	}
	if m.bootCovers() {
		m.boot.scroll -= n
		return nil
	}
	if m.screen != nil {
		m.screen.wheel(m, n)
		return nil
	}
	if q := m.asking(); q != nil && w.Y >= m.h-m.askHeight() && q.p.Wheel(n) {
		return nil
	}
	return m.scroll(n)
}

// click opens what was clicked when there is more of it.
func (m *model) click(c tea.MouseClickMsg) tea.Cmd {
	if m.screen != nil || m.bootCovers() || c.Button != tea.MouseLeft {
		return nil
	}
	if id := m.tr.At(c.Y - m.top()); id != "" {
		m.openPager(id)
	}
	return nil
}

// complete offers completions for what is under the cursor.
func (m *model) complete() tea.Cmd {
	kind, query := m.comp.Token()
	switch kind {
	case composer.Command:
		m.comp.Offer(kind, query, slashChoices(query))
	case composer.File:
		return m.files.find(m, query)
	default:
		m.comp.Dismiss()
	}
	return nil
}
