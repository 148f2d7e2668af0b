package sshd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"time"

	"towline/sshd/session"
)

// canRun: processes cannot be ended here with what they started.
const canRun = false

func runChild(context.Context, *exec.Cmd, *session.Channel, time.Duration) error {
	return errors.New("commands cannot be run through this system's door")
}

func hangUp(p *os.Process) error { return p.Kill() }

func killAll(p *os.Process) { _ = p.Kill() }

func signalOf(*os.ProcessState) int { return 0 }
