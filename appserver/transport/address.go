package transport

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
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
