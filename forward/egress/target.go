package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Target is an address by name or number, in the one form a list compares: lower
// case, no trailing dot, numbers as netip writes them.
type Target struct {
	Host string
	Port uint16
}

// String is host:port, with brackets around an IPv6 address.
func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// addr is the host as a number, when it is one.
func (t Target) addr() (netip.Addr, bool) {
	a, err := netip.ParseAddr(t.Host)
	return a, err == nil
}

var (
	errNoPort   = errors.New("a port from 1 to 65535 is missing")
	errBadHost  = errors.New("not a host name or an address")
	errTooMany  = fmt.Errorf("more than %d addresses", maxTargets)
	errNoScheme = errors.New("not an http or https address")
)

// ParseTarget reads host:port. It takes what a certificate or a URL could name
// and nothing that two programs could read differently: no zones, no user, no
// spaces, no numbers in other notations than netip's.
func ParseTarget(s string) (Target, error) {
	if len(s) > 300 {
		return Target{}, errBadHost
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Target{}, errNoPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '+' || port[0] == '0' {
		return Target{}, errNoPort
	}
	if host, err = canonical(host); err != nil {
		return Target{}, err
	}
	return Target{Host: host, Port: uint16(n)}, nil
}

// canonical is the one spelling of a host.
func canonical(host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "", errBadHost
		}
		return a.Unmap().String(), nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > 253 {
		return "", errBadHost
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", errBadHost
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return "", errBadHost
			}
		}
	}
	// Resolvers read 127.1, 2130706433 and 0x7f.1 as numbers; no name ends so.
	last := labels[len(labels)-1]
	if last[0] >= '0' && last[0] <= '9' {
		return "", errBadHost
	}
	return host, nil
}

// TargetOf is where a URL's requests go: its host, and its port or the scheme's.
func TargetOf(rawURL string) (Target, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return Target{}, errNoScheme // the error would repeat what may hold a password
	}
	port := u.Port()
	if port == "" {
		switch u.Scheme {
		case "https", "wss":
			port = "443"
		case "http", "ws":
			port = "80"
		}
	}
	if u.Host == "" || port == "" {
		return Target{}, errNoScheme
	}
	return ParseTarget(net.JoinHostPort(u.Hostname(), port))
}

// Rule is one address that is lent.
type Rule struct {
	Target
	// Named: a person named this address, so it may be, or lead to, one of a
	// private network. Loopback and link-local addresses are lent only when the
	// target is that number itself, or localhost.
	Named bool
}

// List is everything that is lent. Nothing else is, and there are no patterns.
type List []Rule

// Add puts targets on the list; one that is there already becomes named if it is
// named now.
func (l List) Add(named bool, targets ...Target) List {
	for _, t := range targets {
		i := slices.IndexFunc(l, func(r Rule) bool { return r.Target == t })
		if i < 0 {
			l = append(l, Rule{Target: t, Named: named})
			continue
		}
		l[i].Named = l[i].Named || named
	}
	return l
}

// Find is the rule for a target, if it is lent.
func (l List) Find(t Target) (Rule, bool) {
	i := slices.IndexFunc(l, func(r Rule) bool { return r.Target == t })
	if i < 0 {
		return Rule{}, false
	}
	return l[i], true
}

// Strings are the targets as they are written.
func (l List) Strings() []string {
	out := make([]string, len(l))
	for i, r := range l {
		out[i] = r.String()
	}
	return out
}

// permits reports whether a connection for the rule may go to a. It is asked of
// the address that is dialled, after names were resolved.
func (r Rule) permits(a netip.Addr) bool {
	a = embedded(a.Unmap().WithZone(""))
	if own, ok := r.addr(); ok {
		return own == a && (r.Named || public(a))
	}
	switch {
	case a.IsLoopback():
		return r.Named && (r.Host == "localhost" || strings.HasSuffix(r.Host, ".localhost"))
	case a.IsPrivate(), shared.Contains(a), benchmark.Contains(a):
		return r.Named
	}
	return public(a)
}

// Ranges that netip does not know by name (RFC 6890).
var (
	shared    = netip.MustParsePrefix("100.64.0.0/10")
	benchmark = netip.MustParsePrefix("198.18.0.0/15")
	special   = []netip.Prefix{
		shared, benchmark,
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("::/96"), // "IPv4-compatible": another address inside
		netip.MustParsePrefix("100::/64"),
		netip.MustParsePrefix("2001::/32"), // Teredo: another address inside
		netip.MustParsePrefix("2002::/16"), // 6to4: another address inside
		netip.MustParsePrefix("fec0::/10"),
		netip.MustParsePrefix("64:ff9b:1::/48"),
	}
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

// embedded is the IPv4 address that a translator would make of a.
func embedded(a netip.Addr) netip.Addr {
	if !nat64.Contains(a) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// public reports whether a is somewhere in the internet.
func public(a netip.Addr) bool {
	if !a.IsValid() || !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Loopback reports whether t is, by its own words, the machine that reads it.
func (t Target) Loopback() bool {
	if a, ok := t.addr(); ok {
		return a.IsLoopback() || a.IsUnspecified()
	}
	return t.Host == "localhost" || strings.HasSuffix(t.Host, ".localhost")
}
