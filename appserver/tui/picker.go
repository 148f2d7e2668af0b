package tui

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
)

// picker is the list of threads on a screen of its own.
type picker struct {
	sel    protocol.ThreadID // stays on its thread when the order changes
	find   edit.Buffer
	typing bool   // keys go to the search
	rows   int    // on the screen
	folder string // only threads of it; "" for all
}

func (m *model) openPicker() tea.Cmd {
	m.screen = &picker{sel: m.cur.id}
	return m.list.refresh(m)
}

// shown is the rows that fit the search.
func (p *picker) shown(m *model) []*row {
	q := strings.TrimSpace(p.find.Text())
	var out []*row
	for _, r := range m.list.rows {
		if r.matches(q) && (p.folder == "" || r.Cwd == p.folder) {
			out = append(out, r)
		}
	}
	return out
}

func (p *picker) at(rows []*row) int {
	return max(slices.IndexFunc(rows, func(r *row) bool { return r.ID == p.sel }), 0)
}

func (p *picker) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	rows := p.shown(m)
	at := p.at(rows)
	move := func(n int) tea.Cmd {
		if len(rows) == 0 {
			return nil
		}
		at = max(0, min(at+n, len(rows)-1))
		p.sel = rows[at].ID
		if at >= len(rows)-3 {
			return m.list.more(m)
		}
		return nil
	}
	switch s := k.String(); s {
	case "up", "ctrl+p":
		return move(-1)
	case "down", "ctrl+n":
		return move(1)
	case "pgup":
		return move(-max(p.rows-1, 1))
	case "pgdown":
		return move(max(p.rows-1, 1))
	case "enter":
		if len(rows) == 0 {
			return nil
		}
		return p.open(m, rows[at])
	case "esc", "ctrl+t":
		switch {
		case p.typing || !p.find.Empty():
			p.typing = false
			p.find.Reset()
		case m.cur.id != "":
			m.screen = nil
			if m.list.archived {
				m.list.archived = false
				return m.list.refresh(m)
			}
		default:
			m.say("choose a thread, or n for a new one; ctrl+d leaves")
		}
	case "ctrl+d":
		return m.detach()
	default:
		if p.typing {
			p.find.Key(k)
			return nil
		}
		return p.letter(m, s, rows, at)
	}
	return nil
}

// letter is a key that is not typed into the search.
func (p *picker) letter(m *model, s string, rows []*row, at int) tea.Cmd {
	switch s {
	case "/":
		p.typing = true
	case "j":
		return p.key(m, tea.KeyPressMsg{Code: tea.KeyDown})
	case "k":
		return p.key(m, tea.KeyPressMsg{Code: tea.KeyUp})
	case "n":
		if m.may(protocol.RoleOperator, "starting a thread") {
			m.screen = nil
			return m.newThread(nil)
		}
	case "a":
		m.list.archived = !m.list.archived
		m.list.rows, m.list.byID, m.list.loaded = nil, map[protocol.ThreadID]*row{}, false
		m.list.busy = false
		return m.list.refresh(m)
	case "f":
		if p.folder == "" {
			p.folder = m.project.dir
		} else {
			p.folder = ""
		}
	case "r":
		return m.list.refresh(m)
	case "q":
		if m.cur.id != "" {
			m.screen = nil
		} else {
			return m.detach()
		}
	case "?":
		m.screen = &pager{title: "help", lines: helpLines, under: p}
	}
	return nil
}

func (p *picker) open(m *model, r *row) tea.Cmd {
	if r.ID == m.cur.id && !m.list.archived {
		m.screen = nil
		return nil
	}
	if !m.list.archived {
		return m.open(openRequest{id: r.ID})
	}
	if !m.may(protocol.RoleOperator, "taking a thread out of the archive") {
		return nil
	}
	return call(m.link, "thread/unarchive", map[string]any{"threadId": r.ID}, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail("take it out of the archive", err)
			return nil
		}
		m.list.archived = false
		return tea.Batch(m.list.refresh(m), m.open(openRequest{id: r.ID}))
	})
}

func (p *picker) paste(_ *model, s string) {
	if p.typing {
		p.find.Insert(s)
	}
}

