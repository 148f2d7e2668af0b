package prompt

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// fieldKind is how a field is filled in.
type fieldKind uint8

const (
	fieldText fieldKind = iota
	fieldNumber
	fieldInteger
	fieldChoice // one of options, or free text when other is set
	fieldMulti  // any of options
)

type option struct{ value, label, detail string }

// field is one thing to fill in. Its texts are cleaned.
type field struct {
	id, label, help string
	kind            fieldKind
	options         []option
	other           bool // free text next to the options
	boolean         bool // the options are "true" and "false"
	secret          bool // what is typed is not shown
	required        bool
	check           func(f *field) string // what is wrong, "" when nothing

	buf    edit.Buffer
	cursor int // highlighted option; len(options) is the free text
	picked int // chosen option of fieldChoice, -1 when none
	on     []bool
	err    string
}

// form asks one field after the other.
type form struct {
	fields []*field
	at     int
	submit func(fields []*field) Answer
	refuse func() Answer // ctrl+r; nil when there is no such answer
	cancel Answer        // esc
	keys   string        // what esc and ctrl+r mean
}

func (f *form) cur() *field { return f.fields[f.at] }

// free reports whether the field takes text right now.
func (f *field) free() bool {
	switch f.kind {
	case fieldChoice:
		return f.other && f.cursor == len(f.options)
	case fieldMulti:
		return false
	}
	return true
}

func (f *form) typing() bool { return f.cur().free() }

func (f *form) paste(s string) {
	if c := f.cur(); c.free() {
		c.buf.Insert(s)
	}
}

func (f *form) key(k tea.KeyPressMsg) (a Answer, done, handled bool) {
	c := f.cur()
	switch k.String() {
	case "esc", "ctrl+c":
		return f.cancel, true, true
	case "ctrl+r":
		if f.refuse != nil {
			return f.refuse(), true, true
		}
	case "enter":
		return f.enter()
	case "tab":
		f.at = min(f.at+1, len(f.fields)-1)
	case "shift+tab":
		f.at = max(f.at-1, 0)
	case "up":
		c.move(-1)
	case "down":
		c.move(1)
	default:
		if c.free() {
			return a, false, c.buf.Key(k)
		}
		return a, false, c.optionKey(k)
	}
	return a, false, true
}

func (f *field) move(d int) {
	n := len(f.options)
	if f.kind == fieldChoice && f.other {
		n++
	}
	if n > 0 {
		f.cursor = (f.cursor + d + n) % n
	}
}

// optionKey picks by number and toggles with space.
func (f *field) optionKey(k tea.KeyPressMsg) bool {
	s := k.String()
	if len(s) == 1 && s[0] >= '1' && s[0] <= '9' && int(s[0]-'1') < len(f.options) {
		f.cursor = int(s[0] - '1')
		if f.kind == fieldMulti {
			f.on[f.cursor] = !f.on[f.cursor]
		}
		return true
	}
	if s == "space" && f.kind == fieldMulti && f.cursor < len(f.on) {
		f.on[f.cursor] = !f.on[f.cursor]
		return true
	}
	return false
}

// enter settles the field and goes on; after the last one it submits, or goes
// to the first field that is not right.
func (f *form) enter() (a Answer, done, handled bool) {
	c := f.cur()
	if c.kind == fieldChoice {
		c.picked = -1
		if c.cursor < len(c.options) {
			c.picked = c.cursor
		}
	}
	if c.err = c.wrong(); c.err != "" {
		return a, false, true
	}
	if f.at < len(f.fields)-1 {
		f.at++
		return a, false, true
	}
	for i, fd := range f.fields {
		if fd.err = fd.wrong(); fd.err != "" {
			f.at = i
			return a, false, true
		}
	}
	return f.submit(f.fields), true, true
}

// value is the text typed or the value chosen, "" when neither.
func (f *field) value() string {
	if f.kind == fieldChoice && f.picked >= 0 {
		return f.options[f.picked].value
	}
	if f.kind == fieldChoice && !f.other {
		return ""
	}
	return strings.TrimSpace(f.buf.Text())
}

