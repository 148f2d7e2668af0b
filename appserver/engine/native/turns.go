package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

var errInterrupted = errors.New("interrupted by the user")

// input is what a client sends to a turn.
type input struct {
	Input    []protocol.UserInput `json:"input"`
	ClientID *string              `json:"clientUserMessageId"`
}

func (c *conn) turnStart(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		input
		overrides
		OutputSchema json.RawMessage `json:"outputSchema"`
	}
	if err := decode(r, &p, "threadId", "input"); err != nil {
		return nil, err
	}
	changed := false
	for {
		var ending *running // a turn that takes no more input, and is about to end
		err := c.with(p.ThreadID, func(l *live) error {
			if len(p.Input) == 0 {
				return protocol.Internalf("failed to submit turn input: EmptyInput")
			}
			now, err := l.change(&p.overrides)
			if err != nil {
				return err
			}
			changed = changed || now
			if l.turn == nil {
				in := l.turnInput()
				in.Input, in.ClientMessageID = p.Input, p.ClientID
				if given(p.OutputSchema) {
					in.OutputSchema = p.OutputSchema
				}
				err = l.begin(in, func(id string) { r.Reply(map[string]any{"turn": bare(id)}) })
			} else if ending, err = l.steer(p.input); err == nil && ending == nil {
				r.Reply(map[string]any{"turn": bare(l.turn.id)})
			}
			if changed && ending == nil {
				l.tellSettings()
			}
			return err
		})
		if err != nil || ending == nil {
			return nil, err
		}
		select {
		case <-ending.done:
		case <-c.ctx.Done():
			return nil, context.Cause(c.ctx)
		}
	}
}

// bare is a turn as turn/start answers it.
func bare(id string) protocol.Turn {
	return protocol.Turn{ID: id, RootTurnID: &id, ItemsView: protocol.ViewNotLoaded, Status: protocol.TurnInProgress}
}

// maxLater bounds the messages that wait inside one turn.
const maxLater = 100

// steer adds input to the running turn; l.mu is held. A turn that cannot take it
// now, a shell command's for instance, takes it later. ending is the turn when it
// is over but for its last words.
func (l *live) steer(in input) (ending *running, err error) {
	t := l.turn
	if t.over {
		return t, nil
	}
	if t.agent && len(t.later) == 0 {
		switch err := l.session.Steer(in.Input, in.ClientID); {
		case err == nil:
			return nil, nil
		case errors.Is(err, agent.ErrNoTurn) && t.begun:
			return t, nil
		}
	}
	if len(t.later) >= maxLater {
		return nil, protocol.Errorf("%d messages wait for this turn already", maxLater)
	}
	t.later = append(t.later, in)
	return nil, nil
}

// takes notes that the agent has begun and gives it what came before; l.mu is
// held.
func (l *live) takes() {
	t := l.turn
	if t == nil || !t.agent || t.begun {
		return
	}
	t.begun = true
	for len(t.later) > 0 && l.session.Steer(t.later[0].Input, t.later[0].ClientID) == nil {
		t.later = t.later[1:]
	}
}

// leftover takes a message no part of the turn has taken yet. Without one the
// turn is over.
func (l *live) leftover(t *running, out agent.Outcome) (in input, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if out.Status != protocol.TurnCompleted || len(t.later) == 0 {
		t.over = true
		return input{}, false
	}
	in, t.later = t.later[0], t.later[1:]
	t.agent, t.begun = true, false
	return in, true
}

// begin starts a turn of the agent; l.mu is held. reply is called with the turn's
// id once nothing can go wrong any more, before anybody hears of the turn.
func (l *live) begin(in agent.Turn, reply func(id string)) error {
	return l.run(true, reply, func(ctx context.Context, id string) agent.Outcome {
		return l.sample(ctx, id, in)
	})
}

// turnInput is what the agent is given for a turn begun now, but for its input;
// l.mu is held.
func (l *live) turnInput() agent.Turn {
	in := l.e.turnOf(l.settings())
	if goal := l.goalText(); goal != "" {
		in.DeveloperInstructions = strings.TrimSpace(in.DeveloperInstructions + "\n\n" + goal)
	}
	return in
}

