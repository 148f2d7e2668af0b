package tui

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/rpc"
	"towline/appserver/tui/text"
)

// caughtUp is how long after a link healed what arrives counts as caught up.
const caughtUp = time.Second

// healing is what is known of a connection that outlives its link.
type healing struct {
	link  Link
	state LinkState
	cut   bool      // the link is down; the connection is not
	since time.Time // it is
	// back counts what arrives after the link healed, until the next look.
	counting bool
	back     int
	away     time.Duration
}

// linkMsg says how the link under connection gen stands.
type linkMsg struct {
	gen   int
	state LinkState
}

// watchLink tells the program how a link stands, until the connection ended. It
// runs in a goroutine of the link's.
func (l *link) watchLink(lk Link, gen int, ended <-chan struct{}, send func(tea.Msg)) {
	for {
		changed := lk.Changed() // before State, so that no change falls between
		send(linkMsg{gen, lk.State()})
		select {
		case <-changed:
		case <-ended:
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// live reports whether what is sent now arrives now.
func (m *model) live() bool { return m.conn.state == connUp && !m.conn.heal.cut }

// linkChanged learns how the link stands. Nothing on the screen is forgotten:
// what happens meanwhile arrives when it is back.
func (m *model) linkChanged(msg linkMsg) tea.Cmd {
	if msg.gen != m.conn.gen {
		return nil
	}
	h := &m.conn.heal
	was := h.cut
	h.state, h.cut = msg.state, !msg.state.Up
	now := m.now()
	if h.cut && m.barred(msg.state.Err) {
		return tea.Quit
	}
	switch {
	case h.cut && !was:
		h.since, h.counting = now, false
		if s := msg.state.Since; !s.IsZero() && s.Before(now) {
			h.since = s
		}
		m.cur.older.busy = m.cur.older.busy && m.conn.state == connUp
	case !h.cut && was:
		if m.boot != nil {
			m.boot.refused = false
		}
		h.counting, h.back, h.away = true, 0, now.Sub(h.since)
		m.asks.quieten(now)
		m.sayBack()
		gen := msg.gen
		return m.link.after(caughtUp, func(m *model) tea.Cmd {
			if m.conn.gen == gen {
				m.conn.heal.counting = false
			}
			return nil
		})
	}
	return nil
}

// caught counts events that arrived because a link healed.
func (m *model) caught(n int) {
	if h := &m.conn.heal; h.counting {
		h.back += n
		m.sayBack()
	}
}

func (m *model) sayBack() {
	s := "back after " + ago(m.conn.heal.away)
	if n := m.conn.heal.back; n > 0 {
		s += " · " + plural(n, "event")
	}
	m.say("%s", s)
}

// patient is a context that ends when a request had callTimeout to be answered,
// while the link was up: what was sent before a cut is answered after it.
func (l *link) patient(ctx context.Context, cause error) (context.Context, context.CancelFunc) {
	return l.patientFor(ctx, callTimeout, cause)
}

func (l *link) patientFor(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	lk := l.heals()
	var t *time.Timer
	var mu sync.Mutex // guards t
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(d, func() {
		if lk != nil {
			st := lk.State()
			if more := d - time.Since(st.Since); !st.Up || more > 0 {
				mu.Lock()
				defer mu.Unlock()
				if !st.Up {
					more = d
				}
				if ctx.Err() == nil {
					t.Reset(more)
				}
				return
			}
		}
		cancel(cause)
	})
	return ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		t.Stop()
		cancel(nil)
	}
}

// heals is the link under the current stream, nil when it does not heal.
func (l *link) heals() Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lk
}

// retry tries again now, and asks again what was left unanswered.
func (m *model) retry() tea.Cmd {
	if m.boot != nil {
		m.boot.refused = false
	}
	if h := m.conn.heal; h.cut {
		return m.link.task(func(context.Context) tea.Msg {
			h.link.Retry()
			return nil
		})
	}
	if m.conn.state != connWaiting {
		return nil
	}
	return m.dial()
}

// banner is what the connection or the engine has to say, in at most h lines of
// w cells; nil when all is well.
func (m *model) banner(w, h int) []string {
	var out []string
	switch {
	case m.live() || m.engineGone():
		out = m.engineBanner(w, h)
	case m.conn.met:
		out = []string{text.Truncate(m.lostLine(w), w, "…")}
	}
	if l := m.accountBanner(w); l != "" && m.live() && len(out) < h {
		out = append(out, l)
	}
	for _, l := range m.bootBanner() {
		if len(out) < h {
			out = append(out, text.Truncate(l, w, "…"))
		}
	}
	return out
}

// lostLine is the one line about a link that is down. What can be done comes
// before what is merely known where there is no room for both.
func (m *model) lostLine(w int) string {
	since, attempt, next := m.conn.since, m.conn.attempt, time.Time{}
	if m.conn.state == connWaiting {
		next = m.conn.next
	}
	if h := &m.conn.heal; h.cut {
		since, attempt, next = h.since, h.state.Attempt, h.state.NextTry
	}
	now := m.now()
	keys, short := "   r retry   d detach", " r retry  d detach"
	switch {
	case m.boot != nil && m.boot.refused:
		return " ▲ " + m.host() + " asks something before it lets us back   r answer   d detach"
	case m.lettersAreFree():
	case m.screen != nil:
		keys, short = "   ctrl+r retry", " ^r retry"
	case !m.comp.Empty() || m.asking() != nil:
		keys, short = "   ctrl+r retry   ctrl+d detach", " ^r retry ^d detach"
	}
	if err := m.refusal(); err != nil {
		return text.Truncate(" ▲ "+m.host()+" does not let us back: "+explain(err).cause, max(w-text.Width(keys), 8), "…") + keys
	}
	try := "now"
	if s := int(next.Sub(now).Round(time.Second).Seconds()); !next.IsZero() && s > 0 {
		try = fmt.Sprintf("next in %d s", s)
	} else if m.boot != nil && m.boot.log.stage() != "" && !m.boot.fresh {
		try = "now: " + m.boot.log.stage()
	}
	down := ago(now.Sub(since))
	why := ""
	if s := lostWhy(m.conn.lost); s != "" {
		why = " (" + s + ")"
	}
	attempt = max(attempt, 1)
	facts := []string{
		fmt.Sprintf(" ⟳ %s unreachable for %s%s · reconnecting (attempt %d, %s)", m.host(), down, why, attempt, try),
		fmt.Sprintf(" ⟳ %s unreachable for %s · reconnecting (attempt %d, %s)", m.host(), down, attempt, try),
		fmt.Sprintf(" ⟳ unreachable for %s · reconnecting (attempt %d, %s)", down, attempt, try),
		fmt.Sprintf(" ⟳ reconnecting after %s (attempt %d, %s)", down, attempt, try),
		fmt.Sprintf(" ⟳ reconnecting (attempt %d, %s)", attempt, try),
		fmt.Sprintf(" ⟳ attempt %d, %s ", attempt, try),
		fmt.Sprintf(" ⟳ attempt %d ", attempt),
	}
	for i, s := range facts {
		k := keys
		if i > 4 {
			k = short
		}
		if text.Width(s)+text.Width(k) <= w {
			return s + k
		}
	}
	return " ⟳" + short
}

// refusal is why trying again does not help until a person has done something,
// nil when it may.
func (m *model) refusal() error {
	err := m.conn.tried
	if h := &m.conn.heal; h.cut {
		err = h.state.Err
	}
	if errors.Is(err, rpc.ErrRefused) {
		return err
	}
	return nil
}

// lostWhy is why a connection was given up, where a person should know: because
// this terminal, or the way to it, was too slow.
func lostWhy(err error) string {
	switch {
	case errors.Is(err, errFlood):
		return "this terminal could not keep up"
	case errors.Is(err, rpc.ErrSlow):
		return "too slow to follow"
	}
	return ""
}

// restartSlack is how much the clocks of a host and of a client may differ before
// an end of the host's is not taken for what cut the link.
const restartSlack = 30 * time.Second

// backAfter says that a loss is over and, where it is known, what it was.
func (m *model) backAfter(since time.Time, why error) string {
	s := "back after " + ago(m.now().Sub(since))
	var engine engineLoss
	var lost *rpc.LostError
	switch {
	case errors.Is(why, errFlood) || errors.Is(why, rpc.ErrSlow):
		return "this terminal could not keep up, so the thread was read anew"
	case errors.As(why, &lost):
		return s + ": " + text.CleanLine(lost.Why) + ", so the thread was read anew"
	case errors.As(why, &engine) && engine != "":
		return s + ": " + string(engine)
	case errors.Is(why, errReplaced):
		return "connected anew"
	case m.session != nil && m.session.Restarted != nil && time.UnixMilli(m.session.Restarted.At).After(since.Add(-restartSlack)):
		return s + ": the host was started again (" + text.CleanLine(m.session.Restarted.Reason) + ")"
	}
	return s
}
