//go:build unix

package transport

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// duplicate is another descriptor of a listening socket. That of the net package
// makes the socket block for everybody as soon as somebody asks for its number, and
// an Accept that blocks can no longer be ended.
func duplicate(ln net.Listener) (*os.File, error) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	n := -1
	var dup error
	if err := raw.Control(func(fd uintptr) { n, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, dup
	}
	return os.NewFile(uintptr(n), "listener"), nil
}
