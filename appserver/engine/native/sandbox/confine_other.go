//go:build !linux

package sandbox

import (
	"errors"
	"os"
	osexec "os/exec"

	"towline/appserver/protocol"
)

var errNoSandbox = errors.New("commands can be confined only on Linux: " +
	"use sandbox danger-full-access, or run the real Codex engine, which has its own sandbox for this system")

func (r *Runner) confine(*osexec.Cmd, protocol.SandboxPolicy) error { return errNoSandbox }

func (r *Runner) examine() support { return support{problem: errNoSandbox} }

// Main is the helper; it exists only on Linux.
func Main([]string) int {
	_, _ = os.Stderr.WriteString(complaint + errNoSandbox.Error() + "\n") // nowhere else to say it
	return ExitHelper
}
