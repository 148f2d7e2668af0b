package gate

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// maxAsked bounds the questions remembered per client after they were settled,
// so that a late answer can be told who was first.
const maxAsked = 256

// client is one attached connection: its identity, what it asked for, and the
// one path by which anything reaches it.
type client struct {
	g     *Gate
	id    string
	who   Client
	at    time.Time
	out   *rpc.Outbox
	end   context.CancelCauseFunc // of Serve
	u     *upstream               // nil while there is no engine
	away  absentee                // nil for a client that is there or gone
	scope *reach                  // nil: all that the role allows
	quota *quota                  // nil: no bounds
	// For Stats.
	requested, passed atomic.Int64
	// delivering: a message of the engine's was observed and is not put yet.
	delivering atomic.Bool

	mu         sync.Mutex // guards what follows
	ready      bool       // initialize was answered
	name       string     // clientInfo.name
	ext        bool       // speaks towline/*
	optOut     map[string]bool
	inflight   map[string][]call
	requests   int // in flight
	spawned    bool
	looking    *protocol.ThreadID
	subscribed map[protocol.ThreadID]bool
	asked      map[string]*asked // by request id, as on the wire
	settled    []string          // keys of asked that are resolved, oldest first
	denials    int
	limited    bool // was told that it asks for too much
	gone       bool

	// Late joins, see join.go.
	join   *join
	follow map[string]*item
	held   []event
	wait   *time.Timer // set while held[0] waits for its item to end
}

// call is a request of the client's that the engine has not answered.
type call struct {
	method string
	thread protocol.ThreadID
	hello  *hello // of initialize
	lends  string // the account a login lends
	size   int64  // bytes it counts for
	booked bool   // holds the place of a turn in thread
	change *change
}

// asked is a question this client was shown.
type asked struct {
	q        *question
	resolved bool // the client was told that it is closed
	ours     bool // by us: the engine's own notice would be a second one
}

func (g *Gate) newClient(who Client, out *rpc.Outbox, end context.CancelCauseFunc) *client {
	return &client{
		g: g, id: g.nextID("c"), who: who, at: time.Now(), out: out, end: end,
		inflight: make(map[string][]call), subscribed: make(map[protocol.ThreadID]bool),
		asked: make(map[string]*asked), follow: make(map[string]*item),
	}
}

// put queues a message for the client. Everything it ever hears goes through
// here. A client that is gone or too slow is Serve's business; it is woken here because the
// write that hangs may take long to give up.
func (c *client) put(msg []byte) {
	if err := c.out.Put(msg); errors.Is(err, rpc.ErrSlow) {
		c.end(err)
	}
}

// putAside is put for pumpDown, which sends it when it holds no lock.
func (c *client) putAside(msg []byte) {
	if err := c.out.PutAside(msg); errors.Is(err, rpc.ErrSlow) {
		c.end(err)
	}
}

// putSoon is put for a piece of streamed text: pieces that come close together
// leave together. What is put later takes them along, so order is kept.
func (c *client) putSoon(msg []byte) {
	if err := c.out.PutSoon(msg); errors.Is(err, rpc.ErrSlow) {
		c.end(err)
	}
}

// feed gives a follower an event from the live state; thread.mu is held. The
// bytes are another stream's, whose reader may own them, hence the copy.
func (c *client) feed(t *thread, method string, msg []byte) {
	if !c.optOut[method] && c.sees(t.id) {
		c.put(append(make([]byte, 0, len(msg)), msg...))
	}
}

func (c *client) notify(method string, params any) {
	if msg, err := protocol.NewNotification(method, params, time.Now().UnixMilli()); err == nil {
		c.put(msg)
	}
}

// warn says something to the person through the protocol's own means.
func (c *client) warn(thread protocol.ThreadID, message string) {
	c.notify("warning", struct {
		ThreadID protocol.ThreadID `json:"threadId,omitempty"`
		Message  string            `json:"message"`
	}{thread, message})
}

