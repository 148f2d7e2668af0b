package rehearsal

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// beatDelays is how many delays a beat lasts: about half a second.
const beatDelays = 40

// reply is what the model says and does in one response.
type reply struct {
	wait  time.Duration // before anything is said
	beats int           // the same in steps a person can follow; none in tests
	think []string      // reasoning summaries
	text  string        // a message, before any call
	pace  time.Duration // between its words; 0: the Model's delay
	calls []toolCall
	usage int // input tokens to claim; 0: counted
	fail  *failure
}

// toolCall is one call; custom tools take raw text, functions JSON.
type toolCall struct {
	name   string
	custom bool
	input  string
}

// failure is a response that goes wrong on purpose.
type failure struct {
	status        int    // answer with this HTTP status
	cut           bool   // cut the connection
	after         string // having said this
	once          bool   // only the first attempt
	code, message string
}

// emitter writes a response as events, or collects it for one JSON object.
type emitter struct {
	ctx    context.Context // one response is a lifetime
	w      http.ResponseWriter
	conv   *conversation
	delay  time.Duration
	stream bool

	seq    int
	output []any // finished items
	chars  int   // of the output
	think  int   // of which reasoning
}

type object = map[string]any // marshals with sorted keys, so the bytes are the same each time

func newEmitter(ctx context.Context, w http.ResponseWriter, c *conversation, delay time.Duration, stream bool) *emitter {
	return &emitter{ctx: ctx, w: w, conv: c, delay: delay, stream: stream}
}

// run writes the whole reply.
func (e *emitter) run(r reply) error {
	if err := e.start(); err != nil {
		return err
	}
	if err := e.pause(r.wait + time.Duration(r.beats)*beatDelays*e.delay); err != nil {
		return err
	}
	if r.fail != nil && !r.fail.once {
		return e.failed(r.fail.code, r.fail.message)
	}
	if len(r.think) > 0 {
		if err := e.reason(r.think); err != nil {
			return err
		}
	}
	if r.text != "" {
		phase := "final_answer"
		if len(r.calls) > 0 {
			phase = "commentary"
		}
		if err := e.message(r.text, phase, r.pace); err != nil {
			return err
		}
	}
	for _, c := range r.calls {
		if err := e.call(c); err != nil {
			return err
		}
	}
	resp := e.response("completed")
	resp["usage"] = e.usage(r.usage)
	if !e.stream {
		e.w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(e.w).Encode(resp)
	}
	return e.event("response.completed", object{"response": resp})
}

func (e *emitter) start() error {
	if !e.stream {
		return nil
	}
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Request-Id", "req_"+e.conv.key)
	return e.event("response.created", object{"response": e.response("in_progress")})
}

// begin writes the start of a response and of a message, as before a cut.
func (e *emitter) begin(text string) error {
	if err := e.start(); err != nil || text == "" {
		return err
	}
	id := e.id("msg")
	if err := e.event("response.output_item.added", object{"output_index": 0, "item": message(id, "", "final_answer", "in_progress")}); err != nil {
		return err
	}
	return e.event("response.output_text.delta", object{"item_id": id, "output_index": 0, "content_index": 0, "delta": text})
}

// failed ends the response with an error event.
func (e *emitter) failed(code, text string) error {
	if !e.stream {
		refuse(e.w, http.StatusBadRequest, code, text)
		return nil
	}
	if e.seq == 0 {
		if err := e.start(); err != nil {
			return err
		}
	}
	resp := e.response("failed")
	resp["error"] = object{"code": code, "message": text}
	return e.event("response.failed", object{"response": resp})
}

func (e *emitter) response(status string) object {
	out := e.output
	if out == nil {
		out = []any{}
	}
	return object{
		"id": "resp_" + e.conv.key, "object": "response", "created_at": 0, "model": Slug, "status": status,
		"output": out, "error": nil, "usage": nil,
	}
}

// id names the next output item.
func (e *emitter) id(kind string) string {
	return kind + "_" + e.conv.key + strconv.Itoa(len(e.output))
}

func message(id, text, phase, status string) object {
	content := []any{}
	if status == "completed" {
		content = append(content, object{"type": "output_text", "text": text, "annotations": []any{}})
	}
	return object{"type": "message", "id": id, "role": "assistant", "phase": phase, "status": status, "content": content}
}

func (e *emitter) message(text, phase string, pace time.Duration) error {
	id, at := e.id("msg"), len(e.output)
	done := message(id, text, phase, "completed")
	err := e.item(message(id, "", phase, "in_progress"), done, func() error {
		where := func(o object) object {
			o["item_id"], o["output_index"], o["content_index"] = id, at, 0
			return o
		}
		empty := object{"type": "output_text", "text": "", "annotations": []any{}}
		if err := e.event("response.content_part.added", where(object{"part": empty})); err != nil {
			return err
		}
		for w := range words(text) {
			if err := e.event("response.output_text.delta", where(object{"delta": w})); err != nil {
				return err
			}
			if err := e.pause(max(pace, e.delay)); err != nil {
				return err
			}
		}
		if err := e.event("response.output_text.done", where(object{"text": text})); err != nil {
			return err
		}
		return e.event("response.content_part.done", where(object{"part": done["content"].([]any)[0]}))
	})
	e.chars += len(text)
	return err
}

