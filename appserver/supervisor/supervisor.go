package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// lookEvery is how often a daemon that is coming up is looked for, and one that
	// is not our child.
	lookEvery = 50 * time.Millisecond
	// startLimit is how long a daemon may take until it answers before it is taken
	// for stuck, stopLimit until it has ended: its engine may be given time to end
	// its turns.
	startLimit = 3 * time.Minute
	stopLimit  = 55 * time.Second
	// answerLimit bounds one look at whether the daemon answers.
	answerLimit = 5 * time.Second
	// trimEvery is how often the log's size is looked at.
	trimEvery = time.Minute
)

// Config says what is kept running. All of it but what a comment makes optional is
// required.
type Config struct {
	Dir     string // the home's state folder: the lock and the state are here
	LogFile string // what the daemon writes to
	// Command makes the daemon ready to start, but for its output. It is asked
	// anew each time, so that an upgraded program is used.
	Command func() (*exec.Cmd, error)
	// Successor makes ready a daemon that takes over from the one that runs; nil
	// when that cannot be.
	Successor func() (*exec.Cmd, error)
	// Holder is the process that has the home now.
	Holder func() (pid int, ok bool)
	// Answers is nil when the daemon serves.
	Answers func(ctx context.Context) error
	// Final reports that ending with this status, before it ever answered, is
	// something that trying again does not mend. Optional.
	Final   func(status int) bool
	Backend string // State.Backend; "" is "pid"
	// Replace turns this process into a newer build of its program, if there is one;
	// it returns when there is none. Optional.
	Replace func()
	Log     *slog.Logger // optional

	// Limits for tests; zero is the usual.
	StartLimit, StopLimit time.Duration
	Backoff               Backoff
}

// Supervisor keeps one daemon running. Make it with New.
type Supervisor struct {
	cfg   Config
	log   *slog.Logger
	st    State
	back  Backoff
	retry int // see Backoff.After

	cur     *process // nil while there is none
	next    *process // a successor that has not taken over yet
	retired []*process
	ended   chan *process // of any of them
}

// New checks nothing and starts nothing.
func New(c Config) *Supervisor {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Backend == "" {
		c.Backend = "pid"
	}
	if c.StartLimit <= 0 {
		c.StartLimit = startLimit
	}
	if c.StopLimit <= 0 {
		c.StopLimit = stopLimit
	}
	return &Supervisor{cfg: c, log: c.Log, back: c.Backoff.withDefaults(), ended: make(chan *process, 8)}
}

// ErrFinal: the daemon ended with a status that trying again does not mend. The
// state says which.
var ErrFinal = errors.New("the daemon cannot start as things are")

// Run keeps the daemon running until ctx ends, and ends it then; or until the
// daemon ends in good order, which somebody asked for; or ErrFinal. Each value on
// reload has the daemon hand over to a successor, where it is running, or be
// started at once, where it is not. One Run holds the home at a time.
func (s *Supervisor) Run(ctx context.Context, reload <-chan os.Signal) error {
	release, err := hold(filepath.Join(s.cfg.Dir, lockFile))
	if err != nil {
		return err
	}
	defer release()
	now := time.Now()
	old, _ := readState(s.cfg.Dir) // what the one before knew is worth keeping
	s.st = State{Phase: Starting, Supervisor: os.Getpid(), Began: now, Since: now, Last: old.Last, Backend: s.cfg.Backend}
	if pid, ok := s.cfg.Holder(); ok && pid > 0 {
		s.log.Info("a daemon runs already; it is looked after from here", "pid", pid)
		s.cur = adopt(pid, s.cfg.Holder, s.ended)
		s.st.Restarts = old.Restarts
	} else {
		if old.Phase != "" && old.Phase != Ended {
			s.st.Last, s.st.Restarts = &Exit{At: now, PID: old.Daemon, Status: -1, Said: []string{wentTogether}, Answered: true}, 1
		}
		if err := s.start(); err != nil {
			return s.end(err)
		}
	}
	s.note()

	look := time.NewTicker(lookEvery)
	defer look.Stop()
	trim := time.NewTicker(trimEvery)
	defer trim.Stop()
	wake := time.NewTimer(0) // of Waiting
	<-wake.C
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			s.stop()
			return s.end(nil)
		case p := <-s.ended:
			over, err := s.over(p)
			if over {
				return s.end(err)
			}
			if s.st.Phase == Waiting {
				wake.Reset(time.Until(s.st.NextAt))
			}
		case <-wake.C:
			if s.cur == nil {
				s.st.Restarts++
				s.again(wake)
			}
		case <-reload:
			s.reload(wake)
		case <-look.C:
			s.look(ctx)
		case <-trim.C:
			if err := trimLog(s.cfg.LogFile); err != nil {
				s.log.Warn("the log grows", "err", err)
			}
		}
		// Between two events there is nothing to look for while all is well.
		if s.next == nil && (s.cur == nil || s.st.Phase == Running) {
			look.Stop()
		} else {
			look.Reset(lookEvery)
		}
	}
}

