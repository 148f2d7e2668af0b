package gate

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config/store"
)

// # Scopes
//
// A principal with a scope (access.Scope) reaches the threads its scope names,
// those that work in one of its projects, those it has started itself (in a
// project, where there are any), and what these have spawned. Everything else
// does not exist for it:
//
//   - Of its requests only those of protocol.ScopedMethod pass, rebuilt member by
//     member from what was looked at (scope.go, scope_params.go).
//   - Lists are asked for by the gate, page by page, and what is out of reach is
//     left out, cursors included (scope_list.go).
//   - What the engine sends is dropped unless it concerns a thread within reach
//     (hears), and presence, status and approvals are reduced likewise.
//
// Where a thread works is the engine's word, kept in places. Folders are compared
// as the host resolves them: a link within a project to somewhere else is no part
// of it. That is looked at again for every request, because an agent may have
// made a link since.

// Limits on what is remembered of threads for that.
const (
	maxPlaces = 1 << 16
	// placeAge is how long a place is believed when a request is judged; somebody
	// may have moved the thread behind our back, on a daemon that is shared.
	placeAge = 30 * time.Second
	// lookTimeout bounds the question where a thread works.
	lookTimeout = 10 * time.Second
	// maxLineage bounds the way from a thread to the one that spawned it all.
	maxLineage = 8
)

// place is where and how a thread works, as far as the gate has heard.
type place struct {
	// cwd is what the engine's record of the thread says, set what its settings are.
	// Codex's record follows with the next turn; so both count.
	cwd, set string
	parent   protocol.ThreadID
	sandbox  string // type of the policy; "" when not heard of
	approval string // "" when not heard of or no word
	at       time.Time
}

// places are known to all connections. Its lock is innermost.
type places struct {
	gen atomic.Int64 // grows when what is known, or owned, changes

	mu    sync.Mutex // guards known
	known map[protocol.ThreadID]place
}

func (p *places) get(id protocol.ThreadID) (place, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.known[id]
	return at, ok
}

// change is what a request makes of a thread once it is answered.
type change struct {
	thread            protocol.ThreadID
	cwd               string // "" stays where it is
	sandbox, approval string
}

// changing is called when a request goes to the engine: from now on where the
// thread works is to be asked for, and a wider sandbox counts.
func (p *places) changing(env protocol.Envelope) *change {
	switch env.Method {
	case "turn/start", "thread/settings/update", "thread/resume":
	default:
		return nil
	}
	ch := change{thread: protocol.ThreadID(protocol.StringField(env.Params, "threadId"))}
	for name, v := range protocol.Members(env.Params) {
		switch name {
		case "cwd":
			ch.cwd = string(text(v))
		case "sandboxPolicy":
			ch.sandbox = protocol.StringField(v, "type")
		case "permissions", "sandbox":
			ch.sandbox = string(text(v))
		case "approvalPolicy":
			ch.approval = string(text(v))
		}
	}
	if ch.thread == "" || ch.cwd == "" && ch.sandbox == "" && ch.approval == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.known[ch.thread]
	if !ok {
		return &ch
	}
	if ch.cwd != "" {
		at.at = time.Time{}
	}
	if ch.sandbox != "" && at.sandbox != "" && sandboxRank(ch.sandbox) > sandboxRank(at.sandbox) {
		at.sandbox = ch.sandbox
	}
	p.known[ch.thread] = at
	return &ch
}

// changed is called with the answer.
func (p *places) changed(ch *change) {
	if ch == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.known[ch.thread]
	if !ok {
		return
	}
	if ch.cwd != "" {
		at.at, at.set = time.Time{}, ch.cwd
		p.gen.Add(1)
	}
	if ch.sandbox != "" {
		at.sandbox = ch.sandbox
	}
	if ch.approval != "" {
		at.approval = ch.approval
	}
	p.known[ch.thread] = at
}

// learn takes what an answer or a notification says of a thread. settings is
// what holds its sandbox and policy, nil where the message has none.
func (p *places) learn(thread, settings json.RawMessage) {
	id := protocol.ThreadID(protocol.StringField(thread, "id"))
	cwd := protocol.StringField(thread, "cwd")
	if id == "" || cwd == "" {
		return
	}
	at := place{cwd: cwd, set: protocol.StringField(settings, "cwd"), parent: protocol.ThreadID(protocol.StringField(thread, "parentThreadId"))}
	p.put(id, at, settings, false)
}

// moved takes thread/settings/updated.
func (p *places) moved(params json.RawMessage) {
	id, s := protocol.ThreadID(protocol.StringField(params, "threadId")), protocol.Field(params, "threadSettings")
	if cwd := protocol.StringField(s, "cwd"); id != "" && cwd != "" {
		p.put(id, place{set: cwd}, s, true)
	}
}