func (e *emitter) reason(parts []string) error {
	id, at := e.id("rs"), len(e.output)
	summary := []any{}
	for _, p := range parts {
		summary = append(summary, object{"type": "summary_text", "text": p})
		e.chars += len(p)
		e.think += len(p)
	}
	// Clients replay the encrypted content; there is nothing in it to keep.
	done := object{"type": "reasoning", "id": id, "summary": summary, "encrypted_content": "cmVoZWFyc2Fs"}
	return e.item(object{"type": "reasoning", "id": id, "summary": []any{}}, done, func() error {
		for i, p := range parts {
			where := func(o object) object {
				o["item_id"], o["output_index"], o["summary_index"] = id, at, i
				return o
			}
			if err := e.event("response.reasoning_summary_part.added", where(object{"part": object{"type": "summary_text", "text": ""}})); err != nil {
				return err
			}
			for w := range words(p) {
				if err := e.event("response.reasoning_summary_text.delta", where(object{"delta": w})); err != nil {
					return err
				}
				if err := e.pause(e.delay); err != nil {
					return err
				}
			}
			if err := e.event("response.reasoning_summary_text.done", where(object{"text": p})); err != nil {
				return err
			}
			if err := e.event("response.reasoning_summary_part.done", where(object{"part": summary[i]})); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *emitter) call(c toolCall) error {
	at := len(e.output)
	typ, kind, field, event := "function_call", "fc", "arguments", "response.function_call_arguments"
	if c.custom {
		typ, kind, field, event = "custom_tool_call", "ctc", "input", "response.custom_tool_call_input"
	}
	id := e.id(kind)
	it := func(input, status string) object {
		return object{"type": typ, "id": id, "call_id": "call_" + e.conv.key + strconv.Itoa(at), "name": c.name, field: input, "status": status}
	}
	e.chars += len(c.input)
	return e.item(it("", "in_progress"), it(c.input, "completed"), func() error {
		for l := range strings.SplitAfterSeq(c.input, "\n") {
			if l == "" {
				continue
			}
			if err := e.event(event+".delta", object{"item_id": id, "output_index": at, "delta": l}); err != nil {
				return err
			}
			if err := e.pause(e.delay); err != nil {
				return err
			}
		}
		return e.event(event+".done", object{"item_id": id, "output_index": at, field: c.input})
	})
}

// item announces an output item, lets deltas write it, and finishes it.
func (e *emitter) item(added, done object, deltas func() error) error {
	at := len(e.output)
	if err := e.event("response.output_item.added", object{"output_index": at, "item": added}); err != nil {
		return err
	}
	if err := deltas(); err != nil {
		return err
	}
	if err := e.event("response.output_item.done", object{"output_index": at, "item": done}); err != nil {
		return err
	}
	e.output = append(e.output, done)
	return nil
}

// event writes one frame and flushes it.
func (e *emitter) event(typ string, o object) error {
	if !e.stream {
		return nil
	}
	o["type"], o["sequence_number"] = typ, e.seq
	e.seq++
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(e.w, "event: "+typ+"\ndata: "+string(b)+"\n\n"); err != nil {
		return err
	}
	if f, ok := e.w.(http.Flusher); ok {
		f.Flush()
	}
	return nil
}

// pause waits, unless the client is gone first.
func (e *emitter) pause(d time.Duration) error {
	if err := e.ctx.Err(); err != nil {
		return context.Cause(e.ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(min(d, maxWait))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}

// usage counts four characters a token, as text usually comes out. What came
// before the last user message counts as cached, in the API's steps of 128.
func (e *emitter) usage(claim int) object {
	tokens := func(chars int) int { return (chars + 3) / 4 }
	in, out := tokens(e.conv.chars), tokens(e.chars)
	cached := tokens(e.conv.chars-e.conv.tail) / 128 * 128
	if claim > 0 {
		in, cached = claim, 0
	}
	return object{
		"input_tokens": in, "input_tokens_details": object{"cached_tokens": cached},
		"output_tokens": out, "output_tokens_details": object{"reasoning_tokens": tokens(e.think)},
		"total_tokens": in + out,
	}
}

// words cuts text after each run of white space, as deltas of a model are about
// a word long. Joined again they are text.
func words(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for text != "" {
			n := strings.IndexAny(text, " \n")
			if n < 0 {
				n = len(text)
			}
			for n < len(text) && (text[n] == ' ' || text[n] == '\n') {
				n++
			}
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}
