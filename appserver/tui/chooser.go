package tui

import (
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/text"
)

// chooser is a short list to pick one thing from.
type chooser struct {
	title string
	items []choice
	sel   int
}

type choice struct {
	label, about string
	now          bool // the one in force
	pick         func(m *model) tea.Cmd
}

func (c *chooser) add(label, about string, now bool, pick func(m *model) tea.Cmd) {
	if now {
		c.sel = len(c.items)
	}
	c.items = append(c.items, choice{text.CleanLine(label), text.CleanLine(about), now, pick})
}

func (c *chooser) key(m *model, k tea.KeyPressMsg) tea.Cmd {
	s := k.String()
	n := len(c.items)
	switch {
	case s == "esc" || s == "q":
		m.screen = nil
	case n == 0:
	case s == "up" || s == "k":
		c.sel = (c.sel + n - 1) % n
	case s == "down" || s == "j":
		c.sel = (c.sel + 1) % n
	case s == "enter":
		m.screen = nil
		return c.items[c.sel].pick(m)
	case len(s) == 1 && s[0] >= '1' && s[0] <= '9' && int(s[0]-'1') < n:
		m.screen = nil
		return c.items[s[0]-'1'].pick(m)
	}
	return nil
}

func (c *chooser) paste(*model, string) {}

func (c *chooser) wheel(_ *model, n int) {
	c.sel = max(0, min(c.sel+n/3, len(c.items)-1))
}

func (c *chooser) render(m *model, w, h int) (lines []string, x, y int) {
	lines = append(lines, m.th.Header.Render(text.Truncate(" "+c.title, w, "…")), m.th.Border.Render(strings.Repeat("─", w)))
	label := 0
	for _, i := range c.items {
		label = max(label, text.Width(i.label))
	}
	label = min(label, max(w/2, 8))
	room := max(h-3, 1)
	first := max(0, min(c.sel-room/2, len(c.items)-room))
	for n, i := range c.items[first:min(first+room, len(c.items))] {
		mark := "  "
		if i.now {
			mark = "● "
		}
		line := mark + text.Fit(i.label, label) + "  "
		if first+n == c.sel {
			lines = append(lines, m.th.Selection.Render(text.Fit("›"+line+i.about, w)))
			continue
		}
		lines = append(lines, text.Truncate(" "+line+m.th.Dim.Render(i.about), w, "…"))
	}
	for len(lines) < h-1 {
		lines = append(lines, "")
	}
	return append(lines, m.th.Dim.Render(text.Truncate(" ↑↓ enter choose   esc back   ● is in force", w, "…"))), -1, 0
}
