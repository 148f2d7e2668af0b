package native

import (
	"fmt"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// threadView is a Thread with the members only a server fills.
type threadView struct {
	protocol.Thread
	Environments         []environment `json:"environments"`
	CanAcceptDirectInput *bool         `json:"canAcceptDirectInput"`
}

// threadParam is the params of the many requests that only name a thread.
type threadParam struct {
	ThreadID protocol.ThreadID `json:"threadId"`
}

func (e *Engine) view(h *thread.Head, status protocol.ThreadStatus, ephemeral bool) threadView {
	recency := h.RecencyAtMs / 1000
	model := h.Settings.Model
	v := threadView{Thread: protocol.Thread{
		ID: h.ID, SessionID: string(h.ID), ForkedFromID: h.ForkedFrom, Preview: h.Preview, Ephemeral: ephemeral,
		HistoryMode: h.HistoryMode, ModelProvider: h.Provider, Model: &model, ReasoningEffort: h.Settings.Effort,
		CreatedAt: h.CreatedAtMs / 1000, UpdatedAt: h.UpdatedAtMs / 1000, RecencyAt: &recency,
		Status: status, Cwd: h.Settings.Cwd, CliVersion: h.CLIVersion, Source: protocol.StringID(h.Source),
		ThreadSource: h.ThreadSource, GitInfo: h.Git, Name: h.Name, Turns: []protocol.Turn{},
	}}
	if status.Type != protocol.StatusActive {
		v.InterruptedTurn = h.Interrupted()
	}
	if h.Originator != "" {
		v.Originator = &h.Originator
	}
	if !ephemeral {
		path := e.store.Path(h.ID)
		v.Path = &path
	}
	if status.Type != protocol.StatusNotLoaded {
		yes := true
		v.Environments, v.CanAcceptDirectInput = environments(h.Settings.Cwd), &yes
	}
	return v
}

// view is the thread as it is now; l.mu is held.
func (l *live) view() threadView {
	return l.e.view(&l.hist.Head, l.status(), l.log == nil)
}

// with runs f on a loaded thread while nothing else happens to it.
func (c *conn) with(id protocol.ThreadID, f func(l *live) error) error {
	l, err := c.e.get(id)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		if c.e.stopping() {
			return draining()
		}
		if c.e.isRetired() {
			return errDeparted(id)
		}
		return protocol.Errorf("thread not found: %s", id)
	}
	return f(l)
}

func (l *live) param() threadParam { return threadParam{l.id} }

func (c *conn) threadUnsubscribe(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	status := "notLoaded"
	if l, err := c.e.get(p.ThreadID); err == nil {
		if status = "notSubscribed"; l.unsubscribe(c) {
			status = "unsubscribed"
		}
	}
	return map[string]string{"status": status}, nil
}

func (c *conn) threadNameSet(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Name string `json:"name"`
	}
	if err := decode(r, &p, "threadId", "name"); err != nil {
		return nil, err
	}
	if err := c.e.update(p.ThreadID, thread.Named(p.Name)); err != nil {
		return nil, err
	}
	r.Reply(nil)
	c.e.broadcast("thread/name/updated", map[string]any{"threadId": p.ThreadID, "threadName": p.Name})
	return nil, nil
}

// update appends records to a thread, loaded or not.
func (e *Engine) update(id protocol.ThreadID, recs ...thread.Record) error {
	if !thread.ValidID(id) {
		return invalidThread(id)
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	if l, err := e.get(id); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.record(recs...)
	}
	if err := e.departed(id); err != nil {
		return err
	}
	return notStored(id, e.store.Update(id, recs...))
}

