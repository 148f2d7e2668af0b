package systemssh

import (
	"os/exec"
	"syscall"
)

// isolate gives ssh a session of its own: no terminal to ask on, nobody's Ctrl-C,
// and a group to end it by. The kernel ends it when we die.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
}
