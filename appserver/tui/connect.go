package tui

import (
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/text"
)

// backoff is how long to wait before each attempt; the last one repeats for as
// long as the person stays.
var backoff = []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second}

type connState uint8

const (
	connDialing connState = iota
	connUp
	connWaiting  // for the next attempt
	connNoEngine // the host answers; there is nothing behind it yet
)

// conn is how the connection stands.
type conn struct {
	state   connState
	gen     int       // of the newest attempt
	met     bool      // the host answered once
	was     bool      // it was up once
	since   time.Time // it is not since then
	attempt int
	next    time.Time // of the next attempt, while waiting
	lost    error     // why it ended
	opens   int       // threads opened on it
}

// dial starts the next attempt.
func (m *model) dial() tea.Cmd {
	m.conn.gen++
	m.conn.state = connDialing
	if m.conn.since.IsZero() {
		m.conn.since = m.now()
	}
	return m.link.connect(m.conn.gen, m.send)
}

// down learns that an attempt failed or the connection ended.
func (m *model) down(msg downMsg) tea.Cmd {
	if msg.gen != m.conn.gen || m.conn.state == connWaiting || m.leaving {
		return nil
	}
	m.cfg.Log.Debug("connection down", "error", msg.err, "dial", msg.dial)
	if m.conn.state == connNoEngine {
		return m.dial() // the host lets go when there is an engine to talk to
	}
	if msg.dial && !m.conn.met {
		// Nothing was ever there: whoever started us can say more than a banner.
		m.fatal = msg.err
		return tea.Quit
	}
	if m.conn.state == connUp {
		m.conn.since, m.conn.attempt = m.now(), 0
		m.conn.lost = msg.err
		if e := m.engine; e.State != "" && e.State != "ready" {
			m.conn.lost = engineLoss(text.CleanLine(e.Problem))
		}
		m.lost()
	}
	if msg.dial {
		m.engine = protocol.EngineState{} // nobody is there to know
	}
	wait := backoff[min(m.conn.attempt, len(backoff)-1)]
	m.conn.attempt++
	m.conn.state, m.conn.next = connWaiting, m.now().Add(wait)
	gen := m.conn.gen
	return m.link.after(wait, func(m *model) tea.Cmd {
		if m.conn.gen == gen && m.conn.state == connWaiting {
			return m.dial()
		}
		return nil
	})
}

// lost forgets what only a live connection can know.
func (m *model) lost() {
	m.opening = nil
	m.asks.lost()
	m.presence = nil
	m.cur.older.busy = false
}

// up learns that a connection is there.
func (m *model) up(msg upMsg) tea.Cmd {
	if msg.gen != m.conn.gen {
		return nil
	}
	if msg.bare {
		return m.withoutEngine(msg)
	}
	again, since, why := m.conn.was, m.conn.since, m.conn.lost
	m.conn = conn{state: connUp, gen: msg.gen, met: true, was: true}
	m.session = msg.session
	m.list.busy, m.list.tried = false, false
	var cmds []tea.Cmd
	if s := msg.session; s != nil {
		m.setEngine(s.Engine)
		cmds = append(cmds, m.readPresence(), m.readApprovals())
	} else {
		m.engine = protocol.EngineState{Kind: "codex", State: "ready", Version: text.CleanLine(agentVersion(msg.agent))}
	}
	if again {
		cmds = append(cmds, m.returned(since, why))
	} else {
		m.landing = true
		cmds = append(cmds, m.land())
	}
	return tea.Batch(cmds...)
}

// returned brings the screen up to date after a loss.
func (m *model) returned(since time.Time, why error) tea.Cmd {
	cmds := []tea.Cmd{m.list.refresh(m)}
	if m.cur.id == "" {
		m.say("%s", m.backAfter(since, why))
		return tea.Batch(append(cmds, m.newThread(nil))...)
	}
	return tea.Batch(append(cmds, m.open(openRequest{id: m.cur.id, resync: true, since: since, why: why}))...)
}

// backAfter says that a loss is over and, where it is known, what it was.
func (m *model) backAfter(since time.Time, why error) string {
	s := "back after " + ago(m.now().Sub(since))
	var engine engineLoss
	switch {
	case errors.Is(why, errFlood) || errors.Is(why, rpc.ErrSlow):
		return "this terminal could not keep up, so the thread was read anew"
	case errors.As(why, &engine) && engine != "":
		return s + ": " + string(engine)
	}
	return s
}

