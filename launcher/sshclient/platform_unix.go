//go:build unix

package sshclient

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// agentDefault is the agent's socket when the environment names none: nowhere.
const agentDefault = ""

// dialAgent opens an agent's socket.
func dialAgent(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// tooOpen reports whether others may read a private key, which ssh refuses. Files
// of other users (root's, on a shared mount) are judged by their owner.
func tooOpen(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid() && fi.Mode().Perm()&0o077 != 0
}

// proxyShell is the command a ProxyCommand runs as. It gets a session of its own:
// no terminal to ask questions on, and one group to end it by.
func proxyShell(shell, command string) *exec.Cmd {
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := exec.Command(shell, "-c", "exec "+command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// terminateProxy asks the command and its children to end. It has not been waited
// for when this is called, so the group's id cannot mean anybody else.
func terminateProxy(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }

// killProxy ends them without asking.
func killProxy(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// quote makes s one word of a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