// again starts the daemon, or waits on when that cannot be.
func (s *Supervisor) again(wake *time.Timer) {
	if err := s.start(); err != nil {
		s.failed(&Exit{At: time.Now(), Status: -1, Said: []string{"error: " + clean(err.Error())}})
		wake.Reset(time.Until(s.st.NextAt))
	}
	s.note()
}

// start starts the daemon. Its own session keeps it from the signals that are
// meant for this process alone.
func (s *Supervisor) start() error {
	p, err := s.spawn(s.cfg.Command)
	if err != nil {
		return err
	}
	s.cur = p
	s.phase(Starting)
	s.st.Daemon = p.pid
	s.log.Info("the daemon was started", "pid", p.pid)
	return nil
}

func (s *Supervisor) spawn(command func() (*exec.Cmd, error)) (*process, error) {
	cmd, err := command()
	if err != nil {
		return nil, err
	}
	log, begin, err := OpenLog(s.cfg.LogFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	cmd.Stdout, cmd.Stderr = log, log
	return begins(cmd, begin, s.ended)
}

// look sees how what was started is getting on.
func (s *Supervisor) look(ctx context.Context) {
	if s.next != nil {
		if pid, ok := s.cfg.Holder(); ok && pid == s.next.pid {
			s.log.Info("the successor has taken over", "pid", pid)
			if s.cur != nil {
				s.retired = append(s.retired, s.cur)
			}
			s.cur, s.next = s.next, nil
			s.st.Daemon, s.st.HandOver = s.cur.pid, nil
			s.phase(Starting)
			s.note()
		}
	}
	p := s.cur
	if p == nil || s.st.Phase != Starting {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if pid, ok := s.cfg.Holder(); ok && pid == p.pid && s.cfg.Answers(ctx) == nil {
		p.answered = true
		s.phase(Running)
		s.note()
		s.renew()
		return
	}
	if time.Since(s.st.Since) > s.cfg.StartLimit && !p.given {
		p.given = true // up
		s.log.Error("the daemon does not answer; it is ended", "pid", p.pid, "after", s.cfg.StartLimit)
		p.kill()
	}
}

// renew turns the supervisor itself into the program its daemon has become, once
// a hand-over is all over.
func (s *Supervisor) renew() {
	if s.cfg.Replace == nil || s.cur == nil || !s.cur.successor || s.st.Phase != Running || len(s.retired) > 0 || s.next != nil {
		return
	}
	s.cur.successor = false
	s.cfg.Replace()
}

// over takes note of a process that ended. It reports whether that was all.
func (s *Supervisor) over(p *process) (bool, error) {
	for i, r := range s.retired {
		if r == p {
			s.retired = append(s.retired[:i], s.retired[i+1:]...)
			s.log.Info("the daemon before has ended", "pid", p.pid)
			s.renew()
			return false, nil
		}
	}
	if p == s.next {
		s.next = nil
		e := p.exit(s.cfg.LogFile)
		s.log.Error("the successor did not take over", "reason", e.Reason())
		s.st.HandOver = e
		s.note()
		return false, nil
	}
	if p != s.cur {
		return false, nil
	}
	s.cur = nil
	if s.next != nil {
		// What was to succeed it has, or is a daemon in its own right now.
		s.cur, s.next = s.next, nil
		if e := p.exit(s.cfg.LogFile); e.Status != 0 {
			s.st.Last = e
			s.st.Restarts++
		}
		s.st.Daemon, s.st.HandOver = s.cur.pid, nil
		s.log.Info("the successor has taken over", "pid", s.cur.pid)
		s.phase(Starting)
		s.note()
		return false, nil
	}
	if pid := s.heir(p); pid > 0 {
		s.cur = adopt(pid, s.cfg.Holder, s.ended)
		s.log.Info("another daemon has the home; it is looked after now", "pid", pid)
		s.st.Daemon = pid
		s.phase(Starting)
		s.note()
		return false, nil
	}
	e := p.exit(s.cfg.LogFile)
	s.st.Daemon = 0
	if e.Status == 0 {
		s.log.Info("the daemon has ended in good order", "pid", p.pid)
		return true, nil
	}
	if !e.Answered && s.cfg.Final != nil && e.Status > 0 && !e.panicked() && s.cfg.Final(e.Status) {
		s.log.Error("the daemon cannot start as things are", "reason", e.Reason())
		s.st.Last, s.st.Final = e, true
		return true, ErrFinal
	}
	s.failed(e)
	s.note()
	return false, nil
}

// heirLimit is how long one that was handed the home may take to say so.
const heirLimit = 2 * time.Second

// heir is a daemon we did not start that has the home of p, which has ended: it was
// handed over to it. 0 when nobody has.
func (s *Supervisor) heir(p *process) int {
	for end := time.Now().Add(heirLimit); ; time.Sleep(lookEvery) {
		pid, held := s.cfg.Holder()
		if !held || time.Now().After(end) {
			return 0
		}
		if pid > 0 && pid != p.pid {
			return pid
		}
	}
}

// failed remembers a bad end and when to start again.
func (s *Supervisor) failed(e *Exit) {
	var wait time.Duration
	wait, s.retry = s.back.After(s.retry, e)
	s.st.Last, s.st.NextAt = e, time.Now().Add(wait)
	s.phase(Waiting)
	s.log.Error("the daemon ended", "pid", e.PID, "reason", e.Reason(), "again_in", wait)
}

// reload has the daemon replaced without anybody noticing, or started at once.
func (s *Supervisor) reload(wake *time.Timer) {
	switch {
	case s.next != nil:
	case s.cur == nil:
		s.retry = 0
		s.again(wake)
	case s.cfg.Successor != nil:
		p, err := s.spawn(s.cfg.Successor)
		if err != nil {
			s.log.Error("no successor", "err", err)
			return
		}
		p.successor = true
		s.next = p
		s.log.Info("a successor was started", "pid", p.pid)
	}
}

// stop ends the daemon in good order, and kills one that takes too long.
func (s *Supervisor) stop() {
	s.phase(Stopping)
	s.note()
	left := map[*process]bool{}
	for _, p := range append(s.retired, s.cur, s.next) {
		if p != nil {
			left[p] = true
			p.signal(syscall.SIGTERM)
		}
	}
	limit := time.NewTimer(s.cfg.StopLimit)
	defer limit.Stop()
	for len(left) > 0 {
		select {
		case p := <-s.ended:
			delete(left, p)
		case <-limit.C:
			for p := range left {
				s.log.Error("the daemon does not end; it is killed", "pid", p.pid)
				p.kill()
			}
		}
	}
	s.cur, s.st.Daemon = nil, 0
}

// end is the supervisor's own.
func (s *Supervisor) end(err error) error {
	s.phase(Ended)
	s.note()
	return err
}

func (s *Supervisor) phase(p string) {
	s.st.Phase, s.st.Since = p, time.Now()
	if p != Waiting {
		s.st.NextAt = time.Time{}
	}
}

func (s *Supervisor) note() {
	if err := writeState(s.cfg.Dir, s.st); err != nil {
		s.log.Warn("the supervisor's state is not kept", "err", err)
	}
}