func (c *client) reply(id json.RawMessage, result any) {
	msg, err := protocol.NewResponse(id, result)
	if err != nil {
		msg = protocol.NewError(id, protocol.Internalf("encode the result: %v", err))
	}
	c.put(msg)
}

func (c *client) setSubscribed(id protocol.ThreadID, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.subscribed[id] = true
		return
	}
	delete(c.subscribed, id)
}

// hearsAll reports whether the engine keeps nothing of a thread's course from
// this client, so that its connection may stand in for the watcher's.
func (c *client) hearsAll() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.optOut {
		for _, p := range []string{"item/", "turn/", "thread/", "serverRequest/"} {
			if strings.HasPrefix(m, p) {
				return false
			}
		}
	}
	return true
}

// deliver passes an observed message on, now or when what it must not overtake
// has come.
func (c *client) deliver(ev event) {
	if !c.hears(&ev) {
		return
	}
	c.passed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.gone: // an orphaned connection's message
		return
	case c.join == nil && len(c.held) == 0 && !c.mustWait(&ev):
		c.passLocked(&ev, c.putAside)
		return
	}
	c.held = append(c.held, ev)
	if len(c.held) > maxHeld {
		c.abandonLocked()
		return
	}
	if c.join == nil && c.wait == nil {
		c.waitLocked()
	}
}

// mustWait reports whether ev ends an item the client follows before the live
// state has its end.
func (c *client) mustWait(ev *event) bool {
	if len(c.follow) == 0 {
		return false
	}
	switch ev.what {
	case whatItemCompleted:
		it := c.follow[string(ev.key(nil))]
		return it != nil && !it.settled()
	case whatTurnCompleted:
		for _, it := range c.follow {
			if it.turn == string(ev.turn) && !it.command && !it.settled() {
				return true
			}
		}
	}
	return false
}

func (c *client) waitLocked() {
	c.wait = time.AfterFunc(joinTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.releaseLocked(true)
	})
}

// wake is called when an item the client follows ended.
func (c *client) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releaseLocked(false)
}

// releaseLocked lets go of what was kept back, as far as it may. force passes
// the first message whatever it waits for.
func (c *client) releaseLocked(force bool) {
	if c.wait != nil {
		c.wait.Stop()
		c.wait = nil
	}
	for len(c.held) > 0 && c.join == nil {
		ev := c.held[0]
		if !force && c.mustWait(&ev) {
			c.waitLocked()
			return
		}
		force = false
		c.held[0] = event{}
		c.held = c.held[1:]
		c.passLocked(&ev, c.put)
	}
	if len(c.held) == 0 {
		c.held = nil
	}
}

// abandonLocked gives up every wait: the queue is full.
func (c *client) abandonLocked() {
	for len(c.held) > 0 {
		if c.join != nil {
			c.finishJoinLocked(c.join)
		}
		c.releaseLocked(true)
	}
}

// passLocked puts one message into the client's queue, unless the client has
// its content from the live state or has no use for it.
func (c *client) passLocked(ev *event, put func([]byte)) {
	switch ev.what {
	case whatItemStarted, whatItemEvent:
		if len(c.follow) > 0 && c.follow[string(ev.key(nil))] != nil {
			return
		}
	case whatItemCompleted:
		if len(c.follow) > 0 {
			c.unfollowLocked(c.follow[string(ev.key(nil))])
		}
	case whatTurnCompleted:
		for _, it := range c.follow {
			if it.turn == string(ev.turn) && !it.command {
				c.unfollowLocked(it)
			}
		}
	case whatThreadClosed:
		c.unfollowThreadLocked(protocol.ThreadID(ev.thread))
	case whatRequest:
		if !c.mayAnswer(ev.q) {
			return
		}
		if ev.unseen && c.follow[string(ev.key(nil))] == nil {
			c.putItemLocked(ev)
		}
		c.asked[idKey(ev.ID)] = &asked{q: ev.q}
		c.g.ledger.shown(ev.q, c)
	case whatResolved:
		if c.resolvedLocked(idKey(protocol.Field(ev.Params, "requestId"))) {
			return
		}
	}
	if ev.what == whatItemEvent && strings.HasSuffix(ev.Method, "elta") { // …/delta, …Delta
		c.putSoon(ev.msg)
		rpc.Linger(c.u.s)
		return
	}
	put(ev.msg)
	if j := ev.join; j != nil && !j.over {
		c.join, j.active = j, true
		if j.ready {
			c.finishJoinLocked(j)
		}
	}
}

