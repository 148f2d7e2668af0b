package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"towline/appserver/protocol"
)

// outOfScope is what a principal is told whose role would allow a request and
// whose scope does not: what it is about, what scope there is, and what it takes.
func (c *client) outOfScope(what, needs string) *protocol.Error {
	p := c.who.Principal
	e := protocol.Errorf("%s is outside the scope of %s (%s); it needs %s", what, p.Name, p.Scope, needs)
	e.Data, _ = json.Marshal(struct { // strings only
		Reason string `json:"reason"`
		Scope  string `json:"scope"`
		Needs  string `json:"needs"`
	}{"outsideScope", p.Scope.String(), needs})
	return e
}

// What a denial asks for.
const (
	needsAll = "a token without a scope (`--scope all`)"
)

// scopeAllows is the part of the method table that scopes are.
func (c *client) scopeAllows(method string) *protocol.Error {
	if c.scope == nil {
		return nil
	}
	rule, ok := protocol.ScopedMethod(method)
	switch {
	case !ok:
		return c.outOfScope(clip(method, 100), needsAll)
	case c.scope.scope.Exec && !rule.Exec:
		return c.outOfScope(method, "a scope that is not exec: threads:ID or project:DIR")
	case (rule.Reach == protocol.ReachNew || method == "thread/fork") && !c.scope.scope.Exec && len(c.scope.projects) == 0:
		return c.outOfScope(method, "project:DIR, or exec")
	}
	return nil
}

// within holds a request against the client's scope and returns it as it may go
// to the engine. Every member it has was looked at: a scope is not widened by
// what we do not know, nor by another spelling of what we do. answered means that
// the client has its answer.
func (c *client) within(ctx context.Context, env protocol.Envelope, msg []byte) (_ protocol.Envelope, out []byte, answered bool, why *protocol.Error) {
	if c.scope == nil || env.Method == "initialize" {
		return env, msg, false, nil
	}
	rule, ok := protocol.ScopedMethod(env.Method)
	if !ok {
		return env, nil, false, c.outOfScope(clip(env.Method, 100), needsAll)
	}
	if rule.Reach == protocol.ReachBlank {
		c.reply(env.ID, blanks[env.Method])
		return env, nil, true, nil
	}
	p, why := c.members(env, rule)
	if why != nil {
		return env, nil, false, why
	}
	if rule.Reach == protocol.ReachThread {
		id := protocol.ThreadID(text(p.get("threadId")))
		if !c.reaches(ctx, id) {
			return env, nil, false, c.threadOutOfScope(id)
		}
	}
	if why := c.settings(ctx, env.Method, &p); why != nil {
		return env, nil, false, why
	}
	if env.Params != nil || rule.Reach != protocol.ReachNone {
		env.Params = p.encode()
	}
	if rule.Reach == protocol.ReachList {
		return env, nil, true, c.list(ctx, env)
	}
	return env, request(env), false, nil
}

// threadOutOfScope says the same of a thread that is somebody else's and of one
// that is not there.
func (c *client) threadOutOfScope(id protocol.ThreadID) *protocol.Error {
	name := printable(string(id), 64)
	needs := "threads:" + name + ", or project:DIR with the folder it works in"
	if name == "" {
		return protocol.Errorf("Invalid request: missing field `threadId`")
	}
	return c.outOfScope("the thread "+name, needs)
}

// request encodes one that is rebuilt. Without params it stays without.
func request(env protocol.Envelope) []byte {
	out := append([]byte(`{"id":`), env.ID...)
	out = append(append(append(out, `,"method":"`...), env.Method...), '"') // of our own table
	if env.Params != nil {
		out = append(append(out, `,"params":`...), env.Params...)
	}
	return append(out, '}')
}

// members are a request's params, in order. Names are the table's.
type members []member

type member struct {
	name  string
	value json.RawMessage
}

func (p members) get(name string) json.RawMessage {
	for i := range p {
		if p[i].name == name {
			return p[i].value
		}
	}
	return nil
}

