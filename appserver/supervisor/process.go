package supervisor

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is a daemon, by whomever it was started. Its goroutine ends with it.
type process struct {
	pid   int
	began time.Time
	log   int64 // where its words begin

	proc      *os.Process
	answered  bool // it did, once
	given     bool // up: it was killed for not answering
	successor bool // of one it takes over from

	state *os.ProcessState // set when it has ended, nil when nobody can know
	at    time.Time
}

// begins starts cmd and tells ended when it is over.
func begins(cmd *exec.Cmd, log int64, ended chan<- *process) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, began: time.Now(), log: log, proc: cmd.Process}
	go func() {
		_ = cmd.Wait() // its state says more
		p.state, p.at = cmd.ProcessState, time.Now()
		ended <- p
	}()
	return p, nil
}

// adoptEvery is how often a process that is not our child is looked at.
const adoptEvery = 200 * time.Millisecond

// adopt follows a daemon somebody else started: a supervisor that is no more, or
// one of this very process before it became a newer build. Then it is our child
// still, and says how it ends.
func adopt(pid int, holder func() (int, bool), ended chan<- *process) *process {
	p := &process{pid: pid, began: time.Now(), answered: true}
	p.proc, _ = os.FindProcess(pid) // gone already: the goroutine sees
	go func() {
		if proc, err := os.FindProcess(pid); err == nil { // one of its own: a failed wait spoils it
			p.state, _ = proc.Wait() // not our child: no state
		}
		for p.state == nil {
			if now, ok := holder(); !ok || now != pid && now != 0 {
				break
			}
			time.Sleep(adoptEvery)
		}
		p.at = time.Now()
		ended <- p
	}()
	return p
}

func (p *process) signal(sig os.Signal) {
	if p.proc != nil {
		_ = p.proc.Signal(sig) // one that has ended is told
	}
}

func (p *process) kill() { p.signal(syscall.SIGKILL) }

// exit describes the end of p, which is over.
func (p *process) exit(log string) *Exit {
	e := &Exit{At: p.at, PID: p.pid, Ran: p.at.Sub(p.began).Round(time.Millisecond).Seconds(), Status: -1, Answered: p.answered}
	if p.state != nil {
		e.Status = p.state.ExitCode()
		if ws, ok := p.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.Signal = ws.Signal().String()
		}
	}
	e.Said = Tail(log, p.log)
	if p.given {
		e.Said = append(e.Said, "error: it did not answer in time")
	}
	return e
}

// panicked: its status is the runtime's, not the program's.
func (e *Exit) panicked() bool {
	for _, line := range e.Said {
		if isPanic(line) || strings.HasPrefix(line, "goroutine ") {
			return true
		}
	}
	return false
}

// outside: something ended it that was no fault of its own, while it served.
func (e *Exit) outside() bool {
	return e.Answered && (e.Signal == syscall.SIGKILL.String() || e.Signal == syscall.SIGTERM.String() ||
		e.Signal == syscall.SIGINT.String() || e.Signal == syscall.SIGHUP.String() || e.Signal == "" && e.Status < 0)
}
