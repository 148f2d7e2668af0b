package appserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/access"
	"towline/appserver/engine/elder"
	"towline/appserver/engine/native"
	"towline/appserver/gate"
	"towline/appserver/handover"
	"towline/appserver/metrics"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

// # Succession
//
// A daemon has reigns: in one it serves, and between two it has yielded to an heir
// that did not make it. Clients and the audit file end with a reign; the engine, the
// gate, sessions, tokens and doors do not. After the last reign the daemon is an
// elder: its engine finishes what runs, its gate knows what that is and tells the
// heir, and its doors carry those who are still there to the heir. See package
// handover for what is said, and package elder for where turns end.

// Succession says how a daemon takes over from another, and whether another may
// from it. The zero value does neither.
type Succession struct {
	// Heir, where not nil, is this process's way to take over from the daemon that
	// runs: Open claims what that one has, Confirm makes this one the daemon.
	Heir *handover.Heir
	// Allowed lets another process take over.
	Allowed bool
	// May, where not nil, says what speaks against it now.
	May func() error
	// Args and Dir are what an heir is started with, for whoever starts one.
	Args []string
	Dir  string
	// Detached: nobody waits for this process, which may end before its heir.
	Detached bool
	// Start runs program as an heir.
	Start func(program string) (pid int, err error)
}

// Door is a listener outside this package, such as the SSH one.
type Door interface {
	// HandOver duplicates its socket.
	HandOver() (*os.File, error)
	// Pause accepts nobody until Continue; Release nobody any more. Those who are
	// connected notice nothing.
	Pause()
	Continue()
	Release()
}

// Files that change hands, besides the listeners.
const (
	fileHome     = "home"    // the lock
	fileDoor     = "door "   // and the door's name
	fileListener = "listen " // and its addresses, as configured and as they are
)

const (
	// leaveTime is how long clients may take to leave when a reign ends.
	leaveTime = 5 * time.Second
	// orphanLook and orphanTime: an elder whose daemon is gone for so long ends
	// those who came through its doors.
	orphanLook, orphanTime = 5 * time.Second, time.Minute
	// freeTime is how long an heir waits until its elder has given up an address it
	// does not hand over.
	freeTime, freeLook = 5 * time.Second, 20 * time.Millisecond
	// tellTime bounds one note to the heir's audit.
	tellTime = 5 * time.Second
	// guestDepth is how many messages a connection of an heir's holds each way.
	guestDepth = 256
	// eventHandOver is the audit's word for a daemon that took over.
	eventHandOver = "daemon.handover"
)

// errSucceeded ends clients: they come back to the heir.
var errSucceeded = errors.New("a new build takes over here; come back")

// reign is the time in which clients are served.
type reign struct {
	ctx    context.Context // not a request's: this is the lifetime itself
	end    context.CancelCauseFunc
	inside sync.WaitGroup
}

func newReign() *reign {
	r := new(reign)
	r.ctx, r.end = context.WithCancelCause(context.Background())
	return r
}

type phase uint8

const (
	serving phase = iota
	yielded
	retired
)

// succession is what a Server keeps for it.
type succession struct {
	lock      *os.File // of the home
	confirmed bool     // a daemon that took over is one; true for any other
	listener  *handover.Server
	path      string
	over      chan struct{}  // closed by Retire
	carried   sync.WaitGroup // connections of an heir's

	mu      sync.Mutex // guards what follows
	phase   phase
	reign   *reign
	changed chan struct{} // closed and replaced when either changes
	doors   map[string]Door
	left    []<-chan struct{} // closed when a door has nobody inside any more
	kept    []transport.Handed
	gave    bool // the listeners were released
	host    *elder.Host
	heirPID int
}

func newSuccession() *succession {
	return &succession{reign: newReign(), changed: make(chan struct{}), over: make(chan struct{}), doors: make(map[string]Door)}
}

func (p *succession) now() (phase, *reign, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phase, p.reign, p.changed
}

func (p *succession) set(ph phase, r *reign) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase, p.reign = ph, r
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *succession) elderHost() *elder.Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host
}

func (p *succession) setHost(h *elder.Host) (old *elder.Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, p.host = p.host, h
	return old
}

