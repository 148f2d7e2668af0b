package run

import (
	"encoding/json"
	"slices"

	"towline/appserver/protocol"
)

// hear takes one message. The turn may be over with it.
func (t *turn) hear(h heard) (verdict, bool) {
	if id := protocol.ThreadID(protocol.StringField(h.params, "threadId")); id != "" && id != t.thread {
		return verdict{}, false
	}
	if h.id != "" {
		t.asked(h.id, h.method, h.params)
		return verdict{}, false
	}
	switch h.method {
	case "warning":
		t.warn(protocol.StringField(h.params, "message"))
		return verdict{}, false
	case "configWarning":
		// Codex tells these before there is a thread, to people only.
		t.note(Note{Kind: NoteWarning, Text: protocol.StringField(h.params, "summary")})
		return verdict{}, false
	case "deprecationNotice":
		t.warn(withDetails(protocol.StringField(h.params, "summary"), protocol.StringField(h.params, "details")))
		return verdict{}, false
	case "model/rerouted":
		t.warn("model rerouted: " + protocol.StringField(h.params, "fromModel") + " -> " + protocol.StringField(h.params, "toModel"))
		return verdict{}, false
	case "serverRequest/resolved":
		t.resolved(string(protocol.Field(h.params, "requestId")))
		return verdict{}, false
	case protocol.NoteApprovalOpened, protocol.NoteApprovalClosed:
		t.ledger(protocol.Field(h.params, "approval"))
		return verdict{}, false
	}
	return t.hearTurn(h)
}

// hearTurn takes a message about a turn: ours, or the one that is watched.
func (t *turn) hearTurn(h heard) (verdict, bool) {
	var p struct {
		TurnID string          `json:"turnId"`
		Turn   json.RawMessage `json:"turn"`
		Item   json.RawMessage `json:"item"`
	}
	if json.Unmarshal(h.params, &p) != nil {
		return verdict{}, false
	}
	if p.TurnID == "" {
		p.TurnID = protocol.StringField(p.Turn, "id")
	}
	if h.method == "thread/tokenUsage/updated" {
		t.used(protocol.Field(h.params, "tokenUsage"), p.TurnID == t.id)
		return verdict{}, false
	}
	if p.TurnID != t.id {
		return verdict{}, false
	}
	switch h.method {
	case "turn/started":
		t.begin()
	case "item/started", "item/completed":
		var it protocol.Item
		if json.Unmarshal(p.Item, &it) != nil {
			break
		}
		if h.method == "item/started" {
			t.itemStarted(it)
		} else {
			t.itemCompleted(it, false)
		}
	case "item/fileChange/patchUpdated":
		var f struct {
			ItemID  string                `json:"itemId"`
			Changes []protocol.FileUpdate `json:"changes"`
		}
		if json.Unmarshal(h.params, &f) == nil {
			t.itemStarted(protocol.Item{ID: f.ItemID, Body: &protocol.FileChange{Changes: f.Changes, Status: protocol.ItemInProgress}})
		}
	case "turn/plan/updated":
		var plan struct {
			Plan []protocol.PlanStep `json:"plan"`
		}
		if json.Unmarshal(h.params, &plan) == nil {
			t.event(t.lines.planned(plan.Plan))
		}
	case "error":
		var e struct {
			Error protocol.TurnError `json:"error"`
		}
		if json.Unmarshal(h.params, &e) == nil {
			t.failed = errorText(&e.Error)
			t.event(Event{Type: Failure, Message: t.failed})
		}
	case "turn/completed":
		var tn protocol.Turn
		if json.Unmarshal(p.Turn, &tn) == nil && tn.Status != protocol.TurnInProgress {
			return t.over(tn, false), true
		}
	}
	return verdict{}, false
}

// begin tells, once, that the turn has begun.
func (t *turn) begin() {
	if !t.announced {
		t.announced = true
		t.event(Event{Type: TurnStarted})
	}
}

func (t *turn) warn(text string) {
	if text != "" {
		t.event(t.lines.warned(text))
		t.note(Note{Kind: NoteWarning, Text: text})
	}
}

func (t *turn) itemStarted(it protocol.Item) {
	t.asks.subject(it)
	if c, ok := it.Body.(*protocol.CommandExecution); ok && len(t.works) < MaxListed {
		t.works[it.ID] = commandOf(c)
	}
	if e, ok := t.lines.started(it); ok {
		t.event(e)
	}
}

