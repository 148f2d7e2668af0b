package transport

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxBlocking bounds the connections that hold a thread each; further ones go
// through the poller as any other.
const maxBlocking = 64

var blockingNow atomic.Int64

// blocking is a socket whose reads wait in the kernel, on a thread of their own,
// and not in Go's poller. An engine writes each word by itself; the poller would
// be woken for every one of them, also while nobody wants to read, and this is
// most of what carrying a word costs.
type blocking struct {
	f    *os.File
	wait atomic.Bool // see Linger
	gone atomic.Bool
}

// unpolled takes c over and returns it as a blocking one, or as it is when there
// are enough of those already.
func unpolled(c *net.UnixConn) (io.ReadWriteCloser, error) {
	if blockingNow.Add(1) > maxBlocking {
		blockingNow.Add(-1)
		return c, nil
	}
	raw, err := c.SyscallConn()
	fd := -1
	if err == nil {
		var dup error
		if err = raw.Control(func(orig uintptr) { fd, dup = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0) }); err == nil {
			err = dup
		}
	}
	// Closing the original takes the socket off the poller.
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		blockingNow.Add(-1)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, err
	}
	return &blocking{f: os.NewFile(uintptr(fd), "app-server")}, nil
}

// Linger implements rpc.Lingerer.
func (b *blocking) Linger() { b.wait.Store(true) }

func (b *blocking) Read(p []byte) (int, error) {
	if b.wait.Swap(false) {
		// Not time.Sleep: its end, too, would be the poller's business. A signal
		// ends it early, which costs nothing but the company.
		ts := unix.NsecToTimespec(int64(linger))
		_ = unix.Nanosleep(&ts, nil)
	}
	return b.f.Read(p)
}

func (b *blocking) Write(p []byte) (int, error) { return b.f.Write(p) }

// Close ends a read that waits: closing the file alone would not.
func (b *blocking) Close() error {
	if b.gone.Swap(true) {
		return nil
	}
	if raw, err := b.f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }) // it may be over already
	}
	blockingNow.Add(-1)
	return b.f.Close()
}

// linger is how long a read may let more words arrive: with the
// millisecond an outbox waits, still less than anyone sees.
const linger = 300 * time.Microsecond
