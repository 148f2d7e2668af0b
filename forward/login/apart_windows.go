package login

import (
	"os/exec"
	"syscall"
)

// apart gives a program a group of its own: Ctrl-C here is not meant for it.
func apart(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
