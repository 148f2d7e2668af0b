// Package prompt asks the person what the server wants to know: may this run,
// may this be written, which of these, what is your answer. There is a prompt
// for every kind of server request that waits for a person.
//
// A prompt shows the whole request. Where it is longer than the screen, nothing
// can be approved before its end has been seen. A prompt sends nothing: Key
// gives an [Answer] to its owner when the person has decided.
package prompt

import (
	"encoding/json"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/edit"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// Request is one question from the server.
type Request struct {
	Key    string // identifies the request while it is open
	Method string
	Params json.RawMessage
	// Item is what the question is about, when known: it holds a patch's diff.
	Item *protocol.Item
	Cwd  string // paths are shown relative to it
}

// Answer is what the person decided.
type Answer struct {
	Result any
	// Word says it for people: "approved", "denied", "answered", "stopped".
	Word string
	// Reason is why it was denied, in the person's words, for engines that
	// cannot take it inside Result.
	Reason string
	// Interrupt means that there is no Result: the person stops the turn, which
	// closes the request.
	Interrupt bool
}

// choice is one way to answer with one key.
type choice struct {
	key, label string
	short      string // the label where there is little room
	seen       bool   // only after the whole request was on the screen
	reason     bool   // asks for a reason first
	stop       bool   // stops the turn instead of answering
	word       string
	result     func(reason string) any
}

// Prompt is one open question. New makes one. Not for concurrent use.
type Prompt struct {
	Req     Request
	title   string
	choices []choice
	body    func(th *theme.Theme, width int) []string
	form    *form // questions with fields; nil for plain choices

	reason *edit.Buffer // being typed; nil otherwise

	lines  []string // body for width
	width  int
	th     *theme.Theme
	scroll int
	room   int  // body lines on the screen
	seen   bool // its end was on the screen
}

// New makes the prompt for a request. A method nobody has heard of, and params
// that cannot be read, give a prompt that shows them raw and can only refuse.
func New(r Request) *Prompt {
	p := &Prompt{Req: r}
	build := map[string]func(*Prompt) error{
		protocol.ReqCommandApproval:     buildCommand,
		protocol.ReqFileApproval:        buildFile,
		protocol.ReqPermissionsApproval: buildPermissions,
		protocol.ReqUserInput:           buildQuestions,
		protocol.ReqElicitation:         buildElicitation,
		"execCommandApproval":           buildLegacyCommand,
		"applyPatchApproval":            buildLegacyPatch,
	}[r.Method]
	if build == nil || build(p) != nil {
		p.unreadable()
	}
	return p
}

// unreadable is the prompt for what we cannot read. Refusing is safe.
func (p *Prompt) unreadable() {
	raw := p.Req.Method + "\n" + string(p.Req.Params)
	p.title, p.form = "A request this version cannot read", nil
	p.body = func(_ *theme.Theme, w int) []string { return text.Wrap(text.Reveal(raw, tab), w) }
	p.choices = []choice{
		{key: "d", label: "deny", word: "denied", result: fixed(protocol.Decide(protocol.DecisionDecline))},
		{key: "esc", label: "stop the turn", word: "stopped", result: fixed(protocol.Decide(protocol.DecisionCancel))},
	}
}

// stopTurn is the answer that is none.
var stopTurn = Answer{Word: "stopped", Interrupt: true}

// fixed is a result that does not depend on a reason.
func fixed(v any) func(string) any { return func(string) any { return v } }

// SetItem tells what the question is about, when that becomes known later.
func (p *Prompt) SetItem(it protocol.Item) {
	if p.Req.Item == nil {
		p.Req.Item, p.lines = &it, nil
		p.seen, p.scroll = false, 0
	}
}

// Title is the question in a few words.
func (p *Prompt) Title() string { return p.title }

// Typing reports whether keys are text now, so that the owner keeps none.
func (p *Prompt) Typing() bool { return p.reason != nil || p.form != nil && p.form.typing() }

// Paste takes pasted text where text is being typed.
func (p *Prompt) Paste(s string) {
	switch {
	case p.reason != nil:
		p.reason.Insert(s)
	case p.form != nil:
		p.form.paste(s)
	}
}

// Key applies a key. done means that a is the answer; handled that the key was
// ours even so.
func (p *Prompt) Key(k tea.KeyPressMsg) (a Answer, done, handled bool) {
	if p.reason != nil {
		return p.reasonKey(k)
	}
	if p.form != nil {
		if a, done, handled = p.form.key(k); handled {
			return a, done, true
		}
	}
	s := k.String()
	if s == "ctrl+c" {
		s = "esc"
	}
	if p.scrollKey(s) {
		return a, false, true
	}
	for _, c := range p.choices {
		if c.key != s {
			continue
		}
		if c.seen && !p.seen {
			p.page(1) // the next part first
			return a, false, true
		}
		if c.reason {
			p.reason = new(edit.Buffer)
			return a, false, true
		}
		if c.stop {
			return stopTurn, true, true
		}
		return Answer{Result: c.result(""), Word: c.word}, true, true
	}
	return a, false, false
}

func (p *Prompt) reasonKey(k tea.KeyPressMsg) (a Answer, done, handled bool) {
	switch k.String() {
	case "esc", "ctrl+c":
		p.reason = nil
	case "enter":
		why := strings.TrimSpace(p.reason.Text())
		for _, c := range p.choices {
			if c.reason {
				return Answer{Result: c.result(why), Word: c.word, Reason: why}, true, true
			}
		}
	case "shift+enter", "alt+enter", "ctrl+j":
		p.reason.Insert("\n")
	default:
		p.reason.Key(k)
	}
	return a, false, true
}

func (p *Prompt) scrollKey(s string) bool {
	if len(p.lines) <= p.room {
		return false
	}
	switch s {
	case "up", "k":
		p.move(-1)
	case "down", "j":
		p.move(1)
	case "pgup", "b":
		p.page(-1)
	case "pgdown", "space", "f":
		p.page(1)
	case "home":
		p.move(-len(p.lines))
	case "end":
		p.page(1) // end would skip what has to be seen
	default:
		return false
	}
	return true
}

// Wheel scrolls the request and reports whether it is longer than its room.
func (p *Prompt) Wheel(n int) bool {
	if len(p.lines) <= p.room {
		return false
	}
	p.move(n)
	return true
}

func (p *Prompt) page(d int) { p.move(d * max(p.room-1, 1)) }

func (p *Prompt) move(n int) {
	if p.lines == nil || p.room == 0 {
		return // nothing was shown yet
	}
	p.scroll = max(0, min(p.scroll+n, len(p.lines)-p.room))
	if p.scroll+p.room >= len(p.lines) {
		p.seen = true
	}
}

// Look says how to draw a prompt.
type Look struct {
	Theme         *theme.Theme
	Width, Height int
	Index, Total  int    // "1 of 2"; nothing when Total is under 2
	Also          string // who else is asked
	Refused       string // why this person cannot answer, "" when they can
	Quiet         bool   // keys do not answer yet: none are shown
}

// Render draws the prompt in at most l.Height lines. The cursor is where text
// is being typed; x is negative when nowhere.
func (p *Prompt) Render(l Look) (lines []string, x, y int) {
	bar := l.Theme.Warn.Render("┃") + " "
	w := max(l.Width-3, 6)
	title := p.title
	if l.Height < 4 {
		// No room for a body: what the request is must not be approved unseen.
		p.room, p.width = 0, 0
		return []string{text.Truncate(bar+l.Theme.Warn.Render(title)+" (make the window taller)", l.Width, "…")}, -1, 0
	}
	if p.width != w || p.th != l.Theme || p.lines == nil {
		p.lines, p.width, p.th = p.body(l.Theme, w), w, l.Theme
	}
	foot, x, fy := p.foot(l, w)
	if keep := l.Height - 3; len(foot) > keep { // title, one line of body, what is left to read
		foot = foot[:max(keep, 0)]
	}
	p.room = max(l.Height-1-len(foot), 1)
	count := ""
	if l.Total > 1 {
		count = l.Theme.Dim.Render(fmt.Sprintf("%d of %d", l.Index, l.Total))
	}
	out := []string{text.Between(l.Theme.Warn.Render(title), count, w)}
	over := len(p.lines) > p.room
	if over {
		p.room = max(p.room-1, 1) // a line says that there is more
	}
	p.scroll = max(0, min(p.scroll, len(p.lines)-p.room))
	if p.scroll+p.room >= len(p.lines) {
		p.seen = true
	}
	out = append(out, p.lines[p.scroll:min(p.scroll+p.room, len(p.lines))]...)
	if over {
		left := len(p.lines) - p.scroll - p.room
		switch {
		case left > 0 && !p.seen:
			out = append(out, l.Theme.Warn.Render(text.Truncate(fmt.Sprintf("↓ %d more lines: space to read on, then decide", left), w, "…")))
		case left > 0:
			out = append(out, l.Theme.Dim.Render(fmt.Sprintf("↓ %d more lines", left)))
		default:
			out = append(out, l.Theme.Dim.Render("↑ the end of the request"))
		}
	}
	if x >= 0 {
		x, y = x+2, len(out)+fy
	}
	out = append(out, foot...)
	for i := range out {
		out[i] = bar + out[i]
	}
	return out, x, y
}

// foot is the fields or the keys, with the cursor's place in it.
func (p *Prompt) foot(l Look, w int) (lines []string, x, y int) {
	th := l.Theme
	if l.Refused != "" {
		return text.Wrap(l.Refused, w), -1, 0
	}
	if p.reason != nil {
		const label = "tell it why: " // the question above has a "why" of its own
		rows, cx, cy := p.reason.Layout(w - len(label))
		for i, r := range rows {
			lead := strings.Repeat(" ", len(label))
			if i == 0 {
				lead = th.Bold.Render(label)
			}
			lines = append(lines, lead+r)
		}
		return append(lines, th.Dim.Render("enter deny   esc back")), cx + len(label), cy
	}
	if p.form != nil {
		return p.form.render(th, w, max(l.Height-4, 3))
	}
	lines = text.Flow(p.keys(l, w, false), w)
	if small := l.Height < 12 || w < 50; small && len(lines) > 1 {
		lines = text.Flow(p.keys(l, w, true), w)
	} else if !small {
		lines = append([]string{""}, lines...)
	}
	if l.Also != "" && l.Height >= 10 {
		last := len(lines) - 1
		also := th.Dim.Render("also on: " + text.CleanLine(l.Also))
		if text.Width(lines[last])+text.Width(also)+3 <= w {
			lines[last] = text.Between(lines[last], also, w)
		} else {
			lines = append(lines, text.Truncate(also, w, "…"))
		}
	}
	return lines, -1, 0
}

// keys is what can be pressed; what cannot be pressed yet is faint.
func (p *Prompt) keys(l Look, w int, short bool) []string {
	th := l.Theme
	out := make([]string, 0, len(p.choices))
	for _, c := range p.choices {
		label := c.label
		if short && c.short != "" {
			label = c.short
		}
		if l.Quiet {
			label = th.Dim.Render(strings.Repeat(" ", text.Width(c.key)) + " " + label)
		} else if c.seen && !p.seen && len(p.lines) > p.room && p.room > 0 {
			label = th.Dim.Render(c.key + " " + label)
		} else {
			label = th.Bold.Render(c.key) + " " + label
		}
		out = append(out, text.Truncate(label, w, "…"))
	}
	return out
}
