package tui

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
)

// How long a person has, as the issuers Codex uses have it.
const (
	deviceTime  = 15 * time.Minute
	browserTime = 15 * time.Minute
)

// slashLogin begins a login of the host, in the way asked for or chosen.
func slashLogin(m *model, args string) tea.Cmd {
	switch args {
	case "device":
		return m.login(protocol.LoginDevice)
	case "browser":
		return m.login(protocol.LoginBrowser)
	case "key":
		m.screen = newKeyScreen()
		return nil
	case "":
	default:
		m.say("/login knows device, browser and key")
		return nil
	}
	// Said before anybody has gone through the second factor of a wrong account.
	title := "log in " + m.host()
	if s := m.account.name(); s != "" {
		title += " · " + s + " now, which a new login replaces"
	}
	c := &chooser{title: title}
	device := func() {
		c.add("code", "a short code to type in a browser anywhere, on a phone too", false, func(m *model) tea.Cmd { return m.login(protocol.LoginDevice) })
	}
	if m.cfg.OpenURL != nil {
		c.add("browser", "the one on this machine", false, func(m *model) tea.Cmd { return m.login(protocol.LoginBrowser) })
		device()
	} else {
		device()
		c.add("browser", "on this machine: what to type instead, in one command", false, func(m *model) tea.Cmd {
			m.screen = &pager{title: "log in with the browser of this machine", lines: (*model).loginCommand}
			return nil
		})
	}
	c.add("API key", "typed here and kept on the host; it is not shown", false, func(m *model) tea.Cmd {
		m.screen = newKeyScreen()
		return nil
	})
	m.screen = c
	return nil
}

// loginCommand says how a host is logged in through the browser here: what the
// browser sends back has to reach the host, which this screen cannot see to.
func (m *model) loginCommand(w int) []string {
	var out []string
	for _, p := range []string{
		"The page the browser ends on answers to port 1455 of the host. One command carries that there, opens the browser, and ends when the host is logged in:",
		"",
		"    towline login " + m.host(),
		"",
		"Type it in another terminal of this machine; this screen goes on by itself.",
	} {
		out = append(out, text.Wrap(p, max(w-1, 8))...)
	}
	return out
}

// loginScreen is a login that waits for a person with a browser.
type loginScreen struct {
	kind    string // protocol.LoginDevice or LoginBrowser
	id      string // of the login; "" until the host has begun it
	url     string
	code    string
	ends    time.Time
	opened  string // what became of opening the browser
	failed  string
	drawnQR []string // of url, for dark and width below
	qrOf    string
}

// login begins a login and shows what it needs.
func (m *model) login(kind string) tea.Cmd {
	l := &loginScreen{kind: kind}
	m.screen = l
	return call(m.link, protocol.AccountStart, protocol.LoginStart{Type: kind}, func(m *model, s protocol.LoginStarted, err error) tea.Cmd {
		here := m.screen == screen(l)
		if err != nil {
			if here {
				l.failed = text.CleanLine(err.Error())
			}
			return nil
		}
		if !here { // the person went on meanwhile
			return m.cancelLogin(s.LoginID)
		}
		return l.begun(m, s)
	})
}

func (l *loginScreen) begun(m *model, s protocol.LoginStarted) tea.Cmd {
	l.id, l.code = s.LoginID, text.CleanLine(s.UserCode)
	l.url, l.ends = text.CleanLine(s.VerificationURL), m.now().Add(deviceTime)
	if l.kind == protocol.LoginBrowser {
		l.url, l.ends = text.CleanLine(s.AuthURL), m.now().Add(browserTime)
		return l.open(m)
	}
	return nil
}

// open opens the page on this machine, where that is possible and the address is
// one a browser may be given.
func (l *loginScreen) open(m *model) tea.Cmd {
	if m.cfg.OpenURL == nil || !webAddress(l.url) {
		return nil
	}
	open, at := m.cfg.OpenURL, l.url
	return func() tea.Msg {
		err := open(at)
		return applyMsg(func(*model) tea.Cmd {
			l.opened = "Opened in the browser. If nothing is there, open:"
			if err != nil {
				l.opened = "No browser opened (" + text.CleanLine(err.Error()) + "). Open:"
			}
			return nil
		})
	}
}

// webAddress reports whether s is a page, not a program or a file.
func webAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http")
}

func (m *model) cancelLogin(id string) tea.Cmd {
	return call(m.link, protocol.AccountCancel, map[string]string{"loginId": id}, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail("cancel the login", err)
		}
		return nil
	})
}

func (l *loginScreen) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "esc", "q":
		m.screen = nil
		if l.id == "" || l.failed != "" {
			return nil
		}
		m.say("login cancelled")
		return m.cancelLogin(l.id)
	case "r":
		if l.failed != "" || l.over(m.now()) {
			return m.login(l.kind)
		}
	case "c":
		s := orString(l.code, l.url)
		if s != "" {
			m.say("copied, if this terminal allows it")
			return tea.SetClipboard(s)
		}
	case "u":
		if l.url != "" {
			m.say("address copied, if this terminal allows it")
			return tea.SetClipboard(l.url)
		}
	case "o":
		return l.open(m)
	}
	return nil
}

func (l *loginScreen) over(now time.Time) bool { return !l.ends.IsZero() && !now.Before(l.ends) }

// waiting reports whether time passing shows on the screen.
func (l *loginScreen) waiting() bool { return l.failed == "" }

func (l *loginScreen) paste(*model, string) {}
func (l *loginScreen) wheel(*model, int)    {}

// keyScreen takes an API key, unseen.
type keyScreen struct{ q *query }

func newKeyScreen() *keyScreen {
	q := &query{
		title: "API key", typed: true, hidden: true, label: "key",
		about: []string{"It is sent to the host and kept there, where Codex and Towline find it. Paste or type it; it is not shown."},
	}
	return &keyScreen{q.clean()}
}

func (s *keyScreen) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	if !s.q.key(k, m.now()) {
		return nil
	}
	m.screen = nil
	r := <-s.q.answer // it was put there before key returned
	key := strings.TrimSpace(r.text)
	switch {
	case r.err != nil:
		return nil
	case key == "":
		m.say("no key was given")
		return nil
	}
	return call(m.link, protocol.AccountStart, protocol.LoginStart{Type: protocol.LoginAPIKey, APIKey: key}, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail("log in", err)
			return nil
		}
		return m.readAccount()
	})
}

func (s *keyScreen) paste(_ *model, t string) { s.q.paste(t) }
func (s *keyScreen) wheel(*model, int)        {}

func (s *keyScreen) render(m *model, w, h int) (lines []string, x, y int) {
	if h >= 8 {
		lines = append(lines, m.th.Header.Render(text.Truncate(" log in "+m.host(), w, "…")), m.th.Border.Render(strings.Repeat("─", w)))
	}
	ls, x, y := s.q.render(m.th, w, max(h-len(lines), 1), m.now())
	if y += len(lines); y < 0 || y >= h {
		x = -1
	}
	return append(lines, ls...), x, y
}
