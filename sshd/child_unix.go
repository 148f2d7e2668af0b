//go:build unix

package sshd

import (
	"context"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"towline/sshd/session"
)

// canRun: processes can be ended with what they started, and have a terminal.
const canRun = true

// runChild runs cmd on the session's streams until it has ended; when ctx ends it
// is asked to, and made to after grace. With a terminal it gets a device of its
// own, so that it can ask without echo and Ctrl-C reaches it.
func runChild(ctx context.Context, cmd *exec.Cmd, ch *session.Channel, grace time.Duration) error {
	if ch.Terminal {
		return runOnTerminal(ctx, cmd, ch, grace)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = ch.Out, ch.Err
	if err := cmd.Start(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(in, ch.In) // whichever ended, the process learns that there is no more
		_ = in.Close()
	})
	err = waitChild(ctx, cmd, grace)
	ch.In.Close() // the client may have it open for as long as it likes
	wg.Wait()
	return err
}

// waitChild waits for the process, and for what it said to be passed on. Nothing
// of it is left then.
func waitChild(ctx context.Context, cmd *exec.Cmd, grace time.Duration) error {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-over:
		case <-ctx.Done():
			end(cmd.Process, over, grace)
		}
	})
	err := cmd.Wait()
	close(over)
	wg.Wait()
	killAll(cmd.Process)
	return err
}

func runOnTerminal(ctx context.Context, cmd *exec.Cmd, ch *session.Channel, grace time.Duration) error {
	device, err := openTerminal(ch.Size)
	if err != nil {
		return err
	}
	defer func() { _ = device.ours.Close() }() // its readers have ended
	cmd.Stdin, cmd.Stdout, cmd.Stderr = device.theirs, device.theirs, device.theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = device.theirs.Close() // the process has its own
	if err != nil {
		return err
	}
	sized := make(chan struct{})
	var wg, out sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(device.ours, ch.In) })
	out.Go(func() { _, _ = io.Copy(ch.Out, device.ours) }) // the error is the device's end
	wg.Go(func() {
		for {
			select {
			case s := <-ch.Sizes:
				_ = device.resize(s)
			case <-sized:
				return
			}
		}
	})
	err = waitChild(ctx, cmd, grace)
	close(sized)
	ch.In.Close()
	// What it said last is still in the device; a client that does not read loses it.
	_ = device.ours.SetReadDeadline(time.Now().Add(outGrace))
	drop := time.AfterFunc(2*outGrace, ch.Out.Close)
	out.Wait()
	drop.Stop()
	_ = device.ours.SetWriteDeadline(time.Now())
	wg.Wait()
	return err
}

// terminal is a terminal device.
type terminal struct{ ours, theirs *os.File }

func openTerminal(s Size) (terminal, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return terminal{}, err
	}
	t := terminal{theirs: tty}
	if t.ours, err = pollable(master); err == nil {
		if err = t.resize(s); err == nil {
			return t, nil
		}
		_ = t.ours.Close() // never used
	}
	_ = tty.Close() // never used
	return terminal{}, err
}

// pollable replaces f by a non-blocking copy: the pty package leaves its file in
// blocking mode, where no deadline ends a read.
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

func (t terminal) resize(s Size) error {
	rc, err := t.ours.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = rc.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.Rows), Col: uint16(s.Cols)}) //nolint:gosec // at most 1000
	})
	if err != nil {
		return err
	}
	return ierr
}

// hangUp is what a process gets when its person leaves.
func hangUp(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGTERM) }

// killAll ends whatever is left of a process and its children: it leads a group
// of their own.
func killAll(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) } // an empty group is what we want

// signalOf is the signal that ended a process, 0 for none.
func signalOf(st *os.ProcessState) int {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return int(ws.Signal())
	}
	return 0
}
