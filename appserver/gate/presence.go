package gate

import (
	"context"
	"log/slog"
	"slices"
	"sort"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// greeted is the end of a client's handshake: it is attached from now on.
func (c *client) greeted(h *hello) {
	c.mu.Lock()
	if c.ready || h == nil {
		c.mu.Unlock()
		return
	}
	c.ready, c.name, c.ext, c.optOut = true, h.name, h.ext, h.optOut
	c.mu.Unlock()
	c.g.audit("attach", c, slog.String("client", h.name))
	c.g.presenceChanged()
}

func (c *client) attached() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready
}

// extended reports whether the client understands towline/* notifications.
func (c *client) extended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready && c.ext
}

// presence describes the client to others.
func (c *client) presence() protocol.Presence {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.who.Principal
	out := protocol.Presence{
		ID: c.id, Kind: string(p.Kind), Name: p.Name, Role: p.Role, Client: c.name, Via: c.who.Via,
		Thread: c.looking, ConnectedAt: c.at.UnixMilli(),
	}
	if c.away != nil {
		if since, away := c.away.Away(); away {
			out.AwaySince = since.UnixMilli()
		}
	}
	return out
}

// absentee is a stream that outlives its link: rpc's resumable one.
type absentee interface {
	// Away tells since when there is no link, if there is none; Changed is closed
	// when that changes.
	Away() (since time.Time, away bool)
	Changed() <-chan struct{}
}

// watchAway lets others see when the client's link comes and goes.
func (c *client) watchAway(ctx context.Context) {
	for {
		changed := c.away.Changed()
		select {
		case <-changed:
			if c.attached() {
				c.g.presenceChanged()
			}
		case <-ctx.Done():
			return
		}
	}
}

// lookAt notes which thread the client is on. keep is false for threads that
// cannot be returned to.
func (c *client) lookAt(id protocol.ThreadID, keep bool) {
	c.mu.Lock()
	c.looking = &id
	c.mu.Unlock()
	if keep {
		c.g.rememberThread(c.who.Principal, id)
	}
	c.g.presenceChanged()
}

func (c *client) lookAway(id protocol.ThreadID) {
	c.mu.Lock()
	was := c.looking != nil && *c.looking == id
	if was {
		c.looking = nil
	}
	c.mu.Unlock()
	if was {
		c.g.presenceChanged()
	}
}

// presences lists who is attached, the longest first.
func (g *Gate) presences() []protocol.Presence {
	out := []protocol.Presence{}
	for _, c := range g.everyone() {
		if c.attached() {
			out = append(out, c.presence())
		}
	}
	sort.Slice(out, func(a, b int) bool {
		if out[a].ConnectedAt != out[b].ConnectedAt {
			return out[a].ConnectedAt < out[b].ConnectedAt
		}
		return out[a].ID < out[b].ID
	})
	return out
}

// seenBy marks the entry that is the reader itself. A scope holds only that and
// who looks at a thread within reach.
func seenBy(all []protocol.Presence, c *client) []protocol.Presence {
	out := make([]protocol.Presence, 0, len(all))
	for _, p := range all {
		p.You = p.ID == c.id
		if p.You || c.scope == nil || p.Thread != nil && c.sees(*p.Thread) {
			out = append(out, p)
		}
	}
	return out
}

func (g *Gate) everyone() []*client {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]*client, 0, len(g.clients))
	for c := range g.clients {
		out = append(out, c)
	}
	return out
}

// broadcast sends each extension client what params makes for it, if anything.
func (g *Gate) broadcast(method string, params func(*client) any) {
	for _, c := range g.everyone() {
		if !c.extended() {
			continue
		}
		if p := params(c); p != nil {
			c.notify(method, p)
		}
	}
}