// putItemLocked sends the start of the item a question is about from the
// approval object: the live state no longer had it, as after a restart of
// Towline beside a daemon that went on. Without it a patch would be asked about
// and not shown.
func (c *client) putItemLocked(ev *event) {
	item := c.g.ledger.itemOf(ev.q)
	if item == nil || c.optOut["item/started"] {
		return
	}
	c.notify("item/started", struct {
		Item      json.RawMessage   `json:"item"`
		StartedAt json.RawMessage   `json:"startedAtMs,omitempty"`
		ThreadID  protocol.ThreadID `json:"threadId"`
		TurnID    string            `json:"turnId"`
	}{item, protocol.Field(ev.Params, "startedAtMs"), ev.q.thread, ev.q.turn})
}

// mayAnswer reports whether a question is shown to this client at all: someone
// who may not answer would only see a prompt that does nothing.
func (c *client) mayAnswer(q *question) bool {
	if q == nil || c.who.Principal.Role < protocol.AnswerRole(q.method) || c.lapsed() {
		return false
	}
	return q.method != protocol.ReqTokensRefresh || c.g.loan.is(c)
}

// resolvedLocked notes that a question is closed, and reports whether the
// client knows already.
func (c *client) resolvedLocked(id string) (knows bool) {
	a := c.asked[id]
	if a == nil {
		return false
	}
	if a.resolved {
		return a.ours
	}
	a.resolved = true
	c.settled = append(c.settled, id)
	if len(c.settled) > maxAsked {
		if old := c.asked[c.settled[0]]; old != nil && old.resolved {
			delete(c.asked, c.settled[0])
		}
		c.settled = c.settled[1:]
	}
	return false
}

func (c *client) unfollowLocked(it *item) {
	if it == nil {
		return
	}
	delete(c.follow, it.key)
	it.t.mu.Lock()
	delete(it.followers, c)
	it.t.mu.Unlock()
}

func (c *client) unfollowThreadLocked(id protocol.ThreadID) {
	for _, it := range c.follow {
		if it.t.id == id {
			c.unfollowLocked(it)
		}
	}
}

// leave takes the client out of every book. It reports how many of its requests
// were refused beyond those audited one by one.
func (c *client) leave() (denials int) {
	c.mu.Lock()
	if c.wait != nil {
		c.wait.Stop()
	}
	if c.join != nil {
		c.endJoinLocked(c.join)
	}
	c.gone = true
	for _, it := range c.follow {
		c.unfollowLocked(it)
	}
	c.held = nil
	denials = max(0, c.denials-maxDenials)
	if c.quota != nil {
		for _, calls := range c.inflight {
			for _, k := range calls {
				c.quota.bytes.Add(-k.size)
			}
		}
		clear(c.inflight)
	}
	c.mu.Unlock()
	c.g.ledger.dismissed(c)
	return denials
}

// denied books a refusal.
func (c *client) denied(method string, why *protocol.Error) {
	if why.Code != protocol.CodeOverloaded {
		c.g.stats.denied.Add(1)
	}
	c.mu.Lock()
	c.denials++
	n := c.denials
	c.mu.Unlock()
	if n <= maxDenials {
		c.g.audit("denied", c, slog.String("method", clip(method, 100)), slog.String("why", why.Message))
	}
}

// idle reports that nothing of the client's own would die with its connection.
func (c *client) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spawned {
		return false
	}
	for _, calls := range c.inflight {
		for _, k := range calls {
			if k.method == "command/exec" {
				return false
			}
		}
	}
	return true
}
