package sshclient

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// maxFirstWords is how much a server may say before its version.
const maxFirstWords = 64 << 10

// wire is a hop's byte stream, watched: when it last brought something, how it
// broke, and what came before SSH began.
type wire struct {
	net.Conn
	began   time.Time
	heard   atomic.Int64 // nanoseconds after began of the last byte read
	greeted func()       // called once, when an SSH version begins; may be nil
	ended   func()       // called once, when it broke; may be nil

	mu    sync.Mutex // guards what follows
	first []byte
	ssh   bool  // an SSH version is among first
	err   error // the first failure of a Read or Write
	shut  error // why this side closed it
}

func newWire(c net.Conn) *wire { return &wire{Conn: c, began: time.Now()} }

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.heard.Store(int64(time.Since(w.began)))
		w.keepFirst(p[:n])
	}
	if err != nil {
		w.broke(err)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.broke(err)
	}
	return n, err
}

// keepFirst collects what comes before the greeting, and notices that.
func (w *wire) keepFirst(p []byte) {
	w.mu.Lock()
	was := w.ssh
	if room := maxFirstWords - len(w.first); room > 0 && !was {
		from := max(0, len(w.first)-len("\nSSH"))
		w.first = append(w.first, p[:min(room, len(p))]...)
		w.ssh = bytes.HasPrefix(w.first, []byte("SSH-")) || bytes.Contains(w.first[from:], []byte("\nSSH-"))
	}
	now := w.ssh
	w.mu.Unlock()
	if now && !was && w.greeted != nil {
		w.greeted()
	}
}

func (w *wire) broke(err error) {
	w.mu.Lock()
	first := w.err == nil
	if first {
		w.err = err
	}
	w.mu.Unlock()
	if first && w.ended != nil {
		w.ended()
	}
}

// abort closes the stream because of why.
func (w *wire) abort(why error) {
	w.mu.Lock()
	if w.shut == nil {
		w.shut = why
	}
	w.mu.Unlock()
	_ = w.Close()
}

// broken is how the stream failed, apart from by abort; nil while it works.
func (w *wire) broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// aborted is why this side closed the stream; nil when it did not.
func (w *wire) aborted() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shut
}

// idle is how long nothing was heard.
func (w *wire) idle() time.Duration {
	return time.Since(w.began) - time.Duration(w.heard.Load())
}

// preamble is what the server said instead of, or before, its SSH version.
func (w *wire) preamble() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, _, _ := bytes.Cut(w.first, []byte("SSH-"))
	return string(before)
}

// spoke reports whether an SSH version arrived.
func (w *wire) spoke() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ssh
}

// errSlow is the cause when a guard fires.
var errSlow = errors.New("no answer in time")

// guard is a deadline that does not run while a person is being waited for, or
// something on this machine. Closing the stream is the only thing that ends a
// handshake of the library, so that is what it does.
type guard struct {
	fire func()

	mu     sync.Mutex // guards what follows
	d      time.Duration
	timer  *time.Timer
	holds  int  // reasons to stand still
	people int  // those of them that are people
	waited bool // a person ever was waited for
	over   bool
}

func newGuard(d time.Duration, fire func()) *guard {
	g := &guard{d: d, fire: fire}
	g.timer = time.AfterFunc(d, g.expire)
	return g
}

func (g *guard) expire() {
	g.mu.Lock()
	fire := !g.over && g.holds == 0
	g.mu.Unlock()
	if fire {
		g.fire()
	}
}

// progress starts the time anew.
func (g *guard) progress() { g.allow(0) }

// allow starts the time anew with another limit; 0 keeps the one there is.
func (g *guard) allow(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d > 0 {
		g.d = d
	}
	if !g.over && g.holds == 0 {
		g.timer.Reset(g.d)
	}
}

// limit is what the time is.
func (g *guard) limit() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.d
}

// pause stops the time for a person, until the function it returns is called.
func (g *guard) pause() (resume func()) { return g.stand(1) }

// hold stops the time for work on this machine.
func (g *guard) hold() (resume func()) { return g.stand(0) }

func (g *guard) stand(people int) func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holds++
	g.people += people
	g.waited = g.waited || people > 0
	g.timer.Stop()
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.people -= people
		if g.holds--; g.holds == 0 && !g.over {
			g.timer.Reset(g.d)
		}
	})
}

// stop ends the guard.
func (g *guard) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.timer.Stop()
}

// waiting reports whether a person is being waited for.
func (g *guard) waiting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.people > 0
}

// didWait reports whether a person was waited for.
func (g *guard) didWait() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waited
}

// abortWith closes w when ctx ends; the function it returns undoes that.
func abortWith(ctx context.Context, w *wire) func() bool {
	return context.AfterFunc(ctx, func() { w.abort(context.Cause(ctx)) })
}
