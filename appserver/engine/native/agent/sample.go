package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
)

// step samples the model once, with retries, and runs what it calls. called
// tells whether the model waits for outputs.
func (t *turn) step() (called bool, err error) {
	compacted := false
	for {
		out := newOutput(t)
		err := t.sample(t.request, out.event, out.settle)
		if err == nil {
			return out.calls.settled > 0, nil
		}
		var me *model.Error
		if !compacted && errors.As(err, &me) && me.ContextFull() && t.ctx.Err() == nil {
			// The window filled earlier than the token counts let us expect.
			compacted = true
			if cerr := t.compactNow(); cerr != nil {
				return false, cerr
			}
			continue
		}
		return false, err
	}
}

// replay is the conversation so far as this endpoint can take it: see sendable.
func (t *turn) replay() []json.RawMessage {
	t.s.mu.Lock()
	history, noReasoning := Repair(t.s.history), t.s.noReasoning
	t.s.mu.Unlock()
	out := history[:0] // Repair made it
	for _, raw := range history {
		if protocol.StringField(raw, "type") == "reasoning" && (noReasoning || !thought(raw)) {
			continue
		}
		out = append(out, sendable(raw))
	}
	return out
}

// request is what the model is asked next: everything so far.
func (t *turn) request() model.Request {
	history := t.replay()
	t.s.mu.Lock()
	asFunction, noReasoning := t.s.patchAsFunction, t.s.noReasoning
	t.s.mu.Unlock()
	name, effort, summary := t.tuning()
	return model.Request{
		Model: name, Input: append([]json.RawMessage{t.base}, history...),
		Tools:             t.tools(asFunction),
		ParallelToolCalls: true, Effort: effort, Summary: summary, OutputSchema: t.OutputSchema,
		CacheKey: string(t.s.cfg.ThreadID), NoEncrypted: noReasoning,
	}
}

// sample sends a request until it succeeds, the failure is one that stays, or
// the tries are used up. on sees the events of every try; settle is called after
// each, before the next: it finishes what the try left open, and its calls'
// outputs become part of the next request.
func (t *turn) sample(request func() model.Request, on func(model.Event) error, settle func() error) error {
	for try := 1; ; try++ {
		var broken error // ours: recording failed, so the response must not go on
		ctx, stop := context.WithCancel(t.ctx)
		err := t.s.cfg.Model.Stream(ctx, request(), func(ev model.Event) {
			if broken != nil {
				return
			}
			if broken = on(ev); broken != nil {
				stop()
			}
		})
		stop()
		if serr := settle(); broken == nil {
			broken = serr
		}
		if broken != nil {
			return broken
		}
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
		if err == nil {
			return nil
		}
		var me *model.Error
		if !errors.As(err, &me) {
			return err
		}
		if t.learn(me) {
			try--
			continue
		}
		if me.Relogin != nil && t.s.cfg.AwaitLogin != nil {
			if err := t.awaitLogin(me); err != nil {
				return err
			}
			try = 0
			continue
		}
		if !me.Retry || try > maxRetries {
			return me
		}
		details := me.Message
		t.notify("error", errorNote{
			Error: &protocol.TurnError{
				Message:           fmt.Sprintf("Reconnecting... %d/%d", try, maxRetries),
				CodexErrorInfo:    model.InfoDisconnected(me.Status),
				AdditionalDetails: &details,
			},
			WillRetry: true, ThreadID: t.s.cfg.ThreadID, TurnID: t.ID,
		})
		if err := t.pause(try, me.After); err != nil {
			return err
		}
	}
}

// awaitLogin pauses the turn until somebody has logged in: what was done so far
// is kept, and the same request is made again.
func (t *turn) awaitLogin(me *model.Error) error {
	t.wait(protocol.FlagWaitingOnUserInput, 1)
	defer t.wait(protocol.FlagWaitingOnUserInput, -1)
	err := t.s.cfg.AwaitLogin(t.ctx, Pause{TurnID: t.ID, Message: me.Message, Info: me.Info}, me.Relogin)
	switch {
	case err == nil:
		return nil
	case t.ctx.Err() != nil:
		return context.Cause(t.ctx)
	}
	return &model.Error{Status: me.Status, Code: me.Code, Info: me.Info, Err: err, Message: fmt.Sprintf("%s: %v", me.Message, err)}
}

// learn reports whether a refusal taught the session to ask differently, each
// thing once: many endpoints know function tools only and refuse the freeform
// patch tool, some models have no encrypted reasoning to include, and none can
// read what another endpoint encrypted, which a thread brings along when its
// model is changed.
func (t *turn) learn(me *model.Error) bool {
	if me.Status != http.StatusBadRequest && me.Status != http.StatusUnprocessableEntity {
		return false
	}
	said := strings.ToLower(me.Message)
	about := func(signs ...string) bool {
		return slices.ContainsFunc(signs, func(s string) bool { return strings.Contains(said, s) })
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	switch {
	case about("encrypted") && !t.s.noReasoning:
		t.s.noReasoning = true
	case about("custom", "grammar", "tools[") && !t.s.patchAsFunction:
		t.s.patchAsFunction = true
	default:
		return false
	}
	t.s.cfg.Log.Info("endpoint refused the request, asking differently", "functions", t.s.patchAsFunction, "reasoning", !t.s.noReasoning, "err", me.Message)
	return true
}

// pause waits before try+1: exponential with jitter, and at least what the
// endpoint asked for.
func (t *turn) pause(try int, atLeast time.Duration) error {
	d := min(t.s.cfg.RetryDelay<<(try-1), maxRetryDelay)
	d = time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
	timer := time.NewTimer(max(d, atLeast))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}
