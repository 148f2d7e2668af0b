package codex

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
)

// Network says how an app-server of ours gets to the network. A process reads
// that from its environment once, at its start: when it changes, one that has
// nothing to do is started anew, and one that is at work is left alone until it is
// not.
type Network interface {
	// Proxy is the URL of the HTTP proxy to use, "" for none, the hosts to reach
	// without it as NO_PROXY lists them, and a channel that is closed when either
	// changes.
	Proxy() (url, bypass string, changed <-chan struct{})
}

// ProxyUse is how far the proxy that a [Network] names is in use.
type ProxyUse string

// The values of ProxyUse.
const (
	ProxyNone    ProxyUse = ""        // there is none, or no server
	ProxyUsed    ProxyUse = "used"    // the server that answers has it
	ProxyWaits   ProxyUse = "waits"   // the server gets it when its running turns have ended
	ProxyForeign ProxyUse = "foreign" // the server is a daemon of Codex's own, which cannot be told
)

// proxyNames are the variables that Codex and what it starts read a proxy from.
var proxyNames = []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"}

// withProxy is an environment that names one proxy and no other.
func withProxy(environ []string, url, bypass string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(proxyNames, strings.ToUpper(name))
	})
	for _, name := range proxyNames[:2] {
		out = append(out, name+"="+url, strings.ToLower(name)+"="+url)
	}
	return append(out, "NO_PROXY="+bypass, "no_proxy="+bypass)
}

// Proxy is how far the network's proxy is in use, and a channel that is closed
// when that may have changed.
func (e *Engine) Proxy() (ProxyUse, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.proxy, e.changed
}

func (e *Engine) setProxy(u ProxyUse) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.proxy == u {
		return
	}
	e.proxy = u
	close(e.changed)
	e.changed = make(chan struct{})
}

// never is a channel that nothing comes from.
var never <-chan struct{}

// wanted is the proxy the network names now.
func (c Config) wanted() (url, bypass string, changed <-chan struct{}) {
	if c.Network == nil {
		return "", "", never
	}
	return c.Network.Proxy()
}

// errRenewed is how a server ends that is started anew for another network.
var errRenewed = errors.New("codex starts anew, to use the network that a client lends")

// stale looks at what the network wants of the server in use, and reports whether
// it is to be started anew now, or when to look again. ch is nil for one that is
// not ours.
func (e *Engine) stale(w *watch, ch *child) (now bool, changed <-chan struct{}, soon <-chan time.Time) {
	url, _, changed := e.cfg.wanted()
	switch {
	case ch == nil && url != "":
		e.setProxy(ProxyForeign)
	case url == "":
		// One that has the proxy keeps it: it leads out as before.
		e.setProxy(ProxyNone)
	case ch.proxy == url:
		e.setProxy(ProxyUsed)
	default:
		idle, left := w.idle()
		if idle && left <= 0 {
			return true, changed, nil
		}
		e.setProxy(ProxyWaits)
		if idle {
			soon = time.After(left)
		}
	}
	return false, changed, soon
}

// idleFor is how long a thread must have been idle: its last messages follow the
// status, and the next turn often does too.
const idleFor = time.Second

// idle reports whether no thread is at work, as far as the server has told, and
// for how much longer that should be so.
func (w *watch) idle() (idle bool, left time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.busy) > 0 {
		return false, 0
	}
	return true, idleFor - time.Since(w.quiet)
}

// maxLoaded bounds how many threads are asked about before a server is ended.
const maxLoaded = 200

// atWork asks the server itself: what it tells on this connection may be a moment
// behind what a client has begun.
func (w *watch) atWork(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var loaded struct {
		Data []string `json:"data"`
	}
	if w.peer.Call(ctx, "thread/loaded/list", struct{}{}, &loaded) != nil {
		return false // it is going anyway
	}
	for _, id := range loaded.Data[:min(len(loaded.Data), maxLoaded)] {
		var got json.RawMessage
		if w.peer.Call(ctx, "thread/read", map[string]any{"threadId": id}, &got) != nil {
			continue // never began anything
		}
		if protocol.StringField(protocol.Field(protocol.Field(got, "thread"), "status"), "type") == "active" {
			return true
		}
	}
	return false
}

// heard keeps which threads are at work.
func (w *watch) heard(method string, params json.RawMessage) {
	id := protocol.StringField(params, "threadId")
	status := protocol.Field(params, "status")
	switch method {
	case "thread/started":
		thread := protocol.Field(params, "thread")
		id, status = protocol.StringField(thread, "id"), protocol.Field(thread, "status")
	case "thread/status/changed":
	case "thread/closed", "thread/deleted":
		status = nil
	default:
		return
	}
	w.mu.Lock()
	if protocol.StringField(status, "type") == "active" {
		w.busy[id] = struct{}{}
	} else if _, was := w.busy[id]; was {
		delete(w.busy, id)
		w.quiet = time.Now()
	}
	w.mu.Unlock()
	select {
	case w.moved <- struct{}{}:
	default:
	}
}

// follow keeps the state true while a server answers, and returns when it does
// not any more, its process has exited, or ctx ends; renew means that it is to be
// started anew although it is well. ch is nil for a server that is not ours.
func (e *Engine) follow(ctx context.Context, w *watch, socket string, ch *child) (renew bool) {
	exited := never
	if ch != nil {
		exited = ch.exited
	}
	for {
		again := e.tell(ctx, w, socket)
		for asked := false; !asked; {
			now, changed, soon := e.stale(w, ch)
			if now {
				if !w.atWork(ctx) {
					return true
				}
				e.setProxy(ProxyWaits)
				soon = time.After(idleFor)
			}
			select {
			case <-changed:
			case <-soon:
			case <-w.moved:
			case <-again:
				asked = true
			case <-w.account:
				asked = true
			case <-w.ended:
				return false
			case <-exited:
				return false
			case <-ctx.Done():
				return false
			}
		}
	}
}
