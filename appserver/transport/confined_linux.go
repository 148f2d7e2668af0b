package transport

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
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
	beyond, err := theirs.beyondOurs()
	if err != nil {
		return err
	}
	if beyond {
		return errConfined
	}
	return nil
}

// own is how confined this process was when it was looked at last. That can only
// become more, so who was not beyond it then is not now; before somebody is
// refused it is looked at again.
var own atomic.Pointer[confinement]

// beyondOurs is beyond for this process.
func (c confinement) beyondOurs() (bool, error) {
	if o := own.Load(); o != nil && !c.beyond(*o) {
		return false, nil
	}
	_, ours, err := readStatus("self")
	if err != nil {
		return false, err
	}
	own.Store(&ours)
	return c.beyond(ours), nil
}

// maxHolders is how many processes are remembered that held a connection.
const maxHolders = 16

// nearby is how far from the descriptor of a connection the next of the same
// program is looked for: a list of all that it has open takes milliseconds once it
// has thousands.
const nearby = 64

// holders are processes that held a connection lately, the last one first: most
// come from a program that came before, and mostly at the descriptor that the one
// before had left, or near it. Each is looked at anew all the same.
type holders struct {
	mu   sync.Mutex // guards what follows
	list []holder
}

type holder struct{ pid, fd string }

func (h *holders) lately() []holder {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

func (h *holders) found(at holder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.list, func(o holder) bool { return o.pid == at.pid })
	if i == 0 {
		h.list[0] = at
		return
	}
	if i > 0 {
		h.list = slices.Delete(h.list, i, i+1)
	}
	h.list = slices.Insert(h.list, 0, at)
	h.list = h.list[:min(len(h.list), maxHolders)]
}

// unconfinedHolder does the same for whichever process of uid has the socket
// with this inode open.
func (h *holders) unconfinedHolder(uid uint32, inode uint64) error {
	s := search{uid: uid, want: "socket:[" + strconv.FormatUint(inode, 10) + "]"}
	for _, known := range h.lately() {
		at, ok, err := s.look(known)
		if ok {
			h.found(at)
		}
		if ok || err != nil {
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
		at, ok, err := s.look(holder{pid: e.Name()})
		if ok {
			h.found(at)
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
	files            int
	unseen, confined bool // who was come across, besides
}

// look reports whether a process is an unconfined holder, and where it has the
// socket. The descriptor it is given is looked at first.
func (s *search) look(h holder) (at holder, ok bool, err error) {
	owner, theirs, err := readStatus(h.pid)
	if err != nil || owner != s.uid {
		return h, false, nil
	}
	beyond, err := theirs.beyondOurs()
	if err != nil {
		return h, false, err
	}
	dir := "/proc/" + h.pid + "/fd"
	if fd, no := strconv.Atoi(h.fd); no == nil && !beyond {
		for i := range 2 * nearby { // 0, 1, -1, 2, -2 … from it
			away := (i + 1) / 2
			if i%2 == 0 {
				away = -away
			}
			if h.fd = strconv.Itoa(fd + away); s.is(dir + "/" + h.fd) {
				return h, true, nil
			}
		}
	}
	fds, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		s.unseen = s.unseen || !beyond
		return h, false, nil
	}
	for _, fd := range slices.Backward(fds) {
		if s.files++; s.files > maxFiles {
			return h, false, errors.New("too many open files to look through")
		}
		if !s.is(dir + "/" + fd.Name()) {
			continue
		}
		if !beyond {
			return holder{h.pid, fd.Name()}, true, nil
		}
		s.confined = true
	}
	return h, false, nil
}

// is reports whether the descriptor at path is the socket.
func (s *search) is(path string) bool {
	var target [40]byte // longer than any socket's
	n, err := unix.Readlink(path, target[:])
	return err == nil && string(target[:n]) == s.want
}

// statuses are buffers that /proc/PID/status fits into, unless its owner is in
// very many groups.
var statuses = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// lastLine is how long the line may be that ends a status, so that nothing needs
// to be read after it.
const lastLine = 64

// maxStatus bounds it: there are at most 65536 groups.
const maxStatus = 1 << 20

// readStatus reads /proc/PID/status, which everybody may.
func readStatus(pid string) (uid uint32, c confinement, err error) {
	buf := statuses.Get().(*[]byte)
	defer statuses.Put(buf)
	// An os.File would be offered to the poller, and asked for its size.
	path := "/proc/" + pid + "/status"
	fd, err := restarted(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return 0, c, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	b := (*buf)[:0]
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		n, err := restarted(func() (int, error) { return unix.Read(fd, b[len(b):cap(b)]) })
		if err != nil {
			return 0, c, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if b = b[:len(b)+n]; n == 0 || bytes.Contains(b[len(b)-min(len(b), lastLine):], []byte("\nnonvoluntary_ctxt_switches:")) {
			break
		}
		if len(b) > maxStatus {
			return 0, c, errors.New("the process shows too much")
		}
	}
	*buf = b
	return parseStatus(b)
}

// restarted makes a system call again that a signal ended.
func restarted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// parseStatus reads lines of a name, a colon and words.
func parseStatus(b []byte) (uid uint32, c confinement, err error) {
	found := false
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		name, words, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "Uid", "NoNewPrivs", "Seccomp", "Seccomp_filters":
		default:
			continue
		}
		f := bytes.Fields(words)
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
