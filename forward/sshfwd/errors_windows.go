package sshfwd

import (
	"errors"
	"syscall"
)

// What Winsock says of a port that cannot be had. Ranges that Hyper-V reserved
// are a matter of permission there.
const (
	errInUse    = syscall.Errno(10048) // WSAEADDRINUSE
	errReserved = syscall.Errno(10013) // WSAEACCES
)

// temporary reports whether accepting may work again later.
func temporary(err error) bool {
	return errors.Is(err, syscall.Errno(10024)) || errors.Is(err, syscall.Errno(10054)) // WSAEMFILE, WSAECONNRESET
}
