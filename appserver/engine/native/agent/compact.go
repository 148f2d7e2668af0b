package agent

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
)

const (
	compactAt      = 0.9     // of the window
	keepUserTokens = 20_000  // of the person's own words that survive a compaction, newest first
	maxSummary     = 400_000 // bytes
	maxTrims       = 12      // tries to make the request for the summary itself fit
)

const summaryPrompt = `The conversation has become too long to go on with as it is. Write the notes with which somebody who has seen none of it, but has the same tools and files, can finish the work without repeating it:

- what the user wants, in their own terms, with every constraint and preference they stated;
- what has been done: files changed, commands that mattered and what they showed, decisions and why;
- what is true right now: what works, what fails, what still runs;
- what remains, as concrete next steps;
- names, paths, numbers and snippets that would be hard to find again.

Be complete and brief. Answer with the notes only.`

const summaryHead = "Notes on the conversation so far, which was too long to keep. Earlier work they describe was really done; build on it.\n\n"

// used takes in the token counts of a response.
func (t *turn) used(u *protocol.TokenUsage) {
	if u == nil {
		return
	}
	t.s.mu.Lock()
	total := &t.s.usage.Total
	total.TotalTokens += u.TotalTokens
	total.InputTokens += u.InputTokens
	total.CachedInputTokens += u.CachedInputTokens
	total.CacheWriteInputTokens += u.CacheWriteInputTokens
	total.OutputTokens += u.OutputTokens
	total.ReasoningOutputTokens += u.ReasoningOutputTokens
	t.s.usage.Last = *u
	t.s.since = 0
	t.s.mu.Unlock()
	t.tellUsage()
}

func (t *turn) tellUsage() {
	t.notify("thread/tokenUsage/updated", map[string]any{
		"threadId": t.s.cfg.ThreadID, "turnId": t.ID, "tokenUsage": t.s.Usage(),
	})
}

// overLimit reports whether the next request would come too close to the window:
// by what the endpoint counted last, and an estimate of what came since.
func (t *turn) overLimit() bool {
	if t.window <= 0 {
		return false
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if !slices.ContainsFunc(t.s.history, said) {
		return false // nothing a summary could make shorter
	}
	size := t.s.usage.Last.TotalTokens + t.s.since
	if t.s.usage.Last.TotalTokens == 0 { // an endpoint that does not count, or a thread just loaded
		size = tokensOf(t.base)
		for _, raw := range t.s.history {
			size += tokensOf(raw)
		}
	}
	return float64(size) >= compactAt*float64(t.window)
}

// said reports whether an item is the model's doing, and not what people and
// this package wrote.
func said(raw json.RawMessage) bool {
	return protocol.StringField(raw, "type") != "message" || protocol.StringField(raw, "role") == "assistant"
}

// compact is the body of a turn that only compacts.
func (t *turn) compact() error { return t.compactNow() }

// compactNow replaces the history by the context, the person's latest messages
// and the model's own notes on everything.
func (t *turn) compactNow() error {
	it := protocol.Item{ID: newID(""), Body: &protocol.ContextCompaction{}}
	t.started(&it)
	summary, err := t.summarise()
	if err != nil {
		t.completed(&it)
		return err
	}
	t.s.mu.Lock()
	old := t.s.history
	t.s.mu.Unlock()
	fresh := append(t.contextItems(), t.userMessages(old)...)
	fresh = append(fresh, message("user", summaryHead+summary))
	t.s.tell.Lock()
	err = t.sink.Replace(fresh)
	t.s.tell.Unlock()
	if err != nil {
		t.completed(&it)
		return err
	}
	t.s.mu.Lock()
	t.s.history = fresh
	t.s.since = 0
	t.s.usage.Last = protocol.TokenUsage{TotalTokens: tokensOf(t.base)}
	for _, raw := range fresh {
		t.s.usage.Last.TotalTokens += tokensOf(raw)
	}
	t.s.mu.Unlock()
	t.tellUsage()
	t.completed(&it)
	return nil
}

// summarise has the model write its notes. When even that request is too long
// the oldest part of the history goes.
func (t *turn) summarise() (string, error) {
	history, whole := t.replay(), true
	for range maxTrims {
		var b strings.Builder
		err := t.sample(func() model.Request {
			b.Reset()  // a retry begins anew
			if whole { // also what the last try taught
				history = t.replay()
			}
			input := append([]json.RawMessage{t.base}, history...)
			name, effort, _ := t.tuning()
			t.s.mu.Lock()
			noReasoning := t.s.noReasoning
			t.s.mu.Unlock()
			return model.Request{
				Model: name, Input: append(input, message("user", summaryPrompt)),
				Effort: effort, CacheKey: string(t.s.cfg.ThreadID), NoEncrypted: noReasoning,
			}
		}, func(ev model.Event) error {
			switch {
			case ev.Kind == model.ItemDone && protocol.StringField(ev.Item, "type") == "message":
				b.WriteString(messageText(ev.Item))
			case ev.Kind == model.Completed:
				t.used(ev.Usage)
			}
			return nil
		}, func() error { return nil })
		var me *model.Error
		if errors.As(err, &me) && me.ContextFull() && len(history) > 1 {
			history, whole = Repair(history[(len(history)+3)/4:]), false
			continue
		}
		if err != nil {
			return "", err
		}
		if s := strings.TrimSpace(b.String()); s != "" {
			return cut(s, maxSummary), nil
		}
		return "", errors.New("the model gave no summary of the conversation")
	}
	return "", errors.New("the conversation is too long even to be summarised: start a new thread")
}

// userMessages picks what the person said, newest first while there is room, in
// the order it was said. Pictures are left behind.
func (t *turn) userMessages(history []json.RawMessage) []json.RawMessage {
	var picked []json.RawMessage
	room := int64(keepUserTokens)
	if t.window > 0 {
		room = min(room, t.window/4)
	}
	for i := len(history) - 1; i >= 0 && room > 0; i-- {
		if protocol.StringField(history[i], "type") != "message" || protocol.StringField(history[i], "role") != "user" {
			continue
		}
		s := contentText(history[i])
		if s == "" || contextHead(s) != "" || strings.HasPrefix(s, summaryHead) {
			continue
		}
		s = cut(s, int(room)*bytesPerToken)
		room -= tokensOf(s)
		picked = append([]json.RawMessage{message("user", s)}, picked...)
	}
	return picked
}