func (p *places) put(id protocol.ThreadID, at place, settings json.RawMessage, keepParent bool) {
	at.at = time.Now()
	policy := protocol.Field(settings, "sandbox") // of a reply
	if policy == nil {
		policy = protocol.Field(settings, "sandboxPolicy") // of a notification
	}
	at.sandbox, at.approval = protocol.StringField(policy, "type"), protocol.StringField(settings, "approvalPolicy")
	p.mu.Lock()
	defer p.mu.Unlock()
	old, had := p.known[id]
	if keepParent {
		at.parent, at.cwd = old.parent, old.cwd
		at.at = old.at // of where the record says it works nothing was heard
	}
	if settings == nil {
		at.sandbox, at.approval, at.set = old.sandbox, old.approval, old.set
	}
	if !had && len(p.known) >= maxPlaces {
		for k := range p.known { // any: it can be asked for again
			delete(p.known, k)
			break
		}
	}
	if p.known == nil {
		p.known = make(map[protocol.ThreadID]place)
	}
	p.known[id] = at
	if old.cwd != at.cwd || old.set != at.set || old.parent != at.parent {
		p.gen.Add(1)
	}
}

// owned are the threads one principal has started, for all of its connections.
type owned struct {
	refs int // guarded by Gate.mu
	load sync.Once

	mu  sync.Mutex // guards ids; innermost
	ids map[protocol.ThreadID]struct{}
}

func (o *owned) has(id protocol.ThreadID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.ids[id]
	return ok
}

func (o *owned) add(id protocol.ThreadID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.ids) < store.MaxStarted {
		o.ids[id] = struct{}{}
	}
}

// reach is a client's scope as the gate enforces it. What is not guarded does
// not change.
type reach struct {
	scope    *access.Scope
	named    map[protocol.ThreadID]struct{}
	projects []string // resolved; empty when the scope names none
	home     string   // the host's project, resolved: where exec works without projects
	own      *owned

	lists  chan struct{}  // places for lists under way
	beside sync.WaitGroup // of those

	mu     sync.Mutex // guards what follows; innermost
	gen    int64      // of places, when told was begun
	told   map[protocol.ThreadID]bool
	asking int // questions under way where a thread works
}

// maxAsking bounds questions that notifications cause.
const maxAsking = 16

// maxTold bounds the verdicts kept for notifications.
const maxTold = 4096

// newReach is nil for a principal without a scope.
func (g *Gate) newReach(ctx context.Context, p access.Principal) *reach {
	if p.Scope == nil {
		return nil
	}
	r := &reach{
		scope: p.Scope, named: make(map[protocol.ThreadID]struct{}), told: make(map[protocol.ThreadID]bool),
		lists: make(chan struct{}, maxLists),
	}
	for _, id := range p.Scope.Threads {
		r.named[id] = struct{}{}
	}
	for _, dir := range p.Scope.Projects {
		if real, ok := resolve(dir); ok {
			r.projects = append(r.projects, real)
		} else {
			r.projects = append(r.projects, filepath.Clean(dir))
		}
	}
	if p.Scope.Exec {
		r.home, _ = resolve(g.cfg.Project)
	}
	key := p.Key()
	g.mu.Lock()
	o := g.owners[key]
	if o == nil {
		o = &owned{ids: make(map[protocol.ThreadID]struct{})}
		g.owners[key] = o
	}
	o.refs++
	g.mu.Unlock()
	r.own = o
	o.load.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
		defer cancel()
		ids, err := g.cfg.Store.Started(ctx, key)
		if err != nil {
			g.log.Error("threads that a principal started are not known", "principal", p.Name, "err", err)
		}
		for _, id := range ids {
			o.add(protocol.ThreadID(id))
		}
	})
	return r
}

// release is the end of a connection with a scope.
func (g *Gate) release(r *reach, p access.Principal) {
	if r == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.own.refs--; r.own.refs == 0 {
		delete(g.owners, p.Key())
	}
}

// started books a thread that the client has made. It is on disk before the
// client hears of it: a later connection has to find it.
func (c *client) started(id protocol.ThreadID) {
	if c.scope == nil {
		return
	}
	c.scope.own.add(id)
	c.g.places.gen.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	if err := c.g.cfg.Store.AddStarted(ctx, c.who.Principal.Key(), string(id)); err != nil {
		c.g.log.Error("a started thread is not remembered", "thread", id, "principal", c.who.Principal.Name, "err", err)
	}
}

// folder reports whether a folder is one the scope's threads may work in. For
// exec without projects that is the host's own.
func (r *reach) folder(dir string) (real string, ok bool) {
	real, ok = resolve(dir)
	if !ok {
		return "", false
	}
	if len(r.projects) == 0 {
		return real, r.home != "" && inside(r.home, real)
	}
	return real, r.inProject(real)
}

func (r *reach) inProject(real string) bool {
	return len(r.projects) > 0 && (&access.Scope{Projects: r.projects}).InProject(real)
}

func inside(dir, path string) bool { return (&access.Scope{Projects: []string{dir}}).InProject(path) }

// holds reports whether a folder is in one of the scope's projects.
func (r *reach) holds(dir string) bool {
	real, ok := resolve(dir)
	return ok && r.inProject(real)
}

// works is the folder that a thread's next turn works in.
func (at place) works() string {
	if at.set != "" {
		return at.set
	}
	return at.cwd
}

