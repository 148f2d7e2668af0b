package gate

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"

	"towline/appserver/protocol"
	"towline/config/store"
)

// maxListed bounds one answer of towline/approval/list, maxListedScoped the rows
// that are looked through for a client with a scope.
const (
	maxListed       = 200
	maxListedScoped = 2000
)

// local answers the towline/* requests and reports whether env was one. An
// unknown one gets an error here: the engine's would list its own methods.
func (c *client) local(ctx context.Context, env protocol.Envelope) bool {
	if !strings.HasPrefix(env.Method, "towline/") {
		return false
	}
	if c.u == nil { // without an engine, requests did not pass request
		why := c.refuse(env)
		if why == nil {
			env, _, _, why = c.within(ctx, env, nil)
		}
		if why != nil {
			c.put(protocol.NewError(env.ID, why))
			return true
		}
	}
	var result any
	var err error
	switch env.Method {
	case protocol.ExtSession:
		result = c.session(ctx)
	case protocol.ExtPresence:
		result = presenceList{seenBy(c.g.presences(), c)}
	case protocol.ExtApprovalList:
		result, err = c.approvals(ctx, env.Params)
	case protocol.ExtApprovalAnswer:
		result, err = c.answerByID(ctx, env.Params)
	case protocol.ExtStatus:
		result = c.g.status(c)
	case protocol.ExtCredentialNote:
		result, err = c.noteCredential(env.Params)
	default:
		if answer, ok := c.g.cfg.Extensions[env.Method]; ok {
			result, err = answer(ctx, c.who, env.Params)
			break
		}
		err = &protocol.Error{Code: protocol.CodeMethodNotFound, Message: "unknown method " + clip(env.Method, 100)}
	}
	if err != nil {
		var pe *protocol.Error
		if !errors.As(err, &pe) {
			if ctx.Err() == nil { // else the client left, and nothing failed
				c.g.log.Error("request failed", "method", env.Method, "err", err)
			}
			pe = protocol.Internalf("%s failed; the host's log says why", env.Method)
		}
		c.put(protocol.NewError(env.ID, pe))
		return true
	}
	c.reply(env.ID, result)
	return true
}

func (c *client) session(ctx context.Context) protocol.Session {
	you := c.presence()
	you.You = true
	var restarted *protocol.Restarted
	if c.g.cfg.Status != nil {
		restarted = c.g.cfg.Status().Restarted
	}
	s := protocol.Session{
		Restarted: restarted, Principal: you, Host: c.g.cfg.Host, Project: c.g.cfg.Project, LastThread: c.g.lastThread(ctx, c.who.Principal),
		Engine: c.shown(c.g.cfg.Engine.State()), Rehearsal: c.g.cfg.Rehearsal,
	}
	if c.scope == nil {
		return s
	}
	s.Restarted = bare(s.Restarted)
	if s.LastThread != nil && !c.reaches(ctx, *s.LastThread) {
		s.LastThread = nil
	}
	if _, ok := c.scope.folder(s.Project); !ok {
		if s.Project = ""; len(c.scope.projects) > 0 {
			s.Project = c.scope.projects[0]
		}
	}
	return s
}

// status is the host's own account with what the gate knows filled in.
func (g *Gate) status(c *client) protocol.HostStatus {
	var st protocol.HostStatus
	if g.cfg.Status != nil {
		st = g.cfg.Status()
	}
	if st.Listen == nil {
		st.Listen = []string{}
	}
	if st.Version == "" {
		st.Version = g.cfg.Version
	}
	if st.Project == "" {
		st.Project = g.cfg.Project
	}
	st.Engine = c.shown(g.cfg.Engine.State())
	st.Attached = seenBy(g.presences(), c)
	st.Threads.Working, st.Threads.Waiting = g.working()
	st.Lent = g.loan.shown()
	if t := g.cfg.Audit.Trouble(); t != nil {
		st.Audit = &protocol.AuditTrouble{
			Since: t.Since.UnixMilli(), Waiting: t.Waiting, Lost: t.Dropped, Problem: printable(t.Err.Error(), 200), Refuses: t.Refuses,
		}
	}
	if c.scope == nil {
		return st
	}
	// What is left is about the host as such, and about who and what is in reach.
	st.Home, st.Project, st.SSH, st.Listen, st.HostKey, st.Lent, st.Audit = "", "", "", []string{}, "", nil, nil
	st.Threads.Working, st.Threads.Waiting, st.Threads.Interrupted = 0, 0, 0
	st.PID, st.Restarted = 0, bare(st.Restarted)
	for id, waits := range g.activeNow() {
		if c.sees(id) {
			if st.Threads.Working++; waits {
				st.Threads.Waiting++
			}
		}
	}
	return st
}