func (f *field) values() []string {
	out := []string{}
	for i, on := range f.on {
		if on {
			out = append(out, f.options[i].value)
		}
	}
	return out
}

func (f *field) wrong() string {
	if f.kind != fieldMulti && f.value() == "" {
		if f.required {
			return "an answer is needed here"
		}
		return ""
	}
	if f.check != nil {
		return f.check(f)
	}
	return ""
}

// render draws the current field in at most h lines.
func (f *form) render(th *theme.Theme, w, h int) (lines []string, x, y int) {
	c := f.cur()
	x = -1
	head := th.Bold.Render(c.label)
	if c.required {
		head += th.Dim.Render(" (needed)")
	}
	if len(f.fields) > 1 {
		head = text.Between(head, th.Dim.Render(fmt.Sprintf("%d of %d", f.at+1, len(f.fields))), w)
	}
	lines = append(lines, head)
	for _, l := range text.Wrap(c.help, w) {
		if l != "" {
			lines = append(lines, l)
		}
	}
	var tail []string
	if c.err != "" {
		tail = append(tail, th.Warn.Render(text.Truncate("✘ "+c.err, w, "…")))
	}
	tail = append(tail, text.WrapStyled(th.Dim.Render(f.hint(c)), w)...)
	room := max(h-len(lines)-len(tail), 1)
	opts, mark := c.optionLines(th, w)
	if len(opts) > room { // keep the highlighted option in view
		first := max(0, min(mark-room/2, len(opts)-room))
		opts, mark = opts[first:first+room], mark-first
	}
	if c.free() {
		rows, cx, cy := c.shown().Layout(max(w-4, 4))
		if c.kind != fieldChoice {
			opts = nil
			for range rows {
				opts = append(opts, "")
			}
			mark = 0
		} else {
			opts = append(opts[:mark:mark], rows...)
		}
		for i, r := range rows {
			lead := "   "
			if i == 0 {
				lead = " " + th.Accent.Render("›") + " "
			}
			opts[mark+i] = lead + r
		}
		x, y = cx+3, len(lines)+mark+cy
	}
	lines = append(lines, opts...)
	return append(lines, tail...), x, y
}

// shown is the buffer as it may be looked at.
func (f *field) shown() *edit.Buffer {
	if !f.secret {
		return &f.buf
	}
	var b edit.Buffer
	b.Insert(strings.Repeat("•", edit.Count(f.buf.Text())))
	return &b
}

// optionLines draws the options; mark is the highlighted one's line.
func (f *field) optionLines(th *theme.Theme, w int) (lines []string, mark int) {
	for i, o := range f.options {
		box := fmt.Sprintf("%d. ", i+1)
		if f.kind == fieldMulti {
			box = "[ ] "
			if f.on[i] {
				box = "[x] "
			}
		} else if f.picked == i {
			box = fmt.Sprintf("%d. ✔ ", i+1)
		}
		line := box + o.label
		if o.detail != "" {
			line += "  " + o.detail
		}
		if i == f.cursor {
			mark = i
			lines = append(lines, th.Selection.Render(text.Truncate(" › "+line, w, "…")))
			continue
		}
		lines = append(lines, text.Truncate("   "+line, w, "…"))
	}
	if f.kind == fieldChoice && f.other {
		line := "   something else: "
		if f.secret {
			line += strings.Repeat("•", edit.Count(f.buf.Text()))
		} else {
			line += f.buf.Shown()
		}
		if f.cursor == len(f.options) {
			mark = len(lines)
		}
		lines = append(lines, text.Truncate(line, w, "…"))
	}
	return lines, mark
}

func (f *form) hint(c *field) string {
	keys := "enter next"
	if f.at == len(f.fields)-1 {
		keys = "enter send"
	}
	if c.kind == fieldMulti {
		keys = "space choose   " + keys
	}
	if len(f.fields) > 1 {
		keys += "   tab, shift+tab move"
	}
	return keys + "   " + f.keys
}