func (p *members) set(name string, value json.RawMessage) {
	for i := range *p {
		if (*p)[i].name == name {
			(*p)[i].value = value
			return
		}
	}
	*p = append(*p, member{name, value})
}

func (p members) encode() json.RawMessage {
	out := []byte{'{'}
	for i, m := range p {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), m.name...), '"', ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

// members takes a request's params apart. A member that the table does not have
// is refused, unless it says nothing; for who may only look, thread/resume loses
// what else it says, as it does without a scope.
func (c *client) members(env protocol.Envelope, rule protocol.Scoped) (members, *protocol.Error) {
	if p := bytes.TrimSpace(env.Params); len(p) > 0 && p[0] != '{' && !isNull(p) {
		return nil, protocol.Errorf("Invalid request: the params of %s must be an object", env.Method)
	}
	look := env.Method == "thread/resume" && c.who.Principal.Role < protocol.RoleOperator
	var out members
	for name, value := range protocol.Members(env.Params) {
		switch {
		case look && !slices.Contains(resumeToLook, name):
		case slices.Contains(rule.Params, name):
			out = append(out, member{name, value})
		case isNull(value):
		default:
			return nil, c.outOfScope(fmt.Sprintf("%q of %s", printable(name, 40), env.Method), needsAll)
		}
	}
	return out, nil
}

// resumeToLook is what thread/resume may say for less than an operator.
var resumeToLook = []string{"threadId", "excludeTurns", "initialTurnsPage"}

func isNull(v []byte) bool { return string(bytes.TrimSpace(v)) == "null" }

// blanks are the answers of protocol.ReachBlank: valid, and empty.
var blanks = map[string]json.RawMessage{
	"config/read":               json.RawMessage(`{"config":{},"origins":{}}`),
	"account/read":              json.RawMessage(`{"account":null,"requiresOpenaiAuth":false,"userId":null,"workspaceRouting":null}`),
	"account/rateLimits/read":   json.RawMessage(`{"rateLimits":{"primary":null,"secondary":null,"credits":null,"planType":null}}`),
	"skills/list":               json.RawMessage(`{"data":[]}`),
	"hooks/list":                json.RawMessage(`{"data":[]}`),
	"plugin/installed":          json.RawMessage(`{"marketplaces":[],"marketplaceLoadErrors":[]}`),
	"mcpServerStatus/list":      emptyPage,
	"app/list":                  emptyPage,
	"experimentalFeature/list":  emptyPage,
	"project/list":              emptyPage,
	"threadSection/list":        emptyPage,
	"modelProvider/list":        json.RawMessage(`{"data":[],"defaultProviderId":"","canChangeDefault":false}`),
	"remoteControl/status/read": json.RawMessage(`{"status":"disabled","serverName":"","installationId":"","environmentId":null}`),
}

var emptyPage = json.RawMessage(`{"data":[],"nextCursor":null}`)

// hears reports whether a client with a scope is given a message of the engine's.
// Answers are to its own requests, and those have been looked at.
func (c *client) hears(ev *event) bool {
	if c.scope == nil || ev.what == whatReply {
		return true
	}
	id := ev.thread
	if len(id) == 0 {
		id = text(protocol.Field(ev.Params, "threadId"))
	}
	if len(id) == 0 {
		return ev.what != whatRequest && protocol.ScopedNotification(ev.Method)
	}
	if ev.what == whatRequest && c.scope.scope.Exec {
		return false // approvals, and what else the engine asks, are for somebody else
	}
	if c.sees(protocol.ThreadID(id)) {
		return true
	}
	c.lost(protocol.ThreadID(id))
	return false
}

// lost ends the subscription to a thread that has left the client's reach.
func (c *client) lost(id protocol.ThreadID) {
	c.mu.Lock()
	had := c.subscribed[id]
	if had {
		c.unfollowThreadLocked(id)
	}
	c.mu.Unlock()
	if had {
		c.u.call("thread/unsubscribe", map[string]any{"threadId": id}, func(protocol.Envelope) {})
		c.setSubscribed(id, false)
	}
}
