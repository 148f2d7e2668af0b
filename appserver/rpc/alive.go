package rpc

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// pulse tells a link that has ended without a word from a server that has nothing
// to say: it asks for a sign of life, which stock Codex gives and never asks for.
// A client that does not read proves nothing, so its time does not count.
type pulse struct {
	r       io.Reader
	silent  atomic.Bool  // it was given up
	waiting atomic.Int64 // since when a read has waited, in Unix nanoseconds; 0 while none does
	gone    chan struct{}
	once    sync.Once
}

func newPulse(r io.Reader) *pulse { return &pulse{r: r, gone: make(chan struct{})} }

func (p *pulse) Read(b []byte) (int, error) {
	p.waiting.Store(time.Now().UnixNano())
	n, err := p.r.Read(b)
	p.waiting.Store(0)
	if err != nil && p.silent.Load() {
		err = errCut
	}
	return n, err
}

// stop ends watch.
func (p *pulse) stop() { p.once.Do(func() { close(p.gone) }) }

// watch pings until stop, and calls dead when two pings in a row changed nothing
// for a reader that waited all the while. It runs in a goroutine of the
// connection's, which ends with it.
func (p *pulse) watch(c *websocket.Conn, every time.Duration, dead func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-p.gone:
			return
		}
		since := p.waiting.Load()
		if since == 0 {
			continue
		}
		quiet := time.Since(time.Unix(0, since))
		if quiet > 2*every+every/2 {
			p.silent.Store(true)
			dead()
			return
		}
		if quiet > every/2 {
			// The pong comes through Read, and so does anything else that shows life.
			ctx, cancel := context.WithTimeout(context.Background(), every/2)
			_ = c.Ping(ctx)
			cancel()
		}
	}
}
