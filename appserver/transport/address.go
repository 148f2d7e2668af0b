package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"towline/config"
)

// The kinds of doors, as AcceptFunc's via.
const (
	viaUnix = "unix"
	viaWS   = "ws"
	viaWSS  = "wss"
)

// address is a parsed URL of ours.
type address struct {
	via  string
	path string         // unix: absolute
	host string         // ws: as written, for dialing
	addr netip.AddrPort // ws and wss, when listening
}

// parseAddress reads what both ends accept: Codex's forms, so no path, no
// query, and a port that must be there. User information is dropped as Codex
// drops it.
func parseAddress(raw string) (address, error) {
	if path, ok := strings.CutPrefix(raw, "unix://"); ok {
		if path == "" {
			return address{}, fmt.Errorf("%s: the path of the socket is missing", raw)
		}
		if strings.ContainsRune(path, 0) {
			return address{}, errors.New("a socket path cannot hold a zero byte")
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return address{}, err
		}
		return address{via: viaUnix, path: abs}, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, err
	}
	switch {
	case u.Scheme == "wss":
		return address{}, fmt.Errorf("%s: TLS is not supported here", u.Redacted())
	case u.Scheme != "ws":
		return address{}, fmt.Errorf("%s: not an address of an app-server", u.Redacted())
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return address{}, fmt.Errorf("%s: only a host and a port may follow ws://", u.Redacted())
	case u.Hostname() == "" || u.Port() == "":
		return address{}, fmt.Errorf("%s: the host or the port is missing", u.Redacted())
	}
	return address{via: viaWS, host: u.Host}, nil
}

// LoopbackName reports whether a Host header names this machine's loopback, in
// whatever way; the port does not matter, because forwards change it.
func LoopbackName(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// hasToken reports whether a comma-separated header holds token, in any case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

func usageProblem(stage string, err error, hints ...string) error {
	return &config.Problem{Stage: stage, Err: err, Hints: hints, Exit: config.ExitUsage}
}

func listenProblem(err error, hints ...string) error {
	return &config.Problem{Stage: "listen", Err: err, Hints: hints, Exit: config.ExitFailure}
}

// rootCause drops the wrapping that net and net/http put around an error, which
// repeats addresses the caller's own words already hold.
func rootCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
