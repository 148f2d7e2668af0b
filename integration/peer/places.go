package peer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os/exec"
	"testing"
)

// Place is a network namespace that only its neighbours in a [Chain] reach.
type Place struct {
	Name string // for `ip netns exec`
	Addr string // as its nearer neighbour sees it

	near       string // that neighbour's address on their wire
	device     string // its end of that wire
	nearDevice string // the other end
}

// Chain makes n network namespaces in a row. The first is reached from here,
// each further one only from the one before: nothing routes between them, so
// the only way to the last is through servers in the others.
func Chain(t testing.TB, n int) []*Place {
	t.Helper()
	NeedRoot(t)
	Need(t, "ip")
	id := random(t, 3)
	var out []*Place
	before := "" // the namespace this machine is in
	for i := range n {
		p := &Place{Name: fmt.Sprintf("tl%s-%d", id, i)}
		if err := ip("netns", "add", p.Name); err != nil {
			Lacking(t, "network namespaces: "+err.Error())
		}
		t.Cleanup(func() { _ = ip("netns", "del", p.Name) }) // its interfaces go with it, on both ends
		near, far := fmt.Sprintf("tl%s%dn", id, i), fmt.Sprintf("tl%s%df", id, i)
		nearAddr, farAddr := pairOfAddresses(t)
		p.Addr, p.near, p.device, p.nearDevice = farAddr, nearAddr, far, near
		must := func(args ...string) {
			t.Helper()
			if err := ip(args...); err != nil {
				t.Fatal(err)
			}
		}
		within := func(name string, args ...string) []string {
			if name == "" {
				return args
			}
			return append([]string{"-n", name}, args...)
		}
		must(within(before, "link", "add", near, "type", "veth", "peer", "name", far, "netns", p.Name)...)
		// No link-local addresses: a browser takes their coming, a second or two
		// later, for a change of the network, and drops what it was at.
		must(within(before, "link", "set", near, "addrgenmode", "none")...)
		must("-n", p.Name, "link", "set", far, "addrgenmode", "none")
		must(within(before, "addr", "add", nearAddr+"/30", "dev", near)...)
		must(within(before, "link", "set", near, "up")...)
		must("-n", p.Name, "addr", "add", farAddr+"/30", "dev", far)
		must("-n", p.Name, "link", "set", far, "up")
		must("-n", p.Name, "link", "set", "lo", "up")
		out = append(out, p)
		before = p.Name
	}
	return out
}

// Sever takes down the way to the place, as a pulled cable would: no reset, no
// word. Join brings it back.
func (p *Place) Sever(t testing.TB) { p.wire(t, "down") }

// Join undoes Sever.
func (p *Place) Join(t testing.TB) { p.wire(t, "up") }

func (p *Place) wire(t testing.TB, state string) {
	t.Helper()
	if err := ip("-n", p.Name, "link", "set", p.device, state); err != nil {
		t.Fatal(err)
	}
}

func ip(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, sbin("ip"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

// pairOfAddresses is a random /30 of the range kept for tests of networks
// (RFC 2544).
func pairOfAddresses(t testing.TB) (near, far string) {
	t.Helper()
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	n := 198<<24 | 18<<16 | int(binary.BigEndian.Uint16(b[:]))<<2&0x1fffc
	at := func(i int) string { return fmt.Sprintf("%d.%d.%d.%d", i>>24, i>>16&255, i>>8&255, i&255) }
	return at(n + 1), at(n + 2)
}
