package transcript

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"towline/appserver/protocol"
	"towline/appserver/tui/diffview"
	"towline/appserver/tui/text"
)

// How much of a thing the conversation shows before it folds.
const (
	foldOutput = 8  // a command's output up to this is shown whole
	headLines  = 4  // of longer output, from its beginning
	tailLines  = 3  // and from its end
	liveLines  = 6  // while it runs: the last ones
	foldDiff   = 16 // of each file of a patch
	foldUser   = 30 // of what the person wrote
	argCells   = 60 // of a tool's arguments
)

// maxProse is how wide text is set: longer lines are hard to read.
const maxProse = 110

// moreHint says how to see what is folded.
const moreHint = "ctrl+o"

// draw gives the block's lines for the transcript's width, from the cache when
// nothing changed.
func (b *block) draw(t *Transcript) []string {
	w := max(t.width-2, 6) // one column of margin each side
	if b.kind == kindUser || b.kind == kindAgent || b.kind == kindNote {
		w = min(w, maxProse)
	}
	if b.fresh && b.width == w {
		return b.lines
	}
	switch b.kind {
	case kindUser:
		b.lines = drawUser(t, b, w)
	case kindAgent:
		b.lines = nil
		if b.stream != nil {
			b.lines = b.stream.Lines(w)
		}
	case kindReasoning:
		b.lines = drawReasoning(t, b, w)
	case kindCommand:
		b.lines = drawCommand(t, b, w)
	case kindFiles:
		b.lines = drawFiles(t, b, w, foldDiff)
	case kindNote:
		b.lines = drawNote(t, b.note, w)
	default:
		b.lines = []string{drawOther(t, b, w)}
	}
	if b.kind != kindAgent {
		for i, l := range b.lines {
			if len(l) > w && text.Width(l) > w { // only where the window is tiny
				b.lines[i] = text.Truncate(l, w, "…")
			}
		}
	}
	b.fresh, b.width = true, w
	return b.lines
}

func drawUser(t *Transcript, b *block, w int) []string {
	rows := text.Wrap(b.plain, max(w-2, 4))
	if n := len(rows); n > foldUser {
		rows = append(rows[:foldUser:foldUser], fmt.Sprintf("… %d more lines", n-foldUser))
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		lead := "  "
		if i == 0 {
			lead = "› "
		}
		out[i] = t.th.User.Render(lead + r)
	}
	return out
}

// drawReasoning folds the model's thinking to one line: its latest heading.
func drawReasoning(t *Transcript, b *block, w int) []string {
	if b.plain == "" {
		if b.done {
			return nil
		}
		return []string{t.th.Dim.Render("○ thinking")}
	}
	head := ""
	for line := range strings.SplitSeq(b.plain, "\n") {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "**"); ok {
			head = strings.TrimSuffix(h, "**")
		} else if head == "" && line != "" {
			head = line
		}
	}
	word := "thought: "
	if !b.done {
		word = "thinking: "
	}
	return []string{t.th.Dim.Render(text.Truncate("○ "+word+head, w, "…"))}
}

func drawCommand(t *Transcript, b *block, w int) []string {
	c, _ := b.item.Body.(*protocol.CommandExecution)
	if c == nil {
		return nil
	}
	state := commandState(t, b, c)
	cmd := strings.Split(text.Clean(Command(c.Command)), "\n")
	if c.Command == "" {
		cmd = []string{"(a command that was already running)"}
	}
	first := cmd[0]
	out := []string{text.Between(t.th.Bold.Render("$ "+first), state, w)}
	if text.Width(first)+text.Width(state)+3 > w && len(cmd) == 1 {
		// Too long for one line with its state: the state stays, the command wraps.
		rows := text.Wrap(first, max(w-2, 4))
		out = out[:0]
		for i, r := range rows[:min(len(rows), 3)] {
			lead := "  "
			if i == 0 {
				lead = "$ "
			}
			out = append(out, t.th.Bold.Render(lead+r))
		}
		if len(rows) > 3 {
			out = append(out, t.th.Dim.Render("  … ("+moreHint+")"))
		}
		if last := len(out) - 1; text.Width(out[last])+text.Width(state)+2 <= w {
			out[last] = text.Between(out[last], state, w)
		} else {
			out = append(out, text.Between("", state, w))
		}
	} else if len(cmd) > 1 {
		for _, l := range cmd[1:min(len(cmd), 4)] {
			out = append(out, t.th.Bold.Render(text.Truncate("  "+l, w, "…")))
		}
		if len(cmd) > 4 {
			out = append(out, t.th.Dim.Render(fmt.Sprintf("  … %d more lines (%s)", len(cmd)-4, moreHint)))
		}
	}
	return append(out, drawOutput(t, b, w)...)
}

func commandState(t *Transcript, b *block, c *protocol.CommandExecution) string {
	took := ""
	if c.DurationMs != nil && *c.DurationMs >= 50 {
		took = " · " + duration(*c.DurationMs)
	}
	switch {
	case b.waiting:
		return t.th.Warn.Render("▲ waiting for you")
	case c.Status == protocol.ItemDeclined:
		return t.th.Warn.Render("✘ denied")
	case c.Status == protocol.ItemInProgress && !b.done:
		return t.th.Accent.Render("● running " + Clock(t.now().Sub(b.since)))
	case c.ExitCode != nil && *c.ExitCode != 0:
		return t.th.Warn.Render(fmt.Sprintf("✘ exit %d", *c.ExitCode)) + t.th.Dim.Render(took)
	case c.Status == protocol.ItemFailed:
		return t.th.Warn.Render("✘ failed") + t.th.Dim.Render(took)
	default:
		return t.th.Ok.Render("✔") + t.th.Dim.Render(took)
	}
}

