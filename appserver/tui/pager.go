package tui

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// pager shows something long on a screen of its own.
type pager struct {
	title string
	// lines draws the content for a width; it is called again when that changes.
	lines func(m *model, width int) []string
	block string // the item shown, for stepping to its neighbours
	under screen // what it covers, besides the conversation

	drawn []string
	width int
	th    *theme.Theme
	top   int
	room  int
}

// openPager shows everything an item holds.
func (m *model) openPager(id string) {
	if id == "" {
		m.say("nothing here is folded")
		return
	}
	title, _ := m.tr.Full(id, m.w)
	m.screen = &pager{title: title, block: id, lines: func(m *model, w int) []string {
		_, ls := m.tr.Full(id, w)
		return ls
	}}
}

func (p *pager) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "esc", "q", "ctrl+o", "?", "f1":
		m.screen = p.under
	case "up", "k":
		p.top--
	case "down", "j", "enter":
		p.top++
	case "pgup", "b", "ctrl+b":
		p.top -= max(p.room-1, 1)
	case "pgdown", "space", "f", "ctrl+f":
		p.top += max(p.room-1, 1)
	case "ctrl+u":
		p.top -= p.room / 2
	case "home", "g":
		p.top = 0
	case "end", "G", "shift+g":
		p.top = len(p.drawn)
	case "left", "[":
		p.step(m, -1)
	case "right", "]":
		p.step(m, 1)
	case "ctrl+d":
		p.top += p.room / 2
	}
	return nil
}

// step goes to the next or the previous item that has more to show.
func (p *pager) step(m *model, d int) {
	if p.block != "" {
		m.openPager(m.tr.Neighbour(p.block, d))
	}
}

func (p *pager) paste(*model, string)  {}
func (p *pager) wheel(_ *model, n int) { p.top += n }
func (p *pager) clamp()                { p.top = max(0, min(p.top, len(p.drawn)-p.room)) }
func (p *pager) render(m *model, w, h int) (lines []string, x, y int) {
	if p.drawn == nil || p.width != w || p.th != m.th {
		p.drawn, p.width, p.th = p.lines(m, max(w-2, 8)), w, m.th
	}
	p.room = max(h-2, 1)
	p.clamp()
	where := "all"
	if n := len(p.drawn); n > p.room {
		where = fmt.Sprintf("%d–%d of %d", p.top+1, min(p.top+p.room, n), n)
	}
	lines = append(lines, text.Between(m.th.Header.Render(" "+text.CleanLine(p.title)), m.th.Dim.Render(where+" "), w))
	for _, l := range p.drawn[p.top:min(p.top+p.room, len(p.drawn))] {
		lines = append(lines, text.Truncate(" "+l, w, "…"))
	}
	for len(lines) < h-1 {
		lines = append(lines, "")
	}
	keys := " ↑↓ pgup pgdn scroll   esc back"
	if p.block != "" {
		keys += "   ← → other items"
	}
	if h > 1 {
		lines = append(lines, m.th.Dim.Render(text.Truncate(keys, w, "…")))
	}
	return lines, -1, 0
}

// helpLines is the help screen.
func helpLines(m *model, w int) []string {
	th := m.th
	var out []string
	head := func(s string) {
		if len(out) > 0 {
			out = append(out, "")
		}
		out = append(out, th.Header.Render(s))
	}
	row := func(k, s string) {
		const col = 30
		if w < 50 {
			out = append(out, th.Bold.Render(text.Truncate(k, w, "…")), text.Truncate("  "+s, w, "…"))
			return
		}
		for i, l := range text.Wrap(s, max(w-col-1, 8)) {
			if i > 0 {
				k = ""
			}
			out = append(out, th.Bold.Render(text.Fit(k, col))+" "+l)
		}
	}
	head("Writing")
	row("enter", "send; while the agent works, tell it something")
	row("shift+enter, alt+enter, ctrl+j", "a new line")
	row("up, down", "what you sent before")
	row("@", "files of the project")
	row("/", "commands")
	row("!command", "run it on the host yourself, outside the sandbox")
	head("Working")
	row("esc", "stop the turn")
	row("ctrl+c", "clear what is written; else stop the turn; twice: leave")
	row("ctrl+r, /continue", "go on with an interrupted turn")
	row("ctrl+d, /detach", "leave; the thread goes on without you")
	row("ctrl+t", "all threads: which work, which wait for you")
	head("Reading")
	row("pgup, pgdn, wheel", "scroll")
	row("home, end", "the beginning, the end (with an empty composer)")
	row("ctrl+o, click", "the whole of what is folded; ← → to its neighbours")
	row("shift + mouse", "select text, as your terminal does it")
	head("When the host is away")
	row("r, d", "try again now; leave (with an empty composer)")
	row("ctrl+r, ctrl+d", "the same while something is written")
	head("When something waits for you")
	row("", "letters answer once the question has been there for a moment; what you were typing goes on into the composer")
	row("y", "approve")
	row("a", "approve, and don't ask again this session")
	row("p", "approve, and always allow commands that begin like this, when offered")
	row("d, r", "deny; deny with a reason the agent reads")
	row("esc", "stop the turn")
	head("Commands")
	for _, c := range slashCommands {
		row(strings.TrimSpace("/"+c.name+" "+c.args), c.about)
	}
	return out
}
