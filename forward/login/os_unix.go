//go:build unix

package login

import (
	"errors"
	"syscall"
)

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// hangUp asks a process of our own to end.
func hangUp(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }
