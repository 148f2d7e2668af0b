package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"towline/appserver/protocol"
)

var (
	errSettled   = errors.New("already settled")
	errMalformed = errors.New("not an answer to this question")
)

// answer handles a reply of the client's to a question of the engine's. What
// does not count is not passed on: Codex would take an unknown decision, or an
// error, for the failure of the item. Its error means that the engine
// connection is broken.
func (c *client) answer(ctx context.Context, env protocol.Envelope, msg []byte) error {
	c.mu.Lock()
	a := c.asked[idKey(env.ID)]
	c.mu.Unlock()
	if a == nil {
		c.g.log.Debug("answer to nothing", "conn", c.id)
		return nil
	}
	q := a.q
	if q.object == nil {
		if q.method == protocol.ReqTokensRefresh {
			msg = c.g.loan.vet(env)
		}
		if c.g.ledger.program(q, c, env, msg) {
			return c.u.s.Write(ctx, msg)
		}
		return nil
	}
	if c.scope != nil && (c.scope.scope.Exec || !c.reaches(ctx, q.thread)) {
		why := c.outOfScope("to answer approvals", "a scope that is not exec, with this thread in it")
		c.warn(q.thread, "your answer did not count: "+why.Message)
		c.g.audit("answer refused", c, slog.String("approval", q.object.ID), slog.String("why", why.Message))
		return nil
	}
	if !c.mayDecide(q) {
		c.warn(q.thread, "your answer did not count: this connection is not on that thread")
		c.g.audit("answer refused", c, slog.String("approval", q.object.ID), slog.String("why", "not subscribed"))
		return nil
	}
	env.Result = plainAnswer(q.method, env.Result)
	if err := validAnswer(q, env, c.who.Principal.Role); err != nil {
		// Nothing is said to the client: a stock one sends an error for a prompt it
		// cannot show, and others are still there to answer.
		c.g.log.Info("answer does not count", "conn", c.id, "approval", q.object.ID, "err", err)
		return nil
	}
	if c.lapsed() {
		return nil
	}
	if err := c.g.cfg.Audit.Ready(); err != nil {
		c.warn(q.thread, "your answer did not count: "+err.Error())
		return nil
	}
	won, err := c.g.ledger.win(q, c.presence(), redact(q, env.Result))
	switch {
	case errors.Is(err, errSettled):
		c.late(q, a, won)
		return nil
	case err != nil:
		c.warn(q.thread, "your answer did not count: it could not be recorded; the host's log says why")
		return nil
	}
	c.g.ledger.decided(q, c)
	if msg, err = protocol.NewResponse(env.ID, env.Result); err == nil {
		err = c.u.s.Write(ctx, msg)
	}
	if err != nil {
		c.g.ledger.undecided(q)
		return err
	}
	c.g.ledger.passed(q)
	return nil
}

// mayDecide reports whether an answer of this client's counts at all.
func (c *client) mayDecide(q *question) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.who.Principal.Role >= protocol.AnswerRole(q.method) && (q.thread == "" || c.subscribed[q.thread])
}

// late tells a client that somebody was first, and closes its prompt.
func (c *client) late(q *question, a *asked, won protocol.Approval) {
	c.warn(q.thread, settledText(won))
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.resolved {
		return
	}
	if !c.resolvedLocked(idKey(won.RequestID)) {
		a.ours = true
		if msg, err := protocol.NewNotification("serverRequest/resolved", struct {
			ThreadID  protocol.ThreadID `json:"threadId"`
			RequestID json.RawMessage   `json:"requestId"`
		}{q.thread, won.RequestID}, won.ClosedAt); err == nil {
			c.put(msg)
		}
	}
}

// settledText says in one sentence why an answer came too late.
func settledText(a protocol.Approval) string {
	switch {
	case a.State == protocol.ApprovalGone:
		return "your answer came too late: the turn had ended"
	case a.By == nil:
		return "your answer came too late: it was answered elsewhere"
	}
	return fmt.Sprintf("your answer came too late: %s (%s) had answered: %s", a.By.Name, a.By.Via, decisionOf(a.Method, a.Result))
}

