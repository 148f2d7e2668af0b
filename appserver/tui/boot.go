package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/text"
	"towline/config"
)

const (
	// spin is how often the screen moves while something is under way.
	spin = 100 * time.Millisecond
	// readingGrace is how long a question is on the screen before a letter
	// answers it: one typed earlier was meant for something else.
	readingGrace = 600 * time.Millisecond
	// holdMost is how long the connect screen stays after the connection is up,
	// when there is nothing else to show yet.
	holdMost = time.Second
)

// bootPhase is what the connect screen is at.
type bootPhase uint8

const (
	bootIdle    bootPhase = iota // the UI is on the screen
	bootRunning                  // Connect is
	bootFailed                   // it failed; the person decides
	bootLanding                  // connected: the stream is dialled, the thread opened
)

// boot is how the connection is made, from the person's side. A client that was
// started with a Dial has none.
type boot struct {
	phase   bootPhase
	run     int // of Connect; answers of earlier ones are not listened to
	f       func(context.Context, Connecting) (Opened, error)
	cancel  context.CancelCauseFunc
	opened  *Opened // nil before the first
	log     progress
	queries []*query
	// refused: a person left a question unanswered while the connection was being
	// made anew. Nothing more is asked until they want to.
	refused bool
	details bool
	scroll  int // lines above the end
	room    int // lines of steps on the screen
	copied  bool
	ticking bool
	fresh   bool // the next step begins another log
	hidden  bool // the banner about the connection was sent away
	// replaced: another connection took the place of one that worked.
	replaced bool
}

// beginConnect runs f behind the connect screen.
func (m *model) beginConnect(f func(context.Context, Connecting) (Opened, error)) tea.Cmd {
	b := m.boot
	ctx, cancel := context.WithCancelCause(m.link.ctx)
	b.run++
	b.phase, b.f, b.cancel = bootRunning, f, cancel
	b.log, b.scroll, b.refused, b.fresh = progress{}, 0, false, false
	m.screen = nil
	return m.link.runConnect(ctx, b.run, f)
}

// covers reports whether the connect screen is what is shown.
func (m *model) bootCovers() bool {
	b := m.boot
	return b != nil && (b.phase != bootIdle || b.asking() != nil && !m.typingNow())
}

// asking is the question on the screen, nil for none.
func (b *boot) asking() *query {
	if b == nil || len(b.queries) == 0 {
		return nil
	}
	return b.queries[0]
}

// bootMsg takes what a connector says.
func (m *model) bootMsg(msg tea.Msg) tea.Cmd {
	b, now := m.boot, m.now()
	switch msg := msg.(type) {
	case stepMsg:
		if b.fresh {
			b.log, b.fresh = progress{}, false
		}
		b.log.step(Step(msg), m.host(), now)
		b.scroll = 0
	case noticeMsg:
		b.log.notice(msg.hop, msg.text, m.host(), now)
		if (b.phase == bootIdle || b.phase == bootLanding) && msg.hop == "" {
			// Not about connecting: what the one who connected has to say later.
			m.notice = notice{text: text.CleanLine(msg.text), bad: true, until: now.Add(2 * noticeTime)}
		}
	case askMsg:
		if b.refused || b.phase == bootFailed || m.leaving {
			msg.q.settle(reply{err: ErrAborted})
			return nil
		}
		b.queries = append(b.queries, msg.q)
		m.pauseBoot(true)
	case unaskMsg:
		b.queries = slices.DeleteFunc(b.queries, func(q *query) bool { return q == msg.q })
		m.pauseBoot(false)
	case connectedMsg:
		return m.connected(msg)
	case reopenedMsg:
		b.opened, b.log.over, b.fresh = &msg.opened, true, true
		m.project.take(msg.opened)
	case wakeMsg:
		return m.retry()
	}
	return nil
}

// pauseBoot stops the clock of what waits for a person, and starts it again.
func (m *model) pauseBoot(on bool) {
	if st := m.boot.log.current; st != nil && !st.done && (on || len(m.boot.queries) == 0) {
		st.pause(m.now(), on)
	}
}

// connected learns how a run of Connect ended.
func (m *model) connected(msg connectedMsg) tea.Cmd {
	b := m.boot
	if msg.run != b.run {
		return nil
	}
	b.cancel(nil)
	if msg.err != nil {
		return m.bootFail(msg.err)
	}
	o := msg.opened
	again := m.conn.was
	b.opened, b.log.over, b.fresh = &o, true, true
	m.project.take(o)
	m.cfg.Host = orString(o.Host, m.cfg.Host)
	var wake tea.Cmd
	if o.Wake != nil {
		wake = m.link.watchWake(o.Wake, m.send)
	}
	if again {
		// The stream to what was there before ends with it, and the next one is
		// dialled as after any loss.
		b.phase, b.replaced = bootIdle, true
		m.link.drop(errReplaced)
		return tea.Batch(wake, m.retry())
	}
	b.phase = bootLanding
	m.conn = conn{gen: m.conn.gen}
	return tea.Batch(wake, m.dial())
}

var errReplaced = errors.New("another connection took its place")

func orString(s, or string) string {
	if s != "" {
		return s
	}
	return or
}

