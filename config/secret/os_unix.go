//go:build unix

package secret

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// nonBlock lets an open of a FIFO return.
const nonBlock = unix.O_NONBLOCK | unix.O_NOCTTY

// syncDir makes a folder's entries last. Some file systems know no such thing
// and say EINVAL; there is nothing more to be done there.
func syncDir(d *os.File) error {
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}

// links is how many names a file has.
func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // of another width on other systems
	}
	return 1
}
