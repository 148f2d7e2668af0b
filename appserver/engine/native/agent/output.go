package agent

import (
	"encoding/json"
	"errors"
	"strings"

	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
)

// maxDeltas bounds the text streamed for one item: what the item itself may
// hold is bounded by the model package, this is against endless deltas.
const maxDeltas = 8 << 20

// output turns the events of one response into items and calls.
type output struct {
	t     *turn
	open  *streaming // the item being streamed, nil between items
	calls calls
}

// streaming is a message or reasoning item that has begun and not ended.
type streaming struct {
	it      protocol.Item
	wireID  string
	text    strings.Builder   // message
	summary []strings.Builder // reasoning, one per part
}

func newOutput(t *turn) *output { return &output{t: t, calls: calls{t: t}} }

// event acts on one event. An error means nothing more may happen.
func (o *output) event(ev model.Event) error {
	switch ev.Kind {
	case model.ItemAdded:
		o.begin(ev)
	case model.TextDelta:
		o.textDelta(ev)
	case model.ReasoningPart, model.ReasoningDelta, model.ReasoningTextDelta:
		o.reasoning(ev)
	case model.ItemDone:
		return o.done(ev)
	case model.Completed:
		o.t.used(ev.Usage)
	case model.RateLimits:
		o.t.notify("account/rateLimits/updated", map[string]any{"rateLimits": ev.Limits})
	}
	return nil
}

func (o *output) begin(ev model.Event) {
	o.abandon() // an endpoint that never ended the item before this one
	typ, role := protocol.StringField(ev.Item, "type"), protocol.StringField(ev.Item, "role")
	switch {
	case typ == "message" && role == "assistant":
		o.open = &streaming{wireID: ev.ItemID, it: protocol.Item{
			ID: orNew(ev.ItemID, "msg_"), Body: &protocol.AgentMessage{Phase: phase(ev.Item)},
		}}
	case typ == "reasoning":
		o.open = &streaming{wireID: ev.ItemID, it: protocol.Item{
			ID: orNew(ev.ItemID, "rs_"), Body: &protocol.Reasoning{Summary: []string{}, Content: []string{}},
		}}
	default:
		return
	}
	o.t.started(&o.open.it)
}

// current is the open item if the event is about it.
func (o *output) current(ev model.Event) *streaming {
	if o.open == nil || ev.ItemID != "" && o.open.wireID != "" && ev.ItemID != o.open.wireID {
		return nil
	}
	return o.open
}

func (o *output) textDelta(ev model.Event) {
	st := o.current(ev)
	if st == nil || ev.Delta == "" {
		return
	}
	if _, ok := st.it.Body.(*protocol.AgentMessage); !ok || st.text.Len() > maxDeltas {
		return
	}
	st.text.WriteString(ev.Delta)
	o.t.notify("item/agentMessage/delta", o.delta(st, ev.Delta))
}

func (o *output) reasoning(ev model.Event) {
	st := o.current(ev)
	if st == nil || ev.Index > 1000 {
		return
	}
	if _, ok := st.it.Body.(*protocol.Reasoning); !ok {
		return
	}
	note := o.delta(st, ev.Delta)
	switch ev.Kind {
	case model.ReasoningPart:
		st.part(ev.Index)
		o.t.notify("item/reasoning/summaryPartAdded", map[string]any{
			"threadId": note.ThreadID, "turnId": note.TurnID, "itemId": note.ItemID, "summaryIndex": ev.Index,
		})
	case model.ReasoningDelta:
		p := st.part(ev.Index)
		if p.Len() > maxDeltas {
			return
		}
		p.WriteString(ev.Delta)
		note.SummaryIndex = &ev.Index
		o.t.notify("item/reasoning/summaryTextDelta", note)
	case model.ReasoningTextDelta:
		note.ContentIndex = &ev.Index
		o.t.notify("item/reasoning/textDelta", note)
	}
}

func (st *streaming) part(i int) *strings.Builder {
	if i >= len(st.summary) {
		grown := make([]strings.Builder, i+1)
		for j := range st.summary { // a Builder must not be copied once written to
			grown[j].WriteString(st.summary[j].String())
		}
		st.summary = grown
	}
	return &st.summary[i]
}

func (o *output) delta(st *streaming, text string) deltaNote {
	return deltaNote{ThreadID: o.t.s.cfg.ThreadID, TurnID: o.t.ID, ItemID: st.it.ID, Delta: text}
}

