//go:build unix

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// As a program this binary is a daemon that does what DAEMON says: it takes the
// "home", a file, and is found there.
func TestMain(m *testing.M) {
	if what := os.Getenv("DAEMON"); what != "" {
		daemon(what, os.Getenv("DAEMON_DIR"))
		return
	}
	goleak.VerifyTestMain(m)
}

func daemon(what, dir string) {
	fmt.Println("about to " + what)
	if what == "wrong" {
		fmt.Fprintln(os.Stderr, "error: config: line 3: unknown key\nhint: mend it")
		os.Exit(3)
	}
	if what == "busy" {
		fmt.Fprintln(os.Stderr, "error: the port is taken")
		os.Exit(4)
	}
	home := filepath.Join(dir, "daemon.lock")
	release, err := hold(home)
	for what == "succeed" && err != nil { // the one before lets go when it is told
		_ = os.WriteFile(filepath.Join(dir, "handover"), nil, 0o600)
		release, err = hold(home)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: one runs already")
		os.Exit(4)
	}
	if what == "panic" {
		panic("a broken invariant")
	}
	stop := make(chan os.Signal, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signal.Notify(stop, syscall.SIGTERM)
	for ctx.Err() == nil {
		select {
		case <-stop:
			return
		case <-time.After(10 * time.Millisecond):
			if os.Remove(filepath.Join(dir, "handover")) == nil {
				release()
				time.Sleep(200 * time.Millisecond) // it has a turn to end
				return
			}
		}
	}
}

// rig is a supervisor of such daemons.
type rig struct {
	*testing.T
	dir    string
	what   []string // the daemons, one after the other; the last again and again
	n      atomic.Int64
	cancel context.CancelFunc
	reload chan os.Signal
	done   chan error
}

const patience = 45 * time.Second

func newRig(t *testing.T, what ...string) *rig {
	return &rig{T: t, dir: t.TempDir(), what: what, reload: make(chan os.Signal, 1), done: make(chan error, 1)}
}

func (r *rig) command(what string) *exec.Cmd {
	cmd := exec.Command(os.Args[0]) //nolint:noctx // the supervisor ends it
	cmd.Env = append(os.Environ(), "DAEMON="+what, "DAEMON_DIR="+r.dir, "GOCOVERDIR="+r.dir)
	return cmd
}

func (r *rig) config() Config {
	return Config{
		Dir: r.dir, LogFile: filepath.Join(r.dir, "log"),
		Command: func() (*exec.Cmd, error) {
			what := r.what[min(int(r.n.Add(1)), len(r.what))-1]
			if what == "missing" {
				return nil, errors.New("the program is not there")
			}
			return r.command(what), nil
		},
		Successor: func() (*exec.Cmd, error) { return r.command("succeed"), nil },
		Holder:    func() (int, bool) { return holder(filepath.Join(r.dir, "daemon.lock")) },
		Answers:   func(context.Context) error { return nil },
		Final:     func(status int) bool { return status == 3 || status == 2 },
		Backoff:   Backoff{First: time.Millisecond, Most: 20 * time.Millisecond},
	}
}

func (r *rig) run(change ...func(*Config)) {
	r.Helper()
	c := r.config()
	for _, f := range change {
		f(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.done <- New(c).Run(ctx, r.reload) }()
	r.Cleanup(func() {
		cancel()
		select {
		case <-r.done:
		case <-time.After(patience):
			r.Error("the supervisor does not end")
		}
	})
}

// ends waits for the supervisor's end.
func (r *rig) ends() error {
	r.Helper()
	select {
	case err := <-r.done:
		r.done <- err // for the clean-up
		return err
	case <-time.After(patience):
		r.Fatal("the supervisor does not end")
		return nil
	}
}

func (r *rig) until(what string, ok func(State) bool) State {
	r.Helper()
	var st State
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if st, _ = Find(r.dir); ok(st) {
			return st
		}
	}
	log, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	r.Fatalf("never %s: %+v\n%s", what, st, log)
	return st
}

func running(st State) bool { return st.Phase == Running }

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if pid <= 0 {
		t.Fatalf("pid %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

func TestAKilledDaemonIsStartedAgain(t *testing.T) {
	r := newRig(t, "serve")
	r.run()
	for n := range 3 {
		st := r.until("running", func(st State) bool { return running(st) && st.Restarts == n })
		kill(t, st.Daemon, syscall.SIGKILL)
		st = r.until("started again", func(s State) bool { return running(s) && s.Daemon != st.Daemon })
		if l := st.Last; l == nil || l.Signal != "killed" || l.Status != -1 || !l.Answered || l.Reason() != "signal: killed" {
			t.Fatalf("last: %+v", st.Last)
		}
	}
	r.cancel()
	if err := r.ends(); err != nil {
		t.Error(err)
	}
	st, alive := Find(r.dir)
	if alive || st.Phase != Ended || st.Daemon != 0 || st.Last == nil {
		t.Errorf("afterwards: %+v, %v", st, alive)
	}
	if _, held := holder(filepath.Join(r.dir, "daemon.lock")); held {
		t.Error("the daemon is there still")
	}
}

func TestAnEndThatWasAskedForIsTheEnd(t *testing.T) {
	r := newRig(t, "serve")
	r.run()
	kill(t, r.until("running", running).Daemon, syscall.SIGTERM)
	if err := r.ends(); err != nil {
		t.Error(err)
	}
	if st, _ := Find(r.dir); st.Last != nil || st.Restarts != 0 {
		t.Errorf("%+v", st)
	}
}

func TestAMistakeInAFileIsNotTriedAgain(t *testing.T) {
	r := newRig(t, "wrong")
	r.run()
	if err := r.ends(); !errors.Is(err, ErrFinal) {
		t.Error(err)
	}
	st, _ := Find(r.dir)
	if l := st.Last; !st.Final || l == nil || l.Status != 3 || l.Answered || l.Reason() != "exit status 3, config: line 3: unknown key" ||
		!slices.Contains(l.Said, "hint: mend it") {
		t.Errorf("%+v", st)
	}
}

// What may pass is tried for ever; a status the runtime uses for a panic is not
// the program's own.
func TestOtherEndsAreTriedAgainMoreAndMoreSlowly(t *testing.T) {
	r := newRig(t, "busy", "panic", "missing", "panic", "busy", "serve")
	r.run()
	st := r.until("running", running)
	if st.Restarts != 5 || st.Last.Status != 4 || st.Last.Reason() != "exit status 4, the port is taken" {
		t.Errorf("%+v, last %+v", st, st.Last)
	}
}

func TestAPanicSaysWhatBroke(t *testing.T) {
	r := newRig(t, "panic", "serve")
	r.run()
	st := r.until("running", running)
	if l := st.Last; l.Status != 2 || !strings.Contains(l.Reason(), "panic: a broken invariant") {
		t.Errorf("%+v", l)
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{}.withDefaults()
	crash := &Exit{Status: 1}
	var waits []time.Duration
	retry := 0
	for range 14 {
		var w time.Duration
		w, retry = b.After(retry, crash)
		waits = append(waits, w)
	}
	if waits[0] != 100*time.Millisecond || waits[3] != 800*time.Millisecond || !slices.IsSorted(waits) || waits[13] != time.Minute {
		t.Errorf("waits: %v", waits)
	}
	if w, _ := b.After(500, crash); w != time.Minute {
		t.Errorf("after 500 ends: %v", w)
	}
	// One that served is up again within a second, whoever killed it how often.
	if w, _ := b.After(500, &Exit{Status: -1, Signal: "killed", Answered: true}); w > time.Second {
		t.Errorf("killed: %v", w)
	}
	// An hour of service makes up for what was before.
	if w, n := b.After(14, &Exit{Status: 1, Answered: true, Ran: 3600}); w != 100*time.Millisecond || n != 1 {
		t.Errorf("after an hour: %v, %d", w, n)
	}
}

// Whatever a killed supervisor leaves, the next one takes up the daemon where it
// is, and starts it again should it end.
func TestADaemonOutlivesItsSupervisorAndGetsAnother(t *testing.T) {
	r := newRig(t, "serve")
	cmd := r.command("serve")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	home := filepath.Join(r.dir, "daemon.lock")
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if pid, held := holder(home); held && pid == cmd.Process.Pid {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the daemon does not come up")
		}
	}
	// Of a supervisor that was killed: a pid that is somebody else's by now, and a
	// state that is half a file.
	for name, text := range map[string]string{lockFile: strconv.Itoa(os.Getpid()), stateFile: `{"phase":"running","supervi`} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, alive := Find(r.dir); alive {
		t.Fatal("a file is taken for a supervisor")
	}
	r.run()
	st := r.until("running", running)
	if st.Daemon != 0 && st.Daemon != cmd.Process.Pid || r.n.Load() != 0 {
		t.Errorf("a second daemon was started: %+v", st)
	}
	kill(t, cmd.Process.Pid, syscall.SIGKILL)
	st = r.until("started again", func(st State) bool { return running(st) && r.started(st.Daemon, cmd.Process.Pid) })
	if st.Last == nil || st.Last.PID != cmd.Process.Pid {
		t.Errorf("last: %+v", st.Last)
	}
}

func (r *rig) started(pid, other int) bool { return pid > 0 && pid != other }

// A machine that went down says nothing; what it left does.
func TestAfterAPowerCutItIsSaidThatThereWasOne(t *testing.T) {
	r := newRig(t, "serve")
	if err := writeState(r.dir, State{Phase: Running, Daemon: 4711, Supervisor: 4710}); err != nil {
		t.Fatal(err)
	}
	r.run()
	st := r.until("running", func(st State) bool { return running(st) && st.Daemon != 4711 })
	if st.Last == nil || st.Last.Reason() != "its supervisor was killed with it, or the machine went down" || st.Restarts != 1 {
		t.Errorf("%+v, last %+v", st, st.Last)
	}
}

func TestASecondSupervisorFindsTheFirst(t *testing.T) {
	r := newRig(t, "serve")
	r.run()
	r.until("running", running)
	if err := New(r.config()).Run(context.Background(), nil); err == nil {
		t.Error("two supervisors have one home")
	}
	if st, alive := Find(r.dir); !alive || st.Supervisor != os.Getpid() {
		t.Errorf("%+v, %v", st, alive)
	}
}

func TestASuccessorTakesOver(t *testing.T) {
	r := newRig(t, "serve")
	r.run()
	old := r.until("running", running).Daemon
	r.reload <- syscall.SIGHUP
	st := r.until("succeeded", func(st State) bool { return running(st) && st.Daemon != old })
	if st.Restarts != 0 || st.Last != nil || st.HandOver != nil {
		t.Errorf("%+v", st)
	}
	kill(t, st.Daemon, syscall.SIGKILL) // it is looked after as the first was
	r.until("started again", func(s State) bool { return running(s) && s.Daemon != st.Daemon && s.Last != nil })
}

func TestASuccessorThatFailsLeavesTheDaemonAlone(t *testing.T) {
	r := newRig(t, "serve")
	r.run(func(c *Config) { c.Successor = func() (*exec.Cmd, error) { return r.command("busy"), nil } })
	old := r.until("running", running)
	r.reload <- syscall.SIGHUP
	st := r.until("failed", func(st State) bool { return st.HandOver != nil })
	if st.Daemon != old.Daemon || st.Phase != Running || st.HandOver.Status != 4 || st.Last != nil {
		t.Errorf("%+v", st)
	}
}

func TestOneThatDoesNotEndIsKilled(t *testing.T) {
	r := newRig(t, "serve")
	r.run(func(c *Config) { c.StopLimit = 50 * time.Millisecond })
	st := r.until("running", running)
	kill(t, st.Daemon, syscall.SIGSTOP) // it hears no SIGTERM
	r.cancel()
	if err := r.ends(); err != nil {
		t.Error(err)
	}
}

func TestOneThatDoesNotAnswerIsStartedAgain(t *testing.T) {
	r := newRig(t, "serve")
	asked := 0
	r.run(func(c *Config) {
		c.StartLimit = 300 * time.Millisecond
		c.Answers = func(context.Context) error {
			if asked++; asked > 20 {
				return nil
			}
			return errors.New("not yet")
		}
	})
	st := r.until("running", running)
	if st.Restarts == 0 || st.Last == nil || st.Last.Answered || !strings.Contains(st.Last.Reason(), "did not answer in time") {
		t.Errorf("%+v, last %+v", st, st.Last)
	}
}

func TestTheLogDoesNotGrowForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, _, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	for range 2*maxLog/len(line) + 1 {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := trimLog(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("error: \x1b[31mafter\x07\n"); err != nil {
		t.Fatal(err)
	}
	if got := Tail(path, 5000); !slices.Equal(got, []string{"error: [31mafter"}) {
		t.Errorf("tail: %q", got)
	}
	if info, err := os.Stat(path + ".old"); err != nil || info.Size() <= maxLog {
		t.Errorf("the old one: %v, %v", info, err)
	}
}
