package managed

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unmappedRoot reports whether uid is how root appears here: in a user namespace
// that does not know root, as in a rootless container, its files belong to the
// overflow user.
func unmappedRoot(uid int) bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || strings.Join(strings.Fields(string(raw)), " ") == "0 0 4294967295" {
		return false
	}
	raw, err = os.ReadFile("/proc/sys/kernel/overflowuid")
	overflow, numErr := strconv.Atoi(strings.TrimSpace(string(raw)))
	return err == nil && numErr == nil && uid == overflow
}

// readOnly reports whether nobody can write to dir, whatever its mode says: a
// configuration mounted into a container often lies in a folder open to all.
func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}
