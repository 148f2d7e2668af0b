package sshfwd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"towline/config/peer"
	"towline/forward/pipe"
)

// maxConns is how many connections a Listener carries at once: a browser opens a
// few for one page. More wait their turn.
const maxConns = 16

// Listener holds a port of this machine's loopback: 127.0.0.1, and ::1 where there
// is one, because "localhost" may mean either. Nothing is accepted before Serve.
type Listener struct {
	port int
	lns  []net.Listener
	once sync.Once
}

// Listen takes the port on both addresses, or on neither. [Busy] and [Reserved]
// tell why it cannot be had.
func Listen(ctx context.Context, port int) (*Listener, error) {
	var lc net.ListenConfig
	four, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	l := &Listener{port: four.Addr().(*net.TCPAddr).Port, lns: []net.Listener{four}}
	six, err := lc.Listen(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(l.port)))
	switch {
	case err == nil:
		l.lns = append(l.lns, six)
	case Busy(err):
		// Whoever has that one would get the browser, where it tries ::1 first.
		_ = four.Close()
		return nil, err
	}
	return l, nil
}

// Busy reports whether another program has the port.
func Busy(err error) bool { return errors.Is(err, errInUse) }

// Reserved reports whether the system keeps the port from everybody, as Hyper-V
// does on Windows, or from us.
func Reserved(err error) bool { return errors.Is(err, errReserved) }

// Port is the port.
func (l *Listener) Port() int { return l.port }

// Serve carries each connection through dial until ctx ends, which ends them, or
// Close is called, which leaves those there are to end by themselves; it waits for
// all of them. A connection whose dial fails is closed.
func (l *Listener) Serve(ctx context.Context, dial func(context.Context) (Conn, error), log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	places := make(chan struct{}, maxConns)
	errs := make(chan error, len(l.lns))
	for _, ln := range l.lns {
		wg.Go(func() {
			errs <- accept(ctx, ln, places, func(c net.Conn) {
				wg.Go(func() {
					defer func() { <-places }()
					carried(ctx, c, dial, log)
				})
			})
		})
	}
	var err error
	for range l.lns {
		if e := <-errs; err == nil {
			err = e
		}
		_ = l.Close() // one without the other is of no use
	}
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	cancel()
	return err
}

// accept takes a place for each connection; the place is given back by what begin
// starts.
func accept(ctx context.Context, ln net.Listener, places chan struct{}, begin func(net.Conn)) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || temporary(err) {
				select { // out of file descriptors: others may give some back
				case <-time.After(50 * time.Millisecond):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return err
		}
		select {
		case places <- struct{}{}:
			begin(c)
		case <-ctx.Done():
			_ = c.Close()
			return nil
		}
	}
}

// carried is the life of one connection.
func carried(ctx context.Context, c net.Conn, dial func(context.Context) (Conn, error), log *slog.Logger) {
	if err := peer.Check(c); err != nil { // it is not theirs to reach
		_ = c.Close()
		log.Warn("a connection was turned away", "err", err)
		return
	}
	far, err := dial(ctx)
	if err != nil {
		_ = c.Close()
		log.Warn("a connection could not be carried to the host", "err", err)
		return
	}
	n, err := pipe.Join(ctx, c, far, pipe.Options{})
	log.Debug("a connection was carried", "up", n.ToB, "down", n.ToA, "err", err)
}

// Close lets go of the port; Serve ends once its connections have. Idempotent.
func (l *Listener) Close() error {
	l.once.Do(func() {
		for _, ln := range l.lns {
			_ = ln.Close()
		}
	})
	return nil
}
