package native

import (
	"encoding/json"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
)

// A loaded thread is where its agent's words go: first to disk, then to the
// subscribers.
var _ agent.Sink = (*live)(nil)

// itemNote is the body of item/started and item/completed.
type itemNote struct {
	Item        protocol.Item     `json:"item"`
	ThreadID    protocol.ThreadID `json:"threadId"`
	TurnID      string            `json:"turnId"`
	StartedAt   *int64            `json:"startedAtMs,omitempty"`
	CompletedAt *int64            `json:"completedAtMs,omitempty"`
}

// ItemStarted implements agent.Sink.
func (l *live) ItemStarted(turnID string, it protocol.Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takes()
	at := it.StartedAtMs
	if at == 0 {
		at = l.e.now().UnixMilli()
	}
	l.tell("item/started", itemNote{Item: it, ThreadID: l.id, TurnID: turnID, StartedAt: &at})
}

// ItemCompleted implements agent.Sink. An item that cannot be stored is still
// shown: what happened, happened.
func (l *live) ItemCompleted(turnID string, it protocol.Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.record(thread.ItemDone(turnID, it)); err != nil {
		l.e.log.Error("item not stored", "thread", l.id, "item", it.ID, "err", err)
	}
	at := it.CompletedAtMs
	if at == 0 {
		at = l.e.now().UnixMilli()
	}
	l.tell("item/completed", itemNote{Item: it, ThreadID: l.id, TurnID: turnID, CompletedAt: &at})
}

// Notify implements agent.Sink.
func (l *live) Notify(method string, params any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if method == "thread/tokenUsage/updated" {
		u := l.session.Usage()
		before := int64(0)
		if l.hist.Usage != nil {
			before = l.hist.Usage.Total.TotalTokens
		}
		spent := l.spend(u.Total.TotalTokens-before, 0)
		if err := l.record(append(spent, thread.UsageNow(u))...); err != nil {
			l.e.log.Error("token usage not stored", "thread", l.id, "err", err)
		}
		if len(spent) > 0 && l.turn != nil {
			defer l.tellGoal(&l.turn.id)
		}
	}
	l.tell(method, params)
}

// Record implements agent.Sink. The agent keeps the replay in memory; here it
// only goes to disk.
func (l *live) Record(input json.RawMessage) error {
	if l.log == nil {
		return nil
	}
	return l.log.Append(thread.Input(input))
}

// Replace implements agent.Sink.
func (l *live) Replace(history []json.RawMessage) error {
	if l.log == nil {
		return nil
	}
	return l.log.Append(thread.Replaced(history))
}
