package loginport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"

	"towline/appserver/transport"
	"towline/sshd/auth"
)

const (
	// listening is the state of a listener in the kernel's tables.
	listening = "0A"
	// maxRows and maxFiles bound how much of the kernel's tables one question
	// makes us read.
	maxRows  = 1 << 20
	maxFiles = 1 << 18
	// maxArgs bounds how much of a command line is looked at, in bytes.
	maxArgs = 64 << 10
)

// row is a listener as the kernel's table has it.
type row struct {
	uid   uint32
	inode uint64
}

func find(at netip.AddrPort) (Login, error) {
	r, found, err := lookUp(at)
	switch {
	case err != nil:
		return Login{}, err
	case !found:
		return Login{}, ErrNone
	case r.uid != uint32(os.Geteuid()): //nolint:gosec // a user id
		return Login{}, fmt.Errorf("port %d belongs to uid %d, and is no login of this host's user", at.Port(), r.uid)
	}
	return holder(at, r)
}

func waits(l Login) bool {
	r, found, err := lookUp(l.Addr)
	return err == nil && found && r.inode == l.Inode
}

// lookUp finds the listener on an address in the table of the network namespace
// this process lives in.
func lookUp(at netip.AddrPort) (row, bool, error) {
	table := "/proc/net/tcp"
	if at.Addr().Is6() {
		table = "/proc/net/tcp6"
	}
	f, err := os.Open(table)
	if errors.Is(err, fs.ErrNotExist) && at.Addr().Is6() {
		return row{}, false, nil // a kernel without IPv6
	}
	if err != nil {
		return row{}, false, errors.New("the kernel's socket table is not readable")
	}
	defer func() { _ = f.Close() }() // read-only
	return listener(f, tableAddress(at))
}

// listener looks in a table of the form of /proc/net/tcp for the listener on
// exactly that address. One row a line, fields between spaces:
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
//
// The first line is a heading.
func listener(table io.Reader, local string) (row, bool, error) {
	sc := bufio.NewScanner(table)
	for n := 0; sc.Scan(); n++ {
		if n == maxRows {
			return row{}, false, errors.New("the kernel's socket table is too long")
		}
		if !bytes.Contains(sc.Bytes(), []byte(local)) {
			continue
		}
		f := bytes.Fields(sc.Bytes())
		if len(f) < 10 || string(f[1]) != local || string(f[3]) != listening {
			continue
		}
		uid, err1 := strconv.ParseUint(string(f[7]), 10, 32)
		inode, err2 := strconv.ParseUint(string(f[9]), 10, 64)
		if err1 != nil || err2 != nil || inode == 0 {
			return row{}, false, errors.New("the kernel's socket table is not readable")
		}
		return row{uint32(uid), inode}, true, nil
	}
	if sc.Err() != nil {
		return row{}, false, errors.New("the kernel's socket table is not readable")
	}
	return row{}, false, nil
}

// tableAddress writes an address as the kernel's tables do: 32-bit words of the
// network order in the machine's own byte order, in hex, a colon, the port.
func tableAddress(at netip.AddrPort) string {
	raw := at.Addr().AsSlice()
	var out []byte
	for i := 0; i+4 <= len(raw); i += 4 {
		out = fmt.Appendf(out, "%08X", binary.NativeEndian.Uint32(raw[i:]))
	}
	return string(fmt.Appendf(out, ":%04X", at.Port()))
}

// holder is the process that has the listener open, if it is a login. Several
// may have it: one that is no login is enough to refuse.
//
// A process that is not dumpable hides its files from all but root, and Codex is
// one. When nobody who can be seen has the listener, a Codex that cannot be seen
// is taken to.
func holder(at netip.AddrPort, r row) (Login, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return Login{}, errors.New("the kernel does not list processes")
	}
	l := Login{Addr: at, Inode: r.inode}
	want := fmt.Sprintf("socket:[%d]", r.inode)
	files, hidden := 0, ""
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fds, err := os.ReadDir("/proc/" + e.Name() + "/fd")
		if errors.Is(err, fs.ErrPermission) {
			if uid, err := owner(pid); err == nil && uid == r.uid && hidden == "" {
				hidden = hiddenLogin(pid, at.Port())
			}
			continue
		}
		for _, fd := range fds {
			if files++; files > maxFiles {
				return Login{}, errors.New("too many open files to look through")
			}
			if to, err := os.Readlink("/proc/" + e.Name() + "/fd/" + fd.Name()); err != nil || to != want {
				continue
			}
			if err := l.heldBy(pid, at.Port()); err != nil {
				return Login{}, err
			}
			break
		}
	}
	switch {
	case l.What != "":
		return l, nil
	case hidden != "":
		l.What = hidden
		return l, nil
	}
	return Login{}, fmt.Errorf("the process that listens on port %d does not show itself", at.Port())
}

// heldBy adds a process that has the listener.
func (l *Login) heldBy(pid int, port uint16) error {
	if pid == os.Getpid() {
		l.PID, l.Own, l.What = pid, true, "this host"
		return nil
	}
	dir := fmt.Sprintf("/proc/%d", pid)
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return fmt.Errorf("the process that listens on port %d is gone", port)
	}
	theirs, err1 := os.Stat(dir + "/exe")
	ours, err2 := os.Stat("/proc/self/exe")
	what, ok := is(exe, err1 == nil && err2 == nil && os.SameFile(theirs, ours), arguments(pid), port)
	if !ok {
		return fmt.Errorf("port %d is held by %s (pid %d), which is no login", port, auth.Printable(path.Base(exe), 40), pid)
	}
	if err := transport.Unconfined(pid); err != nil {
		return fmt.Errorf("port %d is held by pid %d: %w", port, pid, err)
	}
	l.PID, l.What = pid, what
	return nil
}

// hiddenLogin is what to call a process that shows neither its files nor its
// program, "" when it is no login as far as can be seen.
func hiddenLogin(pid int, port uint16) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || transport.Unconfined(pid) != nil {
		return ""
	}
	what, ok := is(strings.TrimSpace(string(name)), false, arguments(pid), port)
	if !ok {
		return ""
	}
	return what
}

// owner is the effective user of a process, which everybody may know.
func owner(pid int) (uint32, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // read-only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := bytes.CutPrefix(sc.Bytes(), []byte("Uid:")); ok {
			if ids := bytes.Fields(rest); len(ids) > 1 {
				n, err := strconv.ParseUint(string(ids[1]), 10, 32)
				return uint32(n), err
			}
		}
	}
	return 0, errors.New("the process shows no owner")
}

// arguments is a process's command line.
func arguments(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read-only
	raw, _ := io.ReadAll(io.LimitReader(f, maxArgs))
	return strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
}
