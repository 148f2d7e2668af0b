package sshconfig

import (
	"io/fs"
	"os/exec"
	"syscall"
)

// looseness is left to ssh: Windows keeps no mode bits to look at.
func looseness(fs.FileInfo) string { return "" }

func isNotDir(error) bool { return false }

// createNoWindow keeps a console from flashing up.
const createNoWindow = 0x08000000

func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: createNoWindow}
}

// userID is %i, which Windows' ssh has no number for.
func userID() string { return "0" }
