//go:build unix

package systemssh

import (
	"io/fs"
	"os"
	"syscall"
)

// mine says whether a file is this user's.
func mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