func (l *live) sample(ctx context.Context, id string, in agent.Turn) agent.Outcome {
	in.ID = id
	in.DynamicTools = l.tools
	return l.session.Run(ctx, in, l)
}

// run makes body the running turn; l.mu is held. Input that body did not take
// is given to the agent afterwards, within the same turn.
func (l *live) run(byAgent bool, reply func(id string), body func(ctx context.Context, id string) agent.Outcome) error {
	e := l.e
	if e.stopping() {
		return draining()
	}
	t := &running{id: thread.NewID(), began: e.now(), agent: byAgent, done: make(chan struct{})}
	if err := l.record(thread.TurnStarted(t.id)); err != nil {
		return fmt.Errorf("store turn: %w", err)
	}
	ctx, cancel := context.WithCancelCause(e.life)
	t.cancel = cancel
	l.turn = t
	if !e.spawn(func() {
		out := body(ctx, t.id)
		for in, ok := l.leftover(t, out); ok; in, ok = l.leftover(t, out) {
			l.mu.Lock()
			next := l.turnInput()
			l.mu.Unlock()
			next.Input, next.ClientMessageID = in.Input, in.ClientID
			out = l.sample(ctx, t.id, next)
		}
		cut := errors.Is(context.Cause(ctx), errStopping)
		cancel(nil)
		l.end(t, out, cut)
	}) {
		l.turn = nil
		cancel(nil)
		if err := l.record(thread.TurnEnded(t.id, protocol.TurnInterrupted, nil)); err != nil {
			e.log.Error("end of turn not stored", "thread", l.id, "turn", t.id, "err", err)
		}
		return draining()
	}
	reply(t.id)
	l.tellStatus()
	turn := bare(t.id)
	sec := t.began.Unix()
	turn.StartedAt = &sec
	l.tell("turn/started", map[string]any{"threadId": l.id, "turn": turn})
	return nil
}

// end records and tells how a turn ended, and starts what was queued. cut: this
// process ends, and with it the turn.
func (l *live) end(t *running, out agent.Outcome, cut bool) {
	defer l.e.spent()
	defer close(t.done)
	l.mu.Lock()
	defer l.mu.Unlock()
	unread := l.hist.Head.Unread
	if unread.TurnID == nil && !unread.Start {
		unread.TurnID = &t.id
	}
	unread.Revision++
	spent := l.spend(0, int64(l.e.now().Sub(t.began).Seconds()))
	ended := thread.TurnEnded(t.id, out.Status, out.Error)
	if cut && out.Status == protocol.TurnInterrupted {
		ended = thread.TurnCut(t.id)
	}
	if err := l.record(append(spent, ended, thread.SetUnread(unread))...); err != nil {
		l.e.log.Error("end of turn not stored", "thread", l.id, "turn", t.id, "err", err)
	}
	if len(spent) > 0 {
		l.tellGoal(&t.id)
	}
	l.turn, l.idle = nil, l.e.now()
	clear(l.flags)
	turn := bare(t.id)
	began, done, took := t.began.Unix(), l.e.now().Unix(), l.e.now().Sub(t.began).Milliseconds()
	turn.Status, turn.Error = out.Status, out.Error
	turn.ItemsView, turn.StartedAt, turn.CompletedAt, turn.DurationMs = protocol.ViewSummary, &began, &done, &took
	if out.LastMessage != nil && out.Status == protocol.TurnCompleted {
		turn.Items = protocol.Items{*out.LastMessage}
	}
	l.tell("thread/readState/changed", map[string]any{"threadId": l.id, "readState": readStateOf(l.id, unread)})
	l.tellStatus()
	l.tell("turn/completed", map[string]any{"threadId": l.id, "turn": turn})
	// Whoever stopped a turn, or whose endpoint is broken, does not want the
	// next one to run off on its own.
	if out.Status == protocol.TurnCompleted && !l.gone {
		l.startQueued()
	}
}

