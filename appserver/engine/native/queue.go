package native

import (
	"slices"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// maxQueued bounds the messages waiting in one thread.
const maxQueued = 100

// submission is a queued message as clients see it.
type submission struct {
	ID       string               `json:"id"`
	ClientID string               `json:"clientUserMessageId"`
	Input    []protocol.UserInput `json:"input"`
	Metadata any                  `json:"responsesapiClientMetadata"`
}

func submissionOf(q thread.Queued) submission {
	return submission{ID: q.ID, ClientID: q.ClientID, Input: q.Input}
}

// queueAdd takes a message for when the thread is idle, which may be now. It
// loads a thread nobody has open: the sender need not stay.
func (c *conn) queueAdd(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Input    []protocol.UserInput `json:"input"`
		ClientID string               `json:"clientUserMessageId"`
	}
	if err := decode(r, &p, "threadId", "input", "clientUserMessageId"); err != nil {
		return nil, err
	}
	if len(p.Input) == 0 {
		return nil, protocol.Errorf("queued input is empty")
	}
	if !thread.ValidID(p.ThreadID) {
		return nil, invalidThread(p.ThreadID)
	}
	e := c.e
	e.loading.Lock()
	defer e.loading.Unlock()
	l, _, err := e.load(p.ThreadID)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.hist.Queue) >= maxQueued {
		return nil, protocol.Errorf("thread %s has %d messages waiting already", l.id, maxQueued)
	}
	q := thread.Queued{ID: thread.NewID(), ClientID: p.ClientID, Input: p.Input}
	if err := l.setQueue(append(slices.Clone(l.hist.Queue), q)); err != nil {
		return nil, err
	}
	r.Reply(map[string]any{"queuedSubmission": submissionOf(q)})
	if l.turn == nil {
		l.startQueued()
	}
	return nil, nil
}

// setQueue stores and tells what waits; l.mu is held.
func (l *live) setQueue(q []thread.Queued) error {
	if err := l.record(thread.SetQueue(q)); err != nil {
		return err
	}
	l.tell("thread/queue/changed", l.param())
	return nil
}

// startQueued starts the oldest message that waits; l.mu is held and no turn
// runs. On failure the message stays.
func (l *live) startQueued() {
	if len(l.hist.Queue) == 0 {
		return
	}
	next := l.hist.Queue[0]
	in := l.e.turnOf(l.settings())
	in.Input, in.ClientMessageID = next.Input, &next.ClientID
	err := l.begin(in, func(string) {
		if err := l.setQueue(slices.Clone(l.hist.Queue[1:])); err != nil {
			l.e.log.Error("queue not stored", "thread", l.id, "err", err)
		}
	})
	if err != nil {
		l.e.log.Warn("queued message not started", "thread", l.id, "err", err)
	}
}

func (c *conn) queueList(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if !thread.ValidID(p.ThreadID) {
		return nil, invalidThread(p.ThreadID)
	}
	var waiting []thread.Queued
	if c.with(p.ThreadID, func(l *live) error { waiting = l.hist.Queue; return nil }) != nil {
		h, err := c.e.store.Read(p.ThreadID)
		if err != nil {
			return nil, notStored(p.ThreadID, err)
		}
		waiting = h.Queue
	}
	list := []submission{}
	for _, q := range waiting {
		list = append(list, submissionOf(q))
	}
	return page{Data: list}, nil
}

func (c *conn) queueDelete(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		ID string `json:"queuedSubmissionId"`
	}
	if err := decode(r, &p, "threadId", "queuedSubmissionId"); err != nil {
		return nil, err
	}
	deleted := false
	err := c.with(p.ThreadID, func(l *live) error {
		rest := slices.DeleteFunc(slices.Clone(l.hist.Queue), func(q thread.Queued) bool { return q.ID == p.ID })
		if deleted = len(rest) < len(l.hist.Queue); deleted {
			return l.setQueue(rest)
		}
		return nil
	})
	return map[string]bool{"deleted": deleted}, err
}
