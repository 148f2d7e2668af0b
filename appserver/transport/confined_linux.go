package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
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

// maxHolders is how many processes are remembered that held a connection.
const maxHolders = 16

// holders are processes that held a connection lately, the last one first: most
// come from a program that came before. Each is looked at anew all the same.
type holders struct {
	mu   sync.Mutex
	pids []string
}

func (h *holders) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pids)
}

func (h *holders) found(pid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.pids, pid); i >= 0 {
		h.pids = slices.Delete(h.pids, i, i+1)
	}
	h.pids = slices.Insert(h.pids, 0, pid)
	h.pids = h.pids[:min(len(h.pids), maxHolders)]
}

// unconfinedHolder does the same for whichever process of uid has the socket
// with this inode open.
func (h *holders) unconfinedHolder(uid uint32, inode uint64) error {
	_, ours, err := readStatus("self")
	if err != nil {
		return err
	}
	s := search{uid: uid, want: fmt.Sprintf("socket:[%d]", inode), ours: ours}
	for _, pid := range h.list() {
		if ok, err := s.look(pid); ok || err != nil {
			return err
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(entries) { // the newest are likely last
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		ok, err := s.look(e.Name())
		if ok {
			h.found(e.Name())
		}
		if ok || err != nil {
			return err
		}
	}
	switch {
	case s.confined:
		return errConfined
	case s.unseen:
		return nil
	}
	return errNoHolder
}

// search looks for who has a socket open.
type search struct {
	uid              uint32
	want             string
	ours             confinement
	files            int
	unseen, confined bool // who was come across, besides
}

// look reports whether a process is an unconfined holder.
func (s *search) look(pid string) (bool, error) {
	owner, theirs, err := readStatus(pid)
	if err != nil || owner != s.uid {
		return false, nil
	}
	beyond := theirs.beyond(s.ours)
	dir := "/proc/" + pid + "/fd"
	fds, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		s.unseen = s.unseen || !beyond
		return false, nil
	}
	for _, fd := range slices.Backward(fds) {
		if s.files++; s.files > maxFiles {
			return false, errors.New("too many open files to look through")
		}
		if target, err := os.Readlink(dir + "/" + fd.Name()); err != nil || target != s.want {
			continue
		}
		if !beyond {
			return true, nil
		}
		s.confined = true
	}
	return false, nil
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