// away waits while the daemon has yielded, and reports whether it has retired.
func (p *succession) away(ctx context.Context) (bool, error) {
	r, err := p.enter(ctx)
	if r != nil {
		r.inside.Done()
	}
	return r == nil && err == nil, err
}

// enter waits while the daemon has yielded. It returns the reign, which leave must
// be told of, or nil when it has retired.
func (p *succession) enter(ctx context.Context) (*reign, error) {
	for {
		p.mu.Lock()
		ph, r, changed := p.phase, p.reign, p.changed
		if ph == serving {
			r.inside.Add(1)
		}
		p.mu.Unlock()
		switch ph {
		case serving:
			return r, nil
		case retired:
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// AddDoor makes a door part of what an heir gets. left is closed when nobody is
// inside any more after Release. It is called before Run.
func (s *Server) AddDoor(name string, d Door, left <-chan struct{}) {
	s.succ.mu.Lock()
	defer s.succ.mu.Unlock()
	s.succ.doors[name] = d
	s.succ.left = append(s.succ.left, left)
}

// Inherited is the socket of a door that this daemon took over; nil for none.
func (s *Server) Inherited(name string) *os.File {
	if s.cfg.Succession.Heir == nil {
		return nil
	}
	return s.cfg.Succession.Heir.Take(fileDoor + name)
}

// claim takes what the daemon that runs has.
func (s *Server) claim(ctx context.Context) error {
	h := s.cfg.Succession.Heir
	if h.Offer.Kind != s.cfg.Engine.Kind {
		return &config.Problem{
			Stage: "upgrade", Err: fmt.Errorf("the daemon that runs has the engine %q, and this one %q: turns at work cannot change engines", h.Offer.Kind, s.cfg.Engine.Kind),
			Hints: []string{"stop it when it is idle, and start anew: `towline app-server stop`"}, Exit: config.ExitFailure,
		}
	}
	if err := h.Claim(ctx); err != nil {
		return upgradeProblem(err)
	}
	if s.succ.lock = h.Take(fileHome); s.succ.lock == nil {
		return upgradeProblem(errors.New("the lock of the home was not handed over"))
	}
	s.cfg.Listeners.Handed = handed(h)
	return nil
}

// upgradeProblem is a succession that came to nothing, for the heir's person.
func upgradeProblem(err error) error {
	p := &config.Problem{Stage: "upgrade", Err: err, Exit: config.ExitFailure, Hints: []string{"the daemon that runs goes on; its log says more"}}
	var r *handover.RefusedError
	if errors.As(err, &r) && len(r.Hints) > 0 {
		p.Hints = r.Hints
	}
	if errors.Is(err, handover.ErrNobody) {
		p.Exit, p.Hints = config.ExitUnavailable, []string{"start one: `towline app-server start`"}
	}
	return p
}

func handed(h *handover.Heir) (out []transport.Handed) {
	for _, name := range h.Names() {
		if rest, ok := strings.CutPrefix(name, fileListener); ok {
			asked, url, _ := strings.Cut(rest, " ")
			out = append(out, transport.Handed{Asked: asked, URL: url, File: h.Take(name)})
		}
	}
	return out
}

// Confirm makes a daemon that took over the daemon. It is called once, after Open
// and whatever else may fail, and does nothing for any other daemon.
func (s *Server) Confirm(ctx context.Context) error {
	h := s.cfg.Succession.Heir
	if h == nil {
		return nil
	}
	if err := h.Ready(ctx); err != nil {
		return upgradeProblem(err)
	}
	s.succ.confirmed = true
	h.Close()
	if err := s.cfg.Paths.Inherit(s.succ.lock); err != nil {
		s.cfg.Log.Error("who has the home is not on record", "err", err)
	}
	s.audit.Record(eventHandOver, access.Principal{},
		slog.Int("from", h.Offer.PID), slog.String("fromVersion", h.Offer.Version), slog.String("version", s.cfg.Version))
	s.listenForHeir(true)
	if s.cfg.Metrics.Listen == "" {
		return nil
	}
	for end := time.Now().Add(freeTime); ; time.Sleep(freeLook) {
		var err error
		if s.telling, err = metrics.Listen(ctx, s.cfg.Metrics); err == nil {
			return nil
		}
		if time.Now().After(end) {
			s.cfg.Log.Error("metrics are not told", "err", err)
			return nil
		}
	}
}

// listenForHeir opens the socket on which an heir comes. Without one the daemon is
// as good, but for upgrades.
func (s *Server) listenForHeir(heir bool) {
	if !s.cfg.Succession.Allowed {
		return
	}
	s.succ.path = handover.Socket(s.cfg.Paths.Socket())
	l, err := handover.Listen(s.succ.path, heir, s.cfg.Log)
	if err != nil {
		s.cfg.Log.Warn("this daemon cannot be succeeded", "err", err)
		return
	}
	s.succ.listener = l
}

// runtimeDir is where the daemon's own socket really lies.
func (s *Server) runtimeDir() string { return filepath.Dir(handover.Socket(s.cfg.Paths.Socket())) }

var _ handover.Daemon = (*Server)(nil)

// Offer implements [handover.Daemon].
func (s *Server) Offer() (handover.Offer, error) {
	c := s.cfg.Succession
	if c.May != nil {
		if err := c.May(); err != nil {
			return handover.Offer{}, err
		}
	}
	return handover.Offer{
		Format: handover.Format, PID: os.Getpid(), Version: s.cfg.Version, Home: s.cfg.Paths.Home(),
		Kind: s.cfg.Engine.Kind, Args: c.Args, Dir: c.Dir, Detached: c.Detached,
	}, nil
}

// Start implements [handover.Daemon].
func (s *Server) Start(program string) (int, error) {
	if s.cfg.Succession.Start == nil {
		return 0, errors.New("this daemon starts no other")
	}
	return s.cfg.Succession.Start(program)
}

// Yield implements [handover.Daemon].
func (s *Server) Yield(ctx context.Context) (_ handover.Offer, _ map[string]*os.File, err error) {
	s.doors.turn.Lock() // until the end: no listener is opened or closed meanwhile
	_, r, _ := s.succ.now()
	files := make(map[string]*os.File)
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close()
			}
			s.TakeBack(err)
		}
	}()
	s.succ.set(yielded, r)

	list, err := s.HandOver()
	if err != nil {
		return handover.Offer{}, nil, err
	}
	for _, h := range list {
		files[fileListener+h.Asked+" "+h.URL] = h.File
	}
	if s.succ.kept, err = s.HandOver(); err != nil {
		return handover.Offer{}, nil, err
	}
	for name, d := range s.succ.doors {
		d.Pause()
		if files[fileDoor+name], err = d.HandOver(); err != nil {
			delete(files, fileDoor+name)
			return handover.Offer{}, nil, err
		}
	}
	if files[fileHome], err = duplicate(s.succ.lock); err != nil {
		delete(files, fileHome)
		return handover.Offer{}, nil, err
	}
	s.succ.gave = true
	if err := s.ReleaseListeners(); err != nil {
		return handover.Offer{}, nil, err
	}

	s.gate.Hold()
	r.end(errSucceeded)
	gone := make(chan struct{})
	go func() { r.inside.Wait(); close(gone) }() // which follows from end
	select {
	case <-gone:
	case <-time.After(leaveTime):
		return handover.Offer{}, nil, errors.New("somebody does not leave")
	case <-ctx.Done():
		return handover.Offer{}, nil, context.Cause(ctx)
	}
	var rest elder.Retired
	switch e := s.cfg.Engine; {
	case e.Native != nil:
		e.Native.Retire()
		rest = &remains{Engine: e.Native, s: s}
	case e.Codex != nil:
		e.Codex.Retire()
		rest = keeper{e.Codex}
	}
	if rest != nil {
		h, err := elder.Listen(s.runtimeDir(), rest, s.cfg.Version, s.cfg.Log)
		if err != nil {
			return handover.Offer{}, nil, err
		}
		s.succ.setHost(h)
	}
	if err := s.audit.Suspend(); err != nil {
		return handover.Offer{}, nil, err
	}
	o, err := s.Offer()
	return o, files, err
}

