// Package transcript is the conversation as lines on a screen. It keeps one
// block per item, draws each once per width, and only those that are looked at:
// a frame costs what it shows, however long the conversation is.
//
// The place a person scrolled to is a block and a line in it, so it does not
// move when something is added below, or above, or when a block grows.
//
// Blocks are made from protocol items; an item that comes again replaces its
// block. Deltas append to the block of their item. Everything is cleaned of
// control sequences on its way in.
package transcript

import (
	"slices"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/tui/markdown"
	"towline/appserver/tui/theme"
)

// maxBlocks bounds the conversation held in memory; beyond it the oldest go,
// and the server has them still.
const maxBlocks = 20000

// Transcript is the conversation. Not for concurrent use.
type Transcript struct {
	th    *theme.Theme
	md    *markdown.Renderer
	width int
	cwd   string
	now   func() time.Time

	blocks []*block
	byID   map[string]*block

	follow   bool // the bottom stays in view
	top, off int  // otherwise: first visible line is line off of blocks[top]
	height   int  // of the last View
	shown    []*block
}

// New makes an empty transcript that follows its end.
func New(th *theme.Theme, now func() time.Time) *Transcript {
	return &Transcript{th: th, md: markdown.New(th), width: 80, now: now, byID: map[string]*block{}, follow: true}
}

// Resize sets the width to draw for. What is in view stays in view.
func (t *Transcript) Resize(width int) {
	if width = max(width, 8); width == t.width {
		return
	}
	t.width = width
	t.off = 0 // lines of other widths mean nothing; the block is what counts
}

// SetTheme redraws everything in other colours.
func (t *Transcript) SetTheme(th *theme.Theme) {
	t.th, t.md = th, markdown.New(th)
	for _, b := range t.blocks {
		b.restyle(t)
	}
}

// SetCwd says what paths are shown relative to.
func (t *Transcript) SetCwd(cwd string) { t.cwd = cwd }

// Len is how many blocks there are.
func (t *Transcript) Len() int { return len(t.blocks) }

// Reset forgets everything.
func (t *Transcript) Reset() {
	t.blocks, t.byID = nil, map[string]*block{}
	t.follow, t.top, t.off, t.shown = true, 0, 0, nil
}

func (t *Transcript) add(b *block) *block {
	if len(t.blocks) >= maxBlocks {
		t.drop(maxBlocks / 10)
	}
	b.gap = t.gapBefore(len(t.blocks), b)
	t.blocks = append(t.blocks, b)
	if b.id != "" {
		t.byID[b.id] = b
	}
	return b
}

// gapBefore says whether an empty line goes before b at index i: between
// everything but runs of one-line events.
func (t *Transcript) gapBefore(i int, b *block) bool {
	return i > 0 && !(b.tight() && t.blocks[i-1].tight())
}

func (t *Transcript) drop(n int) {
	for _, b := range t.blocks[:n] {
		delete(t.byID, b.id)
	}
	t.blocks = slices.Delete(t.blocks, 0, n)
	t.top = max(t.top-n, 0)
}

// Upsert shows an item: a new block, or the new state of the one it has. done
// says that the item is finished.
func (t *Transcript) Upsert(turn string, it protocol.Item, done bool) {
	b := t.byID[it.ID]
	if b == nil {
		b = t.add(newBlock(t, turn, it))
	}
	b.set(t, it, done)
}

// Has reports whether there is a block for the item.
func (t *Transcript) Has(id string) bool { return t.byID[id] != nil }

// Item is the item as last told; deltas are not in it.
func (t *Transcript) Item(id string) (protocol.Item, bool) {
	if b := t.byID[id]; b != nil && b.item.Body != nil {
		return b.item, true
	}
	return protocol.Item{}, false
}

// Wait marks the item as waiting for a person, or no longer.
func (t *Transcript) Wait(id string, on bool) {
	if b := t.byID[id]; b != nil && b.waiting != on {
		b.waiting, b.fresh = on, false
	}
}

// Prepend puts older turns before everything that is there. Items already
// present stay where they are.
func (t *Transcript) Prepend(turns []protocol.Turn) {
	old := t.blocks
	t.blocks = nil
	for _, turn := range turns {
		t.Turn(turn)
	}
	n := len(t.blocks)
	t.blocks = append(t.blocks, old...)
	if n > 0 && len(old) > 0 {
		old[0].gap = t.gapBefore(n, old[0])
	}
	t.top += n
}

// Turn shows a whole turn from the history, its end included.
func (t *Transcript) Turn(turn protocol.Turn) {
	for _, it := range turn.Items {
		t.Upsert(turn.ID, it, turn.Status != protocol.TurnInProgress || !inProgress(it))
	}
	if turn.Status != protocol.TurnInProgress {
		t.EndTurn(turn)
	}
}

// inProgress reports whether an item says of itself that it is not finished.
// Those that cannot say so are only in a history when they are.
func inProgress(it protocol.Item) bool {
	switch b := it.Body.(type) {
	case *protocol.CommandExecution:
		return b.Status == protocol.ItemInProgress
	case *protocol.FileChange:
		return b.Status == protocol.ItemInProgress
	case *protocol.MCPToolCall:
		return b.Status == protocol.ItemInProgress
	case *protocol.DynamicToolCall:
		return b.Status == protocol.ItemInProgress
	case *protocol.OtherItem:
		return protocol.StringField(b.Raw, "status") == protocol.ItemInProgress
	}
	return false
}

// Cut removes everything from the first block of any of these turns on, and
// reports whether there was one: what follows is to be told again.
func (t *Transcript) Cut(turns map[string]bool) bool {
	i := slices.IndexFunc(t.blocks, func(b *block) bool { return b.turn != "" && turns[b.turn] })
	if i < 0 {
		return false
	}
	for _, b := range t.blocks[i:] {
		delete(t.byID, b.id)
	}
	t.blocks = slices.Delete(t.blocks, i, len(t.blocks))
	if t.top >= len(t.blocks) {
		t.follow = true
	}
	return true
}

// Last is the text of the last message from the agent, as it came.
func (t *Transcript) Last() string {
	for _, b := range slices.Backward(t.blocks) {
		if b.kind == kindAgent && b.stream != nil {
			return b.stream.Source()
		}
	}
	return ""
}

// Tick redraws what shows a running time.
func (t *Transcript) Tick() {
	for _, b := range slices.Backward(t.blocks) {
		if b.running() {
			b.fresh = false
		}
		if b.kind == kindUser {
			return // nothing before the turn's beginning runs, or its clock does not matter
		}
	}
}
