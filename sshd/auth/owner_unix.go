//go:build unix

package auth

import (
	"io/fs"
	"syscall"
)

// owner is the uid a file belongs to, where the system has such a thing.
func owner(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
