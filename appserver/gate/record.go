package gate

import (
	"context"
	"encoding/json"
	"log/slog"

	"towline/appserver/protocol"
	"towline/config/store"
)

// record writes the object as it is now to the store.
func (l *ledger) record(q *question) error {
	q.save.Lock()
	defer q.save.Unlock()
	a := l.snapshot(q)
	row := store.Approval{
		ID: a.ID, Identity: q.identity, ThreadID: string(a.ThreadID), TurnID: q.turn, ItemID: protocol.StringField(a.Params, "itemId"),
		RequestID: a.RequestID, Method: a.Method, Params: a.Params, Item: a.Item, State: a.State,
		OpenedAt: a.OpenedAt, ClosedAt: a.ClosedAt, Result: a.Result,
	}
	if a.By != nil {
		row.By, _ = json.Marshal(a.By) // strings and numbers only
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := l.g.cfg.Store.PutApproval(ctx, row); err != nil {
		l.g.log.Error("approval not recorded", "approval", a.ID, "state", a.State, "err", err)
		return err
	}
	return nil
}

func approvalOf(row store.Approval) protocol.Approval {
	a := protocol.Approval{
		ID: row.ID, ThreadID: protocol.ThreadID(row.ThreadID), RequestID: row.RequestID, Method: row.Method, Params: row.Params,
		Item: row.Item, State: row.State, OpenedAt: row.OpenedAt, ClosedAt: row.ClosedAt, Result: row.Result,
	}
	if row.By != nil {
		a.By = new(protocol.Presence)
		if json.Unmarshal(row.By, a.By) != nil {
			a.By = nil
		}
	}
	return a
}

// GoOn says that the engine's turns outlived the process before this one: what it
// had open waits on, and is closed as gone only when its turn ends. It is called
// before Run and Serve.
func (g *Gate) GoOn() { g.ledger.goesOn = true }

// restore takes over, once and before any engine connection is made, what an
// earlier process left open. Its engine is gone unless it was a daemon we had
// joined; then the questions come again and open the same objects.
func (l *ledger) restore() { l.restored.Do(l.takeOver) }

func (l *ledger) takeOver() {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	rows, err := l.g.cfg.Store.Approvals(ctx, store.ApprovalFilter{State: store.StateOpen, Limit: maxQuestions})
	if err != nil {
		l.g.log.Error("approvals of the last run not read", "err", err)
		return
	}
	var gone []*question
	l.mu.Lock()
	for _, row := range rows {
		a := approvalOf(row)
		q := &question{
			identity: row.Identity, method: row.Method, thread: a.ThreadID, turn: row.TurnID, object: &a, lost: true,
			at: make(map[*upstream]json.RawMessage), clients: make(map[*client]bool),
		}
		l.all[q.identity] = q
		l.open++
		if l.goesOn {
			q.lost = false
			continue
		}
		l.closeLocked(q, protocol.ApprovalGone)
		gone = append(gone, q)
	}
	l.mu.Unlock()
	for _, q := range gone {
		l.closedElsewhere(q)
	}
}

func (l *ledger) announce(method string, q *question) {
	a := l.snapshot(q)
	l.g.broadcast(method, func(c *client) any {
		if !c.sees(a.ThreadID) {
			return nil
		}
		own := a
		if own.By != nil && own.By.ID == c.id {
			by := *own.By
			by.You = true
			own.By = &by
		}
		return struct {
			Approval protocol.Approval `json:"approval"`
		}{own}
	})
}

func (l *ledger) audit(event string, q *question, by *client) {
	a := l.snapshot(q)
	attrs := []slog.Attr{
		slog.String("approval", a.ID), slog.String("thread", string(a.ThreadID)),
		slog.String("method", a.Method), slog.String("state", a.State),
	}
	if a.Result != nil {
		attrs = append(attrs, slog.String("decision", decisionOf(a.Method, a.Result)))
	}
	l.g.audit(event, by, attrs...)
}
