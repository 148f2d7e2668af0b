package tui

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// title is what to call the thread.
func (m *model) title() string {
	if s := text.CleanLine(m.cur.name); s != "" {
		return s
	}
	if r := m.list.row(m.cur.id); r != nil && (r.Preview != "" || str(r.Name) != "") {
		return r.title()
	}
	return text.CleanLine(m.cur.preview)
}

// state is how the thread stands, in words, styled.
func (m *model) state() string {
	th := m.th
	switch {
	case m.engineGone():
		return th.Warn.Render("▲ no engine")
	case !m.live() && m.conn.met:
		return th.Warn.Render("⟳ unreachable")
	case m.conn.state != connUp:
		return th.Dim.Render("○ connecting")
	case m.busyOpening():
		return th.Dim.Render("○ opening")
	case m.asking() != nil || m.cur.status.Type == protocol.StatusActive && len(m.cur.status.ActiveFlags) > 0:
		return th.Warn.Render("▲ waiting for you")
	case m.cur.turn != "":
		return th.Accent.Render("● working " + transcript.Clock(m.now().Sub(m.cur.since)))
	case m.working():
		return th.Accent.Render("● working")
	}
	took := ""
	if m.cur.took >= time.Second {
		took = " " + transcript.Elapsed(m.cur.took)
	}
	switch m.cur.last {
	case protocol.TurnCompleted:
		return th.Ok.Render("✔ done" + took)
	case protocol.TurnFailed:
		return th.Warn.Render("✘ failed" + took)
	case protocol.TurnInterrupted:
		return th.Warn.Render("■ interrupted")
	}
	return th.Dim.Render("○ new")
}

// header: host, project, thread, state.
func (m *model) header(w int) string {
	state := m.state() + " "
	if m.rehearsal() && m.h < footerAt { // where the footer would say it
		state = m.th.Warn.Render("rehearsal ") + state
	}
	left := " " + m.th.Bold.Render(m.host())
	if w >= 50 {
		dir := m.cur.cwd
		if dir == "" {
			dir = m.cfg.Project
			if m.session != nil && m.session.Project != "" {
				dir = m.session.Project
			}
		}
		left += "  " + m.th.Dim.Render(leaf(text.CleanLine(tilde(dir)), max(w*3/8-text.Width(left), 8)))
	}
	room := w - text.Width(left) - text.Width(state) - 4
	switch {
	case w < 30:
		return text.Truncate(" "+state, w, "…")
	case room < 6:
		return text.Between(left, state, w)
	}
	t := text.Truncate(m.title(), room, "…")
	// In the middle of the line while there is room, else of what is left.
	pad := max((w-text.Width(t))/2-text.Width(left), 2)
	pad = min(pad, w-text.Width(left)-text.Width(t)-text.Width(state)-1)
	return text.Between(left+strings.Repeat(" ", max(pad, 2))+t, state, w)
}

// footer: what answers and what it may do, tokens, who is here.
func (m *model) footer(w int) string {
	th := m.th
	var left []string
	if s := text.CleanLine(m.cur.model); s != "" {
		if m.cur.effort != "" && w >= 100 {
			s += " " + text.CleanLine(m.cur.effort)
		}
		left = append(left, s)
	}
	if s := sandboxName(m.cur.sandbox); s != "" {
		if m.cur.sandbox.Type == protocol.PolicyFullAccess {
			s = "▲ " + s
		}
		left = append(left, s)
	}
	if s := text.CleanLine(m.cur.approval); s != "" {
		left = append(left, s)
	}
	mark := ""
	if m.rehearsal() {
		mark = th.Warn.Render("rehearsal") + th.Status.Render(" · ")
	}
	l := strings.Join(left, " · ")
	free := w - 2 - text.Width(mark)
	r := ""
	tokens, people, way := m.tokens(), m.people(), m.transport()
	short, _, _ := strings.Cut(tokens, " (")
	few := ""
	if n := m.others(); n > 0 {
		few = fmt.Sprintf("you + %d", n)
	}
	for _, facts := range [][]string{
		{tokens, way, people, "? help"},
		{short, way, people, "? help"},
		{way, people, "? help"},
		{people, "? help"},
		{way, few, "? help"},
		{few, "? help"},
		{"? help"},
	} {
		facts = slices.DeleteFunc(facts, func(s string) bool { return s == "" })
		if r = strings.Join(facts, "   "); text.Width(l)+text.Width(r)+2 <= free {
			break
		}
	}
	if text.Width(r)+12 > free {
		r = ""
	}
	l = text.Truncate(l, max(free-text.Width(r)-1, 0), "…")
	return " " + mark + text.Between(th.Status.Render(l), th.Status.Render(r), max(free, 1))
}

