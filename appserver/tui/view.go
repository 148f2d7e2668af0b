package tui

import (
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/composer"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// Sizes at which parts appear. Below them the conversation and the composer
// have the room.
const (
	headerAt = 5  // rows: the header
	footerAt = 7  // rows: the footer
	rulesAt  = 14 // rows: lines between the parts
	wideAt   = 140
	sideCols = 38
	maxPlan  = 3
)

// frameSizes is what the last frame looked like, for the mouse and for paging.
type frameSizes struct{ top, body, ask int }

func (m *model) wide() bool      { return m.w >= wideAt && m.h >= rulesAt }
func (m *model) top() int        { return m.frame.top }
func (m *model) bodyHeight() int { return max(m.frame.body, 1) }
func (m *model) askHeight() int  { return m.frame.ask }

// View draws the whole screen.
func (m *model) View() (v tea.View) {
	defer func() {
		if r := recover(); r != nil {
			m.cfg.Log.Error("the terminal client panicked while drawing", "panic", r)
			v = tea.NewView("the screen could not be drawn; ctrl+d leaves")
			v.AltScreen = true
		}
	}()
	lines, x, y := m.draw()
	v = tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	if !m.bootCovers() { // there the terminal's own selection works
		v.MouseMode = tea.MouseModeCellMotion
	}
	v.WindowTitle = m.windowTitle()
	if x >= 0 && x < m.w && y >= 0 && y < m.h {
		v.Cursor = tea.NewCursor(x, y)
		v.Cursor.Shape, v.Cursor.Blink = tea.CursorBar, false
	}
	return v
}

func (m *model) windowTitle() string {
	s := m.host()
	if t := m.title(); t != "" {
		s = t + " · " + s
	}
	if m.asking() != nil || m.boot.asking() != nil {
		s = "▲ " + s
	}
	return text.Truncate(s, 80, "…")
}

// draw gives exactly m.h lines and the cursor's place; x is negative when there
// is none.
func (m *model) draw() (lines []string, x, y int) {
	w, h := m.w, m.h
	if m.bootCovers() {
		lines, x, y = m.drawBoot(w, h)
		return fill(lines, h), x, y
	}
	if m.screen != nil {
		lines, x, y = m.screen.render(m, w, h)
		if b := m.banner(w, h/4); len(b) > 0 && h > 3 {
			lines = append(lines[:min(len(lines), h-len(b))], m.warn(b)...)
		}
		return fill(lines, h), x, y
	}
	mainW := w
	if m.wide() {
		mainW = w - sideCols - 1
	}
	var head []string
	if h >= headerAt {
		head = append(head, m.header(w))
	}
	if h >= rulesAt {
		head = append(head, m.rule(w))
	}
	foot, x, fy := m.foot(mainW, h-len(head))
	body := max(h-len(head)-len(foot), 0)
	m.frame.top, m.frame.body = len(head), body
	m.tr.Resize(mainW)
	mid := m.tr.View(body)
	for len(mid) < body {
		mid = append(mid, "")
	}
	if body > 2 && !m.tr.Following() {
		mid[body-1] = text.Between("", m.th.Dim.Render("↓ more below (end) "), mainW)
	}
	y = len(head) + body + fy
	main := append(mid, foot...)
	if m.wide() {
		main = m.beside(main, mainW)
	}
	return fill(append(head, main...), h), x, y
}

// fill makes it exactly h lines.
func fill(lines []string, h int) []string {
	for len(lines) < h {
		lines = append(lines, "")
	}
	return lines[:h]
}

func (m *model) rule(w int) string { return m.th.Border.Render(strings.Repeat("─", w)) }

// foot is everything under the conversation, in at most h lines.
func (m *model) foot(w, h int) (lines []string, x, y int) {
	var last []string // from the bottom
	last = append(last, m.warn(m.banner(w, max(h/3, 1)))...)
	switch {
	case m.notice.text != "":
		last = append(last, m.noticeLine(w))
	case m.h >= footerAt:
		last = append(last, m.footer(w))
	}
	room := max(h-len(last), 1)
	lines = m.under(w, room)
	m.frame.ask = 0
	if q := m.asking(); q != nil {
		ls, cx, cy := m.drawAsk(q, w, room-min(len(lines), room/4))
		if len(lines)+len(ls) > room {
			lines = nil
		}
		x, y = cx, len(lines)+cy
		m.frame.ask = len(ls) + len(last)
		lines = append(lines, ls...)
	} else {
		ls, cx, cy := m.drawComposer(w, room)
		if len(lines)+len(ls) > room {
			lines = lines[:max(room-len(ls), 0)]
		}
		x, y = cx, len(lines)+cy
		lines = append(lines, ls...)
	}
	return append(lines, last...), x, y
}

func (m *model) warn(lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, m.th.Warn.Render(l))
	}
	return out
}

