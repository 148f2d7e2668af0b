// Package elder lets turns end in the process they began in, when another has
// taken over the daemon. That process, the elder, has an engine and no clients; it
// offers the engine on a private socket ([Host]) until nothing runs in it any
// more. In its successor, [Engine] stands before the new engine: a client gets one
// connection to the new and one to each elder, as if they were one.
//
// # Who gets what
//
// The elder keeps the threads in which something runs and takes on no others. What
// a client asks about one of those goes there, all else to the new engine. What an
// elder says reaches the client when it is about a thread the elder keeps, or kept;
// requests of engines have ids that differ (see [New.AsksFrom]).
//
// When nothing runs in a thread any more the elder closes its file and says so
// ([native.NoteHandedOver]). From then on, as each client's own connection tells
// it, the thread is the new engine's. Whoever watched it there is made to watch it
// here before anything new may happen in it: nobody misses its next turn. A request
// that crosses the news is answered by the elder with native.ReasonHandedOver and
// sent again, to the new engine.
//
// An elder that dies is a crash: its turns are marked as interrupted when their
// threads are next opened, here, at once for those who watch them.
//
// # The private socket
//
// An elder listens in the runtime folder of its daemon, under a name that ends in
// its pid; so a daemon that was started again finds it too. The first line of the
// elder on each connection is {"format":1,"pid":N,"version":V,"firstAsk":N}; then it
// is a connection of the engine, one message a line. methodHeld and methodStop are
// answered by the elder itself.
//
// # Locks
//
// client.write → client.mu → Engine.mu. Nothing waits under client.mu or Engine.mu.
package elder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"towline/appserver/engine/native"
	"towline/appserver/handover"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

const (
	format = 1
	// namePrefix begins the name of an elder's socket; its pid follows. It is short
	// for the sake of systems where a socket's path is.
	namePrefix = "e-"
	// Requests to an elder that its engine does not see: methodHeld {} ->
	// {"threads":[{id,status}]}, methodStop {} -> {}, by which its daemon's end
	// becomes its own.
	methodHeld = "towline/elder/held"
	methodStop = "towline/elder/stop"
	// askSpan is how far apart the engines' own requests are numbered.
	askSpan = 1 << 32
	// dialTime bounds a connection to an elder, moveTime how long a request waits
	// until everyone who watched a thread there watches it here.
	dialTime = 5 * time.Second
	moveTime = 2 * time.Second
	// stopTime is how long elders may take to end their turns with the daemon.
	stopTime = 15 * time.Second
	// maxElders bounds how many are taken up.
	maxElders = 64
)

// Socket is where the elder of this pid listens: dir is its daemon's runtime folder.
func Socket(dir string, pid int) string { return filepath.Join(dir, namePrefix+strconv.Itoa(pid)) }

// greeting is an elder's first line.
type greeting struct {
	Format   int    `json:"format"`
	PID      int    `json:"pid"`
	Version  string `json:"version"`
	FirstAsk int64  `json:"firstAsk"`
}

// New is the engine of this process.
type New interface {
	Run(ctx context.Context) error
	Connect(ctx context.Context) (rpc.Stream, error)
	State() protocol.EngineState
	Changed() <-chan struct{}
	// AsksFrom numbers its own requests; it is called before Connect.
	AsksFrom(n int64)
}

// Config is what an Engine is made of. Dir and Log are required.
type Config struct {
	Dir func() string // the runtime folder, asked for by Run
	Log *slog.Logger
}

// Engine is the new engine, and the elders that are left. It is a gate.Engine.
type Engine struct {
	cfg   Config
	fresh New
	found chan struct{} // closed when the elders were looked for

	mu       sync.Mutex // guards what follows
	elders   map[*elder]struct{}
	detached bool
}

// elder is one process, as all clients of this one see it.
type elder struct {
	path    string
	pid     int
	version string
	peer    *rpc.Peer

	// guarded by Engine.mu
	held     map[protocol.ThreadID]protocol.ThreadStatus
	watchers map[protocol.ThreadID]*watchers
}

// watchers counts clients that watch a thread in an elder.
type watchers struct {
	n    int
	none chan struct{} // closed when n is 0 again
}

// NewEngine makes an Engine. Use sets the new engine it stands before.
func NewEngine(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{cfg: cfg, found: make(chan struct{}), elders: make(map[*elder]struct{})}
}

