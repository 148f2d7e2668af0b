//go:build unix

package config

import (
	"errors"
	"os"
	"syscall"
)

// someoneHolds reports whether a process has the lock on f. It takes a shared one,
// so that two that look at once do not take each other for that process.
func someoneHolds(f *os.File) bool {
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// tryLock takes the lock on f, unless somebody holds it. It is free again when
// the file is closed, also by the end of the process.
func tryLock(f *os.File) (held bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return true, nil
	case errors.Is(err, syscall.ENOLCK):
		return false, errors.ErrUnsupported
	}
	return false, err
}
