package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// receive handles one message of the client's. Its error means that the engine
// connection is broken. What cannot be read is dropped, as Codex drops it.
func (c *client) receive(ctx context.Context, msg []byte) error {
	env, err := protocol.Peek(msg)
	if err != nil {
		c.g.log.Debug("message dropped", "conn", c.id, "err", err)
		return nil
	}
	if why := ambiguous(env, msg); why != nil {
		c.unclear(env, why)
		return nil
	}
	if c.lapsed() {
		return nil // it hears why, and is let go
	}
	switch env.Kind {
	case protocol.KindRequest:
		return c.request(ctx, env, msg)
	case protocol.KindNotification:
		// The one notification a client has to send. Others would reach the engine
		// without an answer that could say no, so they need the role of an
		// unknown method.
		if env.Method == "initialized" || c.who.Principal.Role >= protocol.RoleOperator && c.scope == nil {
			return c.u.s.Write(ctx, msg)
		}
		return nil
	default:
		return c.answer(ctx, env, msg)
	}
}

// unclear refuses a message that could mean two things.
func (c *client) unclear(env protocol.Envelope, why error) {
	if env.Kind != protocol.KindRequest {
		c.denied("answer", protocol.Errorf("%v", why))
		return
	}
	e := protocol.Errorf("Invalid request: %v", why)
	c.denied(env.Method, e)
	if len(env.ID) <= maxID {
		c.put(protocol.NewError(env.ID, e))
	}
}

func (c *client) request(ctx context.Context, env protocol.Envelope, msg []byte) error {
	c.requested.Add(1)
	if why := c.refuse(env); why != nil {
		c.denied(env.Method, why)
		c.put(protocol.NewError(env.ID, why))
		return nil
	}
	size := int64(len(msg))
	if why := c.afford(env.Method, size); why != nil {
		c.put(protocol.NewError(env.ID, why))
		return nil
	}
	env, msg, answered, why := c.within(ctx, env, msg)
	switch {
	case why != nil:
		c.denied(env.Method, why)
		c.put(protocol.NewError(env.ID, why))
		return nil
	case answered:
		return nil
	}
	if c.local(ctx, env) {
		return nil
	}
	if env.Method == "config/read" && c.who.Principal.Role < protocol.RoleOperator {
		// The stock client cannot start without an answer; an empty one is enough.
		c.reply(env.ID, json.RawMessage(`{"config":{},"origins":{}}`))
		return nil
	}
	msg, why = c.rewrite(env, msg)
	if why != nil {
		c.denied(env.Method, why)
		c.put(protocol.NewError(env.ID, why))
		return nil
	}
	if why := c.g.mandated(env); why != nil {
		c.denied(env.Method, why)
		c.put(protocol.NewError(env.ID, why))
		return nil
	}
	if isLend(env) {
		c.lend(env, msg)
		return nil
	}
	k := call{method: env.Method, size: size}
	switch env.Method {
	case "initialize":
		k.hello = readHello(env.Params)
	case "thread/unsubscribe":
		k.thread = protocol.ThreadID(protocol.StringField(env.Params, "threadId"))
	}
	if turnMethods[env.Method] {
		c.g.stats.turns.Add(1)
		if k.thread, k.booked, why = c.affordTurn(env.Params); why != nil {
			c.put(protocol.NewError(env.ID, why))
			return nil
		}
	}
	k.change = c.g.places.changing(env)
	if !c.sent(idKey(env.ID), k) {
		c.put(protocol.NewError(env.ID, protocol.ErrOverloaded))
		return nil
	}
	if event := protocol.AuditEvent(env.Method); event != "" {
		attrs := []slog.Attr{slog.String("method", env.Method)}
		if thread := protocol.StringField(env.Params, "threadId"); thread != "" {
			attrs = append(attrs, slog.String("thread", thread))
		}
		if env.Method == protocol.AccountStart {
			attrs = append(attrs, slog.String("type", printable(protocol.StringField(env.Params, "type"), 40)))
		}
		c.g.audit(event, c, attrs...)
	}
	return c.u.s.Write(ctx, msg)
}

// refuse is the method table, and the methods nobody may use here.
func (c *client) refuse(env protocol.Envelope) *protocol.Error {
	p := c.who.Principal
	switch {
	case !p.May(env.Method):
		return p.Denied(env.Method, protocol.LeastRole(env.Method))
	case c.g.cfg.DisableUnsandboxed && protocol.RunsOutsideSandbox(env.Method):
		return protocol.Errorf("%s runs outside the sandbox, which this host does not allow", env.Method)
	}
	if why := c.g.recordable(env); why != nil {
		return why
	}
	return c.scopeAllows(env.Method)
}

