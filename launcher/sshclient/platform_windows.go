package sshclient

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// agentDefault is the pipe of Windows' own OpenSSH agent.
const agentDefault = `\\.\pipe\openssh-ssh-agent`

// dialAgent opens an agent's named pipe. Its requests and answers alternate, so
// plain file access will do.
func dialAgent(_ context.Context, path string) (net.Conn, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return pipeConn{f}, nil
}

// pipeConn is a named pipe as a connection without addresses.
type pipeConn struct{ *os.File }

func (pipeConn) LocalAddr() net.Addr             { return proxyAddr{} }
func (pipeConn) RemoteAddr() net.Addr            { return proxyAddr{} }
func (c pipeConn) SetDeadline(t time.Time) error { return c.File.SetDeadline(t) }
func (c pipeConn) SetReadDeadline(t time.Time) error {
	return c.File.SetReadDeadline(t)
}

// tooOpen cannot be told from the mode bits of Windows.
func tooOpen(os.FileInfo) bool { return false }

// proxyShell runs a ProxyCommand by cmd, its line untouched: Go's quoting is not
// cmd's.
func proxyShell(_, command string) *exec.Cmd {
	cmd := exec.Command("cmd")
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: "cmd /d /s /c \"" + command + "\"", HideWindow: true}
	return cmd
}

// terminateProxy ends the command and its children: cmd would leave them behind.
func terminateProxy(cmd *exec.Cmd) {
	_ = exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(cmd.Process.Pid)).Run()
}

// killProxy ends the command alone.
func killProxy(cmd *exec.Cmd) { _ = cmd.Process.Kill() }

// quote makes s one word of cmd and PowerShell. Windows' file and host names hold
// no quotes.
func quote(s string) string { return `"` + s + `"` }