// done records a finished item, shows it, and starts the call it may be.
func (o *output) done(ev model.Event) error {
	raw := ev.Item
	switch typ := protocol.StringField(raw, "type"); typ {
	case "message":
		if protocol.StringField(raw, "role") != "assistant" {
			return nil
		}
		if err := o.t.record(raw); err != nil {
			return err
		}
		it := o.close(ev, func(b protocol.ItemBody) bool { _, ok := b.(*protocol.AgentMessage); return ok }, "msg_")
		it.Body = &protocol.AgentMessage{Text: messageText(raw), Phase: phase(raw)}
		o.t.completed(&it)
		o.t.last = &it
	case "reasoning":
		if err := o.t.record(raw); err != nil {
			return err
		}
		it := o.close(ev, func(b protocol.ItemBody) bool { _, ok := b.(*protocol.Reasoning); return ok }, "rs_")
		it.Body = reasoningBody(raw)
		o.t.completed(&it)
	case "function_call", "custom_tool_call":
		c := &call{
			id: protocol.StringField(raw, "call_id"), name: protocol.StringField(raw, "name"),
			custom: typ == "custom_tool_call", done: make(chan struct{}),
		}
		c.input = protocol.StringField(raw, "arguments")
		if c.custom {
			c.input = protocol.StringField(raw, "input")
		}
		if c.id == "" {
			o.t.s.cfg.Log.Warn("tool call without call_id passed over", "tool", c.name)
			return nil
		}
		if len(o.calls.list) >= maxCalls {
			return errors.New("the model made too many tool calls at once")
		}
		if err := o.t.record(raw); err != nil {
			return err
		}
		o.calls.start(c)
	case "web_search_call":
		if err := o.t.record(raw); err != nil {
			return err
		}
		o.webSearch(ev)
	default:
		// A call nobody here can answer would make every later replay invalid.
		if strings.HasSuffix(typ, "_call") || typ == "" {
			o.t.s.cfg.Log.Warn("item of the model passed over", "type", typ)
			return nil
		}
		return o.t.record(raw)
	}
	return nil
}

// close takes the open item when it is the one that ends, and announces one that
// was never begun.
func (o *output) close(ev model.Event, is func(protocol.ItemBody) bool, prefix string) protocol.Item {
	if st := o.current(ev); st != nil && is(st.it.Body) {
		o.open = nil
		return st.it
	}
	it := protocol.Item{ID: orNew(ev.ItemID, prefix)}
	if prefix == "rs_" {
		it.Body = reasoningBody(ev.Item)
	} else {
		it.Body = &protocol.AgentMessage{Text: messageText(ev.Item), Phase: phase(ev.Item)}
	}
	o.t.started(&it)
	return it
}

func (o *output) webSearch(ev model.Event) {
	var w struct {
		Action json.RawMessage `json:"action"`
	}
	_ = json.Unmarshal(ev.Item, &w) // an odd action is shown without its query
	it := protocol.Item{ID: orNew(ev.ItemID, "ws_"), Body: &protocol.WebSearch{
		Query: protocol.StringField(w.Action, "query"),
	}}
	o.t.started(&it)
	o.t.completed(&it)
}

// settle ends what the response left open and records the outputs of its calls.
func (o *output) settle() error {
	o.abandon()
	return o.calls.collect()
}

// abandon completes an item whose end never came with what people saw of it. A
// message that was interrupted is recorded too: the next turn may refer to it.
// One that a lost stream cut off is not, because the model will say it again.
func (o *output) abandon() {
	st := o.open
	if st == nil {
		return
	}
	o.open = nil
	switch b := st.it.Body.(type) {
	case *protocol.AgentMessage:
		text := st.text.String()
		st.it.Body = &protocol.AgentMessage{Text: text, Phase: b.Phase}
		if text != "" && o.t.ctx.Err() != nil {
			if err := o.t.record(assistantMessage(text)); err != nil {
				o.t.s.cfg.Log.Error("partial message not recorded", "err", err)
			}
			o.t.last = &st.it
		}
	case *protocol.Reasoning:
		body := &protocol.Reasoning{Summary: []string{}, Content: []string{}}
		for i := range st.summary {
			body.Summary = append(body.Summary, st.summary[i].String())
		}
		st.it.Body = body
	}
	o.t.completed(&st.it)
}

func orNew(id, prefix string) string {
	if id != "" {
		return id
	}
	return newID(prefix)
}

func phase(raw json.RawMessage) *string {
	if p := protocol.StringField(raw, "phase"); p != "" {
		return &p
	}
	return nil
}

// messageText is the text of an assistant message; a refusal is text too.
func messageText(raw json.RawMessage) string {
	var m struct {
		Content []struct {
			Type    string `json:"type"`
			Text    string `json:"text"`
			Refusal string `json:"refusal"`
		} `json:"content"`
	}
	if json.Unmarshal(raw, &m) != nil {
		return ""
	}
	var b strings.Builder
	for _, c := range m.Content {
		b.WriteString(c.Text)
		b.WriteString(c.Refusal)
	}
	return b.String()
}

func reasoningBody(raw json.RawMessage) *protocol.Reasoning {
	var m struct {
		Summary []struct {
			Text string `json:"text"`
		} `json:"summary"`
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	_ = json.Unmarshal(raw, &m) // reasoning of another shape has nothing to show
	body := &protocol.Reasoning{Summary: []string{}, Content: []string{}}
	for _, p := range m.Summary {
		body.Summary = append(body.Summary, p.Text)
	}
	for _, p := range m.Content {
		body.Content = append(body.Content, p.Text)
	}
	return body
}
