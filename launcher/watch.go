package launcher

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

// Waking up and changing networks are noticed by looking: every system tells it
// in another way, and none of them reliably. A look costs some microseconds.
const (
	lookEvery = 2 * time.Second
	// slept is by how much the wall clock must have run ahead of the time this
	// process was given to be called sleep. A busy machine is late, not asleep.
	slept = 10 * time.Second
)

// watcher notices that the machine slept or is on another network.
type watcher struct {
	now   func() time.Time
	addrs func() string

	last  time.Time
	known string
}

func newWatcher() *watcher {
	w := &watcher{now: time.Now, addrs: addresses}
	w.last, w.known = w.now(), w.addrs()
	return w
}

// look says what changed since the last look, "" for nothing.
func (w *watcher) look() string {
	now := w.now()
	// Round(0) strips the monotonic reading, which stands still during sleep on
	// most systems; where it does not, being looked at late shows it.
	wall, mono := now.Round(0).Sub(w.last.Round(0)), now.Sub(w.last)
	w.last = now
	addrs := w.addrs()
	moved := addrs != w.known
	w.known = addrs
	switch {
	case wall-mono > slept, wall > lookEvery+slept:
		return "this machine woke up"
	case moved && addrs != "":
		return "the network changed"
	}
	return ""
}

// run calls changed until ctx ends.
func (w *watcher) run(ctx context.Context, changed func(why string)) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if why := w.look(); why != "" {
				changed(why)
			}
		}
	}
}

// addresses is what this machine is reachable as, in one comparable string.
// Temporary and link-local IPv6 addresses come and go without the network
// changing; what they are derived from is in the others.
func addresses() string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var out []string
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		out = append(out, n.IP.Mask(n.Mask).String()+"/"+n.Mask.String())
		if v4 := n.IP.To4(); v4 != nil {
			out[len(out)-1] = n.String()
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}
