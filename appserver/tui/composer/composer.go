// Package composer is where a person writes: many lines, a history of what was
// sent, pasted text folded to a stand-in, and completion of /commands and
// @files. It knows nothing of threads or servers: its owner asks it for the
// token being completed, offers choices, and takes the text when it is sent.
package composer

import (
	"fmt"
	"strings"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// A paste beyond either of these becomes a stand-in.
const (
	foldLines = 8
	foldRunes = 1200
	// maxHistory is how many sent texts are kept; they live as long as the
	// program and are written nowhere.
	maxHistory = 200
)

// Action is what a key meant.
type Action int

// The actions. Ignored keys are for the owner to use.
const (
	Ignored Action = iota
	Handled
	Send // the person pressed enter; Take has the text
	Full // what was typed or pasted does not fit
)

// Composer is the input area. New makes one.
type Composer struct {
	buf     edit.Buffer
	history []edit.Buffer
	at      int          // index into history while browsing, len(history) otherwise
	draft   *edit.Buffer // what was being written when browsing began
	width   int          // of the text, from the last Render
	popup   popup
}

// New makes an empty composer.
func New() *Composer { return &Composer{width: 80} }

// Empty reports whether nothing is written.
func (c *Composer) Empty() bool { return c.buf.Empty() }

// Text is what is written, pasted text in full.
func (c *Composer) Text() string { return c.buf.Text() }

// Set replaces what is written.
func (c *Composer) Set(s string) {
	c.buf.Set(s)
	c.popup.close()
}

// Restore puts back a text that could not be sent: as it is when nothing was
// written meanwhile, above what was otherwise.
func (c *Composer) Restore(s string) {
	if !c.buf.Empty() {
		s += "\n" + c.buf.Text()
	}
	c.Set(s)
}

// Take is what is written, which is remembered and cleared.
func (c *Composer) Take() string {
	s := c.buf.Text()
	c.remember()
	c.Clear()
	return s
}

// Clear empties the composer; what was written can be had back with up.
func (c *Composer) Clear() {
	c.remember()
	c.buf.Reset()
	c.popup.close()
	c.at, c.draft = len(c.history), nil
}

func (c *Composer) remember() {
	if strings.TrimSpace(c.buf.Text()) == "" {
		return
	}
	if n := len(c.history); n > 0 && c.history[n-1].Text() == c.buf.Text() {
		return
	}
	c.history = append(c.history, c.buf.Clone())
	if len(c.history) > maxHistory {
		c.history = c.history[1:]
	}
}

// Paste inserts pasted text, folded when it is long.
func (c *Composer) Paste(s string) Action {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	c.popup.close()
	var ok bool
	lines := strings.Count(strings.TrimRight(s, "\n"), "\n") + 1
	switch runes := utf8.RuneCountInString(s); {
	case lines > foldLines:
		ok = c.buf.InsertAtom(fmt.Sprintf("[pasted %d lines]", lines), text.CleanTabs(s, 4))
	case runes > foldRunes:
		ok = c.buf.InsertAtom(fmt.Sprintf("[pasted %d characters]", runes), text.CleanTabs(s, 4))
	default:
		ok = c.buf.Insert(s)
	}
	if !ok {
		return Full
	}
	return Handled
}

// Key applies a key.
func (c *Composer) Key(k tea.KeyPressMsg) Action {
	if a := c.popupKey(k); a != Ignored {
		return a
	}
	switch k.String() {
	case "enter", "kpenter":
		return Send
	case "shift+enter", "alt+enter", "ctrl+j", "ctrl+enter":
		if !c.buf.Insert("\n") {
			return Full
		}
		return Handled
	case "up", "ctrl+p":
		if c.buf.Vertical(-1, c.width) {
			return Handled
		}
		return c.browse(-1)
	case "down", "ctrl+n":
		if c.buf.Vertical(1, c.width) {
			return Handled
		}
		return c.browse(1)
	case "home", "end":
		if c.buf.Empty() {
			return Ignored // the owner scrolls
		}
	}
	if !c.buf.Key(k) {
		return Ignored
	}
	return Handled
}

// browse moves through the history. What was being written is one step past
// its newest entry.
func (c *Composer) browse(d int) Action {
	to := c.at + d
	if to < 0 || to > len(c.history) {
		return Ignored
	}
	if c.at == len(c.history) {
		b := c.buf.Clone()
		c.draft = &b
	}
	c.at = to
	if to == len(c.history) {
		if c.draft != nil {
			c.buf = c.draft.Clone()
		}
		c.draft = nil
	} else {
		c.buf = c.history[to].Clone()
	}
	c.popup.close()
	return Handled
}

// Look says how to draw a composer.
type Look struct {
	Theme       *theme.Theme
	Width       int
	Height      int    // at most so many lines, popup not counted
	Prompt      string // before the first line, such as " › "
	Placeholder string // shown while nothing is written
}

// Render draws the composer and says where the cursor is, from the first line.
func (c *Composer) Render(l Look) (lines []string, x, y int) {
	indent := text.Width(l.Prompt)
	c.width = max(l.Width-indent, 4)
	rows, x, y := c.buf.Layout(c.width)
	first := 0
	if h := max(l.Height, 1); len(rows) > h {
		first = min(max(y-h/2, 0), len(rows)-h)
		rows = rows[first : first+h]
	}
	pad := strings.Repeat(" ", indent)
	for i, r := range rows {
		lead := pad
		if i == 0 {
			lead = l.Theme.User.Render(l.Prompt)
		}
		lines = append(lines, lead+r)
	}
	if c.buf.Empty() {
		lines[0] += l.Theme.Dim.Render(text.Truncate(l.Placeholder, c.width-1, "…"))
	}
	return lines, indent + x, y - first
}