// decisionOf names an answer without its free text.
func decisionOf(method string, result json.RawMessage) string {
	switch method {
	case protocol.ReqUserInput:
		return "answered"
	case protocol.ReqElicitation:
		return protocol.StringField(result, "action")
	case protocol.ReqPermissionsApproval:
		if p := bytes.TrimSpace(protocol.Field(result, "permissions")); len(p) == 0 || bytes.Equal(p, []byte("{}")) || bytes.Equal(p, []byte("null")) {
			return protocol.DecisionDecline
		}
		return protocol.DecisionAccept
	}
	d := protocol.Field(result, "decision")
	if s := text(d); s != nil {
		return string(s)
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(d, &m) == nil {
		for name := range m {
			return name
		}
	}
	return "answered"
}

// validAnswer reports what is wrong with an answer. Decisions the request
// itself offers are valid whatever they are, so a newer Codex may add some.
func validAnswer(q *question, env protocol.Envelope, role protocol.Role) error {
	if env.Kind != protocol.KindResponse {
		return fmt.Errorf("%w: %s", errMalformed, env.Error)
	}
	var ok bool
	switch q.method {
	case protocol.ReqCommandApproval, protocol.ReqFileApproval, "applyPatchApproval", "execCommandApproval":
		ok = validDecision(q, protocol.Field(env.Result, "decision"), role)
	case protocol.ReqPermissionsApproval:
		var r struct {
			Permissions map[string]json.RawMessage `json:"permissions"`
			Scope       *string                    `json:"scope"`
		}
		ok = json.Unmarshal(env.Result, &r) == nil && r.Permissions != nil &&
			(r.Scope == nil || *r.Scope == "turn" || *r.Scope == "session")
	case protocol.ReqUserInput:
		var r struct {
			Answers map[string]*struct {
				Answers []string `json:"answers"`
			} `json:"answers"`
		}
		ok = json.Unmarshal(env.Result, &r) == nil && r.Answers != nil
		for _, a := range r.Answers {
			ok = ok && a != nil && a.Answers != nil
		}
	case protocol.ReqElicitation:
		switch protocol.StringField(env.Result, "action") {
		case "accept", "decline", "cancel":
			ok = true
		}
	}
	if !ok {
		return errMalformed
	}
	return nil
}

var plainDecisions = map[string][]string{
	protocol.ReqCommandApproval: {protocol.DecisionAccept, protocol.DecisionAcceptSession, protocol.DecisionDecline, protocol.DecisionCancel},
	protocol.ReqFileApproval:    {protocol.DecisionAccept, protocol.DecisionAcceptSession, protocol.DecisionDecline, protocol.DecisionCancel},
	"applyPatchApproval":        {"approved", "approved_for_session", "denied", "timed_out", "abort"},
	"execCommandApproval":       {"approved", "approved_for_session", "denied", "timed_out", "abort"},
}

func validDecision(q *question, d json.RawMessage, role protocol.Role) bool {
	if len(d) == 0 {
		return false
	}
	if s := text(d); s != nil {
		for _, p := range plainDecisions[q.method] {
			if string(s) == p {
				return true
			}
		}
	}
	var offered []json.RawMessage
	_ = json.Unmarshal(protocol.Field(q.object.Params, "availableDecisions"), &offered) // absent: nothing is offered
	for _, o := range offered {
		if sameJSON(o, d) {
			return true
		}
	}
	// An amendment changes what may run from now on. One that was not offered is
	// a rule of the person's own making, which takes more than approving.
	return role >= protocol.RoleOperator && q.method == protocol.ReqCommandApproval && ownAmendment(d)
}

func sameJSON(a, b json.RawMessage) bool {
	norm := func(r json.RawMessage) []byte {
		var v any
		if json.Unmarshal(r, &v) != nil {
			return nil
		}
		out, _ := json.Marshal(v) // it was just decoded
		return out
	}
	x, y := norm(a), norm(b)
	return x != nil && bytes.Equal(x, y)
}

// redact takes out of an answer what the question called a secret, and what was
// filled into a form: everyone who may read sees the ledger. The ledger
// says that and by whom it was answered, not what the secret is.
func redact(q *question, result json.RawMessage) json.RawMessage {
	switch q.method {
	case protocol.ReqElicitation:
		// What people fill into another program's form is between the two of them.
		return plainMembers(result, "action")
	case protocol.ReqUserInput:
	default:
		return result
	}
	var req protocol.UserInputRequest
	var ans protocol.UserInputAnswer
	if json.Unmarshal(q.object.Params, &req) != nil || json.Unmarshal(result, &ans) != nil {
		return json.RawMessage(`{}`) // when in doubt, nothing is kept
	}
	secret := false
	for _, question := range req.Questions {
		if a, ok := ans.Answers[question.ID]; ok && question.IsSecret {
			for i := range a.Answers {
				a.Answers[i] = "[redacted]"
			}
			secret = true
		}
	}
	if !secret {
		return result
	}
	out, _ := json.Marshal(ans) // strings only
	return out
}