// tokens says how many, and how full the model's window is.
func (m *model) tokens() string {
	u := m.cur.usage
	if u == nil || u.Total.TotalTokens == 0 {
		return ""
	}
	s := count(u.Total.TotalTokens) + " tokens"
	if pct := window(u); pct != "" {
		s += " (" + pct + ")"
	}
	return s
}

// window is how much of the context window the last response used.
func window(u *protocol.ThreadTokenUsage) string {
	if u.ModelContextWindow == nil || *u.ModelContextWindow <= 0 {
		return ""
	}
	pct := min(u.Last.TotalTokens*100 / *u.ModelContextWindow, 100)
	if pct == 0 {
		return ""
	}
	return fmt.Sprintf("%d%% of window", pct)
}

// others counts the other screens on this thread.
func (m *model) others() (n int) {
	for _, p := range m.presence {
		if !p.You && p.Thread != nil && *p.Thread == m.cur.id {
			n++
		}
	}
	return n
}

// people is who looks at this thread; several screens of one person are one.
func (m *model) people() string {
	if m.session == nil {
		return ""
	}
	mine, others := 0, map[string]bool{}
	var names []string
	for _, p := range m.presence {
		switch {
		case p.You:
		case p.Thread == nil || *p.Thread != m.cur.id:
		case p.Kind == m.session.Principal.Kind && p.Name == m.session.Principal.Name:
			mine++
		case !others[who(p)]:
			others[who(p)] = true
			names = append(names, who(p))
		}
	}
	s := "you"
	if m.role() < protocol.RoleOperator {
		s = "you (" + m.role().String() + ")"
	}
	if mine > 0 {
		s += fmt.Sprintf(" ×%d", mine+1)
	}
	for i, n := range names {
		if i == 2 && len(names) > 3 {
			return s + fmt.Sprintf(" + %d more", len(names)-2)
		}
		s += " + " + text.Truncate(n, 24, "…")
	}
	return s
}

// side is the column of wide terminals: the host's threads, what waits first.
func (m *model) side(w, h int) []string {
	th := m.th
	var out []string
	head := "threads"
	waits := 0
	for _, r := range m.list.rows {
		if r.waits() {
			waits++
		}
	}
	if waits > 0 {
		head = fmt.Sprintf("threads · %d waiting", waits)
	}
	out = append(out, text.Between(th.Header.Render(head), th.Dim.Render("ctrl+t"), w))
	for _, r := range m.list.rows {
		if len(out)+1 >= h-1 {
			break
		}
		glyph, words, bad := m.rowState(r)
		g := th.Dim
		switch {
		case bad:
			g = th.Warn
		case glyph == "●":
			g = th.Accent
		case glyph == "✔":
			g = th.Ok
		}
		name := text.Truncate(r.title(), w-12, "…")
		if r.ID == m.cur.id {
			name = th.Bold.Render(name)
		}
		out = append(out, text.Between(g.Render(glyph)+" "+name, th.Dim.Render(m.rowAge(r)), w))
		if r.waits() || glyph == "✘" {
			out = append(out, "  "+th.Dim.Render(text.Truncate(words, w-2, "…")))
		}
	}
	return fill(out, h)
}

var homeDir = regexp.MustCompile(`^(/home/[^/]+|/Users/[^/]+|/root)(/|$)`)

// tilde shortens what looks like a home directory. It is for reading only.
func tilde(p string) string {
	return homeDir.ReplaceAllString(p, "~$2")
}

// leaf cuts a path to n cells from its beginning: the end is what tells.
func leaf(p string, n int) string {
	over := text.Width(p) - n
	if over <= 0 {
		return p
	}
	return ansi.TruncateLeft(p, over+1, "…")
}

// ago says how long something is past: 4 s, 2 min, 3 h, 5 d.
func ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// count writes a number of tokens: 850, 12.4k, 1.2M.
func count(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1fk", float64(n)/1000)
	}
	return fmt.Sprintf("%.1fM", float64(n)/1_000_000)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
