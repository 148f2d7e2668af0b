package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"towline/appserver/protocol"
	"towline/config"
)

// follow tells what happens until the turn is over, or the connection is.
func (t *turn) follow(ctx context.Context) (verdict, error) {
	l := t.link
	done := ctx.Done()
	var ill <-chan struct{} // changes of the link under the stream
	for {
		for h, ok := l.box.take(); ok; h, ok = l.box.take() {
			if v, over := t.hear(h); over {
				return v, nil
			}
		}
		var dead <-chan time.Time // of a link that is down for too long
		if l.heals != nil {
			ill = l.heals.Changed()
			st := l.heals.State()
			t.linkIs(st.Up, st.Err)
			if !st.Up {
				left := t.cfg.Patience - time.Since(st.Since)
				if left <= 0 {
					return t.gone(st.Err), nil
				}
				dead = time.After(left)
			}
		}
		if t.why == "" && done == nil {
			return t.leave(ctx), nil
		}
		select {
		case <-l.box.wake:
		case <-ill:
		case <-dead:
		case <-l.over:
			for h, ok := l.box.take(); ok; h, ok = l.box.take() {
				if v, over := t.hear(h); over {
					return v, nil
				}
			}
			if t.why != "" {
				return t.leave(ctx), nil
			}
			if orderly(l.err) {
				return verdict{}, errGone
			}
			return verdict{}, fmt.Errorf("%w: %w", errGone, l.err)
		case <-after(t.asks.deadline(t.req.ApprovalTimeout), t.why == ""):
			t.stop(StatusApproval)
		case <-done:
			done = nil
			switch {
			case t.watching || !t.linkUp():
				return t.leave(ctx), nil
			case !errors.Is(context.Cause(ctx), ErrTimeout):
				t.stop(StatusInterrupted)
			case t.asks.open() > 0:
				t.stop(StatusApproval)
			default:
				t.stop(StatusTimeout)
			}
		case <-after(t.give, t.why != ""):
			return t.leave(ctx), nil
		}
	}
}

// after is a channel for a moment; nil, which never comes, when there is none.
func after(at time.Time, wanted bool) <-chan time.Time {
	if !wanted || at.IsZero() {
		return nil
	}
	return time.After(time.Until(at))
}

// linkIs tells of a stream whose link is lost, and of its return. Nothing was
// missed then: the stream outlives it.
func (t *turn) linkIs(up bool, err error) {
	switch {
	case up == !t.told:
	case up:
		t.told = false
		t.res.Reconnects++
		t.note(Note{Kind: NoteBack})
	default:
		t.told = true
		n := Note{Kind: NoteLost}
		if err != nil {
			n.Text = config.OneLine(err.Error())
		}
		t.note(n)
	}
}

func (t *turn) linkUp() bool {
	return t.link != nil && (t.link.heals == nil || t.link.heals.State().Up)
}

// stop gives the turn up, for the reason why: it is interrupted, and has a moment to
// say how it ended.
func (t *turn) stop(why string) {
	if t.why != "" {
		return
	}
	t.why, t.give = why, time.Now().Add(goodbye)
	l := t.link
	t.own.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), goodbye)
		defer cancel()
		// What it answers does not matter: the turn's end is what is waited for.
		_ = l.peer.Call(ctx, "turn/interrupt", map[string]any{"threadId": t.thread, "turnId": t.id}, nil)
	})
}

// leave is the verdict on a run whose context ended, or that was given up, before it
// is known how the turn ended.
func (t *turn) leave(ctx context.Context) verdict {
	why := t.why
	if why == "" {
		why = StatusInterrupted
		if errors.Is(context.Cause(ctx), ErrTimeout) {
			why = StatusTimeout
		}
	}
	return t.gaveUp(why, false)
}

// gaveUp is the verdict on a turn that we gave up; ended tells whether it did.
func (t *turn) gaveUp(why string, ended bool) verdict {
	goesOn := ""
	var hints []string
	if t.id != "" && !ended {
		goesOn = "; the turn may go on there"
		hints = append(hints, "wait for it: `"+t.command("wait")+"`")
	} else if t.id != "" {
		hints = append(hints, t.goOn())
	}
	switch why {
	case StatusTimeout:
		return verdict{why, t.problem("timeout", fmt.Errorf("no end after %v%s", t.req.Timeout, goesOn), config.ExitTimeout, hints...)}
	case StatusApproval:
		return verdict{why, t.problem("approval", fmt.Errorf("%s%s", t.asks.unanswered(), goesOn), config.ExitApproval, append([]string{
			"answer while it waits: `towline approvals list`, or in the UI: `" + t.command("attach") + "`",
			"or let it do more unasked: see --sandbox in `towline exec --help`",
		}, hints...)...)}
	}
	return verdict{why, t.problem("interrupted", errors.New("stopped by a signal"+goesOn), config.ExitInterrupted, hints...)}
}

// over is the verdict on a turn that ended. past: it did so while we were not there.
func (t *turn) over(tn protocol.Turn, past bool) verdict {
	for _, it := range tn.Items { // all of them, or the last message
		if m, ok := it.Body.(*protocol.AgentMessage); ok && tn.Status == protocol.TurnCompleted {
			t.itemCompleted(it, true)
			t.res.Message = m.Text
		}
	}
	if e, ok := t.lines.ended(); ok {
		t.event(e)
	}
	if tn.DurationMs != nil && t.watching {
		t.res.DurationMs = *tn.DurationMs
	}
	switch tn.Status {
	case protocol.TurnCompleted:
		u := t.total
		if u == nil {
			u = new(Usage)
		}
		t.event(Event{Type: TurnCompleted, Usage: u})
		return verdict{status: StatusCompleted}
	case protocol.TurnFailed:
		text := t.failed
		if tn.Error != nil {
			text = errorText(tn.Error)
		}
		if text == "" {
			text = "turn failed"
		}
		t.event(Event{Type: TurnFailed, Error: &ErrorText{text}})
		return verdict{StatusFailed, t.problem("turn", errors.New(config.OneLine(text)), config.ExitFailure, "see what it did: `"+t.command("attach")+"`")}
	}
	if t.why != "" {
		return t.gaveUp(t.why, true)
	}
	if a := t.asks.refusal(); a != nil {
		who := "somebody"
		if a.By != nil && a.By.Name != "" {
			who = config.OneLine(a.By.Name)
		}
		return verdict{StatusDenied, t.problem("approval", fmt.Errorf("%s said no: %s", who, config.OneLine(a.Subject)), config.ExitDenied,
			"see what it did: `"+t.command("attach")+"`")}
	}
	if past && t.breaks > 0 {
		return verdict{StatusLost, t.problem("link", errors.New("the server ended while the turn ran, and the turn with it"), config.ExitLost,
			t.goOn())}
	}
	return verdict{StatusInterrupted, t.problem("turn", errors.New("it was interrupted, from elsewhere"), config.ExitFailure,
		"see what it did: `"+t.command("attach")+"`")}
}
