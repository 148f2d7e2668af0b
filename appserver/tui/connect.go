package tui

import (
	"errors"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/text"
	"towline/config"
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
	heal    healing   // with a stream that outlives its link
	cutTurn bool      // a turn was running that ended with the connection
	tried   error     // how the last attempt to come back ended
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
	if msg.dial && !m.conn.met && m.boot != nil {
		return m.bootFail(handshakeProblem(msg.err))
	}
	if msg.dial && !m.conn.met {
		// Nothing was ever there: whoever started us can say more than a banner.
		m.fatal = msg.err
		return tea.Quit
	}
	if msg.dial && m.barred(msg.err) {
		return tea.Quit
	}
	if m.conn.state == connUp {
		m.conn.since, m.conn.attempt = m.now(), 0
		m.conn.lost = msg.err
		if h := m.conn.heal; h.cut {
			m.conn.since = h.since
		}
		m.conn.heal = healing{}
		o := m.remote()
		m.conn.cutTurn = o != nil && o.CutEndsTurn && m.cur.turn != ""
		if e := m.engine; e.State != "" && e.State != "ready" {
			m.conn.lost = engineLoss(text.CleanLine(e.Problem))
		}
		m.lost()
	}
	if msg.dial {
		m.engine = protocol.EngineState{} // nobody is there to know
	}
	m.conn.tried = nil
	if msg.dial {
		m.conn.tried = msg.err
	}
	wait := max(backoff[min(m.conn.attempt, len(backoff)-1)], rpc.RetryAfter(msg.err))
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

// barred makes a refusal the end where nobody can mend it.
func (m *model) barred(err error) bool {
	if !m.cfg.EndWhenRefused || !errors.Is(err, rpc.ErrRefused) {
		return false
	}
	m.fatal = err
	return true
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
	if m.conn.cutTurn && why != errReplaced {
		why = engineLoss("the turn that was running ended with the link")
	}
	m.conn = conn{state: connUp, gen: msg.gen, met: true, was: true, heal: healing{link: msg.link}}
	m.session = msg.session
	m.list.busy, m.list.tried = false, false
	var cmds []tea.Cmd
	if msg.link != nil {
		cmds = append(cmds, m.linkChanged(linkMsg{msg.gen, msg.link.State()}))
	}
	if b := m.boot; b != nil && b.phase == bootLanding {
		cmds = append(cmds, m.link.after(holdMost, func(m *model) tea.Cmd {
			if b.phase == bootLanding {
				b.phase = bootIdle
			}
			return nil
		}))
	}
	if s := msg.session; s != nil {
		m.setEngine(s.Engine)
		cmds = append(cmds, m.readPresence(), m.readApprovals())
	} else {
		m.engine = protocol.EngineState{Kind: "codex", State: "ready", Version: text.CleanLine(agentVersion(msg.agent))}
	}
	cmds = append(cmds, m.readAccount())
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
	if m.boot != nil && m.boot.replaced {
		m.boot.replaced, why = false, errReplaced
		if m.cur.id == "" { // what was not possible before may be now
			m.screen, m.landing = nil, true
			return tea.Batch(append(cmds, m.land())...)
		}
	}
	if m.cur.id == "" {
		m.say("%s", m.backAfter(since, why))
		if m.screen != nil {
			return tea.Batch(cmds...) // the person is choosing
		}
		return tea.Batch(append(cmds, m.newThread(nil))...)
	}
	return tea.Batch(append(cmds, m.open(openRequest{id: m.cur.id, resync: true, since: since, why: why}))...)
}

// land goes where the person wants to be, or was, or could be.
func (m *model) land() tea.Cmd {
	switch p := &m.project; {
	case m.cfg.NewThread:
		return m.newThread(nil)
	case m.cfg.Thread != "" && len(m.cfg.Thread) < uuidLen:
		return m.findThread(string(m.cfg.Thread))
	case m.cfg.Thread != "":
		return m.open(openRequest{id: m.cfg.Thread, orList: true})
	case p.asked && p.dir != "":
		return m.landInProject()
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

func (m *model) readPresence() tea.Cmd {
	return call(m.link, protocol.ExtPresence, nil, func(m *model, v presenceList, err error) tea.Cmd {
		if err == nil {
			m.presence = v.Data
		}
		return nil
	})
}

// handshakeProblem is an app-server that was reached and does not answer.
func handshakeProblem(err error) error {
	var p *config.Problem
	if errors.As(err, &p) && p.Stage != "" {
		return err
	}
	return &config.Problem{Stage: "handshake", Err: err, Hints: config.Hints(err), Exit: config.ExitUnavailable}
}

type presenceList struct {
	Data []protocol.Presence `json:"data"`
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
	case m.boot != nil && m.cfg.Host != "":
		return text.CleanLine(m.cfg.Host) // what the person typed to get here
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
