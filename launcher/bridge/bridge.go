// Package bridge puts clients that know nothing of SSH on a remote app-server.
//
// Each client gets a stream of its own to the remote, dialled when it arrives,
// and messages are carried as they are: nothing is read, renumbered or kept
// here. Whether a cut link ends the stream is the dialled stream's business: a
// resumable one goes on, and the client never notices; a plain one ends, the
// client's connection with it, and the client's next connection is dialled
// afresh.
//
// The listener belongs to the caller, who checks who is calling; start at [New]
// and hand [Bridge.Serve] each accepted stream.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"towline/appserver/rpc"
)

// DefaultDialTimeout bounds how long a client waits for its stream: a stock
// Codex gives a connection 10 seconds to answer initialize before it gives up,
// but one that waits for a link to return may be patient.
const DefaultDialTimeout = 60 * time.Second

// Pauses between attempts to reach a remote for a client that waits.
const (
	redialFirst = 100 * time.Millisecond
	redialMost  = 2 * time.Second
)

// Config is what New needs. Dial is required.
type Config struct {
	// Dial opens a stream to the remote app-server.
	Dial func(ctx context.Context) (rpc.Stream, error)
	// DialTimeout of zero is DefaultDialTimeout.
	DialTimeout time.Duration
	// Events tells what happens to clients; it must not block. May be nil.
	Events func(Event)
	Log    *slog.Logger // nil discards
}

// Event is something that happened to a client.
type Event struct {
	Client  int    // counted from 1
	Remote  string // who it is, as Serve was told
	What    What
	Err     error // of Refused and Left, when there is a reason
	Clients int   // how many there are now
}

// What an Event is about.
type What string

// Kinds of events.
const (
	Joined  What = "joined"  // a client has its stream
	Refused What = "refused" // the remote could not be reached for it
	Left    What = "left"
)

// Bridge carries any number of clients.
type Bridge struct {
	cfg Config

	mu      sync.Mutex // guards what follows
	last    int
	clients int
}

// New makes a Bridge. It starts nothing.
func New(cfg Config) *Bridge {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = DefaultDialTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Bridge{cfg: cfg}
}

// Clients is how many are carried now.
func (b *Bridge) Clients() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clients
}

// Serve carries one client until either side ends or ctx does, and closes both
// streams. It returns when nothing of it runs any more. remote is who the client
// is, for people. nil means that the client left in good order.
func (b *Bridge) Serve(ctx context.Context, client rpc.Stream, remote string) error {
	n := b.count(1)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dialing, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	in := inlet{opened: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := in.follow(ctx, client)
		giveUp(err)
		select {
		case <-in.opened: // and what it said before has been delivered
			cancel(err)
		case <-ctx.Done():
		}
	})
	up, err := b.dial(dialing)
	if err == nil {
		b.tell(Event{Client: n, Remote: remote, What: Joined})
		err = b.carry(ctx, cancel, client, up, &in)
	} else if context.Cause(dialing) == nil {
		b.tell(Event{Client: n, Remote: remote, What: Refused, Err: err})
	}
	cancel(err)
	_ = client.Close(err)
	wg.Wait()
	b.count(-1)
	if errors.Is(err, io.EOF) || errors.Is(err, rpc.ErrClosed) || errors.Is(err, context.Canceled) {
		err = nil
	}
	b.tell(Event{Client: n, Remote: remote, What: Left, Err: err})
	return err
}

// dial opens a client's stream. A remote that is not there at the moment is tried
// again until the time is up: who connects while the link is down shall not fare
// worse than who was there before. What only a person can mend is not.
func (b *Bridge) dial(ctx context.Context) (rpc.Stream, error) {
	late := errors.New("the remote could not be reached in time")
	dctx, cancel := context.WithTimeoutCause(ctx, b.cfg.DialTimeout, late)
	defer cancel()
	var last error
	for pause := redialFirst; ; pause = min(2*pause, redialMost) {
		up, err := b.cfg.Dial(dctx)
		switch {
		case err == nil:
			return up, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx) // the client left meanwhile, or we end
		case dctx.Err() != nil:
			return nil, cmp.Or(last, late)
		case errors.Is(err, rpc.ErrRefused):
			return nil, err
		}
		last = err
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-dctx.Done():
			t.Stop()
		}
	}
}

// carry copies both ways until one end is finished. What that end said before
// is delivered first.
func (b *Bridge) carry(ctx context.Context, cancel context.CancelCauseFunc, client, up rpc.Stream, in *inlet) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := in.open(ctx, up); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		for {
			m, err := up.Read(ctx)
			if err == nil {
				err = client.Write(ctx, m)
			}
			if err != nil {
				cancel(err)
				return
			}
		}
	})
	<-ctx.Done()
	err := context.Cause(ctx)
	_ = client.Close(err) // also ends its reader
	_ = up.Close(err)
	wg.Wait()
	return err
}

// inlet carries what a client says to its stream. That a client leaves while its
// stream is dialled is only seen by reading, so reading starts at once; what it
// says meanwhile waits here and in its socket.
type inlet struct {
	opened chan struct{} // closed once the stream is there and has what waited

	mu      sync.Mutex // guards what follows, and the order of the first writes
	up      rpc.Stream
	waiting [][]byte
}

// maxWaiting is how many messages are read ahead of a stream being dialled.
const maxWaiting = 2

// follow returns why it ended: the client, its stream, or ctx. It writes in the
// goroutine that reads; a hand-over would cost as much as all the rest.
func (in *inlet) follow(ctx context.Context, client rpc.Stream) error {
	for {
		m, err := client.Read(ctx)
		if err != nil {
			return err
		}
		in.mu.Lock()
		up, full := in.up, false
		if up == nil {
			in.waiting = append(in.waiting, m)
			full = len(in.waiting) == maxWaiting
		}
		in.mu.Unlock()
		switch {
		case up != nil:
			if err := up.Write(ctx, m); err != nil {
				return err
			}
		case full:
			select {
			case <-in.opened:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// open gives the inlet its stream.
func (in *inlet) open(ctx context.Context, up rpc.Stream) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, m := range in.waiting {
		if err := up.Write(ctx, m); err != nil {
			return err
		}
	}
	in.up, in.waiting = up, nil
	close(in.opened)
	return nil
}

// count adds d clients; the number is that of a new one.
func (b *Bridge) count(d int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients += d
	if d > 0 {
		b.last++
	}
	return b.last
}

func (b *Bridge) tell(e Event) {
	e.Clients = b.Clients()
	b.cfg.Log.Debug("bridge", "client", e.Client, "what", string(e.What), "remote", e.Remote, "err", e.Err)
	if b.cfg.Events != nil {
		b.cfg.Events(e)
	}
}
