//go:build unix

package transport

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownerKnown: files here have an owner and a mode worth checking.
const ownerKnown = true

func fileOwner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// lockDir holds dir against other starts of ours, so that two that find the
// same stale socket do not remove each other's fresh one. A file system without
// locks goes without.
func lockDir(ctx context.Context, dir string, patience time.Duration) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("another start holds it"))
	defer cancel()
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOTSUP):
			return func() { _ = f.Close() }, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			_ = f.Close()
			return nil, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// maxFilesOpen is how many descriptors this process may have. The Go runtime has
// raised it as far as the system lets it.
func maxFilesOpen() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(uint64(l.Cur), 1<<20)) //nolint:unconvert,gosec // its type differs between systems; bounded
}