// bare is that the host was restarted, without why: its last words are about files
// and people that a scope does not hold.
func bare(r *protocol.Restarted) *protocol.Restarted {
	if r == nil {
		return nil
	}
	return &protocol.Restarted{At: r.At}
}

func (c *client) approvals(ctx context.Context, params json.RawMessage) (any, error) {
	var p struct {
		ThreadID string `json:"threadId"`
		Open     bool   `json:"open"`
	}
	if len(params) > 0 && json.Unmarshal(params, &p) != nil {
		return nil, protocol.Errorf("%s takes {threadId?, open?}", protocol.ExtApprovalList)
	}
	if p.ThreadID != "" && !c.reaches(ctx, protocol.ThreadID(p.ThreadID)) {
		return nil, c.threadOutOfScope(protocol.ThreadID(p.ThreadID))
	}
	f := store.ApprovalFilter{ThreadID: p.ThreadID, Limit: maxListed}
	if c.scope != nil {
		f.Limit = maxListedScoped // of which most may be others'
	}
	if p.Open {
		f.State = store.StateOpen
	}
	rows, err := c.g.cfg.Store.Approvals(ctx, f)
	if err != nil {
		return nil, err
	}
	list := struct {
		Data []protocol.Approval `json:"data"`
	}{Data: make([]protocol.Approval, 0, len(rows))}
	for _, row := range rows {
		if len(list.Data) == maxListed {
			break
		}
		a := approvalOf(row)
		if !c.reaches(ctx, a.ThreadID) {
			continue
		}
		if a.By != nil {
			a.By.You = a.By.ID == c.id
		}
		list.Data = append(list.Data, a)
	}
	return list, nil
}

// answerByID answers an approval without being on its thread. The answer goes
// through a connection that was asked: the client's own where that is one, else
// the watcher's, which only lends its wire.
func (c *client) answerByID(ctx context.Context, params json.RawMessage) (any, error) {
	var p struct {
		ID     string          `json:"id"`
		Result json.RawMessage `json:"result"`
	}
	if json.Unmarshal(params, &p) != nil || p.ID == "" {
		return nil, protocol.Errorf("%s takes {id, result}", protocol.ExtApprovalAnswer)
	}
	q := c.g.ledger.byID(p.ID)
	if q == nil || !c.reaches(ctx, q.thread) || c.lapsed() {
		return nil, protocol.Errorf("no open approval has the id %q", clip(p.ID, 64))
	}
	p.Result = plainAnswer(q.method, p.Result)
	env := protocol.Envelope{Kind: protocol.KindResponse, Result: p.Result}
	if err := validAnswer(q, env, c.who.Principal.Role); err != nil {
		return nil, protocol.Errorf("%v: %s", err, q.method)
	}
	u, id := c.g.ledger.where(q, c.u)
	if u == nil {
		if a := c.g.ledger.snapshot(q); a.State != protocol.ApprovalOpen {
			return nil, protocol.Errorf("%s", settledText(a))
		}
		return nil, protocol.Errorf("the engine cannot be reached with this answer now; try again")
	}
	if err := c.g.cfg.Audit.Ready(); err != nil {
		return nil, protocol.Errorf("%v", err)
	}
	won, err := c.g.ledger.win(q, c.presence(), redact(q, p.Result))
	if errors.Is(err, errSettled) {
		return nil, protocol.Errorf("%s", settledText(won))
	}
	if err != nil {
		return nil, err
	}
	c.g.ledger.decided(q, c)
	msg, err := protocol.NewResponse(id, p.Result)
	if err == nil {
		err = u.s.Write(context.WithoutCancel(ctx), msg) // another's stream must not be cut by our end
	}
	if err != nil {
		c.g.ledger.undecided(q)
		c.g.log.Warn("answer not passed on", "approval", won.ID, "err", err)
		return nil, protocol.Errorf("the engine cannot be reached with this answer now; try again")
	}
	c.g.ledger.passed(q)
	if won.By != nil {
		won.By.You = true
	}
	return struct {
		Approval protocol.Approval `json:"approval"`
	}{won}, nil
}

// engineData is the data member of errors about the engine.
func engineData(st protocol.EngineState) json.RawMessage {
	b, err := json.Marshal(struct {
		Engine protocol.EngineState `json:"engine"`
	}{st})
	if err != nil {
		slog.Error("encode engine state", "err", err)
		return nil
	}
	return b
}