// TakeBack implements [handover.Daemon].
func (s *Server) TakeBack(why error) {
	defer s.doors.turn.Unlock()
	s.cfg.Log.Error("this daemon goes on", "err", why)
	if h := s.succ.setHost(nil); h != nil {
		_ = h.Close() // nobody has come
	}
	switch e := s.cfg.Engine; {
	case e.Native != nil:
		e.Native.Return()
	case e.Codex != nil:
		e.Codex.Return()
	}
	if err := s.audit.Resume(); err != nil {
		s.cfg.Log.Error("the audit log cannot be taken back", "err", err)
	}
	if s.succ.gave {
		s.doors.takeBack(s.succ.kept, s.cfg.Log)
	} else {
		for _, h := range s.succ.kept {
			_ = h.File.Close() // not needed
		}
	}
	s.succ.kept, s.succ.gave = nil, false
	s.gate.GoAhead()
	_, r, _ := s.succ.now()
	if r.ctx.Err() != nil {
		r = newReign()
	}
	s.succ.set(serving, r)
	for _, d := range s.succ.doors {
		d.Continue()
	}
}

// Retire implements [handover.Daemon].
func (s *Server) Retire(heir int) {
	defer s.doors.turn.Unlock()
	for _, h := range s.succ.kept {
		_ = h.File.Close() // the heir has its own
	}
	s.succ.kept = nil
	if e := s.cfg.Engine.Elders; e != nil {
		e.Detach()
	}
	for _, d := range s.succ.doors {
		d.Release()
	}
	_, r, _ := s.succ.now()
	s.succ.mu.Lock()
	s.succ.heirPID = heir
	s.succ.mu.Unlock()
	s.succ.set(retired, r)
	s.gate.Silence()
	s.audit.Forward(func(event string, p access.Principal, attrs []slog.Attr) {
		ctx, cancel := context.WithTimeout(context.Background(), tellTime)
		defer cancel()
		if err := handover.Tell(ctx, s.succ.path, handover.NoteOf(event, p, attrs)); err != nil {
			s.cfg.Log.LogAttrs(ctx, slog.LevelError, "audit entry lost", append([]slog.Attr{slog.String("event", event), slog.Any("err", err)}, attrs...)...)
		}
	})
	close(s.succ.over)
}