func (p *picker) wheel(m *model, n int) {
	rows := p.shown(m)
	if len(rows) > 0 {
		p.sel = rows[max(0, min(p.at(rows)+n/3, len(rows)-1))].ID
	}
}

func (p *picker) render(m *model, w, h int) (lines []string, x, y int) {
	th := m.th
	x = -1
	what := "threads"
	if m.list.archived {
		what = "archived threads"
	}
	if p.folder != "" {
		what += " in " + m.project.short(p.folder)
	}
	head := th.Header.Render(" " + m.host() + " · " + what)
	keys := th.Dim.Render("/ search   n new   a archived   esc back ")
	if m.cur.id == "" {
		keys = th.Dim.Render("/ search   n new   a archived   ctrl+d leave ")
	}
	if p.folder != "" {
		keys = th.Dim.Render("n new here   f all folders   ctrl+d leave ")
	}
	lines = append(lines, text.Between(head, keys, w))
	if p.typing || !p.find.Empty() {
		rows, cx, _ := p.find.Layout(max(w-4, 4))
		lines = append(lines, th.User.Render(" / ")+rows[0])
		if p.typing {
			x, y = 3+cx, 1
		}
	} else {
		lines = append(lines, th.Border.Render(strings.Repeat("─", w)))
	}
	rows := p.shown(m)
	p.rows = max(h-len(lines)-1, 1)
	at := p.at(rows)
	first := max(0, min(at-p.rows/2, len(rows)-p.rows))
	for i, r := range rows[min(first, len(rows)):min(first+p.rows, len(rows))] {
		lines = append(lines, m.rowLine(r, w, first+i == at))
	}
	switch {
	case len(rows) > 0:
	case !m.list.loaded:
		lines = append(lines, th.Dim.Render(" reading the list"))
	case !p.find.Empty():
		lines = append(lines, th.Dim.Render(" nothing fits"))
	default:
		lines = append(lines, th.Dim.Render(" no threads yet: n begins one"))
	}
	for len(lines) < h-1 {
		lines = append(lines, "")
	}
	return append(lines[:max(h-1, 1)], p.foot(m, w)), x, y
}

// foot counts the threads by folder.
func (p *picker) foot(m *model, w int) string {
	if m.notice.text != "" {
		return m.noticeLine(w)
	}
	by := map[string]int{}
	var dirs []string
	for _, r := range m.list.rows {
		if by[r.Cwd] == 0 {
			dirs = append(dirs, r.Cwd)
		}
		by[r.Cwd]++
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return by[b] - by[a] })
	var s []string
	for _, d := range dirs[:min(len(dirs), 4)] {
		s = append(s, fmt.Sprintf("%s %d", text.CleanLine(tilde(d)), by[d]))
	}
	if m.list.cursor != nil {
		s = append(s, "and older ones")
	}
	return m.th.Dim.Render(text.Truncate("  "+strings.Join(s, " · "), w, "…"))
}

// rowLine is one thread: what, how it is, since when.
func (m *model) rowLine(r *row, w int, selected bool) string {
	glyph, words, bad := m.rowState(r)
	age := m.rowAge(r)
	title := max((w-6)*2/5, 8)
	if w < 50 {
		title = max(w-4-len(age)-2, 4)
	}
	mark := " "
	if selected {
		mark = "›"
	}
	left := mark + glyph + " " + text.Fit(r.title(), title) + " "
	room := max(w-text.Width(left)-text.Width(age)-2, 0)
	if w < 50 {
		room = 0
	}
	if selected {
		return m.th.Selection.Render(text.Between(left+text.Truncate(words, room, "…"), age+" ", w))
	}
	g := m.th.Accent
	switch {
	case bad:
		g = m.th.Warn
	case glyph == "✔":
		g = m.th.Ok
	case glyph == "○" || glyph == "■":
		g = m.th.Dim
	}
	st := m.th.Dim
	if r.waits() {
		st = m.th.Warn
	}
	line := mark + g.Render(glyph) + " " + text.Fit(r.title(), title) + " " + st.Render(text.Truncate(words, room, "…"))
	return text.Between(line, m.th.Dim.Render(age)+" ", w)
}
