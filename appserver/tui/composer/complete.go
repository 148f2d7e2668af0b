package composer

import (
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// The kinds of tokens that complete.
const (
	Command = '/' // the first word of the first line
	File    = '@' // any word
)

// maxRows is how many choices are on the screen at once.
const maxRows = 8

// Choice is one completion.
type Choice struct {
	Label  string // what is shown
	Detail string // what is said about it
	Insert string // what replaces the token
	Run    bool   // enter sends at once: nothing is missing
}

// popup is the list under the cursor.
type popup struct {
	kind    rune
	query   string // what the choices are for
	choices []Choice
	sel     int
	shut    string // the token for which the person closed the list
}

func (p *popup) close() { p.kind, p.choices, p.sel, p.query = 0, nil, 0, "" }

// Token is the token under the cursor that could be completed, without its
// sigil. kind is 0 when there is none.
func (c *Composer) Token() (kind rune, query string) {
	before, first := c.buf.Before()
	word := before
	if i := strings.LastIndexAny(before, " \t"); i >= 0 {
		word = before[i+1:]
	}
	switch {
	case first && word == before && strings.HasPrefix(word, "/"):
		return Command, word[1:]
	case strings.HasPrefix(word, "@"):
		return File, word[1:]
	}
	return 0, ""
}

// Offer shows choices for a token. They are dropped when the token has changed
// meanwhile, and so is an empty list.
func (c *Composer) Offer(kind rune, query string, choices []Choice) {
	k, q := c.Token()
	if k != kind || q != query {
		if k == 0 {
			c.popup.close()
		}
		return
	}
	if c.popup.shut == string(kind)+query {
		return
	}
	c.popup.shut = ""
	if len(choices) == 0 {
		c.popup.close()
		return
	}
	sel := 0
	if c.popup.kind == kind && c.popup.query == query {
		sel = min(c.popup.sel, len(choices)-1)
	}
	c.popup.kind, c.popup.query, c.popup.choices, c.popup.sel = kind, query, choices, sel
}

// Dismiss closes the list, if one is open.
func (c *Composer) Dismiss() { c.popup.close() }

// Completing reports whether a list is open.
func (c *Composer) Completing() bool { return len(c.popup.choices) > 0 }

func (c *Composer) popupKey(k tea.KeyPressMsg) Action {
	p := &c.popup
	if len(p.choices) == 0 {
		return Ignored
	}
	switch k.String() {
	case "up", "ctrl+p":
		p.sel = (p.sel + len(p.choices) - 1) % len(p.choices)
	case "down", "ctrl+n":
		p.sel = (p.sel + 1) % len(p.choices)
	case "esc":
		p.shut = string(p.kind) + p.query
		p.close()
	case "tab":
		c.accept()
	case "enter":
		if c.accept() {
			return Send
		}
	default:
		return Ignored
	}
	return Handled
}

// accept replaces the token by the chosen completion and reports whether that
// completes the whole input.
func (c *Composer) accept() bool {
	ch, kind, q := c.popup.choices[c.popup.sel], c.popup.kind, c.popup.query
	if k, now := c.Token(); k != kind || now != q {
		c.popup.close()
		return false
	}
	c.buf.ReplaceBefore(edit.Count(q)+1, ch.Insert)
	c.popup.close()
	return ch.Run
}

// RenderPopup draws the list, or nothing.
func (c *Composer) RenderPopup(th *theme.Theme, width, height int) []string {
	p := &c.popup
	n := min(len(p.choices), maxRows, height)
	if n <= 0 {
		return nil
	}
	label := 0
	for _, ch := range p.choices {
		label = max(label, text.Width(ch.Label))
	}
	label = min(label, max(width/2, 12))
	first := min(max(p.sel-n/2, 0), len(p.choices)-n)
	var out []string
	for i, ch := range p.choices[first : first+n] {
		mark, line := "   ", text.Fit(ch.Label, label)+"  "
		rest := max(width-text.Width(line)-4, 0)
		if first+i == p.sel {
			mark = " › "
			out = append(out, th.Selection.Render(text.Fit(mark+line+text.Truncate(ch.Detail, rest, "…"), max(width-1, 1))))
			continue
		}
		out = append(out, text.Truncate(mark+line+th.Dim.Render(text.Truncate(ch.Detail, rest, "…")), width, ""))
	}
	return out
}