// remains is what an elder offers its heir: the engine, behind the gate, which knows
// of what runs what the engine does not tell a second time.
type remains struct {
	*native.Engine
	s      *Server
	serial atomic.Int64
}

// Connect implements [elder.Retired].
func (r *remains) Connect(context.Context) (rpc.Stream, error) {
	near, far := rpc.Pipe(guestDepth)
	p := access.Principal{Kind: access.KindLocal, ID: fmt.Sprintf("heir:%d", r.serial.Add(1)), Name: "successor", Role: protocol.RoleAdmin}
	r.s.succ.carried.Go(func() { // ends with the connection, which ends with the engine
		_ = r.s.gate.Serve(context.Background(), far, gate.Client{Principal: p, Via: "elder", Remote: "elder"})
	})
	return near, nil
}

// Succeeded is the process that took over; 0 while none has.
func (s *Server) Succeeded() int {
	s.succ.mu.Lock()
	defer s.succ.mu.Unlock()
	return s.succ.heirPID
}

// finish ends what an elder still has to do: the engine's turns, and those who came
// through its doors. It returns early when the daemon ends, and with ctx.
func (s *Server) finish(ctx context.Context) {
	if h := s.succ.elderHost(); h != nil && !h.Run(ctx) {
		return
	}
	s.cfg.Log.Info("nothing runs here any more")
	look := time.NewTicker(orphanLook)
	defer look.Stop()
	seen := time.Now()
	for _, left := range s.succ.left {
		for open := true; open; {
			select {
			case <-left:
				open = false
			case <-look.C:
				c, cancel := context.WithTimeout(ctx, tellTime)
				_, err := handover.Ask(c, s.succ.path)
				cancel()
				if !errors.Is(err, handover.ErrNobody) {
					seen = time.Now()
				} else if time.Since(seen) > orphanTime {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// takeBack goes on with listeners that were released.
func (d *doors) takeBack(kept []transport.Handed, log *slog.Logger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range kept {
		url := h.URL
		l, err := transport.Adopt(h, d.opts)
		if err != nil {
			log.Error("a listener cannot be taken back", "url", url, "err", err)
			continue
		}
		for _, w := range d.all {
			if w.l == nil || w.l.URL() != url {
				continue
			}
			w.l = l
			if d.serve != nil {
				d.serve(w)
			}
		}
	}
}
