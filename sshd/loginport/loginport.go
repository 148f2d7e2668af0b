// Package loginport finds out whether a login waits for a browser on this
// machine: which process listens on one of the ports that logging in uses, and
// whether it is a login of this user's. It opens nothing and asks nobody but the
// kernel.
//
// A login is a listener on a loopback address that belongs to this user and is
// held by this very process, by a `towline login`, or by a Codex. Everything else
// that may happen to listen there, a development server say, is not.
//
// Start with [Find].
package loginport

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
)

// Ports gives those that the browser is sent to: the one that is registered, and
// the one taken when that is busy.
func Ports() []uint16 { return []uint16{1455, 1457} }

// ErrNone: nothing waits there.
var ErrNone = errors.New("no login is pending on this host")

// Login is a listener of a login.
type Login struct {
	Addr  netip.AddrPort
	Inode uint64 // the kernel's number of the socket
	PID   int    // 0 when the process does not show itself, as Codex's do not
	Own   bool   // it is this process's
	What  string // "codex", "towline login", for the log
}

// hosts are the names of this machine that a forward may use, and the addresses
// each stands for, in the order they are tried.
var hosts = map[string][]netip.Addr{
	"localhost": {netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
	"127.0.0.1": {netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	"::1":       {netip.IPv6Loopback()},
}

// Names reports whether host is a name of this machine that a login may be
// reached by.
func Names(host string) bool { return hosts[host] != nil }

// Find is the login that waits at host and port. own says what this process
// listens for on the port besides logins; nil is nothing. ErrNone is when nothing
// listens there; other errors say what does. They are fit to be told.
func Find(host string, port uint16, own func(port uint16) bool) (Login, error) {
	why := ErrNone
	for _, a := range hosts[host] {
		l, err := find(netip.AddrPortFrom(a, port))
		if err == nil && l.Own && own != nil && own(port) {
			err = fmt.Errorf("port %d is this host's own listener, and no login", port)
		}
		if err == nil {
			return l, nil
		}
		if errors.Is(why, ErrNone) {
			why = err
		}
	}
	return Login{}, why
}

// Waits reports whether l still listens.
func Waits(l Login) bool { return waits(l) }

// is tells a login by the name of its program and its command line.
func is(exe string, self bool, args []string, port uint16) (what string, ok bool) {
	// Whoever was told the port listens there for something else: a login is not.
	for _, a := range args {
		if strings.Contains(a, fmt.Sprintf(":%d", port)) {
			return "", false
		}
	}
	switch {
	case self && len(args) > 1 && args[1] == "login":
		return "towline login", true
	case isCodex(exe):
		return "codex", true
	}
	return "", false
}

// isCodex knows Codex's program by its name, with or without the platform it was
// built for: codex, codex-x86_64-unknown-linux-musl.
func isCodex(exe string) bool {
	name := path.Base(strings.TrimSuffix(exe, " (deleted)"))
	return name == "codex" || strings.HasPrefix(name, "codex-") && strings.Count(name, "-") >= 3
}
