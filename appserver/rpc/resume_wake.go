package rpc

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// lookEvery is how often the surroundings are looked at.
	lookEvery = 5 * time.Second
	// sleptFor is how much more time must have passed on the wall than in this
	// process before it counts as having slept.
	sleptFor = 10 * time.Second
)

// world is what tells that waiting longer makes no sense: the machine woke up,
// or has another network than before.
type world struct {
	// wall is the time of day without its monotonic part, and addrs this machine's
	// addresses in any form that can be compared.
	wall  func() time.Time
	addrs func() string
}

func surroundings() world {
	return world{wall: func() time.Time { return time.Now().Round(0) }, addrs: addresses}
}

// watch calls changed when the machine slept or its addresses changed.
func (w world) watch(ctx context.Context, changed func()) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	began, wall, addrs := time.Now(), w.wall(), w.addrs()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		// The monotonic clock stands still in sleep on most systems. Where it does
		// not, timers and pings notice by themselves.
		ran, passed, now := time.Since(began), w.wall().Sub(wall), w.addrs()
		if passed-ran > sleptFor || now != addrs && now != "" {
			changed()
		}
		began, wall, addrs = time.Now(), w.wall(), now
	}
}

// addresses lists what this machine is reached by, without loopback; it is
// empty while there is no network.
func addresses() string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var out []string
	for _, a := range list {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			out = append(out, a.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
