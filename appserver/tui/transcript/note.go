package transcript

import (
	"fmt"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/theme"
)

// NoteKind says how a note looks.
type NoteKind uint8

// The kinds of notes.
const (
	NoteInfo  NoteKind = iota
	NoteOk             // something went well
	NoteWarn           // something to know
	NoteFail           // something went wrong
	NoteStop           // somebody stopped something
	NoteRetry          // something is being tried again
	NotePlan           // Steps is a plan
	NoteHead           // a welcome: Text is a title
)

// Note is a block of the client's own: a warning, how a turn ended, a plan.
// Text and Detail are cleaned when drawn.
type Note struct {
	Kind   NoteKind
	Text   string
	Detail string
	Steps  []protocol.PlanStep
}

// Note shows n. The same id again replaces it in place; an empty id is always a
// new note. A turn makes the note part of that turn.
func (t *Transcript) Note(id, turn string, n Note) {
	b := t.byID[id]
	if b == nil || id == "" {
		b = t.add(&block{id: id, turn: turn, kind: kindNote, done: true})
	}
	b.note, b.fresh = n, false
}

// Remove takes a block away.
func (t *Transcript) Remove(id string) {
	b := t.byID[id]
	if b == nil {
		return
	}
	delete(t.byID, id)
	for i := range t.blocks {
		if t.blocks[i] == b {
			t.blocks = append(t.blocks[:i], t.blocks[i+1:]...)
			if t.top > i {
				t.top--
			}
			return
		}
	}
}

func drawNote(t *Transcript, n Note, w int) []string {
	if n.Kind == NotePlan {
		return Plan(t.th, n.Steps, w)
	}
	th := t.th
	glyph, st := "·", th.Dim
	switch n.Kind {
	case NoteOk:
		glyph, st = "✔", th.Ok
	case NoteWarn:
		glyph, st = "▲", th.Warn
	case NoteFail:
		glyph, st = "✘", th.Warn
	case NoteStop:
		glyph, st = "■", th.Warn
	case NoteRetry:
		glyph, st = "⟳", th.Warn
	case NoteHead:
		glyph, st = "", th.Bold
	}
	lead := "  "
	if glyph == "" {
		lead = ""
	}
	var out []string
	for i, l := range text.Wrap(text.Clean(n.Text), max(w-2, 4)) {
		if i == 0 && glyph != "" {
			l = glyph + " " + l
		} else {
			l = lead + l
		}
		out = append(out, st.Render(l))
	}
	if n.Detail != "" {
		for _, l := range text.Wrap(text.Clean(n.Detail), max(w-2, 4)) {
			out = append(out, th.Dim.Render(lead+l))
		}
	}
	return out
}

// Plan draws a plan as one line, wrapped between steps when it must.
func Plan(th *theme.Theme, steps []protocol.PlanStep, w int) []string {
	head := "Plan"
	var out []string
	line, cells := th.Bold.Render(head), len(head)
	for _, s := range steps {
		glyph, st := "○", th.Dim
		switch s.Status {
		case protocol.ItemCompleted:
			glyph, st = "✔", th.Ok
		case protocol.ItemInProgress:
			glyph, st = "●", th.Accent
		}
		label := text.Truncate(glyph+" "+text.CleanLine(s.Step), max(w-6, 8), "…")
		n := text.Width(label)
		if cells+2+n > w && cells > len(head) {
			out = append(out, line)
			line, cells = strings.Repeat(" ", len(head)), len(head)
		}
		line += "  " + st.Render(label)
		cells += 2 + n
	}
	return append(out, line)
}

// full is everything a block holds.
func (b *block) full(t *Transcript, w int) (title string, lines []string) {
	switch body := b.item.Body.(type) {
	case *protocol.CommandExecution:
		title = "$ " + text.CleanLine(Command(body.Command))
		for i, l := range text.Wrap(text.Clean(Command(body.Command)), max(w-2, 4)) {
			lead := "  "
			if i == 0 {
				lead = "$ "
			}
			lines = append(lines, t.th.Bold.Render(lead+l))
		}
		facts := "in " + text.CleanLine(body.Cwd)
		if body.ExitCode != nil {
			facts += fmt.Sprintf(" · exit %d", *body.ExitCode)
		}
		if body.DurationMs != nil {
			facts += " · " + duration(*body.DurationMs)
		}
		lines = append(lines, t.th.Dim.Render(text.Truncate(facts, w, "…")), "")
		if b.out != nil {
			if n := b.out.Dropped(); n > 0 {
				lines = append(lines, t.th.Dim.Render(fmt.Sprintf("… %d earlier lines were not kept", n)))
			}
			for _, l := range b.out.Lines() {
				lines = append(lines, text.Wrap(l, w)...)
			}
		}
		return title, lines
	case *protocol.FileChange:
		return "changes", drawFiles(t, b, w, 0)
	case *protocol.Reasoning:
		return "reasoning", t.md.Render(b.plain, w)
	case nil:
		return "", nil
	}
	what, state := describe(b.item, t.cwd)
	return text.CleanLine(what), append([]string{text.CleanLine(what + "  " + state), ""}, rawLines(b.item, w)...)
}

// rawLines is an item as the protocol has it, indented.
func rawLines(it protocol.Item, w int) []string {
	raw, err := it.MarshalJSON()
	if err != nil {
		return nil
	}
	return text.Wrap(text.Clean(indentJSON(raw)), w)
}

// Clock writes a running time: 0:42, 12:03, 1:02:03.
func Clock(d time.Duration) string {
	s := max(int(d.Seconds()), 0)
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
