package codex

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// endWithParent has the kernel drain the server when this process is killed, so
// that none is left behind without an owner.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM }

// reapGroup waits for the group's leader to end and then kills what is left of
// the group, while the leader's number cannot yet mean another process.
func reapGroup(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	_ = killGroup(pid) // an empty group is as good
}