// bootFail shows why it failed and what to type next.
func (m *model) bootFail(err error) tea.Cmd {
	b := m.boot
	if m.leaving {
		return nil
	}
	if m.conn.was && errors.Is(err, ErrAborted) { // the person thought better of an update
		b.phase, b.fresh = bootIdle, true
		b.dropQueries()
		return nil
	}
	stage := ""
	var p *config.Problem
	if errors.As(err, &p) {
		stage = p.Stage
	}
	b.phase, b.scroll = bootFailed, 0
	b.dropQueries()
	b.log.fail(stage, m.host(), err, m.now())
	return nil
}

// dropQueries gives up what is being asked.
func (b *boot) dropQueries() {
	for _, q := range b.queries {
		q.settle(reply{err: ErrAborted})
	}
	b.queries = nil
}

// landed uncovers the UI once it has something to show.
func (m *model) landed() {
	b := m.boot
	if b == nil || b.phase != bootLanding {
		return
	}
	if m.conn.was && (m.cur.id != "" || m.screen != nil || m.notice.bad) || m.conn.state == connNoEngine {
		b.phase = bootIdle
	}
}

// bootKey is a key on the connect screen.
func (m *model) bootKey(k tea.KeyPressMsg) tea.Cmd {
	b := m.boot
	s := k.String()
	b.copied = false
	if s == "ctrl+c" && b.asking() != nil && b.phase == bootIdle {
		s = "esc" // the UI is underneath; leaving is another step
		k = tea.KeyPressMsg{Code: tea.KeyEscape}
	}
	if q := b.asking(); q != nil && s != "ctrl+c" {
		if s == "esc" && b.phase == bootIdle {
			b.refused = true
		}
		if q.key(k, m.now()) {
			b.queries = b.queries[1:]
			m.pauseBoot(false)
			return nil
		}
		if q.typed || s == "d" && q.has("d") {
			return nil
		}
	}
	switch s {
	case "d", "tab":
		b.details, b.scroll = !b.details, 0
	case "c":
		b.copied = true
		return tea.SetClipboard(m.bootReport())
	case "up", "k":
		b.scroll++
	case "down", "j":
		b.scroll--
	case "pgup":
		b.scroll += max(b.room-1, 1)
	case "pgdown":
		b.scroll -= max(b.room-1, 1)
	case "r":
		if b.phase == bootFailed {
			return m.beginConnect(b.f)
		}
	case "q", "esc":
		return m.bootLeave(s)
	case "ctrl+c", "ctrl+d":
		return m.bootLeave(s)
	}
	return nil
}

// has reports whether key answers the question.
func (q *query) has(key string) bool {
	return slices.ContainsFunc(q.choices, func(c Choice) bool { return c.Key == key })
}

// bootLeave ends the attempt: back to the UI where there is one, else for good.
func (m *model) bootLeave(key string) tea.Cmd {
	b := m.boot
	if b.asking() != nil && key == "q" {
		return nil
	}
	switch {
	case b.phase == bootIdle:
		return nil
	case b.phase == bootRunning && key == "q":
		return nil // not offered: esc is
	case m.conn.was && b.phase != bootLanding:
		b.cancel(ErrAborted)
		b.run++ // whatever it still says is of no interest
		b.dropQueries()
		b.phase, b.fresh = bootIdle, true
		return nil
	case b.phase == bootFailed:
		m.fatal = b.log.err
	default:
		m.fatal = aborted(orString(b.log.stage(), "connect"), m.cfg.ReattachHint)
	}
	b.cancel(ErrAborted)
	b.dropQueries()
	m.leaving = true
	return tea.Quit
}

// bootTick moves the spinner, only while something is under way.
func (m *model) bootTick() tea.Cmd {
	b := m.boot
	if b == nil || b.ticking || !m.bootMoves() {
		return nil
	}
	b.ticking = true
	return m.link.after(spin, func(m *model) tea.Cmd {
		m.boot.ticking = false
		return nil
	})
}

// bootMoves reports whether the connect screen shows time passing.
func (m *model) bootMoves() bool {
	b := m.boot
	if b == nil || !m.bootCovers() {
		return b != nil && b.asking() != nil // until the person stops typing
	}
	if q := b.asking(); q != nil {
		return !q.typed && !q.live(m.now())
	}
	return b.phase == bootRunning || b.phase == bootLanding
}

// watchWake tells the program whenever now is a good moment to try again.
func (l *link) watchWake(wake <-chan struct{}, send func(tea.Msg)) tea.Cmd {
	return l.task(func(ctx context.Context) tea.Msg {
		for {
			select {
			case _, ok := <-wake:
				if !ok {
					return nil
				}
				send(wakeMsg{})
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// bootReport is everything the connect screen has to say, for the clipboard.
func (m *model) bootReport() string {
	var out []string
	b, now := m.boot, m.now()
	for _, p := range b.log.parts {
		for _, st := range p.stages {
			state := "ok"
			switch {
			case st.err != nil:
				state = "failed"
			case !st.done:
				state = "under way"
			}
			out = append(out, fmt.Sprintf("%s · %s: %s in %s. %s", p.name, st.name, state, seconds(st.elapsed(now)), st.text))
			for _, d := range st.details {
				out = append(out, "    "+d)
			}
		}
	}
	if b.log.err != nil {
		f := explain(b.log.err)
		out = append(out, "", f.cause)
		out = append(out, f.said...)
		for _, h := range f.hints {
			out = append(out, "next: "+h)
		}
	}
	return joinLines(out)
}
