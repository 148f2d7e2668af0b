package tui

import (
	"encoding/json"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
)

// account is who the host works as, as far as it has said.
type account struct {
	protocol.AccountStatus
	known bool
	why   string // what ended the login, from whatever failed because of it
}

// missing reports whether the model's endpoint needs a login that is not there.
func (a *account) missing() bool { return a.known && a.Required && a.Account == nil }

// name is the account for a person, "" for none.
func (a *account) name() string {
	if a.Account == nil {
		return ""
	}
	if a.Account.Type == "apiKey" {
		return "an API key"
	}
	s := text.CleanLine(str(a.Account.Email))
	if s == "" {
		s = "a " + text.CleanLine(a.Account.Type) + " account"
	}
	if p := text.CleanLine(a.Account.Plan); p != "" && p != "unknown" {
		s += " (" + p + ")"
	}
	return s
}

// readAccount asks who the host works as. A server that does not say, or cannot,
// is one we say nothing about.
func (m *model) readAccount() tea.Cmd {
	return call(m.link, protocol.AccountRead, nil, func(m *model, s protocol.AccountStatus, err error) tea.Cmd {
		m.tookAccount(s, err)
		return nil
	})
}

func (m *model) tookAccount(s protocol.AccountStatus, err error) {
	if err != nil {
		m.cfg.Log.Debug("account not read", "err", err)
		m.account.known = false
		return
	}
	was := m.account
	m.account = account{AccountStatus: s, known: true, why: was.why}
	if s.Account != nil {
		m.account.why = ""
	}
	if l, ok := m.screen.(*loginScreen); ok && l.id != "" && was.missing() && s.Account != nil {
		// Its end was told while the link was down.
		m.screen = nil
	}
	if was.missing() && s.Account != nil {
		m.say("%s is logged in: %s", m.host(), m.account.name())
	}
}

// onAccount: somebody logged in or out, here or elsewhere.
func onAccount(m *model, _ json.RawMessage) tea.Cmd { return m.readAccount() }

// unauthorized keeps what an error says about the login, and asks whether there
// still is one: Codex does not say by itself that it is over.
func (m *model) unauthorized(e protocol.TurnError) tea.Cmd {
	if string(e.CodexErrorInfo) != `"unauthorized"` {
		return nil
	}
	why := text.CleanLine(e.Message)
	if e.AdditionalDetails != nil && *e.AdditionalDetails != "" {
		why = text.CleanLine(*e.AdditionalDetails)
	}
	if !strings.HasPrefix(why, "not logged in") { // which the banner says anyway
		m.account.why = why
	}
	return m.readAccount()
}

// accountBanner says that nothing can be done without a login, and the key to
// press.
func (m *model) accountBanner(w int) string {
	if !m.account.missing() || m.engineGone() {
		return ""
	}
	if _, ok := m.screen.(*loginScreen); ok {
		return ""
	}
	keys := "   /login"
	switch {
	case m.role() < protocol.RoleAdmin:
		keys = "   an admin can /login"
	case m.screen == nil && m.comp.Empty() && m.asking() == nil || m.lettersAreFree():
		keys = "   l log in"
	}
	s := " ▲ " + m.host() + " is not logged in"
	if m.account.why != "" {
		s = " ▲ login expired: " + strings.TrimPrefix(m.account.why, "the login has expired: ")
	}
	return text.Truncate(s, max(w-text.Width(keys), 8), "…") + keys
}

// onLoginCompleted: a login ended, ours or another's.
func onLoginCompleted(m *model, p json.RawMessage) tea.Cmd {
	var done protocol.LoginCompleted
	if json.Unmarshal(p, &done) != nil {
		return nil
	}
	l, ok := m.screen.(*loginScreen)
	if !ok || l.id == "" || l.id != str(done.LoginID) {
		if done.Success {
			return m.readAccount()
		}
		return nil
	}
	if done.Success {
		m.screen = nil
		m.account.known = false // what follows is no news to who did it
		return call(m.link, protocol.AccountRead, nil, func(m *model, s protocol.AccountStatus, err error) tea.Cmd {
			m.tookAccount(s, err)
			if err == nil {
				m.say("%s is logged in: %s", m.host(), orString(m.account.name(), "done"))
			}
			return nil
		})
	}
	l.failed = orString(text.CleanLine(str(done.Error)), "the login did not complete")
	return nil
}

// slashLogout asks once: on the host a login may be everybody's.
func slashLogout(m *model, _ string) tea.Cmd {
	if m.account.known && m.account.Account == nil {
		m.say("%s is not logged in", m.host())
		return nil
	}
	c := &chooser{title: fmt.Sprintf("log out %s (%s)?", m.host(), orString(m.account.name(), "whoever it is"))}
	c.add("stay logged in", "", false, func(*model) tea.Cmd { return nil })
	c.add("log out", "everybody who works with this host; what runs waits for the next login", false, func(m *model) tea.Cmd {
		return call(m.link, protocol.AccountLogout, nil, func(m *model, _ json.RawMessage, err error) tea.Cmd {
			if err != nil {
				m.fail("log out", err)
				return nil
			}
			m.say("logged out")
			return m.readAccount()
		})
	})
	m.screen = c
	return nil
}
