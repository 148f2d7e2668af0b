//go:build unix

package sshconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// looseness is why ssh refuses to read a file of the user's, "" when it does
// not: somebody else may have written it.
func looseness(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Getuid() {
		return fmt.Sprintf("belongs to uid %d", st.Uid)
	}
	loose := info.Mode().Perm() & 0o022
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Gid != 0 && st.Gid == st.Uid && int(st.Gid) == os.Getgid() {
		loose &^= 0o020 // a group of one's own, which Debian's ssh lets pass
	}
	if loose != 0 {
		return fmt.Sprintf("others may write to it (mode %#o)", info.Mode().Perm())
	}
	return ""
}

func isNotDir(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// detach gives cmd a session of its own: no terminal to ask on, and one signal
// ends whatever it started.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// userID is %i.
func userID() string { return fmt.Sprint(os.Getuid()) }