// under is what follows the conversation while the agent works: what was sent
// and not read yet, and the plan.
func (m *model) under(w, room int) []string {
	var out []string
	if room < 6 {
		return nil
	}
	for i, p := range m.cur.pending {
		if i == 2 {
			out = append(out, m.th.Dim.Render("   …"))
			break
		}
		word := "sending"
		if p.steer {
			word = "queued: read at the next step"
		}
		left := " › " + text.CleanLine(text.Truncate(p.text, 4*w, ""))
		out = append(out, m.th.Dim.Render(text.Between(text.Truncate(left, max(w-len(word)-3, 8), "…"), word+" ", w)))
	}
	if m.cur.turn != "" && len(m.cur.plan) > 0 {
		plan := transcript.Plan(m.th, m.cur.plan, w-2)
		if len(plan) > maxPlan {
			plan = planWindow(m, w-2)
		}
		for _, l := range plan {
			out = append(out, " "+l)
		}
	}
	if len(out) > 0 {
		out = append([]string{""}, out...)
	}
	return out
}

// planWindow is a long plan around the step being done.
func planWindow(m *model, w int) []string {
	steps := m.cur.plan
	at := 0
	for i, s := range steps {
		if s.Status != "pending" {
			at = i
		}
	}
	plan := transcript.Plan(m.th, steps[max(at-1, 0):min(at+3, len(steps))], w)
	return plan[:min(len(plan), maxPlan)]
}

func (m *model) drawComposer(w, room int) (lines []string, x, y int) {
	if m.asks.closed.text != "" && room > 3 {
		s := m.asks.closed.text + " " + ago(m.now().Sub(m.asks.closed.at)) + " ago"
		lines = append(lines, m.th.Warn.Render("┃")+" "+text.Truncate(s, w-2, "…"))
	}
	if m.h >= rulesAt {
		lines = append(lines, m.rule(w))
	}
	l := composer.Look{
		Theme: m.th, Width: w, Height: max(min(room-len(lines)-1, m.h/3, 12), 1), Prompt: " › ",
		Placeholder: "what should be done?   / commands   @ files   ? help",
	}
	switch {
	case m.engineGone():
		l.Placeholder = "what you write is kept until there is an engine"
	case m.blocked() != "":
		l.Placeholder = "sending is blocked; reading works   / commands   ? help"
	case m.working():
		l.Placeholder = "tell it something while it works   esc stops it"
	}
	if m.role() < 3 {
		l.Placeholder = "you are watching   / commands   ? help"
	}
	rows, x, y := m.comp.Render(l)
	if pop := m.comp.RenderPopup(m.th, w, room-len(lines)-len(rows)-1); len(pop) > 0 {
		lines = append(lines, pop...)
	}
	return append(lines, rows...), x, len(lines) + y
}

func (m *model) drawAsk(q *ask, w, room int) (lines []string, x, y int) {
	if !m.comp.Empty() && room > 8 {
		room--
	}
	if m.h >= rulesAt {
		lines = append(lines, m.rule(w))
		room--
	}
	if c := m.asks.closed; c.text != "" && room > 8 {
		lines = append(lines, m.th.Dim.Render(text.Truncate("┃ "+c.text+" "+ago(m.now().Sub(c.at))+" ago", w, "…")))
		room--
	}
	ls, x, y := q.p.Render(m.askLook(w, room))
	y += len(lines)
	lines = append(lines, ls...)
	if !m.comp.Empty() && room > 7 && m.askQuiet() {
		rows, cx, cy := m.comp.Render(composer.Look{Theme: m.th, Width: w, Height: 1, Prompt: " › "})
		return append(lines, rows...), cx, len(lines) + cy
	}
	if !m.comp.Empty() && room > 7 {
		first, _, _ := strings.Cut(m.comp.Text(), "\n")
		lines = append(lines, m.th.Dim.Render(text.Truncate(" › "+text.CleanLine(text.Truncate(first, w, ""))+"   (kept until you have answered)", w, "…")))
	}
	return lines, x, y
}

func (m *model) noticeLine(w int) string {
	st := m.th.Accent
	if m.notice.bad {
		st = m.th.Warn
	}
	line := " "
	if m.rehearsal() {
		line += m.th.Warn.Render("rehearsal") + m.th.Status.Render(" · ") // the footer says it at all times, and this is in its place
	}
	return text.Truncate(line+st.Render(text.CleanLine(m.notice.text)), w, "…")
}

// beside puts the side column next to the main lines.
func (m *model) beside(main []string, w int) []string {
	side := m.side(sideCols-1, len(main))
	bar := m.th.Border.Render("│")
	out := make([]string, len(main))
	for i, l := range main {
		out[i] = text.Fit(l, w) + bar + " " + side[i]
	}
	return out
}