// Use sets the new engine. It is called once, before anything else.
func (e *Engine) Use(fresh New) { e.fresh = fresh }

// State implements gate.Engine.
func (e *Engine) State() protocol.EngineState { return e.fresh.State() }

// Changed implements gate.Engine.
func (e *Engine) Changed() <-chan struct{} { return e.fresh.Changed() }

// Status implements native.Elsewhere.
func (e *Engine) Status(id protocol.ThreadID) (protocol.ThreadStatus, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for old := range e.elders {
		if st, ok := old.held[id]; ok {
			return st, true
		}
	}
	return protocol.ThreadStatus{}, false
}

// Threads implements native.Elsewhere.
func (e *Engine) Threads() []protocol.ThreadID {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []protocol.ThreadID
	for old := range e.elders {
		for id := range old.held {
			out = append(out, id)
		}
	}
	return out
}

// Process is an elder that is left, for a person.
type Process struct {
	PID     int                 `json:"pid"`
	Version string              `json:"version"`
	Threads []protocol.ThreadID `json:"threads"`
}

// Elders lists those that are left.
func (e *Engine) Elders() []Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []Process{}
	for old := range e.elders {
		p := Process{PID: old.pid, Version: old.version, Threads: []protocol.ThreadID{}}
		for id := range old.held {
			p.Threads = append(p.Threads, id)
		}
		out = append(out, p)
	}
	return out
}

// Detach leaves the elders to a successor: they do not end with Run.
func (e *Engine) Detach() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.detached = true
}

// Run looks for elders, runs the new engine until ctx ends, and ends the elders
// with it. Connect waits until the elders were found.
func (e *Engine) Run(ctx context.Context) error {
	var follows sync.WaitGroup
	defer follows.Wait()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var first int64
	for _, path := range e.sockets() {
		old, g, err := e.meet(life, path, &follows)
		if err != nil {
			e.cfg.Log.Warn("an earlier daemon that may still be at work cannot be reached", "socket", path, "err", err)
			continue
		}
		first = max(first, g.FirstAsk+askSpan)
		e.cfg.Log.Info("an earlier daemon ends its turns", "pid", old.pid, "version", old.version, "threads", len(e.heldBy(old)))
	}
	e.fresh.AsksFrom(first)
	close(e.found)
	// The elders end first: what their turns came to is heard through this process.
	fresh, endFresh := context.WithCancel(context.WithoutCancel(ctx))
	defer endFresh()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		e.stopElders()
		endFresh()
	})
	err := e.fresh.Run(fresh)
	if !stop() {
		<-stopped
	}
	return err
}

// sockets lists what elders may listen on.
func (e *Engine) sockets() []string {
	dir := e.cfg.Dir()
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range names {
		rest, ok := strings.CutPrefix(n.Name(), namePrefix)
		pid, err := strconv.Atoi(rest)
		if !ok || err != nil || pid <= 0 || pid == os.Getpid() || n.Type()&fs.ModeSocket == 0 {
			continue
		}
		if out = append(out, filepath.Join(dir, n.Name())); len(out) == maxElders {
			break
		}
	}
	return out
}

// dial opens a connection to an elder.
func dial(ctx context.Context, path string) (rpc.Stream, greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := handover.DialPrivate(ctx, path)
	if err != nil {
		return nil, greeting{}, err
	}
	s := rpc.NewLines(c)
	b, err := s.Read(ctx)
	var g greeting
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err == nil && g.Format != format {
		err = fmt.Errorf("it speaks format %d, and this build %d", g.Format, format)
	}
	if err != nil {
		_ = s.Close(nil)
		return nil, greeting{}, err
	}
	return s, g, nil
}

// meet makes the connection of this process's own to an elder, by which it knows
// what is there. What nobody listens on is removed.
func (e *Engine) meet(ctx context.Context, path string, follows *sync.WaitGroup) (*elder, greeting, error) {
	s, g, err := dial(ctx, path)
	if errors.Is(err, handover.ErrNobody) {
		_ = os.Remove(path)
	}
	if err != nil {
		return nil, g, err
	}
	old := &elder{
		path: path, pid: g.PID, version: g.Version,
		held: make(map[protocol.ThreadID]protocol.ThreadStatus), watchers: make(map[protocol.ThreadID]*watchers),
	}
	old.peer = rpc.NewPeer(s, &follower{e, old})
	e.mu.Lock()
	e.elders[old] = struct{}{}
	e.mu.Unlock()
	follows.Go(func() {
		err := old.peer.Serve(ctx)
		e.mu.Lock()
		delete(e.elders, old)
		left := len(old.held)
		clear(old.held)
		e.mu.Unlock()
		switch {
		case ctx.Err() != nil:
		case left > 0:
			e.cfg.Log.Warn("an earlier daemon ended before its turns did; they count as interrupted", "pid", old.pid, "threads", left, "err", err)
		default:
			e.cfg.Log.Info("an earlier daemon has ended its turns", "pid", old.pid)
		}
	})
	if err := old.greet(ctx, e); err != nil {
		_ = s.Close(err) // its follower takes it off the list
		return nil, g, err
	}
	return old, g, nil
}

