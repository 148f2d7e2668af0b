//go:build unix

package rpc

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// roomOf is how to ask whether the socket w has room; nil when it is none.
func roomOf(w io.Writer) func() bool {
	var raw syscall.RawConn
	var err error
	switch c := w.(type) {
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	return func() (room bool) {
		err := raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // descriptors are small
			n, err := unix.Poll(p, 0)
			room = err == nil && n == 1 && p[0].Revents == unix.POLLOUT
		})
		return err == nil && room
	}
}
