//go:build unix

package patch

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner of the file st describes. Only root can give
// files away; for anybody else the owner is right already.
func keepOwner(f *os.File, st fs.FileInfo) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(sys.Uid), int(sys.Gid)) // best effort, see above
	}
}