// land goes where the person wants to be, or was, or could be.
func (m *model) land() tea.Cmd {
	switch {
	case m.cfg.NewThread:
		return m.newThread(nil)
	case m.cfg.Thread != "" && len(m.cfg.Thread) < uuidLen:
		return m.findThread(string(m.cfg.Thread))
	case m.cfg.Thread != "":
		return m.open(openRequest{id: m.cfg.Thread, orList: true})
	case m.session != nil && m.session.LastThread != nil && *m.session.LastThread != "":
		return m.open(openRequest{id: *m.session.LastThread, orList: true, quiet: true})
	}
	return m.landInList()
}

// uuidLen is the length of a whole thread id.
const uuidLen = 36

// findThread opens the thread a person means by the beginning or the end of its
// id, which is what the farewell shows, or by its name.
func (m *model) findThread(s string) tea.Cmd {
	return call(m.link, "thread/list", listParams(nil, false), func(m *model, l protocol.ThreadList, err error) tea.Cmd {
		m.landing = false
		var found []protocol.ThreadID
		for _, t := range l.Data {
			id := string(t.ID)
			if strings.HasPrefix(id, s) || strings.HasSuffix(id, s) || str(t.Name) == s {
				found = append(found, t.ID)
			}
		}
		if len(found) == 1 {
			return m.open(openRequest{id: found[0], orList: true})
		}
		if len(found) == 0 && err != nil || len(l.Data) == 0 {
			return m.open(openRequest{id: protocol.ThreadID(s), orList: true}) // let the server say what it thinks of it
		}
		m.list.take(m, l, false)
		m.screen = &picker{}
		if len(found) == 0 {
			m.say("no thread is called %q", text.CleanLine(s))
		} else {
			m.say("%d threads fit %q", len(found), text.CleanLine(s))
		}
		return m.list.outcomes(m)
	})
}

// landInList shows the threads there are, or begins the first.
func (m *model) landInList() tea.Cmd {
	m.landing = true
	return call(m.link, "thread/list", listParams(nil, false), func(m *model, l protocol.ThreadList, err error) tea.Cmd {
		if !m.landing {
			return nil // the person chose meanwhile
		}
		m.landing = false
		if err == nil && len(l.Data) > 0 {
			m.list.take(m, l, false)
			if m.screen == nil && m.cur.id == "" {
				// What was written and sent early was not written for whichever
				// thread is chosen now: it stays in the composer.
				m.screen, m.sendWhenOpen = &picker{}, false
			}
			return m.list.outcomes(m)
		}
		return m.newThread(nil)
	})
}

// retry dials now.
func (m *model) retry() tea.Cmd {
	if m.conn.state != connWaiting {
		return nil
	}
	return m.dial()
}

func (m *model) readPresence() tea.Cmd {
	return call(m.link, protocol.ExtPresence, nil, func(m *model, v presenceList, err error) tea.Cmd {
		if err == nil {
			m.presence = v.Data
		}
		return nil
	})
}

type presenceList struct {
	Data []protocol.Presence `json:"data"`
}

// banner is what the connection or the engine has to say, in at most h lines of
// w cells; nil when all is well.
func (m *model) banner(w, h int) []string {
	if m.conn.state == connUp || m.engineGone() {
		return m.engineBanner(w, h)
	}
	if !m.conn.met {
		return nil
	}
	down := max(int(m.now().Sub(m.conn.since).Seconds()), 0)
	try := "trying again now"
	if m.conn.state == connWaiting {
		if s := int(m.conn.next.Sub(m.now()).Round(time.Second).Seconds()); s > 0 {
			try = fmt.Sprintf("trying again in %d s", s)
		}
	}
	line := fmt.Sprintf(" ⟳ %s unreachable for %d s, %s   r now   d detach", m.host(), down, try)
	if m.w < 70 {
		line = fmt.Sprintf(" ⟳ unreachable for %d s   r now   d detach", down)
	}
	return []string{text.Truncate(line, w, "…")}
}

// away says what keeps us from doing anything, as the end of a sentence.
func (m *model) away() string {
	if m.engineGone() {
		return "there is no engine to do it yet"
	}
	return m.host() + " is unreachable"
}

// host is what to call the other end.
func (m *model) host() string {
	switch {
	case m.session != nil && m.session.Host != "":
		return text.CleanLine(m.session.Host)
	case m.cfg.Host != "":
		return text.CleanLine(m.cfg.Host)
	}
	return "this host"
}

// agentVersion is the server's version in its userAgent: "name/1.2.3 (…)".
func agentVersion(agent string) string {
	_, v, _ := strings.Cut(agent, "/")
	v, _, _ = strings.Cut(v, " ")
	return v
}
