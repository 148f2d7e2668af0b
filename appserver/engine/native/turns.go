package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

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
	if len(p.Input) == 0 {
		return nil, protocol.Internalf("failed to submit turn input: EmptyInput")
	}
	for {
		var ending *running // a turn that takes no more input, and is about to end
		err := c.with(p.ThreadID, func(l *live) error {
			changed, err := l.change(&p.overrides)
			if err != nil {
				return err
			}
			if l.turn != nil {
				if ending, err = l.steer(p.input); err != nil || ending != nil {
					return err
				}
				r.Reply(map[string]any{"turn": bare(l.turn.id)})
			} else {
				in := l.e.turnOf(l.settings())
				in.Input, in.ClientMessageID = p.Input, p.ClientID
				if given(p.OutputSchema) {
					in.OutputSchema = p.OutputSchema
				}
				if err := l.begin(in, func(id string) { r.Reply(map[string]any{"turn": bare(id)}) }); err != nil {
					return err
				}
			}
			if changed {
				l.tellSettings()
			}
			return nil
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

// steer adds input to the running turn; l.mu is held. ending is the turn when it
// takes no more input because it is over but for its last words.
func (l *live) steer(in input) (ending *running, err error) {
	if !l.turn.agent {
		return nil, notSteerable()
	}
	switch err := l.session.Steer(in.Input, in.ClientID); {
	case errors.Is(err, agent.ErrNoTurn):
		return l.turn, nil
	case errors.Is(err, agent.ErrNotSteerable):
		return nil, notSteerable()
	default:
		return nil, err
	}
}

func notSteerable() error {
	return protocol.Errorf("the active turn does not take input; interrupt it or wait for its end")
}

// begin starts a turn; l.mu is held. reply is called with the turn's id once
// nothing can go wrong any more, before anybody hears of the turn.
func (l *live) begin(in agent.Turn, reply func(id string)) error {
	in.DynamicTools = l.hist.Head.DynamicTools
	return l.run(true, reply, func(ctx context.Context, id string) agent.Outcome {
		in.ID = id
		return l.session.Run(ctx, in, l)
	})
}

// run makes body the running turn; l.mu is held.
func (l *live) run(steerable bool, reply func(id string), body func(ctx context.Context, id string) agent.Outcome) error {
	e := l.e
	t := &running{id: thread.NewID(), began: e.now(), agent: steerable, done: make(chan struct{})}
	if err := l.record(thread.TurnStarted(t.id)); err != nil {
		return fmt.Errorf("store turn: %w", err)
	}
	ctx, cancel := context.WithCancelCause(e.life)
	t.cancel = cancel
	l.turn = t
	if !e.spawn(func() {
		out := body(ctx, t.id)
		cancel(nil)
		l.end(t, out)
	}) {
		l.turn = nil
		cancel(nil)
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

// end records and tells how a turn ended, and starts what was queued.
func (l *live) end(t *running, out agent.Outcome) {
	defer close(t.done)
	l.mu.Lock()
	defer l.mu.Unlock()
	unread := l.hist.Head.Unread
	if unread.TurnID == nil && !unread.Start {
		unread.TurnID = &t.id
	}
	unread.Revision++
	if err := l.record(thread.TurnEnded(t.id, out.Status, out.Error), thread.SetUnread(unread)); err != nil {
		l.e.log.Error("end of turn not stored", "thread", l.id, "turn", t.id, "err", err)
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

func (c *conn) compactStart(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		if l.turn != nil {
			return protocol.Errorf("thread %s is working; compact it when it is idle", l.id)
		}
		in := l.e.turnOf(l.settings())
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
