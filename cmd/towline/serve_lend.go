package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"towline/appserver/access"
	"towline/appserver/engine/codex"
	"towline/appserver/protocol"
	"towline/appserver/transport"
	"towline/config"
	"towline/config/managed"
	"towline/forward/egress"
)

// awaitLogin is set in the environment of a daemon that is started by somebody
// who is about to lend it a login.
const awaitLogin = "TOWLINE_AWAIT_LOGIN"

// eventNetwork is the audit's word for a network that is lent.
const eventNetwork = "network.lend"

// proxyPatience is how long a first loan waits for the proxy that a Codex needs.
const proxyPatience = 10 * time.Second

// lentNetwork is how a host gets to the network: through clients that lend it
// theirs, and on its own. In this process that is a matter of dialling; a Codex
// gets a proxy on loopback, which is there from the first loan on.
type lentNetwork struct {
	outlet  *egress.Outlet
	noProxy string
	log     *slog.Logger
	wanted  chan struct{} // closed by the first loan
	want    sync.Once
	served  chan struct{} // closed when url or failed is set

	mu     sync.Mutex // guards what follows
	url    string     // of the proxy
	failed error      // why there is none
}

func newLentNetwork(environ func(string) string, log *slog.Logger) *lentNetwork {
	noProxy := environ("NO_PROXY")
	if noProxy == "" {
		noProxy = environ("no_proxy")
	}
	return &lentNetwork{
		outlet: egress.NewOutlet(nil, egress.Via(environ)), noProxy: noProxy, log: log,
		wanted: make(chan struct{}), served: make(chan struct{}),
	}
}

// Transport implements appserver.Network.
func (n *lentNetwork) Transport(base *http.Transport) *http.Transport {
	return n.outlet.Transport(base)
}

// Proxy implements appserver.Network. A laptop whose link broke a moment ago still
// counts: it is waited for.
func (n *lentNetwork) Proxy() (url, bypass string, changed <-chan struct{}) {
	loan, changed := n.outlet.Loan()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !loan.Active && !loan.Waiting {
		return "", "", changed
	}
	return n.url, n.outlet.Bypass(n.noProxy), changed
}

// run serves the proxy once somebody lends, until ctx ends.
func (n *lentNetwork) run(ctx context.Context) error {
	select {
	case <-n.wanted:
	case <-ctx.Done():
		return nil
	}
	ln, err := transport.ListenLoopback(ctx, n.log)
	n.mu.Lock()
	if n.failed = err; err == nil {
		n.url = "http://" + ln.Addr().String()
	}
	n.mu.Unlock()
	close(n.served)
	if err != nil {
		n.log.Warn("no proxy for programs that need one", "err", err)
		return nil
	}
	return n.outlet.ServeProxy(ctx, ln, n.log)
}

// proxy waits for the proxy.
func (n *lentNetwork) proxy(ctx context.Context) error {
	n.want.Do(func() { close(n.wanted) })
	ctx, cancel := context.WithTimeout(ctx, proxyPatience)
	defer cancel()
	select {
	case <-n.served:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.failed
	case <-ctx.Done():
		return errors.New("the host is stopping, or very slow")
	}
}

// egress is appserver.Config's Egress: whether a client may lend its network
// here, and what becomes of it.
func (h *host) egress(ctx context.Context, p access.Principal, remote string) (func(context.Context, io.ReadWriteCloser), error) {
	if p.Role < protocol.RoleOperator {
		return nil, fmt.Errorf("lending a network needs the role %s, and you are %s here", protocol.RoleOperator, p.Role)
	}
	// It is read anew: an administrator may have changed it since the start.
	if policy, err := managed.Load(managed.Options{}); err != nil {
		return nil, errors.New("the policy of this host cannot be read")
	} else if err := policy.CheckLendNetwork(); err != nil {
		return nil, err
	}
	if h.engine.Codex != nil {
		if err := h.network.proxy(ctx); err != nil {
			return nil, fmt.Errorf("this host has no proxy for its Codex: %w", unstaged(err))
		}
	}
	return func(ctx context.Context, rw io.ReadWriteCloser) {
		bye, err := h.network.outlet.Join(ctx, rw, func(ctx context.Context, l egress.Lease, tell func(egress.Status)) {
			h.server.Record(eventNetwork, p, slog.String("remote", remote), slog.String("from", l.From), slog.String("to", strings.Join(l.Allow, " ")))
			h.useNetwork(ctx, tell)
		})
		if err != nil {
			h.log.Info("a network could not be used", "remote", remote, "err", err)
			return
		}
		h.server.Record(eventNetwork, p, slog.String("remote", remote), slog.Bool("ended", true), slog.Bool("lost", !bye))
	}, nil
}

// useNetwork tells a lender how far the engine is with using its network.
func (h *host) useNetwork(ctx context.Context, tell func(egress.Status)) {
	e := h.engine.Codex
	if e == nil {
		tell(egress.Status{Ready: true})
		return
	}
	var last codex.ProxyUse
	for {
		use, changed := e.Proxy()
		if use != last {
			last = use
			switch use {
			case codex.ProxyUsed:
				tell(egress.Status{Ready: true})
			case codex.ProxyWaits:
				tell(egress.Status{Text: "Codex there is at work, and uses your network once its turns have ended"})
			case codex.ProxyForeign:
				tell(egress.Status{Failed: true, Text: "a Codex daemon of its own runs there, which cannot be sent through your network; end it: `codex app-server daemon stop`"})
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// unstaged is an error without the stage a Problem adds.
func unstaged(err error) error {
	var p *config.Problem
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// viaNetwork is an HTTP client for this process that goes out as engines do.
func viaNetwork(n *lentNetwork) *http.Client {
	t := n.Transport(http.DefaultTransport.(*http.Transport))
	t.MaxIdleConnsPerHost, t.IdleConnTimeout, t.ResponseHeaderTimeout = 2, 30*time.Second, 30*time.Second
	return &http.Client{Transport: t}
}
