//go:build !linux && !darwin

package transport

import (
	"errors"
	"net"
	"net/netip"
)

// errUnknowable: where the kernel does not say whose process a connection
// belongs to, nobody comes in without authentication.
var errUnknowable = errors.New("this system does not show who owns a connection")

func socketOwner(netip.AddrPort, netip.AddrPort) (socket, error) { return socket{}, errUnknowable }

func peerCredentials(*net.UnixConn) (credentials, error) { return credentials{}, errUnknowable }

func distinguishable(uint32) error { return nil }

// tcpOwnerKnown: whose a TCP connection is, cannot be told here.
const tcpOwnerKnown = false
