package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
)

// A command that an agent runs in a sandbox is a process of the same user. With
// network it could connect here, and answer its own approvals or run what the
// sandbox forbids. What gives it away is what every sandbox sets and no process
// can take back: no_new_privs, and system call filters. So a process that has
// more of these than this one is refused.
//
// A unix socket names its process. For TCP it is looked for among the open files
// of this user's processes. Those of a process that is not dumpable cannot be
// seen except by root (Codex is one): when none of those that can be seen holds
// the connection, an unseen one without confinement is taken to. A confined
// process that hides so, or keeps the socket in flight between two of its own,
// passes while such a one runs; on the unix socket it does not.

// confinement is what a process may never do again.
type confinement struct {
	noNewPrivs bool
	filters    int
}

func (c confinement) beyond(o confinement) bool {
	return c.noNewPrivs && !o.noNewPrivs || c.filters > o.filters
}

var (
	errConfined = errors.New("this process is confined (no_new_privs or a system call filter); what an agent runs in its sandbox may not act as its owner")
	errNoHolder = errors.New("the process at the other end is gone")
)

// maxFiles bounds how many open files one connection makes us look at.
const maxFiles = 1 << 18

// unconfined refuses process pid when it is more confined than this one.
func unconfined(pid int) error {
	_, theirs, err := readStatus(strconv.Itoa(pid))
	if errors.Is(err, fs.ErrNotExist) {
		return errNoHolder
	}
	if err != nil {
		return err
	}
	_, ours, err := readStatus("self")
	if err != nil {
		return err
	}
	if theirs.beyond(ours) {
		return errConfined
	}
	return nil
}

// unconfinedHolder does the same for whichever process of uid has the socket
// with this inode open.
func unconfinedHolder(uid uint32, inode uint64) error {
	_, ours, err := readStatus("self")
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	want := fmt.Sprintf("socket:[%d]", inode)
	files, unseen, confined := 0, false, false
	for _, e := range slices.Backward(entries) { // the newest are likely last
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		owner, theirs, err := readStatus(e.Name())
		if err != nil || owner != uid {
			continue
		}
		beyond := theirs.beyond(ours)
		fds, err := os.ReadDir("/proc/" + e.Name() + "/fd")
		if errors.Is(err, fs.ErrPermission) {
			unseen = unseen || !beyond
			continue
		}
		for _, fd := range fds {
			if files++; files > maxFiles {
				return errors.New("too many open files to look through")
			}
			if target, err := os.Readlink("/proc/" + e.Name() + "/fd/" + fd.Name()); err != nil || target != want {
				continue
			}
			if !beyond {
				return nil
			}
			confined = true
		}
	}
	switch {
	case confined:
		return errConfined
	case unseen:
		return nil
	}
	return errNoHolder
}

// readStatus reads /proc/PID/status, which everybody may.
func readStatus(pid string) (uid uint32, c confinement, err error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, c, err
	}
	found := false
	for line := range bytes.Lines(b) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(rest)
		if len(f) == 0 {
			continue
		}
		switch string(name) {
		case "Uid": // real, effective, saved, file system
			n, err := strconv.ParseUint(string(f[min(1, len(f)-1)]), 10, 32)
			if err != nil {
				return 0, c, err
			}
			uid, found = uint32(n), true
		case "NoNewPrivs":
			c.noNewPrivs = string(f[0]) == "1"
		case "Seccomp": // kernels before 5.9 do not count filters
			if string(f[0]) != "0" {
				c.filters = max(c.filters, 1)
			}
		case "Seccomp_filters":
			if n, err := strconv.Atoi(string(f[0])); err == nil {
				c.filters = max(c.filters, n)
			}
		}
	}
	if !found {
		return 0, c, errors.New("the process shows no owner")
	}
	return uid, c, nil
}
