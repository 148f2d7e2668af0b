//go:build unix

package login

import (
	"os/exec"
	"syscall"
)

// apart gives a program a session of its own: Ctrl-C here is not meant for it.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
