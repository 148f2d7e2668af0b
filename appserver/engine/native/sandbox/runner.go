package sandbox

import (
	"log/slog"
	osexec "os/exec"
	"sync"

	"towline/appserver/protocol"
)

// Command is the first argument of the helper's command line.
const Command = "__sandbox"

// ExitHelper is the exit status of the helper itself when it cannot set up the
// confinement or start the program: the program has not run.
const ExitHelper = 125

// complaint begins what the helper says on stderr when it fails, so that its
// failure is not taken for the program's.
const complaint = "towline sandbox: "

// Runner starts programs under a policy. It is safe for concurrent use.
type Runner struct {
	self   string
	log    *slog.Logger
	hidden []string

	probe sync.Once
	found support
}

// New makes a Runner; self is the path of the towline binary, which runs again
// as the helper. Empty means this process's own binary, also when an upgrade
// has replaced the file meanwhile (Linux only).
//
// hidden are absolute directories that confined programs must not see: where
// the daemon's sockets and secrets are, through which a program with network
// could let itself out. They need the namespace layer.
func New(self string, log *slog.Logger, hidden ...string) *Runner {
	if self == "" {
		self = "/proc/self/exe"
	}
	return &Runner{self: self, log: log, hidden: hidden}
}

// Confine changes cmd, which must have Path, Args, Dir and Env set and not be
// started, so that it runs under p. A policy that restricts nothing leaves it
// alone. When this machine cannot enforce p the answer is the error of Check
// and cmd must not be started.
func (r *Runner) Confine(cmd *osexec.Cmd, p protocol.SandboxPolicy) error {
	if !Restricted(p) {
		return nil
	}
	return r.confine(cmd, p)
}

// Check says what this machine lacks to confine programs: nil, or an error
// that is a sentence for people with a hint. Policies that restrict nothing
// run regardless.
func (r *Runner) Check() error { return r.support().problem }

// Weaknesses lists, as sentences for people, protections that restricted
// policies lack here although they run. Empty on a current Linux.
func (r *Runner) Weaknesses() []string { return r.support().weak }

// support is what the machine can do, found out once.
type support struct {
	problem    error
	weak       []string
	namespaces bool // user and mount namespaces of our own work
}

func (r *Runner) support() *support {
	r.probe.Do(func() { r.found = r.examine() })
	return &r.found
}
