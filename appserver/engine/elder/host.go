package elder

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/appserver/engine/native"
	"towline/appserver/handover"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

const (
	// orphanTime is how long an elder goes on without any daemon that could carry
	// an answer to its turns.
	orphanTime = 24 * time.Hour
	// maxConns bounds a successor's connections, of which each client needs one.
	maxConns = 16384
)

// Retired is an engine that has retired; *native.Engine is one.
type Retired interface {
	Connect(ctx context.Context) (rpc.Stream, error)
	Held() []native.Held
	Finish(ctx context.Context) error
	FirstAsk() int64
}

// Host offers the engine of an elder to its successors.
type Host struct {
	e       Retired
	ln      *handover.Private
	version string
	log     *slog.Logger

	mu    sync.Mutex // guards what follows
	conns int
	since time.Time // when there was the last

	served  sync.WaitGroup // connections
	stop    chan struct{}  // closed by a successor that ends
	stopped sync.Once
	ended   chan struct{} // closed when the engine has
	over    sync.Once
}

// Listen opens the private socket of this process in dir, its daemon's runtime
// folder. Nobody is served before Run.
func Listen(dir string, e Retired, version string, log *slog.Logger) (*Host, error) {
	ln, err := handover.ListenPrivate(Socket(dir, os.Getpid()))
	if err != nil {
		return nil, err
	}
	return &Host{e: e, ln: ln, version: version, log: log, since: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}, nil
}

// Close removes the socket and waits for the connections, which end with the
// engine. Run must have returned, or never begun.
func (h *Host) Close() error {
	h.Ended()
	err := h.ln.Close()
	h.served.Wait()
	return err
}

// Run serves successors until the engine has nothing left to do, one of them asks
// it to end, nobody was there for a day, or ctx ends. The engine goes on: whoever
// called ends it, says so with Ended, and closes the Host. It reports whether the
// engine has nothing left to do.
func (h *Host) Run(ctx context.Context) (done bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { return h.accept(ctx) })
	g.Go(func() error {
		defer cancel()
		done = h.e.Finish(ctx) == nil
		return nil
	})
	g.Go(func() error {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				h.mu.Lock()
				orphan := h.conns == 0 && time.Since(h.since) > orphanTime
				h.mu.Unlock()
				if !orphan {
					continue
				}
				h.log.Warn("no daemon has come for what runs here")
			case <-h.stop:
			case <-ctx.Done():
				return nil
			}
			cancel()
			return nil
		}
	})
	_ = g.Wait() // each ends with ctx
	return done
}

// Ended says that the engine has ended its turns: successors that asked for it are
// told, and their connections end.
func (h *Host) Ended() { h.over.Do(func() { close(h.ended) }) }

// accept serves connections. Those that are open when ctx ends stay until the
// engine ends them, so that everybody hears how the last turn ended.
func (h *Host) accept(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = h.ln.Close() })()
	for {
		c, err := h.ln.Accept()
		if err != nil {
			return nil //nolint:nilerr // closed, mostly; without descriptors there is nothing to be had either
		}
		h.mu.Lock()
		full := h.conns >= maxConns
		if !full {
			h.conns++
		}
		h.mu.Unlock()
		if full {
			_ = c.Close()
			continue
		}
		h.served.Go(func() {
			h.serve(c)
			h.mu.Lock()
			h.conns--
			h.since = time.Now()
			h.mu.Unlock()
		})
	}
}

// serve carries one connection.
func (h *Host) serve(c net.Conn) {
	s := rpc.NewLines(c)
	defer func() { _ = s.Close(nil) }()
	hello, err := json.Marshal(greeting{Format: format, PID: os.Getpid(), Version: h.version, FirstAsk: h.e.FirstAsk()})
	if err != nil || s.Write(context.Background(), hello) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	up, err := h.e.Connect(ctx)
	cancel()
	if err != nil {
		return
	}
	var down sync.WaitGroup
	defer down.Wait()
	defer func() { _ = up.Close(rpc.ErrClosed) }()
	down.Go(func() {
		defer func() { _ = s.Close(nil) }()
		for {
			msg, err := up.Read(context.Background())
			if err != nil || s.Write(context.Background(), msg) != nil {
				return
			}
		}
	})
	for {
		msg, err := s.Read(context.Background())
		if err != nil {
			return
		}
		if env, err := protocol.PeekTrusted(msg); err == nil && env.Kind == protocol.KindRequest {
			switch env.Method {
			case methodHeld:
				h.reply(s, env, map[string]any{"threads": h.e.Held()})
				continue
			case methodStop:
				h.stopped.Do(func() { close(h.stop) })
				<-h.ended
				h.reply(s, env, struct{}{})
				return
			}
		}
		if up.Write(context.Background(), msg) != nil {
			return
		}
	}
}

func (h *Host) reply(s rpc.Stream, env protocol.Envelope, result any) {
	if msg, err := protocol.NewResponse(env.ID, result); err == nil {
		_ = s.Write(context.Background(), msg) // a successor that is gone does not wait
	}
}