// greet finds out what an elder holds.
func (old *elder) greet(ctx context.Context, e *Engine) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := old.peer.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo: protocol.ClientInfo{Name: "towline-successor", Version: "1"},
	}, nil); err != nil {
		return err
	}
	var held struct {
		Threads []native.Held `json:"threads"`
	}
	if err := old.peer.Call(ctx, methodHeld, struct{}{}, &held); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range held.Threads {
		old.held[h.ID] = h.Status
	}
	return nil
}

func (e *Engine) heldBy(old *elder) []protocol.ThreadID {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]protocol.ThreadID, 0, len(old.held))
	for id := range old.held {
		out = append(out, id)
	}
	return out
}

// stopElders ends the elders' turns with the daemon's own.
func (e *Engine) stopElders() {
	e.mu.Lock()
	var all []*elder
	if !e.detached {
		for old := range e.elders {
			all = append(all, old)
		}
	}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, old := range all {
		wg.Go(func() { _ = old.peer.Call(ctx, methodStop, struct{}{}, nil) }) // answered when it has stopped
	}
	wg.Wait()
}

// follower hears what is told to everybody in an elder.
type follower struct {
	e   *Engine
	old *elder
}

// Request refuses: this connection takes part in no thread.
func (f *follower) Request(_ context.Context, r *rpc.Request) {
	r.Fail(&protocol.Error{Code: protocol.CodeMethodNotFound, Message: "not a client that answers"})
}

// Notification keeps what the elder holds.
func (f *follower) Notification(_ context.Context, method string, params json.RawMessage) {
	id := protocol.ThreadID(protocol.StringField(params, "threadId"))
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	switch method {
	case native.NoteHandedOver, "thread/closed":
		delete(f.old.held, id)
	case "thread/status/changed":
		var st protocol.ThreadStatus
		if _, ok := f.old.held[id]; ok && json.Unmarshal(protocol.Field(params, "status"), &st) == nil {
			f.old.held[id] = st
		}
	}
}

// watch counts one client more (1) or less (-1) that watches a thread in old.
func (e *Engine) watch(old *elder, id protocol.ThreadID, d int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := old.watchers[id]
	if w == nil {
		w = &watchers{none: make(chan struct{})}
		old.watchers[id] = w
	}
	if w.n += d; w.n <= 0 {
		close(w.none)
		delete(old.watchers, id)
	}
}

// settled waits, not for ever, until nobody watches a thread in an elder any more.
func (e *Engine) settled(ctx context.Context, olds []*elder, id protocol.ThreadID) {
	for _, old := range olds {
		e.mu.Lock()
		w := old.watchers[id]
		e.mu.Unlock()
		if w == nil {
			continue
		}
		t := time.NewTimer(moveTime)
		select {
		case <-w.none:
		case <-t.C:
			e.cfg.Log.Warn("somebody who watched a thread may miss its next turn", "thread", id)
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// Connect implements gate.Engine. Without elders it is the new engine's.
func (e *Engine) Connect(ctx context.Context) (rpc.Stream, error) {
	select {
	case <-e.found:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s, err := e.fresh.Connect(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	var olds []*elder
	for old := range e.elders {
		if len(old.held) > 0 {
			olds = append(olds, old)
		}
	}
	e.mu.Unlock()
	if len(olds) == 0 {
		return s, nil
	}
	c := newClient(e, s)
	for _, old := range olds {
		os, _, err := dial(ctx, old.path)
		if err != nil {
			e.cfg.Log.Debug("an earlier daemon is gone", "pid", old.pid, "err", err)
			continue
		}
		c.add(old, os)
	}
	if len(c.olds) == 0 {
		return s, nil
	}
	c.start()
	return c, nil
}
