package transcript

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/markdown"
	"towline/appserver/tui/text"
)

// maxOutput is how many lines of one command's output are kept, the last ones.
const maxOutput = 20000

type kind uint8

const (
	kindOther kind = iota
	kindUser
	kindAgent
	kindReasoning
	kindCommand
	kindFiles
	kindNote
)

// block is one item, or a note of our own.
type block struct {
	id, turn string
	kind     kind
	item     protocol.Item // as last told; no body for notes
	done     bool
	waiting  bool // for a person
	since    time.Time
	note     Note

	plain  string           // cleaned text: user message, reasoning, title of others
	stream *markdown.Stream // agent messages and plans
	out    *text.Stream     // output of commands
	live   bool             // out was fed by deltas

	gap   bool
	lines []string // as drawn, without the gap and the margin
	width int      // lines are for
	fresh bool     // lines are what the block is
}

func newBlock(t *Transcript, turn string, it protocol.Item) *block {
	b := &block{id: it.ID, turn: turn, since: t.now()}
	if it.StartedAtMs > 0 {
		if at := time.UnixMilli(it.StartedAtMs); at.Before(b.since) {
			b.since = at
		}
	}
	switch it.Body.(type) {
	case *protocol.UserMessage:
		b.kind = kindUser
	case *protocol.AgentMessage, *protocol.PlanItem:
		b.kind = kindAgent
	case *protocol.Reasoning:
		b.kind = kindReasoning
	case *protocol.CommandExecution:
		b.kind = kindCommand
	case *protocol.FileChange:
		b.kind = kindFiles
	}
	return b
}

// set takes the item's state as told.
func (b *block) set(t *Transcript, it protocol.Item, done bool) {
	b.item, b.fresh = it, false
	b.done = b.done || done
	switch body := it.Body.(type) {
	case *protocol.UserMessage:
		b.plain = UserText(body.Content)
	case *protocol.AgentMessage:
		b.setStream(t, body.Text)
	case *protocol.PlanItem:
		b.setStream(t, body.Text)
	case *protocol.Reasoning:
		if len(body.Summary)+len(body.Content) > 0 || done {
			b.plain = reasoningText(body)
		}
	case *protocol.CommandExecution:
		if body.AggregatedOutput != nil && (done || !b.live) {
			b.out = &text.Stream{MaxLines: maxOutput}
			b.out.Append(*body.AggregatedOutput)
		}
	}
}

// setStream keeps what was streamed when it is what the item says.
func (b *block) setStream(t *Transcript, s string) {
	if b.stream != nil && (b.stream.Source() == s || !b.done && s == "") {
		return
	}
	b.stream = t.md.NewStream()
	b.stream.Append(s)
}

func (b *block) restyle(t *Transcript) {
	b.fresh = false
	if b.stream != nil {
		src := b.stream.Source()
		b.stream = t.md.NewStream()
		b.stream.Append(src)
	}
}

// UserText is the cleaned text of what a person sent; what is no text is named.
func UserText(in []protocol.UserInput) string {
	var s []string
	for _, u := range in {
		switch u.Type {
		case "text":
			s = append(s, text.Clean(u.Text))
		case "image":
			s = append(s, "[image "+shortURL(u.URL)+"]")
		case "localImage":
			s = append(s, "[image "+text.CleanLine(u.Path)+"]")
		default:
			name := u.Name
			if name == "" {
				name = u.Path
			}
			s = append(s, strings.TrimSpace("["+text.CleanLine(u.Type)+" "+text.CleanLine(name))+"]")
		}
	}
	return strings.TrimRight(strings.Join(s, "\n"), "\n ")
}

func shortURL(u string) string {
	if strings.HasPrefix(u, "data:") {
		return "pasted"
	}
	return text.Truncate(text.CleanLine(u), 60, "…")
}

func reasoningText(r *protocol.Reasoning) string {
	parts := r.Summary
	if len(parts) == 0 {
		parts = r.Content
	}
	return strings.TrimSpace(text.Clean(strings.Join(parts, "\n\n")))
}

