package codex

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

// There is no gentle way to end a process without a console.
func terminate(p *os.Process) error { return p.Kill() }

func interrupt(p *os.Process) error { return p.Kill() }

func killGroup(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
