package osfile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const (
	// NoFollow has no counterpart in an open's flags here.
	NoFollow = 0
	// ModesMean is false: access lists rule here, and a profile's folders are
	// its owner's alone.
	ModesMean = false
)

// Owner is not told by a file's information here.
func Owner(fs.FileInfo) (uid int, ok bool) { return 0, false }

// Lock takes the writer's lock of an open file without waiting. It ends with the
// file, and so with the process. Another holder is ErrLocked. It covers a byte
// no file reaches, because locks here keep readers out too.
func Lock(f *os.File) error {
	at := &windows.Overlapped{OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}

// IsLink reports whether an open failed because of NoFollow, which it never does
// here.
func IsLink(error) bool { return false }
