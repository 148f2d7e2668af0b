package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/rpc"
	"towline/config"
	"towline/forward/egress"
	"towline/launcher"
	"towline/launcher/lend"
)

const (
	// networkPatience is how long a host may take until it uses a network it was
	// lent, before the person is let in anyway.
	networkPatience = 40 * time.Second
	// goodbyeTime is how long the host may take to hear that a loan is over.
	goodbyeTime = 3 * time.Second
	// Pauses between attempts to lend anew when a stream has ended; after a refusal
	// that only a person can mend, the longest.
	lendFirst, lendMost = time.Second, time.Minute
)

// lentEgress is this machine's network, lent to a host until close.
type lentEgress struct {
	session *launcher.Session
	host    string
	server  *egress.Server
	log     *slog.Logger
	say     func(string)
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	status  chan egress.Status // capacity 8: until the person is let in
	inside  atomic.Bool        // the person is let in
	serving atomic.Bool        // the host can be told goodbye
	leaving chan struct{}      // closed by close
	once    sync.Once
}

// lendNetwork lends over a session, and returns once the host uses it or has said
// why not yet. Errors are *config.Problem.
func lendNetwork(ctx context.Context, s *launcher.Session, host string, list egress.List, log *slog.Logger, say func(string)) (*lentEgress, error) {
	n := &lentEgress{session: s, log: log, say: say, status: make(chan egress.Status, 8), leaving: make(chan struct{})}
	n.host = host
	via := egress.Via(os.Getenv)
	from, err := os.Hostname()
	if err != nil {
		from = "a laptop"
	}
	n.server, err = egress.NewServer(egress.ServerConfig{
		List: list, From: from, Via: via, Log: log, Status: n.heard,
		Events: func(e egress.Event) {
			if errors.Is(e.Err, egress.ErrNotLent) {
				say(host + " asked for " + printable(e.Target) + ", which is not lent: `--lend-network=" + printable(e.Target) + "` would")
			}
		},
	})
	if err != nil {
		return nil, &config.Problem{Stage: lend.Stage, Err: err, Exit: config.ExitUsage}
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a loan lasts until close
	n.cancel = cancel
	first := make(chan error, 1)
	n.wg.Go(func() { n.run(life, first) })
	defer n.inside.Store(true)
	t := time.NewTimer(networkPatience)
	defer t.Stop()
	for begun := false; ; {
		select {
		case err := <-first:
			if err != nil {
				n.close()
				return nil, err
			}
			begun = true
		case st := <-n.status:
			switch {
			case st.Failed:
				n.close()
				return nil, &config.Problem{
					Stage: lend.Stage, Err: errors.New(host + " cannot use it: " + st.Text), Exit: config.ExitUnavailable,
					Hints: []string{"on " + host + ", end what is named, and try again"},
				}
			case st.Ready:
				return n, nil
			}
			say(host + ": " + st.Text)
			return n, nil
		case <-t.C:
			if !begun {
				continue // the launcher's own bounds end that
			}
			say(host + " has not said yet that it uses the network it was lent")
			return n, nil
		case <-ctx.Done():
			n.close()
			return nil, context.Cause(ctx)
		}
	}
}

// heard passes a status on to who waits for it, or to the person.
func (n *lentEgress) heard(st egress.Status) {
	switch {
	case !n.inside.Load():
		select {
		case n.status <- st:
		default:
		}
	case st.Ready:
		n.log.Info("the host uses the network it was lent")
	default:
		n.say(n.host + ": " + st.Text)
	}
}

// run lends over one stream after the other, until ctx ends or close is called.
// first hears how the first began.
func (n *lentEgress) run(ctx context.Context, first chan<- error) {
	pause := lendFirst
	for tries := 0; ; tries++ {
		rw, err := n.session.Bytes(ctx)
		if err == nil {
			rw, err = egress.Offer(ctx, rw)
		}
		if tries == 0 {
			first <- notTaken(err, n.host)
		}
		if err == nil {
			pause = lendFirst
			n.serving.Store(true)
			_ = n.server.Serve(ctx, rw)
			n.serving.Store(false)
		} else if tries == 0 {
			return
		}
		var refused *egress.RefusedError
		if errors.As(err, &refused) || errors.Is(err, rpc.ErrRefused) {
			pause = lendMost
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-n.leaving:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
		n.log.Info("lending the network anew", "err", err)
		pause = min(2*pause, lendMost)
	}
}

// notTaken is why a host does not take a network, with what to do about it.
func notTaken(err error, host string) error {
	var refused *egress.RefusedError
	var p *config.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Status == http.StatusForbidden:
		return &config.Problem{
			Stage: lend.Stage, Err: errors.New(host + " does not take it: " + refused.Text), Exit: config.ExitDenied,
			Hints: []string{"connect without it: `towline " + host + "`"},
		}
	case errors.As(err, &refused):
		return &config.Problem{
			Stage: lend.Stage, Err: errors.New("the Towline on " + host + " takes no network: it is too old"), Exit: config.ExitUnavailable,
			Hints: []string{"put this version there: `towline connect " + host + " --install`"},
		}
	case errors.As(err, &p):
		return &config.Problem{Stage: lend.Stage, Err: err, Exit: p.Exit}
	}
	return &config.Problem{
		Stage: lend.Stage, Err: errors.New("lend the network to " + host + ": " + printable(err.Error())), Exit: config.ExitUnavailable,
		Hints: []string{"see every step: `towline doctor " + host + "`"},
	}
}

// close takes the network back, and waits. It may be called again.
func (n *lentEgress) close() {
	n.once.Do(func() {
		close(n.leaving)
		n.server.Leave()
	})
	if !n.serving.Load() {
		n.cancel()
	}
	stop := time.AfterFunc(goodbyeTime, n.cancel)
	defer stop.Stop()
	n.wg.Wait()
	n.cancel()
}
