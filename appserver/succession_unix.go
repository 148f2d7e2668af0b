//go:build unix

package appserver

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// duplicate is the same open file under a descriptor of its own.
func duplicate(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, errors.New("this home has no lock")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var got error
	if err := raw.Control(func(n uintptr) { fd, got = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if got != nil {
		return nil, got
	}
	return os.NewFile(uintptr(fd), f.Name()), nil //nolint:gosec // a descriptor is not negative
}