// itemCompleted tells of the end of an item, once, and enters it into the result.
// past: it comes from the thread's history.
func (t *turn) itemCompleted(it protocol.Item, past bool) {
	known := t.lines.known(it.ID, past)
	t.lines.done[it.ID] = true
	if past {
		t.lines.past[it.ID] = true
	}
	if known {
		return
	}
	t.answeredBy(it)
	delete(t.works, it.ID)
	switch b := it.Body.(type) {
	case *protocol.AgentMessage:
		t.res.Message = b.Text
	case *protocol.PlanItem:
		if t.res.Message == "" {
			t.res.Message = b.Text
		}
	case *protocol.CommandExecution:
		if len(t.res.Commands) >= MaxListed {
			t.res.Truncated = true
			break
		}
		t.res.Commands = append(t.res.Commands, commandOf(b))
	case *protocol.FileChange:
		if b.Status == protocol.ItemCompleted {
			for _, c := range b.Changes {
				t.changed(c)
			}
		}
	}
	if e, ok := t.lines.completed(it); ok {
		t.event(e)
	}
}

func commandOf(c *protocol.CommandExecution) Command {
	return Command{Command: c.Command, Cwd: c.Cwd, Status: snake(c.Status), ExitCode: c.ExitCode, DurationMs: c.DurationMs}
}

// changed enters a file: what became of it since the turn began, not each step.
func (t *turn) changed(c protocol.FileUpdate) {
	f := File{Path: c.Path, Kind: c.Kind.Type}
	if c.Kind.MovePath != nil {
		f.MoveTo = *c.Kind.MovePath
	}
	i, ok := t.files[c.Path]
	if !ok {
		if len(t.res.Files) >= MaxListed {
			t.res.Truncated = true
			return
		}
		t.files[c.Path] = len(t.res.Files)
		t.res.Files = append(t.res.Files, f)
		return
	}
	was := &t.res.Files[i]
	switch {
	case was.Kind == "add" && f.Kind == "update":
		was.MoveTo = f.MoveTo
	case was.Kind == "add" && f.Kind == "delete": // it was never there
		t.res.Files = slices.Delete(t.res.Files, i, i+1)
		clear(t.files)
		for n, f := range t.res.Files {
			t.files[f.Path] = n
		}
	case was.Kind == "delete" && f.Kind == "add":
		was.Kind = "update"
	default:
		*was = f
	}
}

// used notes the tokens: of the thread, and of our turn, which is what the thread
// has used since before the turn's first report.
func (t *turn) used(raw json.RawMessage, ours bool) {
	var u protocol.ThreadTokenUsage
	if json.Unmarshal(raw, &u) != nil {
		return
	}
	t.total = usageOf(u.Total)
	if !ours || t.base == nil && (t.watching || t.breaks > 0) { // what was used before we came is not known
		return
	}
	if t.base == nil {
		t.base = new(protocol.TokenUsage)
		*t.base = minus(u.Total, u.Last)
	}
	t.spent = usageOf(minus(u.Total, *t.base))
}

func minus(a, b protocol.TokenUsage) protocol.TokenUsage {
	return protocol.TokenUsage{
		InputTokens: a.InputTokens - b.InputTokens, CachedInputTokens: a.CachedInputTokens - b.CachedInputTokens,
		CacheWriteInputTokens: a.CacheWriteInputTokens - b.CacheWriteInputTokens, OutputTokens: a.OutputTokens - b.OutputTokens,
		ReasoningOutputTokens: a.ReasoningOutputTokens - b.ReasoningOutputTokens,
	}
}

func usageOf(u protocol.TokenUsage) *Usage {
	return &Usage{u.InputTokens, u.CachedInputTokens, u.CacheWriteInputTokens, u.OutputTokens, u.ReasoningOutputTokens}
}

// errorText is a turn's error in the one line that Codex makes of it.
func errorText(e *protocol.TurnError) string {
	if e.AdditionalDetails != nil {
		return withDetails(e.Message, *e.AdditionalDetails)
	}
	return e.Message
}

func withDetails(text, details string) string {
	if details == "" {
		return text
	}
	return text + " (" + details + ")"
}
