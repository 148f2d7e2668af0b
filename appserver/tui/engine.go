package tui

import (
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
)

// enginePoll is how often a host without an engine is asked how that stands: it
// sends no notifications to a connection that no engine has greeted.
const enginePoll = 2 * time.Second

// engineLoss is a connection that ended because its engine did, and how.
type engineLoss string

func (e engineLoss) Error() string { return string(e) }

// withoutEngine learns that the host answers but has nothing to do the work: its
// gate answers questions about itself only, and lets go when there is an engine.
func (m *model) withoutEngine(msg upMsg) tea.Cmd {
	m.conn.state, m.conn.met = connNoEngine, true
	m.session, m.engine = msg.session, msg.session.Engine
	return m.watchEngine(msg.gen)
}

func (m *model) watchEngine(gen int) tea.Cmd {
	waiting := func(m *model) bool { return m.conn.gen == gen && m.conn.state == connNoEngine }
	return m.link.after(enginePoll, func(m *model) tea.Cmd {
		if !waiting(m) {
			return nil
		}
		return call(m.link, protocol.ExtSession, nil, func(m *model, s protocol.Session, err error) tea.Cmd {
			if !waiting(m) {
				return nil
			}
			if err == nil {
				m.engine = s.Engine
			}
			return m.watchEngine(gen)
		})
	})
}

// engineGone reports whether it is the engine that keeps us waiting, not the
// way to the host: a gate whose engine is starting takes a while to answer.
func (m *model) engineGone() bool {
	return m.conn.state == connNoEngine ||
		m.conn.state == connDialing && m.conn.was && m.engine.State != "" && m.engine.State != "ready"
}

// setEngine takes the engine's state and says whether the engine came back: a
// fresh one has not loaded the thread.
func (m *model) setEngine(e protocol.EngineState) (recovered bool) {
	recovered = m.engine.State != "" && m.engine.State != "ready" && e.State == "ready"
	m.engine = e
	return recovered
}

// engineBanner says what is wrong with the engine and what to type, in at most
// h lines of w cells; nil when all is well.
func (m *model) engineBanner(w, h int) []string {
	e := m.engine
	mark, what := "▲", "the "+text.CleanLine(e.Kind)+" engine"
	switch problem := text.CleanLine(e.Problem); {
	case e.State == "ready" || e.State == "":
		if problem == "" {
			return nil
		}
		what = problem
	case e.State == "starting":
		mark, what = "⟳", what+" is starting"
	default:
		what += map[string]string{"restarting": " is restarting", "failed": " has failed"}[e.State]
		if problem != "" {
			what += ": " + problem
		}
	}
	short := " " + mark + " " + what
	for _, hint := range e.Hints {
		short += " · " + text.CleanLine(hint)
	}
	if text.Width(short) <= w && !m.engineGone() || h < 2 {
		return []string{text.Truncate(short, w, "…")}
	}
	out := hang(" "+mark+" ", what, w)
	for _, hint := range e.Hints {
		out = append(out, hang("   → ", text.CleanLine(hint), w)...)
	}
	if m.engineGone() {
		out = append(out, text.Truncate("   this screen goes on by itself once that is over   d detach", w, "…"))
	}
	return out[:min(len(out), h)]
}

// hang wraps s behind lead and aligns what follows.
func hang(lead, s string, w int) []string {
	n := text.Width(lead)
	lines := text.Wrap(s, max(w-n, 1))
	for i, l := range lines {
		if i > 0 {
			lead = strings.Repeat(" ", n)
		}
		lines[i] = lead + l
	}
	return lines
}
