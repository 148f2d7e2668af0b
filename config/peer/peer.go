// Package peer tells whether a connection on this machine's loopback was made by
// another of its users. A port has no file mode: everybody here can connect to one,
// and what waits for a browser should listen to its own person only.
//
// It says no more than the kernel does. Root counts as one of us: it is, and what
// forwards connections (sshd, WSL) runs as root. So does whoever cannot be known,
// on systems that do not tell and for peers that are no process of this machine.
package peer

import (
	"errors"
	"net"
	"net/netip"
)

// ErrForeign: the connection is another user's.
var ErrForeign = errors.New("the connection is another user's")

// Check is ErrForeign for a connection that another user of this machine made, or
// one whose maker left before it could be asked for.
func Check(c net.Conn) error {
	client, err1 := netip.ParseAddrPort(c.RemoteAddr().String())
	server, err2 := netip.ParseAddrPort(c.LocalAddr().String())
	if err1 != nil || err2 != nil || !client.Addr().Unmap().IsLoopback() {
		return nil // no connection of this machine's
	}
	return check(client, server)
}
