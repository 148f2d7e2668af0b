//go:build unix

package osfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// NoFollow is a flag of an open that makes it fail on a symbolic link.
	NoFollow = unix.O_NOFOLLOW
	// ModesMean: a file's mode says who may read it.
	ModesMean = true
)

// Owner is the user a file belongs to, where the system tells.
func Owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// Lock takes the writer's lock of an open file without waiting. It ends with the
// file, and so with the process. Another holder is ErrLocked.
func Lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// IsLink reports whether an open failed because of NoFollow.
func IsLink(err error) bool { return errors.Is(err, unix.ELOOP) }
