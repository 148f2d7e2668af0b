//go:build unix

package exec

import (
	"fmt"
	"os"
	osexec "os/exec"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// openTerminal makes a terminal, gives the child its far side and keeps ours.
func (p *Process) openTerminal(child *osexec.Cmd) (theirs []*os.File, err error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	theirs = []*os.File{tty}
	ours, err := pollable(master)
	if err != nil {
		return theirs, fmt.Errorf("open a terminal: %w", err)
	}
	if err := setSize(ours, p.cmd.Rows, p.cmd.Cols); err != nil {
		_ = ours.Close() // never used
		return theirs, fmt.Errorf("set the terminal's size: %w", err)
	}
	p.readers = []reader{{"stdout", ours}}
	p.stdin, p.tty = ours, ours
	child.Stdin, child.Stdout, child.Stderr = tty, tty, tty
	return theirs, nil
}

// pollable replaces f by a non-blocking copy. The pty package leaves its file
// in blocking mode, where a read cannot be ended by Close nor a write by a
// deadline.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	name := f.Name()
	_ = f.Close() // only the copy is used from here on
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd) // never used
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func setSize(f *os.File, rows, cols uint16) error {
	if rows == 0 || cols == 0 {
		rows, cols = 24, 80
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = rc.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err != nil {
		return err
	}
	return ierr
}

// newSession puts the command in a session (hence a process group) of its own.
func newSession(tty bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: tty}
}

func killGroup(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGKILL) // an empty group is what we want
}