// presenceChanged asks Run to tell everyone. Bursts become one broadcast, with
// the state at its time.
func (g *Gate) presenceChanged() { poke(g.presenceDirty) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (g *Gate) tellPresence(ctx context.Context) error {
	for {
		select {
		case <-g.presenceDirty:
		case <-ctx.Done():
			return nil
		}
		if !slices.ContainsFunc(g.everyone(), (*client).extended) {
			continue // nobody would be told
		}
		all := g.presences()
		g.broadcast(protocol.NotePresence, func(c *client) any {
			return presenceList{seenBy(all, c)}
		})
	}
}

type presenceList struct {
	Data []protocol.Presence `json:"data"`
}

// tellEngine broadcasts changes of the engine's state and books its losses.
func (g *Gate) tellEngine(ctx context.Context) error {
	last := g.cfg.Engine.State()
	for {
		changed := g.cfg.Engine.Changed()
		st := g.cfg.Engine.State()
		if st.State != last.State {
			g.audit("engine", nil, slog.String("kind", st.Kind), slog.String("state", st.State), slog.String("problem", st.Problem))
			if last.State == engineReady {
				g.ledger.engineLost()
			}
		}
		last = st
		g.broadcast(protocol.NoteEngine, func(c *client) any { return c.shown(st) })
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// shown is the engine's state as the client may know it: its last words on stderr
// are the host's business.
func (c *client) shown(st protocol.EngineState) protocol.EngineState {
	if c.scope == nil {
		return st
	}
	st.Detail = ""
	if st.Problem != "" { // it names the host's paths and settings
		st.Problem, st.Hints = "the engine does not work; whoever keeps the host sees why", nil
	}
	return st
}

// rememberThread notes where a principal is; Run writes it down. The reader of
// an engine connection must not wait for a disk for that.
func (g *Gate) rememberThread(p access.Principal, id protocol.ThreadID) {
	g.mu.Lock()
	g.lastSeen[p.Key()] = id
	g.mu.Unlock()
	poke(g.lastDirty)
}

// forgetThread takes a thread out of everyone's last place.
func (g *Gate) forgetThread(id protocol.ThreadID) {
	g.mu.Lock()
	for k, v := range g.lastSeen {
		if v == id {
			delete(g.lastSeen, k)
		}
	}
	g.forget[id] = struct{}{}
	g.mu.Unlock()
	poke(g.lastDirty)
}

// keepLast writes last threads down until ctx ends, and once more then.
func (g *Gate) keepLast(ctx context.Context) error {
	for {
		select {
		case <-g.lastDirty:
			g.writeLast(ctx)
		case <-ctx.Done():
			g.writeLast(context.WithoutCancel(ctx))
			return nil
		}
	}
}

func (g *Gate) writeLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	g.mu.Lock()
	seen, forget := g.lastSeen, g.forget
	g.lastSeen, g.forget = make(map[string]protocol.ThreadID), make(map[protocol.ThreadID]struct{})
	g.mu.Unlock()
	for id := range forget {
		if err := g.cfg.Store.ForgetThread(ctx, string(id)); err != nil {
			g.log.Warn("last threads not updated", "err", err)
		}
	}
	for who, id := range seen {
		if err := g.cfg.Store.SetLastThread(ctx, who, string(id)); err != nil {
			g.log.Warn("last thread not stored", "err", err)
		}
	}
}

// lastThread says where a principal was when it left.
func (g *Gate) lastThread(ctx context.Context, p access.Principal) *protocol.ThreadID {
	g.mu.Lock()
	id, ok := g.lastSeen[p.Key()]
	g.mu.Unlock()
	if !ok {
		s, err := g.cfg.Store.LastThread(ctx, p.Key())
		if err != nil && ctx.Err() == nil {
			g.log.Warn("last thread not read", "err", err)
		}
		id = protocol.ThreadID(s)
	}
	if id == "" {
		return nil
	}
	return &id
}

// recordable is nil unless env would be on record, and the record cannot be
// written, and the host wants nothing done without. To stop, to take away and to
// look is always possible.
func (g *Gate) recordable(env protocol.Envelope) *protocol.Error {
	switch env.Method {
	case "turn/interrupt", protocol.AccountLogout, "remoteControl/disable", "remoteControl/client/revoke",
		protocol.ExtTokenRevoke, protocol.ExtTokenList, protocol.ExtTokenShow:
		return nil
	case protocol.ExtRemoteControl:
		if string(protocol.Field(env.Params, "enabled")) == "false" {
			return nil
		}
	}
	if protocol.AuditEvent(env.Method) == "" {
		return nil
	}
	if err := g.cfg.Audit.Ready(); err != nil {
		return protocol.Errorf("%v", err)
	}
	return nil
}

// audit records an event of a client's, or of the gate's own when c is nil.
func (g *Gate) audit(event string, c *client, attrs ...slog.Attr) {
	if g.cfg.Audit == nil || g.quiet.isSilent() {
		return
	}
	if c == nil {
		g.cfg.Audit.Record(event, access.Principal{}, attrs...)
		return
	}
	attrs = append([]slog.Attr{slog.String("conn", c.id), slog.String("via", c.who.Via), slog.String("remote", c.who.Remote)}, attrs...)
	g.cfg.Audit.Record(event, c.who.Principal, attrs...)
}
