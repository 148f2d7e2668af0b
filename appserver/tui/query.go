package tui

import (
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// query is one question of a connection as the screen shows it: facts, then
// either letters that answer or a line to type. There is no default.
type query struct {
	hop, title string
	about      []string // paragraphs
	facts      []Fact
	choices    []Choice
	values     []int  // what each choice answers; nil: its index
	typed      bool   // a line is typed; there are no choices then
	line       []rune // what was typed, exactly as it came
	label      string // before the line
	hidden     bool   // what is typed is not shown
	again      bool   // the answer before was wrong
	need       int    // so many facts have to be seen before a letter but the last answers
	cut        bool   // they do not fit on the screen

	since  time.Time  // it is on the screen since then; zero before
	answer chan reply // capacity 1; nobody may wait for it
}

// mostNeeded is how many facts of a choice have to be seen: what, where to, and
// how much. The rest is good to know.
const mostNeeded = 3

type reply struct {
	choice int
	text   string
	err    error
}

func hostKeyQuery(q HostKeyQuestion) *query {
	at := ""
	if q.Address != "" && q.Address != q.Hop {
		at = " (" + q.Address + ")"
	}
	out := &query{
		hop: q.Hop, title: "Is this the right host?",
		about: []string{"Nobody here has met " + q.Hop + at + " before. Compare the fingerprint with one you were given, or with what its own console prints."},
		facts: []Fact{{"key", q.Type}, {"fingerprint", q.Fingerprint}},
		choices: []Choice{
			{"a", "accept and remember"}, {"o", "accept once"}, {"n", "no, stop here"},
		},
		values: []int{int(AcceptSave), int(AcceptOnce), int(Refuse)},
		need:   2,
	}
	if q.File != "" {
		out.facts = append(out.facts, Fact{"kept in", q.File})
	}
	return out.clean()
}

func secretQuery(q SecretQuestion) *query {
	out := &query{hop: q.Hop, typed: true, hidden: !q.Echo, again: q.Attempt > 1}
	switch q.Kind {
	case Passphrase:
		out.title, out.label = "Passphrase of a key", "passphrase"
		out.facts = []Fact{{"key", q.Subject}}
	case Challenge:
		out.title, out.label = q.Hop+" asks", "answer"
		if q.Subject != "" {
			out.facts = []Fact{{"for", q.Subject}}
		}
	default:
		out.title, out.label = "Password", "password"
		if q.Subject != "" {
			out.facts = []Fact{{"for", q.Subject}}
		}
	}
	if p := strings.TrimSpace(q.Prompt); p != "" && q.Kind == Challenge {
		out.about = []string{p}
	}
	return out.clean()
}

func choiceQuery(q Question) *query {
	out := &query{hop: q.Hop, title: q.Title, facts: q.Facts, choices: q.Choices}
	if q.Text != "" {
		out.about = []string{q.Text}
	}
	return out.clean()
}

// clean strips what came from elsewhere, once, and makes the query ready.
func (q *query) clean() *query {
	q.hop, q.title = text.CleanLine(q.hop), text.CleanLine(q.title)
	for i, s := range q.about {
		q.about[i] = text.Clean(s)
	}
	facts := make([]Fact, 0, len(q.facts))
	for _, f := range q.facts {
		facts = append(facts, Fact{text.CleanLine(f.Name), text.CleanLine(f.Value)})
	}
	q.facts = facts
	if q.need == 0 && !q.typed {
		q.need = min(len(facts), mostNeeded)
	}
	q.answer = make(chan reply, 1)
	return q
}

// settle answers, once.
func (q *query) settle(r reply) {
	select {
	case q.answer <- r:
	default:
	}
}

// key applies a key and reports whether the question is answered. Letters count
// only when there was time to read what they answer.
func (q *query) key(k tea.KeyPressMsg, now time.Time) (done bool) {
	s := k.String()
	if q.typed {
		return q.lineKey(k, s)
	}
	if !q.live(now) && s != "esc" {
		return false
	}
	for i, c := range q.choices {
		if c.Key != s {
			continue
		}
		if q.cut && i < len(q.choices)-1 {
			return false
		}
		if q.values != nil {
			i = q.values[i]
		}
		q.settle(reply{choice: i})
		return true
	}
	if s == "esc" {
		q.settle(reply{err: ErrAborted})
		return true
	}
	return false
}

// lineKey edits the line. It is no edit.Buffer: that one cleans what it is
// given, and a password has to stay what it was.
func (q *query) lineKey(k tea.KeyPressMsg, s string) (done bool) {
	switch s {
	case "enter":
		q.settle(reply{text: string(q.line)})
	case "esc":
		q.settle(reply{err: ErrAborted})
	case "backspace", "ctrl+h", "shift+backspace":
		q.line = q.line[:max(len(q.line)-1, 0)]
		return false
	case "ctrl+u", "ctrl+w":
		q.line = q.line[:0]
		return false
	default:
		q.insert(k.Text)
		return false
	}
	clear(q.line)
	q.line = nil
	return true
}

// maxTyped bounds an answer; no password is longer, and a paste may be.
const maxTyped = 8192

func (q *query) insert(s string) {
	for _, r := range s {
		if r >= ' ' && r != 0x7f && len(q.line) < maxTyped {
			q.line = append(q.line, r)
		}
	}
}

// live reports whether the question has been on the screen for long enough.
func (q *query) live(now time.Time) bool {
	return !q.since.IsZero() && now.Sub(q.since) >= readingGrace
}

// paste puts pasted text into the line: passwords come from managers.
func (q *query) paste(s string) {
	if q.typed {
		q.insert(s)
	}
}

// render draws the question in at most h lines of w cells. Facts are wrapped,
// never cut: a fingerprint is worth nothing with its end missing. The cursor's x
// is negative when there is none.
func (q *query) render(th *theme.Theme, w, h int, now time.Time) (lines []string, x, y int) {
	bar := th.Warn.Render("┃") + " "
	in := max(w-3, 6)
	hop := ""
	if !strings.Contains(q.title, q.hop) {
		hop = th.Dim.Render(q.hop)
	}
	head := []string{text.Between(th.Warn.Render(q.title), hop, in)}
	if q.again {
		head = append(head, th.Warn.Render(text.Truncate("that was not right", in, "…")))
	}
	var about, facts []string
	for _, p := range q.about {
		about = append(about, text.Wrap(p, in)...)
	}
	col := 0
	for _, f := range q.facts {
		col = max(col, text.Width(f.Name)+2)
	}
	foot, x, fy := q.foot(th, in, now)
	room := max(h-len(head)-len(foot), 0)
	// What is asked matters more than the paragraph about it.
	q.cut = false
	for i, f := range q.facts {
		ls := factLines(th, f, col, in)
		if len(facts)+len(ls) > room {
			q.cut = i < q.need
			break
		}
		facts = append(facts, ls...)
	}
	if q.cut {
		facts = append(facts[:min(len(facts), max(room-1, 0)):len(facts)], th.Warn.Render(text.Truncate("make the window larger to see all of it", in, "…")))
	}
	body := append(about, facts...)
	if len(body) > room {
		body = facts
	}
	if room > len(body) && h > 10 {
		foot = append([]string{""}, foot...)
		fy++
	}
	lines = append(append(head, body...), foot...)
	if x >= 0 {
		x, y = x+2, len(head)+len(body)+fy
	}
	for i := range lines {
		lines[i] = text.Truncate(bar+lines[i], w, "…")
	}
	if cut := len(lines) - h; cut > 0 {
		lines, y = lines[cut:], y-cut
	}
	return lines, x, y
}

// factLines is one fact; where the terminal is narrow its value stands below.
func factLines(th *theme.Theme, f Fact, col, w int) (out []string) {
	if w < 44 {
		if n := text.Width(f.Name) + 2; n+text.Width(f.Value) <= w {
			return []string{th.Dim.Render(f.Name+"  ") + f.Value}
		}
		col = 2
		out = append(out, th.Dim.Render(text.Truncate(f.Name, w, "…")))
	}
	for i, l := range text.Wrap(f.Value, max(w-col, 4)) {
		lead := strings.Repeat(" ", col)
		if i == 0 && w >= 44 {
			lead = th.Dim.Render(text.Fit(f.Name, col))
		}
		out = append(out, lead+l)
	}
	return out
}

// foot is the line to type in, or the letters that answer.
func (q *query) foot(th *theme.Theme, w int, now time.Time) (lines []string, x, y int) {
	if !q.typed {
		words := make([]string, 0, len(q.choices)+1)
		esc := true
		for _, c := range q.choices {
			label := text.CleanLine(c.Label)
			if q.live(now) {
				words = append(words, th.Bold.Render(c.Key)+" "+label)
			} else {
				words = append(words, th.Dim.Render(strings.Repeat(" ", text.Width(c.Key))+" "+label))
			}
			esc = esc && c.Key != "esc" && c.Key != "n"
		}
		if esc {
			words = append(words, th.Bold.Render("esc")+" cancel")
		}
		return text.Flow(words, w), -1, 0
	}
	label := q.label + ": "
	if text.Width(label)+6 > w {
		label = "› "
	}
	shown := strings.Repeat("•", len(q.line)) // what is typed never reaches the terminal
	if !q.hidden {
		shown = text.CleanLine(string(q.line))
	}
	room := max(w-text.Width(label)-1, 1)
	if over := text.Width(shown) - room; over > 0 { // its end is where one types
		shown = ansi.TruncateLeft(shown, over+1, "…")
	}
	keys := "enter send   esc cancel"
	if q.hidden {
		keys += "   (what you type is not shown)"
	}
	return []string{th.Bold.Render(label) + shown, th.Dim.Render(text.Truncate(keys, w, "…"))}, text.Width(label) + text.Width(shown), 0
}
