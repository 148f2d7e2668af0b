package native

import (
	"encoding/json"
	"slices"
	"strings"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// The statuses of a goal that mean something to this engine.
const (
	goalActive   = "active"
	goalBudget   = "budgetLimited"
	goalComplete = "complete"
)

var goalStatuses = []string{goalActive, "paused", "blocked", "usageLimited", goalBudget, goalComplete}

// maxObjective bounds a goal's text, in bytes: it is sent with every request.
const maxObjective = 32 << 10

// goalView is a goal as clients see it.
type goalView struct {
	ThreadID protocol.ThreadID `json:"threadId"`
	thread.Goal
}

func (l *live) goalView(g thread.Goal) goalView { return goalView{ThreadID: l.id, Goal: g} }

// tellGoal tells the subscribers of the goal in force; l.mu is held.
func (l *live) tellGoal(turnID *string) {
	if g := l.hist.Goal; g != nil {
		l.tell("thread/goal/updated", l.goalNote(*g, turnID))
		return
	}
	l.tell("thread/goal/cleared", l.param())
}

func (l *live) goalNote(g thread.Goal, turnID *string) map[string]any {
	return map[string]any{"threadId": l.id, "turnId": turnID, "goal": l.goalView(g)}
}

func (c *conn) threadGoalGet(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	var goal *thread.Goal
	if c.with(p.ThreadID, func(l *live) error { goal = l.hist.Goal; return nil }) != nil {
		h, err := c.e.store.Read(p.ThreadID)
		if err != nil {
			return nil, protocol.Errorf("thread not found: %s", p.ThreadID)
		}
		goal = h.Goal
	}
	if goal == nil {
		return map[string]any{"goal": nil}, nil
	}
	return map[string]any{"goal": goalView{p.ThreadID, *goal}}, nil
}

// threadGoalSet changes the goal or sets one. The engine tells the model of an
// active goal and counts what it costs; unlike Codex it starts no turns for it.
func (c *conn) threadGoalSet(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Objective *string `json:"objective"`
		Status    *string `json:"status"`
		Budget    *int64  `json:"tokenBudget"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if p.Objective != nil {
		if *p.Objective = strings.TrimSpace(*p.Objective); *p.Objective == "" {
			return nil, protocol.Errorf("goal objective must not be empty")
		}
		if len(*p.Objective) > maxObjective {
			return nil, protocol.Errorf("goal objective is longer than %d bytes", maxObjective)
		}
	}
	if p.Status != nil && !slices.Contains(goalStatuses, *p.Status) {
		return nil, protocol.Errorf("Invalid request: unknown variant `%s`, expected one of `%s`", *p.Status, strings.Join(goalStatuses, "`, `"))
	}
	if p.Budget != nil && *p.Budget <= 0 {
		return nil, protocol.Errorf("goal budgets must be positive when provided")
	}
	return nil, c.withStored(p.ThreadID, func(l *live) error {
		now := l.e.now().Unix()
		old := l.hist.Goal
		var g thread.Goal
		switch {
		case old == nil && p.Objective == nil:
			return protocol.Errorf("cannot update goal for thread %s: no goal exists", l.id)
		case old == nil || p.Objective != nil && old.Status == goalComplete:
			g = thread.Goal{Status: goalActive, CreatedAt: now} // what is done is not gone on with
		default:
			g = *old
		}
		if p.Objective != nil {
			g.Objective = *p.Objective
		}
		if p.Status != nil {
			g.Status = *p.Status
		}
		if protocol.Field(r.Params, "tokenBudget") != nil { // null removes it
			g.TokenBudget = p.Budget
		}
		g.UpdatedAt = now
		if err := l.record(thread.SetGoal(g)); err != nil {
			return err
		}
		r.Reply(map[string]any{"goal": l.goalView(g)})
		l.tellGoal(nil)
		return nil
	})
}

func (c *conn) threadGoalClear(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.withStored(p.ThreadID, func(l *live) error {
		had := l.hist.Goal != nil
		if had {
			if err := l.record(thread.SetGoal(thread.Goal{})); err != nil {
				return err
			}
		}
		r.Reply(map[string]bool{"cleared": had})
		if had {
			l.tellGoal(nil)
		}
		return nil
	})
}

// withStored is with for a thread that need not be loaded yet.
func (c *conn) withStored(id protocol.ThreadID, f func(l *live) error) error {
	if !thread.ValidID(id) {
		return invalidThread(id)
	}
	e := c.e
	e.loading.Lock()
	defer e.loading.Unlock()
	l, _, err := e.load(id)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return f(l)
}

// spend counts tokens and seconds against an active goal and returns the record
// of it, if any; l.mu is held.
func (l *live) spend(tokens, seconds int64) []thread.Record {
	old := l.hist.Goal
	if old == nil || old.Status != goalActive || tokens <= 0 && seconds <= 0 {
		return nil
	}
	g := *old
	g.TokensUsed += max(tokens, 0)
	g.SecondsUsed += max(seconds, 0)
	if g.TokenBudget != nil && g.TokensUsed >= *g.TokenBudget {
		g.Status = goalBudget
	}
	g.UpdatedAt = l.e.now().Unix()
	return []thread.Record{thread.SetGoal(g)}
}

// goalText is what the model is told of an active goal; l.mu is held.
func (l *live) goalText() string {
	g := l.hist.Goal
	if g == nil || g.Status != goalActive {
		return ""
	}
	quoted, _ := json.Marshal(g.Objective) // a string always marshals
	return "The user set a goal for this thread, which holds until they change it. What they ask in a turn is a step towards it unless they say otherwise.\nGoal: " + string(quoted)
}
