package sshclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// maxHops bounds a chain, however it came about.
const maxHops = 32

// run is one Dial: what all hops of it share.
type run struct {
	cfg Config

	mu   sync.Mutex // guards what follows and the order of events
	last map[string]time.Time
}

func (r *run) emit(e remote.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := e.Hop + "\x00" + e.Stage
	began, open := r.last[key]
	switch over := e.Done || e.Err != nil; {
	case over && open:
		e.Took = time.Since(began)
		delete(r.last, key)
	case !over && !open && !e.Detail && !e.Waiting:
		r.last[key] = time.Now()
	}
	r.cfg.Events(e)
}

// name is what the person typed to get here.
func (r *run) name() string {
	if r.cfg.Target.Alias != "" {
		return r.cfg.Target.Alias
	}
	return r.cfg.Target.HostName
}

// hop is one machine of a chain.
type hop struct {
	run    *run
	label  string
	target sshconfig.Target
	via    *hop   // the machine before it, nil for the first
	proxy  *proxy // its ProxyCommand while one runs
	link   *link  // its connection, once there is one
}

func (h *hop) port() int {
	if h.target.Port == 0 {
		return 22
	}
	return h.target.Port
}

func (h *hop) begin(stage, text string) {
	h.run.emit(remote.Event{Stage: stage, Hop: h.label, Text: printable(text, 200)})
}

func (h *hop) done(stage, text string) {
	h.run.emit(remote.Event{Stage: stage, Hop: h.label, Text: printable(text, 200), Done: true})
}

func (h *hop) fail(stage string, err error) {
	h.run.emit(remote.Event{Stage: stage, Hop: h.label, Text: printable(err.Error(), 400), Err: err})
}

func (h *hop) detail(stage, text string) {
	h.run.cfg.Log.Debug("ssh", "hop", h.label, "stage", stage, "text", printable(text, 400))
	h.run.emit(remote.Event{Stage: stage, Hop: h.label, Text: printable(text, 400), Detail: true})
}

// waiting says that a person is being waited for, or no longer.
func (h *hop) waiting(stage, text string, is bool) {
	h.run.emit(remote.Event{Stage: stage, Hop: h.label, Text: printable(text, 200), Waiting: is, Detail: !is})
}

// chain is the hops to the target, first to dial first, target last. A hop's own
// proxies count for the first of a ProxyJump list only: ssh reaches the others
// through the one before.
func (r *run) chain(ctx context.Context) ([]*hop, error) {
	target := &hop{run: r, label: r.name(), target: r.cfg.Target}
	if target.target.HostName == "" {
		target.target.HostName = r.cfg.Target.Alias
	}
	if target.target.HostName == "" {
		return nil, target.unresolved(errors.New("no host was named"), "name one: `towline hosts` lists those you have")
	}
	return r.expand(ctx, target, nil)
}

func (r *run) expand(ctx context.Context, h *hop, seen []string) ([]*hop, error) {
	if len(h.target.ProxyJump) == 0 {
		return []*hop{h}, nil
	}
	me := login(h.target)
	for _, s := range seen {
		if s == me {
			return nil, h.unresolved(fmt.Errorf("its jump hosts lead in a circle: %s", strings.Join(append(seen, me), " -> ")),
				"add `ProxyJump none` under `Host "+h.label+"` in ~/.ssh/config, above the block that sets ProxyJump")
		}
	}
	seen = append(seen[:len(seen):len(seen)], me)
	var hops []*hop
	for i, spec := range h.target.ProxyJump {
		next, err := r.resolveHop(ctx, h, spec)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			next.target.ProxyJump, next.target.ProxyCommand = nil, ""
		}
		more, err := r.expand(ctx, next, seen)
		if err != nil {
			return nil, err
		}
		hops = append(hops, more...)
		if len(hops) >= maxHops {
			return nil, h.unresolved(fmt.Errorf("more than %d jump hosts", maxHops),
				"check ProxyJump of `Host "+h.label+"`: `ssh -G "+h.label+" | grep -i proxyjump`")
		}
	}
	return append(hops, h), nil
}

// unresolved is the problem of a chain that makes no sense, and its event.
func (h *hop) unresolved(err error, hint string) error {
	p := h.problem(remote.StageResolve, err, "", config.ExitConfig, hint)
	h.fail(remote.StageResolve, p)
	return p
}

// login names an account on a machine, to notice circles.
func login(t sshconfig.Target) string {
	p := t.Port
	if p == 0 {
		p = 22
	}
	return t.User + "@" + net.JoinHostPort(t.HostName, strconv.Itoa(p))
}

func (r *run) resolveHop(ctx context.Context, of *hop, spec string) (*hop, error) {
	name, user, port, err := splitHop(spec)
	h := &hop{run: r, label: name, target: sshconfig.Target{HostName: name}}
	if err != nil {
		return nil, of.unresolved(fmt.Errorf("ProxyJump %s: %w", printable(spec, 255), err),
			"write it as `ProxyJump [user@]host[:port]` in ~/.ssh/config")
	}
	h.begin(remote.StageResolve, "jump host "+spec)
	if r.cfg.Resolve == nil {
		err = errors.New("nobody can resolve jump hosts here")
	} else {
		h.target, err = r.cfg.Resolve(ctx, spec)
	}
	if err != nil {
		h.target.HostName = name
		return nil, h.unresolved(err, "see what ssh makes of it: `ssh -G "+name+"`")
	}
	// What the list says itself wins over the hop's own block.
	if user != "" {
		h.target.User = user
	}
	if port != 0 {
		h.target.Port = port
	}
	if h.target.HostName == "" {
		h.target.HostName = name
	}
	h.done(remote.StageResolve, h.target.User+"@"+net.JoinHostPort(h.target.HostName, itoa(h.port())))
	return h, nil
}

// splitHop takes apart [user@]host[:port] or ssh://[user@]host[:port].
func splitHop(spec string) (host, user string, port int, err error) {
	rest := spec
	if strings.HasPrefix(strings.ToLower(spec), "ssh://") {
		u, err := url.Parse(spec)
		if err != nil {
			return "", "", 0, errors.New("that is no ssh:// address")
		}
		rest, user = u.Host, u.User.Username()
	} else if i := strings.LastIndexByte(spec, '@'); i >= 0 {
		user, rest = spec[:i], spec[i+1:]
	}
	host = rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", "", 0, fmt.Errorf("%s is no port", printable(p, 20))
		}
		host, port = h, int(n)
	} else if inner, ok := strings.CutPrefix(rest, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	if host == "" || strings.HasPrefix(host, "-") || strings.HasPrefix(user, "-") || host != printable(host, 1<<10) || user != printable(user, 1<<10) {
		return "", "", 0, errors.New("that is no host")
	}
	return host, user, port, nil
}
