package secret

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// kernelKey is a random key in the kernel's memory: a key of type "user" in
// this user's keyring (see user-keyring(7)). It is on no disk, so after a reboot
// the file it opened is so much noise and one logs in again; that is the point
// of it, and why it is used only when the encrypted store was asked for by
// name. A container often forbids these calls; then there is no such key.
type kernelKey struct{ home string }

func (kernelKey) name() string     { return "kernel" }
func (kernelKey) complete(*header) {}

func (k kernelKey) secret(_ context.Context, _ header, create bool) ([]byte, error) {
	// Possession of a key is a thread's. The link below lends it to this one:
	// a session made by sshd or systemd may not include the user's keyring.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _ = unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	description := "towline:credentials:" + k.home
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", description, 0)
	if err != nil && create && (errors.Is(err, unix.ENOKEY) || errors.Is(err, unix.EKEYEXPIRED) || errors.Is(err, unix.EKEYREVOKED)) {
		id, err = unix.AddKey("user", description, random(keySize), unix.KEY_SPEC_USER_KEYRING)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the kernel's keyring: %w (it forgets keys at a reboot)", ErrNoKey, err)
	}
	key := make([]byte, keySize)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, key, 0)
	if err != nil || n != keySize {
		return nil, fmt.Errorf("%w: the kernel's key cannot be read", ErrNoKey)
	}
	return key, nil
}

// inMemory reports whether a folder is on a file system that no disk backs.
func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}
