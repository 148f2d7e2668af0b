package native

import (
	"slices"
	"strconv"

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
	if err := l.startFrom(l.hist.Queue[0], func(string) {}); err != nil {
		l.e.log.Warn("queued message not started", "thread", l.id, "err", err)
	}
}

// startFrom takes a message off the queue and begins a turn with it; l.mu is
// held and no turn runs.
func (l *live) startFrom(next thread.Queued, reply func(id string)) error {
	in := l.turnInput()
	in.Input, in.ClientMessageID = next.Input, &next.ClientID
	return l.begin(in, func(id string) {
		reply(id)
		rest := slices.DeleteFunc(slices.Clone(l.hist.Queue), func(q thread.Queued) bool { return q.ID == next.ID })
		if err := l.setQueue(rest); err != nil {
			l.e.log.Error("queue not stored", "thread", l.id, "err", err)
		}
	})
}

// queued finds a waiting message; l.mu is held.
func (l *live) queued(id string) (int, error) {
	i := slices.IndexFunc(l.hist.Queue, func(q thread.Queued) bool { return q.ID == id })
	if i < 0 {
		return 0, protocol.Errorf("queued submission not found: %s", id)
	}
	return i, nil
}

// queueStart starts a waiting message now, the oldest when none is named.
func (c *conn) queueStart(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		ID *string `json:"queuedSubmissionId"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.withStored(p.ThreadID, func(l *live) error {
		i := 0
		switch {
		case l.turn != nil:
			return protocol.Errorf("thread already has an active or pending turn")
		case p.ID != nil:
			var err error
			if i, err = l.queued(*p.ID); err != nil {
				return err
			}
		case len(l.hist.Queue) == 0:
			return protocol.Errorf("queue is empty")
		}
		return l.startFrom(l.hist.Queue[i], func(id string) { r.Reply(map[string]any{"turn": bare(id)}) })
	})
}

func (c *conn) queueUpdate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		ID    string               `json:"queuedSubmissionId"`
		Input []protocol.UserInput `json:"input"`
	}
	if err := decode(r, &p, "threadId", "queuedSubmissionId", "input"); err != nil {
		return nil, err
	}
	if len(p.Input) == 0 {
		return nil, protocol.Errorf("queued input is empty")
	}
	return nil, c.withStored(p.ThreadID, func(l *live) error {
		i, err := l.queued(p.ID)
		if err != nil {
			return err
		}
		list := slices.Clone(l.hist.Queue)
		list[i].Input = p.Input
		return l.queueChanged(r, list, map[string]any{"queuedSubmission": submissionOf(list[i])})
	})
}

func (c *conn) queueReorder(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		IDs []string `json:"queuedSubmissionIds"`
	}
	if err := decode(r, &p, "threadId", "queuedSubmissionIds"); err != nil {
		return nil, err
	}
	return nil, c.withStored(p.ThreadID, func(l *live) error {
		var list []thread.Queued
		for n, id := range p.IDs {
			if i, err := l.queued(id); err == nil && !slices.Contains(p.IDs[:n], id) {
				list = append(list, l.hist.Queue[i])
			}
		}
		if len(list) != len(l.hist.Queue) || len(list) != len(p.IDs) {
			return protocol.Errorf("queue reorder must include every queued submission exactly once")
		}
		return l.queueChanged(r, list, nil)
	})
}

// queueChanged stores what waits, then answers and tells; l.mu is held.
func (l *live) queueChanged(r *rpc.Request, q []thread.Queued, result any) error {
	if err := l.record(thread.SetQueue(q)); err != nil {
		return err
	}
	r.Reply(result)
	l.tell("thread/queue/changed", l.param())
	return nil
}

func (c *conn) queueList(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Cursor string `json:"cursor"`
		Limit  *int   `json:"limit"`
	}
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
	from := 0
	if p.Cursor != "" {
		var err error
		if from, err = strconv.Atoi(p.Cursor); err != nil || from < 0 {
			return nil, protocol.Errorf("invalid cursor: %s", p.Cursor)
		}
	}
	waiting = waiting[min(from, len(waiting)):]
	var next *string
	if limit := pageSize(p.Limit, maxQueued); len(waiting) > limit {
		waiting, next = waiting[:limit], optional(strconv.Itoa(from+limit))
	}
	list := []submission{}
	for _, q := range waiting {
		list = append(list, submissionOf(q))
	}
	return page{list, next}, nil
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
