package systemssh

import (
	"os"
	"os/exec"
	"syscall"
)

// isolate keeps our console's Ctrl-C from ssh.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP, HideWindow: true}
}

func terminate(p *os.Process) { _ = p.Kill() }

func killGroup(*os.Process) {}