func (c *conn) turnSteer(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		input
		Expected string `json:"expectedTurnId"`
	}
	if err := decode(r, &p, "threadId", "expectedTurnId", "input"); err != nil {
		return nil, err
	}
	var id string
	err := c.with(p.ThreadID, func(l *live) error {
		switch {
		case l.turn == nil:
			return protocol.Errorf("no active turn to steer")
		case l.turn.id != p.Expected:
			return protocol.Errorf("expected active turn id `%s` but found `%s`", p.Expected, l.turn.id)
		}
		id = l.turn.id
		ending, err := l.steer(p.input)
		if ending != nil {
			return protocol.Errorf("no active turn to steer")
		}
		return err
	})
	return map[string]string{"turnId": id}, err
}

func (c *conn) turnInterrupt(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		TurnID string `json:"turnId"`
	}
	if err := decode(r, &p, "threadId", "turnId"); err != nil {
		return nil, err
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		switch {
		case l.turn == nil:
			return protocol.Errorf("no active turn to interrupt")
		case l.turn.id != p.TurnID:
			return protocol.Errorf("expected active turn id %s but found %s", p.TurnID, l.turn.id)
		}
		r.Reply(nil)
		l.turn.cancel(errInterrupted)
		return nil
	})
}

// turnSettingsUpdate changes what the rest of a running turn uses, and nothing
// after it.
func (c *conn) turnSettingsUpdate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		TurnID       string          `json:"turnId"`
		Model        *string         `json:"model"`
		Effort       *string         `json:"effort"`
		Summary      *string         `json:"summary"`
		Environments json.RawMessage `json:"environments"`
		Reviewer     *string         `json:"approvalsReviewer"`
	}
	if err := decode(r, &p, "threadId", "turnId"); err != nil {
		return nil, err
	}
	switch {
	case given(p.Environments):
		return nil, protocol.Errorf("turn/settings/update: environments cannot be changed on this server")
	case p.Reviewer != nil && *p.Reviewer != "user":
		return nil, protocol.Errorf("turn/settings/update: approvals are reviewed by the user on this server")
	case p.Model != nil && *p.Model == "":
		return nil, protocol.Errorf("turn/settings/update: the model must not be empty")
	}
	status := "targetUnavailable"
	err := c.with(p.ThreadID, func(l *live) error {
		if l.session.Retune(p.TurnID, p.Model, p.Effort, p.Summary) {
			status = "applied"
		}
		return nil
	})
	return map[string]string{"status": status}, err
}

func (c *conn) compactStart(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		if l.turn != nil {
			return protocol.Errorf("thread %s is working; compact it when it is idle", l.id)
		}
		in := l.turnInput()
		return l.run(false, func(string) { r.Reply(nil) }, func(ctx context.Context, id string) agent.Outcome {
			in.ID = id
			return l.session.Compact(ctx, in, l)
		})
	})
}

// terminal is a command that runs in the background.
type terminal struct {
	ItemID     string   `json:"itemId"`
	ProcessID  string   `json:"processId"`
	Command    string   `json:"command"`
	Cwd        string   `json:"cwd"`
	OSPid      int      `json:"osPid"`
	CPUPercent *float64 `json:"cpuPercent"`
	RSSKB      *int64   `json:"rssKb"`
}

func (c *conn) terminalsList(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	list := []terminal{}
	err := c.with(p.ThreadID, func(l *live) error {
		for _, t := range l.session.Terminals() {
			list = append(list, terminal{ItemID: t.ItemID, ProcessID: t.ProcessID, Command: t.Command, Cwd: t.Cwd, OSPid: t.Pid})
		}
		return nil
	})
	return page{Data: list}, err
}

func (c *conn) terminalsTerminate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		ProcessID string `json:"processId"`
	}
	if err := decode(r, &p, "threadId", "processId"); err != nil {
		return nil, err
	}
	var ended bool
	err := c.with(p.ThreadID, func(l *live) error {
		ended = l.session.Terminate(p.ProcessID)
		return nil
	})
	return map[string]bool{"terminated": ended}, err
}

func (c *conn) terminalsClean(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		for _, t := range l.session.Terminals() {
			l.session.Terminate(t.ProcessID)
		}
		return nil
	})
}