// unloaded unloads a thread and then changes its file.
func (e *Engine) unloaded(id protocol.ThreadID, then func() error) error {
	if !thread.ValidID(id) {
		return invalidThread(id)
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	if l, err := e.get(id); err == nil {
		if l.log == nil {
			return protocol.Errorf("thread %s is ephemeral", id)
		}
		e.release(l, errGone)
	}
	return notStored(id, then())
}

func (c *conn) threadArchive(r *rpc.Request) (any, error) {
	return c.put(r, "thread/archived", func(id protocol.ThreadID) error {
		return c.e.store.Update(id, thread.SetArchived(true))
	})
}

func (c *conn) threadDelete(r *rpc.Request) (any, error) {
	return c.put(r, "thread/deleted", c.e.store.Delete)
}

// put does something to a thread that must not be loaded, and tells everybody.
func (c *conn) put(r *rpc.Request, note string, do func(protocol.ThreadID) error) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if err := c.e.unloaded(p.ThreadID, func() error { return do(p.ThreadID) }); err != nil {
		return nil, err
	}
	r.Reply(nil)
	c.e.broadcast(note, p)
	return nil, nil
}

func (c *conn) threadUnarchive(r *rpc.Request) (any, error) {
	var p threadParam
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if err := c.e.update(p.ThreadID, thread.SetArchived(false)); err != nil {
		return nil, err
	}
	head, err := c.e.store.Head(p.ThreadID)
	if err != nil {
		return nil, notStored(p.ThreadID, err)
	}
	r.Reply(map[string]any{"thread": c.e.view(&head, c.e.statusOf(p.ThreadID), false)})
	c.e.broadcast("thread/unarchived", p)
	return nil, nil
}

// statusOf is the status of any thread.
func (e *Engine) statusOf(id protocol.ThreadID) protocol.ThreadStatus {
	l, err := e.get(id)
	if err != nil {
		if s, ok := e.away(id); ok {
			return s
		}
		return protocol.ThreadStatus{Type: protocol.StatusNotLoaded}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status()
}

func (c *conn) threadSettingsUpdate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		overrides
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	return nil, c.with(p.ThreadID, func(l *live) error {
		changed, err := l.change(&p.overrides)
		if err != nil {
			return err
		}
		r.Reply(nil)
		if changed {
			l.tellSettings()
		}
		return nil
	})
}

// readState is the receipt of what was read of a thread.
type readState struct {
	FirstUnread any    `json:"firstUnread"`
	Revision    string `json:"revision"`
}

func readStateOf(id protocol.ThreadID, u thread.Unread) readState {
	s := readState{Revision: "initial:" + string(id)}
	if u.Revision > 0 {
		s.Revision = fmt.Sprintf("r%d", u.Revision)
	}
	switch {
	case u.TurnID != nil:
		s.FirstUnread = map[string]string{"type": "turn", "turnId": *u.TurnID}
	case u.Start:
		s.FirstUnread = map[string]string{"type": "threadStart"}
	}
	return s
}

func (c *conn) threadReadStateUpdate(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		Expected  string `json:"expectedRevision"`
		Operation struct {
			Type string `json:"type"`
		} `json:"operation"`
	}
	if err := decode(r, &p, "threadId", "expectedRevision", "operation"); err != nil {
		return nil, err
	}
	if p.Operation.Type != "read" && p.Operation.Type != "unread" {
		return nil, protocol.Errorf("Invalid request: unknown variant `%s`, expected `read` or `unread`", p.Operation.Type)
	}
	head, err := c.e.head(p.ThreadID)
	if err != nil {
		return nil, err
	}
	if readStateOf(p.ThreadID, head.Unread).Revision != p.Expected {
		return nil, protocol.Errorf("read state of thread %s changed meanwhile", p.ThreadID)
	}
	u := thread.Unread{Revision: head.Unread.Revision + 1, Start: p.Operation.Type == "unread"}
	if err := c.e.update(p.ThreadID, thread.SetUnread(u)); err != nil {
		return nil, err
	}
	state := readStateOf(p.ThreadID, u)
	r.Reply(map[string]any{"readState": state})
	_ = c.with(p.ThreadID, func(l *live) error { // only a loaded thread has anybody to tell
		l.tell("thread/readState/changed", map[string]any{"threadId": l.id, "readState": state})
		return nil
	})
	return nil, nil
}

// head is the head of any thread, loaded or stored.
func (e *Engine) head(id protocol.ThreadID) (thread.Head, error) {
	if !thread.ValidID(id) {
		return thread.Head{}, invalidThread(id)
	}
	if l, err := e.get(id); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.hist.Head, nil
	}
	h, err := e.store.Head(id)
	return h, notStored(id, err)
}
