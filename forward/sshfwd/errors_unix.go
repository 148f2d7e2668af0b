//go:build unix

package sshfwd

import (
	"errors"
	"syscall"
)

// What the system says of a port that cannot be had.
const (
	errInUse    = syscall.EADDRINUSE
	errReserved = syscall.EACCES
)

// temporary reports whether accepting may work again later.
func temporary(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED)
}
