package transport

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
)

// A page of some other site can have its name lead to this machine's address once
// it is loaded. Its requests then carry that name in their Host header, so only
// names the listener is known to have are let through.

// named reports whether r's Host header is a name of this listener.
func (l *Listener) named(r *http.Request) bool {
	local := netip.Addr{}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		local = addrOf(a)
	}
	return l.namedAt(r.Host, local)
}

// namedAt is named for a connection to the address local.
func (l *Listener) namedAt(hostport string, local netip.Addr) bool {
	host := hostOf(hostport)
	for _, h := range l.opts.Hosts {
		if strings.EqualFold(host, hostOf(h)) {
			return true
		}
	}
	if local.IsLoopback() && LoopbackName(hostport) {
		return true
	}
	if !l.remote {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("") == local
	}
	return isMachine(host) || l.opts.Certificates != nil && l.opts.Certificates.covers(host)
}

// hostOf is the host of a Host header, without brackets and a closing dot.
func hostOf(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.Trim(host, "[]"), ".")
}

var machineName = sync.OnceValue(func() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
})

// isMachine reports whether host is what this machine calls itself, or what mDNS
// makes of that. No site elsewhere has such a name.
func isMachine(host string) bool {
	name := machineName()
	short, _, _ := strings.Cut(name, ".")
	return name != "" && (strings.EqualFold(host, name) || strings.EqualFold(host, short) || strings.EqualFold(host, short+".local"))
}