// verdict is what can be said of a thread without asking.
type verdict uint8

const (
	unknown verdict = iota // where it works has not been heard of
	outside
	within
)

// judge says whether a thread is within reach, by what is known. fresh wants no
// place that is older than placeAge.
func (r *reach) judge(p *places, id protocol.ThreadID, fresh bool) verdict {
	sure := outside
	for range maxLineage {
		if _, ok := r.named[id]; ok {
			return within
		}
		own := r.own.has(id)
		if own && len(r.projects) == 0 {
			return within
		}
		at, ok := p.get(id)
		if !ok || at.cwd == "" || fresh && time.Since(at.at) > placeAge {
			return unknown
		}
		if len(r.projects) > 0 { // own or not: it has to be in one
			if r.holds(at.cwd) && (at.set == "" || r.holds(at.set)) {
				return within
			}
		}
		if at.parent == "" {
			return sure
		}
		id = at.parent
	}
	return sure
}

// reaches reports whether a request of the client's may name the thread. It asks
// the engine when that is not known, and waits for the answer.
func (c *client) reaches(ctx context.Context, id protocol.ThreadID) bool {
	if c.scope == nil {
		return true
	}
	if id == "" || len(id) > maxID {
		return false
	}
	for range maxLineage {
		switch c.scope.judge(&c.g.places, id, true) {
		case within:
			return true
		case outside:
			return false
		}
		if !c.look(ctx, c.scope.missing(&c.g.places, id)) {
			return false
		}
	}
	return false
}

// missing is the thread on the way up whose place judge did not know.
func (r *reach) missing(p *places, id protocol.ThreadID) protocol.ThreadID {
	for range maxLineage {
		at, ok := p.get(id)
		if !ok || at.cwd == "" || time.Since(at.at) > placeAge || at.parent == "" {
			return id
		}
		id = at.parent
	}
	return id
}

// look asks the engine where a thread works; false when it does not say.
func (c *client) look(ctx context.Context, id protocol.ThreadID) bool {
	result, err := c.ask(ctx, "thread/read", map[string]any{"threadId": id, "includeTurns": false})
	if err != nil {
		return false
	}
	thread := protocol.Field(result, "thread")
	if protocol.StringField(thread, "id") != string(id) {
		return false
	}
	c.g.places.learn(thread, nil)
	return true
}

// ask puts a request of the gate's on the client's own engine connection and
// waits for the answer. It must not be called by who reads that connection.
func (c *client) ask(ctx context.Context, method string, params any) (json.RawMessage, error) {
	if c.u == nil {
		return nil, errors.New("there is no engine")
	}
	type answer struct {
		result json.RawMessage
		err    error
	}
	got := make(chan answer, 1)
	c.u.call(method, params, func(env protocol.Envelope) { got <- answer{clone(env.Result), errOf(env)} })
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	select {
	case a := <-got:
		return a.result, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// sees is reaches for what the client is told: it waits for nobody, and what is
// not known is not told. The verdict holds until something changes; only then
// folders are looked at, under whatever lock the caller has.
func (c *client) sees(id protocol.ThreadID) bool {
	r := c.scope
	if r == nil {
		return true
	}
	if id == "" {
		return false
	}
	gen := c.g.places.gen.Load()
	r.mu.Lock()
	if r.gen != gen || len(r.told) >= maxTold {
		r.gen = gen
		clear(r.told)
	}
	v, ok := r.told[id]
	r.mu.Unlock()
	if ok {
		return v
	}
	is := r.judge(&c.g.places, id, false)
	if is == unknown {
		c.lookLater(r.missing(&c.g.places, id), gen)
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gen == gen {
		r.told[id] = is == within
	}
	return is == within
}

// lookLater has the next message about a thread find out where it works.
func (c *client) lookLater(id protocol.ThreadID, gen int64) {
	r := c.scope
	r.mu.Lock()
	busy := r.asking >= maxAsking || c.u == nil
	if !busy {
		r.asking++
	}
	r.mu.Unlock()
	if busy {
		return
	}
	c.u.call("thread/read", map[string]any{"threadId": id, "includeTurns": false}, func(env protocol.Envelope) {
		thread := protocol.Field(env.Result, "thread")
		c.g.places.learn(thread, nil)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.asking--; thread == nil && r.gen == gen {
			r.told[id] = false // until something changes; no need to ask again
		}
	})
}

// resolve is a path as the host takes it: absolute, clean, no link in it. What
// does not exist may still be named, but a link that leads nowhere may not: it
// could lead somewhere in a moment.
func resolve(path string) (string, bool) {
	if !filepath.IsAbs(path) {
		return "", false
	}
	path = filepath.Clean(path)
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(real, rest), true
		}
		if _, linked := os.Lstat(path); linked == nil || !errors.Is(err, fs.ErrNotExist) {
			return "", false
		}
		parent := filepath.Dir(path)
		if parent == path {
			return "", false
		}
		rest, path = filepath.Join(filepath.Base(path), rest), parent
	}
}
