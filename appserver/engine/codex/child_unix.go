//go:build unix

package codex

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup keeps the terminal's signals away from the process and makes all it
// starts reachable by one kill.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
}

// terminate and interrupt go to the leader alone: npm's wrapper passes them on,
// and a server that gets two at once skips its drain.
func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

func interrupt(p *os.Process) error { return p.Signal(syscall.SIGINT) }

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }
