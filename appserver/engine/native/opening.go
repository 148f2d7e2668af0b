package native

import (
	"encoding/json"
	"errors"

	"towline/appserver/engine/native/agent"
	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// titleSource marks the hidden threads stock clients make to name a thread.
const titleSource = "thread_title"

// opened is the reply to thread/start, thread/resume and thread/fork.
type opened struct {
	protocol.ThreadOpened
	Thread                  threadView      `json:"thread"`
	ActivePermissionProfile *profile        `json:"activePermissionProfile"`
	CollaborationMode       json.RawMessage `json:"collaborationMode,omitempty"`
	DisabledPluginIDs       []string        `json:"disabledPluginIds"`
}

// creation is what thread/start and thread/fork say about the new thread.
type creation struct {
	overrides
	Ephemeral    bool              `json:"ephemeral"`
	ThreadSource *string           `json:"threadSource"`
	Base         *string           `json:"baseInstructions"`
	Developer    *string           `json:"developerInstructions"`
	DynamicTools []json.RawMessage `json:"dynamicTools"`
	HistoryMode  string            `json:"historyMode"`
}

// opened is the common reply; l.mu is held.
func (l *live) opened() opened {
	s := l.settings()
	p, _ := profileOf(s.Sandbox)
	_, sources, err := agent.Instructions(l.e.cfg.Home, s.Cwd)
	if err != nil {
		l.e.log.Warn("project instructions are unreadable", "cwd", s.Cwd, "err", err)
	}
	if sources == nil {
		sources = []string{}
	}
	return opened{
		ThreadOpened: protocol.ThreadOpened{
			Model: s.Model, ModelProvider: l.hist.Head.Provider, ServiceTier: s.ServiceTier, Cwd: s.Cwd,
			RuntimeWorkspaceRoots: []string{s.Cwd}, InstructionSources: sources,
			ApprovalPolicy: s.Approval, ApprovalsReviewer: "user", Sandbox: s.Sandbox, ReasoningEffort: s.Effort,
		},
		Thread: l.view(), ActivePermissionProfile: p, DisabledPluginIDs: []string{},
	}
}

func (c *conn) threadStart(r *rpc.Request) (any, error) {
	var p creation
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	if p.ThreadSource != nil && *p.ThreadSource == titleSource {
		return nil, protocol.Errorf("thread titles are taken from the first message on this server")
	}
	s := c.e.defaults()
	if err := c.e.apply(&p.overrides, &s); err != nil {
		return nil, err
	}
	return nil, c.create(r, &p, thread.Meta{Source: "vscode"}, s, nil, false)
}

// create makes a thread, answers r, and tells everybody. recs is what it begins
// with, turns whether the answer shows them.
func (c *conn) create(r *rpc.Request, p *creation, m thread.Meta, s thread.Settings, recs []thread.Record, turns bool) error {
	e := c.e
	m.ID = protocol.ThreadID(thread.NewID())
	m.CreatedAtMs = e.now().UnixMilli()
	m.Provider, m.CLIVersion, m.Originator = e.cfg.Provider, e.cfg.Version, c.name()
	m.Git = gitInfo(s.Cwd)
	if p.ThreadSource != nil {
		m.ThreadSource = p.ThreadSource
	}
	if m.HistoryMode = "paginated"; p.HistoryMode == "legacy" {
		m.HistoryMode = p.HistoryMode
	}
	if p.Base != nil {
		m.Base = *p.Base
	}
	if p.Developer != nil {
		m.Developer = *p.Developer
	}
	if p.DynamicTools != nil {
		m.DynamicTools = p.DynamicTools
	}
	e.loading.Lock()
	defer e.loading.Unlock()
	if e.stopping() || e.isRetired() {
		return draining()
	}
	var log *thread.Log
	if !p.Ephemeral {
		var err error
		if log, err = e.store.Create(m, s, recs...); err != nil {
			return err
		}
	}
	l := e.add(log, thread.NewHistory(m, s, recs...))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subscribe(c)
	out := l.opened()
	if turns {
		out.Thread.Turns = l.turns()
	}
	r.Reply(out)
	e.broadcast("thread/started", map[string]any{"thread": l.view()})
	return nil
}

func (c *conn) threadFork(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		creation
		ExcludeTurns bool   `json:"excludeTurns"`
		LastTurn     string `json:"lastTurnId"`
		BeforeTurn   string `json:"beforeTurnId"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	h, err := c.e.forkPoint(p.ThreadID, p.LastTurn, p.BeforeTurn)
	if err != nil {
		return nil, err
	}
	s := h.Head.Settings
	if err := c.e.apply(&p.overrides, &s); err != nil {
		return nil, err
	}
	m := h.Head.Meta
	m.ForkedFrom = &p.ThreadID
	return nil, c.create(r, &p.creation, m, s, h.Records(), !p.ExcludeTurns)
}

// forkPoint is what a fork of id begins with. A turn at work is copied as far
// as it is recorded.
func (e *Engine) forkPoint(id protocol.ThreadID, last, before string) (*thread.History, error) {
	if !thread.ValidID(id) {
		return nil, invalidThread(id)
	}
	if l, err := e.get(id); err == nil && l.log == nil {
		if last != "" || before != "" {
			return nil, protocol.Errorf("an ephemeral thread can only be forked as a whole")
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		h := thread.NewHistory(l.hist.Head.Meta, *l.settings(), l.hist.Records()...)
		h.Input = l.session.History()
		return h, nil
	}
	h, err := e.store.ReadTurns(id, last, before)
	if errors.Is(err, thread.ErrNotFound) && (last != "" || before != "") {
		if _, herr := e.store.Head(id); herr == nil {
			return nil, protocol.Errorf("turn not found: %s%s", last, before)
		}
	}
	if err != nil {
		return nil, notStored(id, err)
	}
	return h, nil
}

func (c *conn) threadResume(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		overrides
		ExcludeTurns bool         `json:"excludeTurns"`
		InitialPage  *pageRequest `json:"initialTurnsPage"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if !thread.ValidID(p.ThreadID) {
		return nil, protocol.Errorf("invalid session id: %s", p.ThreadID)
	}
	e := c.e
	e.loading.Lock()
	defer e.loading.Unlock()
	l, fresh, err := e.load(p.ThreadID)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if fresh { // a thread others may be using keeps its settings, as in Codex
		if _, err := l.change(&p.overrides); err != nil {
			return nil, err
		}
	}
	out := l.opened()
	out.CollaborationMode = collaborationOf(l.settings())
	if !p.ExcludeTurns {
		out.Thread.Turns = l.turns()
	}
	if p.InitialPage != nil {
		pg, err := turnsPage(l.turns(), *p.InitialPage)
		if err != nil {
			return nil, err
		}
		out.InitialTurnsPage = &pg
	}
	out.TurnsBackwardsCursor, out.ItemsBackwardsCursor = newest(l.hist.Turns)
	l.subscribe(c)
	r.Reply(out)
	if u := l.hist.Usage; u != nil && len(l.hist.Turns) > 0 {
		c.notify("thread/tokenUsage/updated", map[string]any{
			"threadId": l.id, "turnId": l.hist.Turns[len(l.hist.Turns)-1].ID, "tokenUsage": u,
		})
	}
	if g := l.hist.Goal; g != nil {
		c.notify("thread/goal/updated", l.goalNote(*g, nil))
	} else {
		c.notify("thread/goal/cleared", l.param())
	}
	l.replay(c)
	return nil, nil
}
