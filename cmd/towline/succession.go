package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"towline/appserver"
	estate "towline/appserver/handover"
	"towline/config"
)

// doorSSH is the SSH door's name among what an heir gets.
const doorSSH = "ssh"

// heirs are the processes this daemon starts to take over from it.
type heirs struct {
	detached bool
	log      *slog.Logger

	mu   sync.Mutex // guards last
	last *heirProcess
}

type heirProcess struct {
	proc  *os.Process
	ended chan struct{}
	state *os.ProcessState // valid once ended
}

// start runs program the way this process was started. Whoever watches over this
// one watches over the heir too: it stays in the same session, unless nobody does.
func (h *heirs) start(program string) (int, error) {
	cmd := exec.Command(program, heirArgs(os.Args[1:])...) //nolint:noctx // it outlives every context here
	cmd.Args[0] = "towline"
	cmd.Env, cmd.Stdout, cmd.Stderr = os.Environ(), os.Stdout, os.Stderr
	if h.detached {
		cmd.SysProcAttr = ownSession()
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	p := &heirProcess{proc: cmd.Process, ended: make(chan struct{})}
	h.mu.Lock()
	h.last = p
	h.mu.Unlock()
	go func() { // ends with the heir, or this process
		_ = cmd.Wait() // its state says more
		p.state = cmd.ProcessState
		close(p.ended)
		h.log.Info("a successor that was started here has ended", "pid", p.proc.Pid, "state", p.state.String())
	}()
	return p.proc.Pid, nil
}

// heirArgs are the arguments of a daemon that takes over from one with args.
func heirArgs(args []string) []string {
	out := slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return a == takeOverFlag || strings.HasPrefix(a, takeOverFlag+"=")
	})
	return append(out, takeOverFlag)
}

// stay keeps this process, whose work is done, for as long as the heir that it
// started runs: a terminal, a container or a service manager takes the end of the
// one it started for the end of the daemon. It returns how the heir ended.
func (h *heirs) stay(ctx context.Context, heir int) error {
	h.mu.Lock()
	p := h.last
	h.mu.Unlock()
	if h.detached || p == nil || p.proc.Pid != heir {
		return nil
	}
	h.log.Info("this process stays until its successor ends", "pid", heir)
	select {
	case <-p.ended:
	case <-ctx.Done():
		_ = p.proc.Signal(syscall.SIGTERM) // a terminal has told it already
		<-p.ended
	}
	if code := p.state.ExitCode(); code != 0 && ctx.Err() == nil {
		return &config.Problem{Stage: "upgrade", Err: errors.New("the successor ended: " + p.state.String()), Exit: max(code, config.ExitFailure)}
	}
	return nil
}

// meetElder finds the daemon that is to be succeeded.
func meetElder(ctx context.Context, paths config.Paths) (*estate.Heir, error) {
	heir, err := estate.Dial(ctx, estate.Socket(paths.FindSocket()), version())
	if err == nil {
		return heir, nil
	}
	p := &config.Problem{Stage: "upgrade", Err: err, Exit: config.ExitUnavailable}
	var refused *estate.RefusedError
	switch {
	case errors.As(err, &refused):
		p.Hints = refused.Hints
	case errors.Is(err, estate.ErrUnsupported):
		p.Err, p.Hints = estate.ErrUnsupported, []string{"stop it and start it: `towline app-server stop`, then `towline app-server start`"}
	case errors.Is(err, estate.ErrNobody):
		p.Err = errors.New("no daemon is there that could hand over")
		p.Hints = []string{"start one: `towline app-server start`"}
	}
	return nil, p
}

// succession is how a host takes over, and is taken over from.
func (o serveOptions) succession(ctx context.Context, h *host, paths config.Paths) (appserver.Succession, error) {
	h.heirs = &heirs{detached: o.detached, log: h.log}
	s := appserver.Succession{
		Allowed: o.lasting && !o.stopWithStdin, Detached: o.detached, Start: h.heirs.start,
		Args: heirArgs(os.Args[1:]), May: h.mayHandOver,
	}
	s.Dir, _ = os.Getwd() // for whoever looks
	if !o.takeOver {
		return s, nil
	}
	var err error
	s.Heir, err = meetElder(ctx, paths)
	return s, err
}

// mayHandOver refuses while turns go out through a network that a client lends this
// very process.
func (h *host) mayHandOver() error {
	loan, _ := h.network.outlet.Loan()
	if !loan.Active && !loan.Waiting {
		return nil
	}
	if st := h.server.Stats(); st.ThreadsWorking == 0 {
		return nil
	}
	return &config.Problem{
		Stage: "upgrade", Err: errors.New("a client lends this host its network, and turns at work depend on that"), Exit: config.ExitFailure,
		Hints: []string{"try again when they have ended: `towline status` shows them"},
	}
}
