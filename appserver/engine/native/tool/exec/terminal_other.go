//go:build !unix

package exec

import (
	"errors"
	"os"
	osexec "os/exec"
	"syscall"
)

func (p *Process) openTerminal(*osexec.Cmd) ([]*os.File, error) {
	return nil, errors.New("terminals are not supported on this system: run the command without tty")
}

func setSize(*os.File, uint16, uint16) error { return nil }

func newSession(bool) *syscall.SysProcAttr { return nil }

func waitUnreaped(int) bool { return false }

func killTree(pid int) { killGroup(pid) }

// killGroup reaches only the command itself: there are no process groups here.
func killGroup(pid int) {
	if proc, err := os.FindProcess(pid); err == nil {
		_ = proc.Kill() // may have ended by itself
	}
}
