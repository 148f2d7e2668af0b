package login

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxCmdline bounds what is read of a command line.
const maxCmdline = 16 << 10

// findHolder asks the kernel: its socket table has the socket and its user, and
// one of the processes has it open.
func findHolder(ctx context.Context, port int) Holder {
	var s socket
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		var ok bool
		s, ok = listening(f, port)
		_ = f.Close() // read-only
		if ok {
			break
		}
	}
	if s.inode == "" {
		return Holder{}
	}
	h := Holder{Mine: s.uid == os.Getuid(), User: strconv.Itoa(s.uid)}
	if u, err := user.LookupId(h.User); err == nil {
		h.User = u.Username
	}
	h.process(ctx, s, port)
	return h
}

// socket is a row of the kernel's table.
type socket struct {
	uid   int
	inode string
}

// listening finds the listener on a port of the loopback, or of all addresses, in
// a table as /proc/net/tcp is:
//
//	sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …
func listening(table io.Reader, port int) (socket, bool) {
	want := fmt.Sprintf(":%04X", port)
	for sc := bufio.NewScanner(table); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 10 || f[3] != "0A" || !strings.HasSuffix(f[1], want) {
			continue
		}
		addr := strings.TrimSuffix(f[1], want)
		// Any address of 127/8 but the first is another place; the words are in the
		// machine's order.
		if len(addr) == 8 && addr != "0100007F" && addr != "7F000001" && addr != "00000000" {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		if _, ierr := strconv.ParseUint(f[9], 10, 64); err != nil || ierr != nil || f[9] == "0" {
			continue
		}
		return socket{uid, f[9]}, true
	}
	return socket{}, false
}

// process finds the one that has the socket open. Others' processes hide their
// files, and so do programs that guard secrets, as Codex does, even from their own
// user. Then one whose command line names the port is taken to be it, or else a
// Codex that hides from its user.
func (h *Holder) process(ctx context.Context, s socket, port int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	want := "socket:[" + s.inode + "]"
	named, codex, login := 0, 0, 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		dir := "/proc/" + e.Name() + "/fd"
		fds, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrPermission) && uidOf(pid) == s.uid {
			args := cmdline(pid)
			switch {
			case namesPort(args, port):
				named = pid
			case h.Mine && isCodex(comm(pid)) && slices.Contains(args, "login"):
				login = pid
			case h.Mine && isCodex(comm(pid)):
				codex = pid
			}
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/" + fd.Name()); err == nil && to == want {
				h.describe(pid)
				return
			}
		}
	}
	if pid := cmp.Or(named, login, codex); pid != 0 {
		h.describe(pid)
		h.guessed = true
	}
}

// namesPort reports whether a command line has the port as an argument of its own
// or at the end of an address.
func namesPort(args []string, port int) bool {
	p := strconv.Itoa(port)
	return slices.ContainsFunc(args, func(a string) bool {
		return a == p || strings.HasSuffix(a, ":"+p) || strings.HasSuffix(a, "="+p)
	})
}

// describe fills in what is to be known of a process.
func (h *Holder) describe(pid int) {
	h.PID, h.Program, h.Args = pid, comm(pid), cmdline(pid)
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		h.Program = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
		mine, err1 := os.Stat("/proc/self/exe")
		theirs, err2 := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
		h.self = err1 == nil && err2 == nil && os.SameFile(mine, theirs)
	}
}

func comm(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func cmdline(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // read-only
	raw, _ := io.ReadAll(io.LimitReader(f, maxCmdline))
	return strings.Split(string(bytes.TrimRight(raw, "\x00")), "\x00")
}

// uidOf is whose a process is, -1 when it is gone.
func uidOf(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return -1
	}
	defer func() { _ = f.Close() }() // read-only
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "Uid:"); ok {
			if ids := strings.Fields(rest); len(ids) > 1 {
				if n, err := strconv.Atoi(ids[1]); err == nil {
					return n
				}
			}
		}
	}
	return -1
}
