package secret

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// forgetKernelKey is what a reboot does.
func forgetKernelKey(t *testing.T, home string) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _ = unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "towline:credentials:"+home, 0)
	if err != nil {
		return
	}
	if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0); err != nil {
		t.Error(err)
	}
}