// Delta appends what a streaming item grew by. It makes a block when there is
// none: a client that joined late hears only the rest. A finished block ignores
// it, because the item had everything.
func (t *Transcript) Delta(method, turn, id, delta string) {
	b := t.byID[id]
	if b == nil {
		it := protocol.Item{ID: id}
		switch method {
		case DeltaMessage:
			it.Body = &protocol.AgentMessage{}
		case DeltaPlan:
			it.Body = &protocol.PlanItem{}
		case DeltaSummary, DeltaReasoning, DeltaSummaryPart:
			it.Body = &protocol.Reasoning{}
		case DeltaOutput:
			it.Body = &protocol.CommandExecution{Status: protocol.ItemInProgress}
		default:
			return
		}
		b = t.add(newBlock(t, turn, it))
		b.set(t, it, false)
	}
	if b.done {
		return
	}
	switch method {
	case DeltaMessage, DeltaPlan:
		if b.stream == nil {
			b.stream = t.md.NewStream()
		}
		b.stream.Append(delta)
	case DeltaSummary, DeltaReasoning:
		b.plain += text.Clean(delta)
	case DeltaSummaryPart:
		if b.plain != "" {
			b.plain += "\n\n"
		}
	case DeltaOutput:
		if b.out == nil {
			b.out = &text.Stream{MaxLines: maxOutput}
		}
		b.out.Append(delta)
		b.live = true
	}
	b.fresh = false
}

// The notifications Delta understands.
const (
	DeltaMessage     = "item/agentMessage/delta"
	DeltaPlan        = "item/plan/delta"
	DeltaSummary     = "item/reasoning/summaryTextDelta"
	DeltaSummaryPart = "item/reasoning/summaryPartAdded"
	DeltaReasoning   = "item/reasoning/textDelta"
	DeltaOutput      = "item/commandExecution/outputDelta"
)

// EndTurn closes what the turn left open and says how it ended, when that is
// not simply "done".
func (t *Transcript) EndTurn(turn protocol.Turn) {
	for _, b := range slices.Backward(t.blocks) {
		if b.turn == turn.ID && !b.done && b.kind != kindCommand { // a command may outlive its turn
			b.done, b.fresh = true, false
		}
		if b.kind == kindUser && b.turn != turn.ID {
			break
		}
	}
	id := "end:" + turn.ID
	switch {
	case turn.Status == protocol.TurnInterrupted:
		t.Note(id, turn.ID, Note{Kind: NoteStop, Text: "interrupted"})
	case turn.Status == protocol.TurnFailed:
		n := Note{Kind: NoteFail, Text: "the turn failed"}
		if turn.Error != nil {
			n.Text = "failed: " + text.Clean(turn.Error.Message)
			if d := turn.Error.AdditionalDetails; d != nil && *d != "" {
				n.Detail = text.Clean(*d)
			}
		}
		t.Note(id, turn.ID, n)
	}
}

// running reports whether the block shows time passing.
func (b *block) running() bool {
	if b.kind != kindCommand || b.done {
		return false
	}
	c, ok := b.item.Body.(*protocol.CommandExecution)
	return ok && c.Status == protocol.ItemInProgress
}

// tight blocks need no empty line between each other.
func (b *block) tight() bool { return b.kind == kindOther || b.kind == kindReasoning }

// foldable reports whether there is more than the conversation shows.
func (b *block) foldable() bool {
	switch b.kind {
	case kindCommand, kindFiles:
		return true
	case kindReasoning:
		return b.plain != ""
	case kindOther:
		return b.item.Body != nil
	}
	return false
}

func (b *block) height(t *Transcript) int {
	n := len(b.draw(t))
	if b.gap {
		n++
	}
	return n
}

func duration(ms int64) string { return Elapsed(time.Duration(ms) * time.Millisecond) }

// Elapsed says how long something took: 0.3 s, 12 s, 4 min 3 s, 2 h 10 min.
func Elapsed(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case d < 50*time.Millisecond:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	default:
		return fmt.Sprintf("%d h %d min", s/3600, s/60%60)
	}
}
