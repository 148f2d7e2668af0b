package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// What Landlock learned when.
const (
	abiRefer    = 2 // Linux 5.19: renaming across directories can be allowed
	abiTruncate = 3 // 6.2
	abiIoctl    = 5 // 6.10
	abiScopes   = 6 // 6.12: signals and abstract sockets
	// minABIAlone is needed where no read-only mounts stand behind Landlock.
	minABIAlone = abiTruncate
)

func landlockABI() (int, error) {
	abi, err := ll.LandlockGetABIVersion()
	if err == nil && abi < 1 {
		err = unix.ENOSYS
	}
	return abi, err
}

// changes are the rights that change something, by Landlock version. Reading
// and executing are free.
func changes(abi int) landlock.AccessFSSet {
	set := landlock.AccessFSSet(ll.AccessFSWriteFile | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSMakeChar |
		ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo | ll.AccessFSMakeBlock | ll.AccessFSMakeSym)
	if abi >= abiRefer {
		set |= ll.AccessFSRefer
	}
	if abi >= abiTruncate {
		set |= ll.AccessFSTruncate
	}
	if abi >= abiIoctl {
		set |= ll.AccessFSIoctlDev
	}
	return set
}

// devices are what programs write to as a matter of course. Not /dev/pts: the
// user's other terminals are there.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts/ptmx"}

// ownTerminals mounts an instance of /dev/pts of the program's own, in which it
// may open as many terminals as it likes. A program that was given a terminal
// keeps the shared one, where its terminal is. It reports whether it did;
// failing costs a convenience, no safety.
func ownTerminals() bool {
	if len(terminal()) > 0 {
		return false
	}
	return unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") == nil
}

// restrictFiles confines every thread by Landlock. more are further files that
// may be written.
func restrictFiles(areas []area, more ...string) error {
	abi, err := landlockABI()
	if err != nil {
		return fmt.Errorf("ask for Landlock: %w", err)
	}
	all := changes(abi)
	args := []any{all}
	if abi >= abiScopes {
		args = append(args, landlock.ScopedSet(ll.ScopeAbstractUnixSocket|ll.ScopeSignal))
	}
	cfg, err := landlock.NewConfig(args...)
	if err != nil {
		return fmt.Errorf("set up Landlock: %w", err)
	}
	file := all & landlock.AccessFSSet(ll.AccessFSWriteFile|ll.AccessFSTruncate|ll.AccessFSIoctlDev)
	var rules []landlock.Rule
	for _, d := range slices.Concat(devices, terminal(), more) {
		rules = append(rules, landlock.PathAccess(file, d).IgnoreIfMissing())
	}
	for _, a := range areas {
		if !a.Write {
			continue
		}
		st, err := os.Stat(a.Path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue // what does not exist grants nothing
		case err != nil:
			return fmt.Errorf("look at writable root: %w", err)
		case st.IsDir():
			rules = append(rules, landlock.PathAccess(all, a.Path))
		default:
			rules = append(rules, landlock.PathAccess(file, a.Path))
		}
	}
	if err := cfg.Restrict(rules...); err != nil {
		return fmt.Errorf("apply Landlock: %w", err)
	}
	return nil
}

// terminal names the terminal the program was given, which it may also open by
// its name.
func terminal() []string {
	var out []string
	for _, fd := range []string{"0", "1", "2"} {
		if name, err := os.Readlink("/proc/self/fd/" + fd); err == nil && strings.HasPrefix(name, "/dev/pts/") {
			out = append(out, name)
		}
	}
	return out
}

// mountReadOnly makes this mount namespace read-only except the writable areas.
// What Landlock does not know about (modes, owners, times, extended attributes)
// is stopped by this, and so is writing to the protected folders inside of
// writable areas.
func mountReadOnly(areas []area) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate mounts: %w", err)
	}
	// All copies are taken before anything turns read-only.
	type copied struct {
		area
		fd int
	}
	var copies []copied
	everything := false
	for _, a := range areas {
		if a.Path == "/" {
			everything = a.Write // the root cannot be mounted over
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, a.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy the mount at %s: %w", a.Path, err)
		}
		copies = append(copies, copied{a, fd})
	}
	readonly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if !everything {
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, readonly); err != nil {
			return fmt.Errorf("make mounts read-only: %w", err)
		}
	}
	for _, c := range copies {
		if !c.Write {
			if err := unix.MountSetattr(c.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, readonly); err != nil {
				return fmt.Errorf("make %s read-only: %w", c.Path, err)
			}
		}
		if err := unix.MoveMount(c.fd, "", unix.AT_FDCWD, c.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", c.Path, err)
		}
		if err := unix.Close(c.fd); err != nil {
			return fmt.Errorf("close the copy of %s: %w", c.Path, err)
		}
	}
	return nil
}

// hide mounts an empty directory over each of those that exist.
func hide(dirs []string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, d := range dirs {
		err := unix.Mount("none", d, "tmpfs", flags, "size=4k,nr_inodes=1,mode=0")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", d, err)
		}
	}
	return nil
}