// rewrite changes the two requests that would do more than the role allows.
// Members are copied one by one: the engine gets no second copy of a member, no
// other spelling of its name, and nothing we did not look at.
func (c *client) rewrite(env protocol.Envelope, msg []byte) ([]byte, *protocol.Error) {
	var keep []string
	switch {
	case env.Method == "getAuthStatus":
		if v := protocol.Field(env.Params, "includeToken"); v != nil && !bytes.Equal(v, []byte("false")) && !bytes.Equal(v, []byte("null")) {
			return nil, protocol.Errorf("getAuthStatus with includeToken: tokens never leave this host")
		}
		keep = []string{"refreshToken"}
	case env.Method == "thread/resume" && c.who.Principal.Role < protocol.RoleOperator:
		keep = []string{"threadId", "excludeTurns", "initialTurnsPage"}
	default:
		return msg, nil
	}
	params := make(map[string]json.RawMessage)
	for _, name := range keep {
		if v := protocol.Field(env.Params, name); v != nil {
			params[name] = v
		}
	}
	out, err := protocol.NewRequest(env.ID, env.Method, params)
	if err != nil {
		return nil, protocol.Errorf("%s: %v", env.Method, err)
	}
	return out, nil
}

// hello is what initialize said, member names taken as the engine takes them.
type hello struct {
	name   string
	ext    bool
	optOut map[string]bool
}

func readHello(params json.RawMessage) *hello {
	caps := protocol.Field(params, "capabilities")
	const maxName = 100
	h := &hello{name: printable(protocol.StringField(protocol.Field(params, "clientInfo"), "name"), maxName), optOut: make(map[string]bool)}
	var optOut []string
	_ = json.Unmarshal(protocol.Field(caps, "optOutNotificationMethods"), &optOut) // what does not fit is the engine's to refuse
	for _, m := range optOut {
		h.optOut[m] = true
	}
	h.ext = protocol.Field(protocol.Field(caps, "extensions"), "towline") != nil
	return h
}

// printable is clip for names that other people are shown, some in a terminal:
// nothing in them moves a cursor, turns the line around or hides.
func printable(s string, n int) string {
	return strings.TrimSpace(clip(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, clip(s, 4*n)), n))
}

// clip bounds a text a client chose, at a rune's edge.
func clip(s string, n int) string {
	if len(s) <= n {
		return strings.ToValidUTF8(s, "")
	}
	return strings.ToValidUTF8(s[:n], "")
}

// idKey is an id in one spelling: the engine need not repeat a client's escapes.
func idKey(id json.RawMessage) string {
	if len(id) > 0 && id[0] == '"' && bytes.IndexByte(id, '\\') >= 0 {
		return `"` + string(text(id)) + `"`
	}
	if string(id) == "-0" {
		return "0"
	}
	return string(id)
}

// sent books a request that goes to the engine; false when too many are
// unanswered. One id may be in flight twice: answers then count in order.
func (c *client) sent(id string, k call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests >= rpc.MaxInFlight {
		return false
	}
	c.requests++
	c.inflight[id] = append(c.inflight[id], k)
	if c.quota != nil {
		c.quota.bytes.Add(k.size)
	}
	if k.method == "process/spawn" {
		c.spawned = true
	}
	return true
}

func (c *client) answered(id string) (k call, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.inflight[id]
	if len(calls) == 0 {
		return call{}, false
	}
	c.requests--
	if c.quota != nil {
		c.quota.bytes.Add(-calls[0].size)
	}
	if k = calls[0]; len(calls) == 1 {
		delete(c.inflight, id)
	} else {
		c.inflight[id] = calls[1:]
	}
	return k, true
}

// replied draws the conclusions from an answer of the engine's, while it is
// observed.
func (c *client) replied(ev *event) {
	k, ok := c.answered(idKey(ev.ID))
	if !ok {
		return
	}
	c.lent(k, ev.Kind == protocol.KindResponse)
	if ev.Kind != protocol.KindResponse {
		if k.booked {
			c.quota.ended(k.thread)
		}
		return
	}
	c.g.places.changed(k.change)
	switch k.method {
	case "initialize":
		c.greeted(k.hello)
	case "thread/start", "thread/fork", "thread/resume":
		thread := protocol.Field(ev.Result, "thread")
		id := protocol.ThreadID(protocol.StringField(thread, "id"))
		if id == "" {
			return
		}
		c.g.places.learn(thread, ev.Result)
		if k.method != "thread/resume" {
			c.started(id)
		}
		_, had := c.u.subs[id]
		s := c.u.subscribe(id)
		s.active = protocol.StringField(protocol.Field(thread, "status"), "type") == protocol.StatusActive
		poke(c.g.cover)
		if k.method == "thread/resume" && !had {
			ev.join = c.beginJoin(s, ev.Result)
		}
		if protocol.StringField(thread, "threadSource") == "thread_title" {
			return // the stock client's hidden helper, not a place to be
		}
		c.lookAt(id, string(protocol.Field(thread, "ephemeral")) != "true")
	case "thread/unsubscribe":
		c.u.unsubscribe(k.thread)
		poke(c.g.cover)
		c.lookAway(k.thread)
		// For what is kept for the client this reply is the end of the thread.
		ev.what, ev.thread = whatThreadClosed, []byte(k.thread)
	}
}
