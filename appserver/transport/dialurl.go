package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// The address of a server to connect to, with Codex's rules: "unix://PATH",
// "ws://HOST:PORT" or "wss://HOST:PORT". The port must be there; no path, query
// or fragment may follow; user information is dropped. "unix://" alone is the
// default socket, which only who dials can know.

// remoteAddress is where a server is.
type remoteAddress struct {
	via      string
	path     string // unix: absolute
	host     string // ws, wss: host:port as it stands in the Host header
	hostname string // ws, wss: without port and brackets
	raw      string // for errors, without user information
	lacks    string // what a wrong one should have been, "" when nothing is near
}

// ParseRemote says, in Codex's words, what is wrong with the address of a server,
// or else what to call it: the address without user information. "unix://" is
// itself. Errors are *config.Problem.
func ParseRemote(raw string) (string, error) {
	if strings.TrimSpace(raw) == "unix://" {
		return "unix://", nil
	}
	a, err := parseRemote(raw)
	if err != nil {
		return "", usageProblem("", err, a.advice())
	}
	return a.shown(), nil
}

// TokenFits reports whether a token may go to raw: over wss://, or over ws:// on
// this machine's loopback. Codex sends none over a unix socket; DialWith does.
func TokenFits(raw string) bool {
	a, err := parseRemote(raw)
	return err == nil && a.via != viaUnix && a.private()
}

func parseRemote(raw string) (remoteAddress, error) {
	raw = strings.TrimSpace(raw)
	a := remoteAddress{raw: shown(raw)}
	wrong := fmt.Errorf("invalid remote address `%s`; expected `ws://host:port`, `wss://host:port`, `unix://`, or `unix://PATH`", a.raw)
	if path, ok := strings.CutPrefix(raw, "unix://"); ok {
		switch {
		case path == "":
			return a, errors.New("the path of the socket is missing")
		case strings.ContainsRune(path, 0):
			return a, errors.New("a socket path cannot hold a zero byte")
		}
		abs, err := filepath.Abs(path)
		a.via, a.path = viaUnix, abs
		return a, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		a.lacks = guess(raw)
		return a, wrong // the cause quotes the address, and what it may hold
	}
	switch u.Scheme {
	case viaWS, viaWSS:
		a.via = u.Scheme
	default:
		a.lacks = guess(raw)
		return a, wrong
	}
	a.hostname = u.Hostname()
	port, perr := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Opaque != "" || !hostLike(u.Host, a.hostname):
		return a, wrong
	case u.Port() == "":
		a.lacks = a.via + "://" + u.Host + ":PORT"
		return a, wrong
	case perr != nil:
		return a, wrong
	}
	a.host = net.JoinHostPort(a.hostname, strconv.FormatUint(port, 10))
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#") {
		a.lacks = a.via + "://" + a.host
		return a, wrong
	}
	return a, nil
}

// hostLike reports whether name, of the host:port as written, is an address or
// could be a name.
func hostLike(host, name string) bool {
	if strings.HasPrefix(host, "[") {
		ip, err := netip.ParseAddr(name)
		return err == nil && ip.Is6()
	}
	return name != "" && strings.IndexFunc(name, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) < 0
}

// guess is the address that somebody may have meant who wrote no scheme, or
// another one; "" when that is not to be seen.
func guess(raw string) string {
	for from, to := range map[string]string{"http://": "ws://", "https://": "wss://", "unix:/": "unix:///", "": "ws://"} {
		rest, ok := strings.CutPrefix(raw, from)
		if !ok || from == "" && (strings.Contains(raw, "://") || strings.HasPrefix(raw, "unix:")) || from == "unix:/" && strings.HasPrefix(rest, "/") {
			continue
		}
		if a, err := parseRemote(to + rest); err == nil {
			return strings.TrimSuffix(a.raw, "/")
		}
	}
	return ""
}

// advice is what to type instead of an address that is none.
func (a remoteAddress) advice() string {
	if a.lacks != "" {
		return "did you mean `" + a.lacks + "`?"
	}
	return "for example: ws://127.0.0.1:4500, wss://dev.example:4500, unix:///run/user/1000/towline/towline.sock"
}

// shown is the address for people.
func (a remoteAddress) shown() string {
	if a.via == viaUnix {
		return "unix://" + a.path
	}
	return a.via + "://" + a.host
}

// loopback reports whether the address is this machine's.
func (a remoteAddress) loopback() bool {
	if a.via == viaUnix || strings.EqualFold(strings.TrimSuffix(a.hostname, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(a.hostname)
	return err == nil && ip.Unmap().IsLoopback()
}

// private reports whether nobody else can read what goes there.
func (a remoteAddress) private() bool { return a.via == viaWSS || a.loopback() }

// forProxy is the address as the rules for proxies know it.
func (a remoteAddress) forProxy() *url.URL {
	u := &url.URL{Scheme: "http", Host: a.host}
	if a.via == viaWSS {
		u.Scheme = "https"
	}
	return u
}