func drawOutput(t *Transcript, b *block, w int) []string {
	if b.out == nil {
		return nil
	}
	lines, dropped := b.out.Lines(), b.out.Dropped()
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	var out []string
	show := func(ls []string) {
		for _, l := range ls {
			out = append(out, t.th.Dim.Render(text.Truncate("  "+l, w, "…")))
		}
	}
	more := func(n int, word string) {
		out = append(out, t.th.Dim.Render(fmt.Sprintf("  … %d %s lines (%s)", n, word, moreHint)))
	}
	n := len(lines)
	switch {
	case n <= foldOutput && dropped == 0:
		show(lines)
	case b.running():
		more(n-min(n, liveLines)+dropped, "earlier")
		show(lines[n-min(n, liveLines):])
	default:
		show(lines[:min(n, headLines)])
		more(n-headLines-tailLines+dropped, "more")
		show(lines[n-tailLines:])
	}
	return out
}

func drawFiles(t *Transcript, b *block, w, fold int) []string {
	f, _ := b.item.Body.(*protocol.FileChange)
	if f == nil {
		return nil
	}
	state := ""
	switch {
	case b.waiting:
		state = t.th.Warn.Render("▲ waiting for you")
	case f.Status == protocol.ItemDeclined:
		state = t.th.Warn.Render("✘ denied, nothing was written")
	case f.Status == protocol.ItemFailed:
		state = t.th.Warn.Render("✘ could not be applied")
	}
	var out []string
	for i, u := range f.Changes {
		if i > 0 {
			out = append(out, "")
		}
		out = append(out, diffview.Render(u, diffview.Options{
			Theme: t.th, Width: w, MaxLines: fold, FoldHint: moreHint, Cwd: t.cwd,
		})...)
	}
	if state != "" {
		out = append(out, "  "+state)
	}
	return out
}

// drawOther is one line for everything that is an event rather than content.
func drawOther(t *Transcript, b *block, w int) string {
	what, state := describe(b.item, t.cwd)
	glyph := t.th.Accent.Render("●")
	switch {
	case strings.HasPrefix(state, protocol.ItemFailed):
		glyph, state = t.th.Warn.Render("✘"), t.th.Warn.Render(text.CleanLine(state))
	case b.done:
		glyph, state = t.th.Ok.Render("✔"), t.th.Dim.Render(text.CleanLine(state))
	default:
		state = t.th.Accent.Render(text.CleanLine(state))
	}
	if _, ok := b.item.Body.(*protocol.ContextCompaction); ok {
		glyph = t.th.Dim.Render("·")
	}
	return text.Between(glyph+" "+text.CleanLine(what), state, w)
}

// describe says in words what an item is and how it stands.
func describe(it protocol.Item, cwd string) (what, state string) {
	took := func(status string, ms *int64) string {
		switch {
		case status == protocol.ItemInProgress:
			return "running"
		case status == protocol.ItemFailed:
			return "failed"
		case ms != nil && *ms >= 50:
			return duration(*ms)
		}
		return ""
	}
	switch v := it.Body.(type) {
	case *protocol.MCPToolCall:
		state = took(v.Status, v.DurationMs)
		if v.Error != nil {
			state = "failed: " + v.Error.Message
		}
		return "tool " + v.Server + "." + v.Tool + " " + arguments(v.Arguments), state
	case *protocol.DynamicToolCall:
		name := v.Tool
		if v.Namespace != nil && *v.Namespace != "" {
			name = *v.Namespace + "." + name
		}
		state = took(v.Status, v.DurationMs)
		if v.Success != nil && !*v.Success {
			state = "failed"
		}
		return "tool " + name + " " + arguments(v.Arguments), state
	case *protocol.WebSearch:
		return "web search " + webSearch(v), ""
	case *protocol.ImageView:
		return "looked at image " + Relative(v.Path, cwd), ""
	case *protocol.ContextCompaction:
		return "earlier conversation was summarised to make room", ""
	case *protocol.OtherItem:
		return other(v)
	}
	return it.Type(), ""
}

func webSearch(w *protocol.WebSearch) string {
	var a struct {
		URL, Pattern, Query string
		Queries             []string
	}
	_ = json.Unmarshal(w.Action, &a) // an unknown action has the query alone
	switch {
	case w.Query != "":
		return "“" + w.Query + "”"
	case len(a.Queries) > 0:
		return "“" + strings.Join(a.Queries, "”, “") + "”"
	case a.Query != "":
		return "“" + a.Query + "”"
	case a.Pattern != "":
		return "“" + a.Pattern + "” in " + a.URL
	}
	return a.URL
}

// other reads what a type we do not know says about itself.
func other(o *protocol.OtherItem) (what, state string) {
	what = words(o.Type)
	for _, f := range []string{"tool", "name", "agentPath", "review", "text", "prompt", "path", "message"} {
		if s := protocol.StringField(o.Raw, f); s != "" {
			what += " " + s
			break
		}
	}
	switch s := protocol.StringField(o.Raw, "status"); s {
	case protocol.ItemInProgress:
		return what, "running"
	case protocol.ItemCompleted:
		return what, ""
	default:
		return what, s
	}
}

// words writes a camelCase name as words.
func words(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte(' ')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// arguments shows a tool's arguments as short as they are understandable.
func arguments(raw json.RawMessage) string {
	if s := string(raw); s != "null" && s != "{}" {
		return text.Truncate(text.CleanLine(s), argCells, "…")
	}
	return ""
}

// Relative shortens a path below cwd.
func Relative(path, cwd string) string {
	if cwd != "" {
		if rel, err := filepath.Rel(cwd, path); err == nil && !strings.HasPrefix(rel, "..") {
			return rel
		}
	}
	return path
}
