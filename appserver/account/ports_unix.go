//go:build !windows

package account

import "syscall"

// Why a port cannot be bound.
var (
	errInUse    error = syscall.EADDRINUSE
	errReserved error = syscall.EACCES
)
