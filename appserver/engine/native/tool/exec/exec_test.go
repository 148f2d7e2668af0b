//go:build unix

package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/engine/native/sandbox"
	"towline/appserver/protocol"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.Command {
		os.Exit(sandbox.Main(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

var full = protocol.SandboxPolicy{Type: protocol.PolicyFullAccess}

// manager makes a Manager that ends with the test.
func manager(t testing.TB) *Manager {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := NewManager(Config{
		Sandbox: sandbox.New(self, slog.New(slog.DiscardHandler)),
		Env:     func() []string { return []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "MARK=base"} },
	})
	t.Cleanup(m.Close)
	return m
}

func start(t testing.TB, m *Manager, c Command) *Process {
	t.Helper()
	if c.Policy.Type == "" {
		c.Policy = full
	}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	p, err := m.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func shell(script string) Command { return Command{Argv: []string{"sh", "-c", script}} }

// ended waits for the end, which must come soon.
func ended(t testing.TB, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("process %s (pid %d) does not end", p.ID(), p.Pid())
	}
}

// until waits for text in the output of a running process.
func until(t testing.TB, p *Process, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, _ := p.Output()
		if strings.Contains(out, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", text, out)
		}
		time.Sleep(time.Millisecond) // polling another process
	}
}

func TestOutputAndStatus(t *testing.T) {
	m := manager(t)
	var mu sync.Mutex
	seen := map[string]string{}
	c := shell("echo out; echo err >&2; exit 3")
	c.OnOutput = func(stream string, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		seen[stream] += string(b)
	}
	p := start(t, m, c)
	ended(t, p)
	out, _ := p.Stdout()
	errs, _ := p.Stderr()
	both, cut := p.Output()
	if p.ExitCode() != 3 || out != "out\n" || errs != "err\n" || len(both) != 8 || cut {
		t.Errorf("exit %d, stdout %q, stderr %q, both %q, cut %v", p.ExitCode(), out, errs, both, cut)
	}
	if seen["stdout"] != out || seen["stderr"] != errs {
		t.Errorf("callback saw %q", seen)
	}
	if p.Duration() <= 0 {
		t.Error("no duration")
	}
	if q, ok := m.Get(p.ID()); !ok || q != p {
		t.Error("an ended process is forgotten at once")
	}
}

func TestMergedOutputKeepsTheOrderOfWriting(t *testing.T) {
	m := manager(t)
	c := shell("i=0; while [ $i -lt 200 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done")
	c.MergeOutput = true
	p := start(t, m, c)
	ended(t, p)
	var want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&want, "o%d\ne%d\n", i, i)
	}
	if out, _ := p.Stdout(); out != want.String() {
		t.Errorf("stdout %.200q", out)
	}
	if errs, _ := p.Stderr(); errs != "" {
		t.Errorf("stderr %q", errs)
	}
}

func TestAProcessTakesThePlaceOfAnExitedOne(t *testing.T) {
	m := manager(t)
	first := start(t, m, shell("sleep 1000"))
	again := shell("echo again")
	again.Policy, again.Cwd, again.Instead = full, "/", first.ID()
	if _, err := m.Start(t.Context(), again); err == nil {
		t.Fatal("a running process was replaced")
	}
	first.Kill()
	ended(t, first)
	second := start(t, m, again)
	ended(t, second)
	if got, ok := m.Get(first.ID()); !ok || got != second {
		t.Errorf("%s names %v", first.ID(), got)
	}
	if third := start(t, m, shell("")); third.ID() == first.ID() {
		t.Error("an id was given twice")
	}
}

// A thread that is loaded again must not give a new process the number of an
// old one.
func TestNumbersGoOnAfterARestart(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	if a, b := firstID(now), firstID(now.Add(time.Second)); b < a+10 || a < 1000 {
		t.Errorf("%d, then %d", a, b)
	}
	if n := firstID(time.Unix(86399, 0)); n > 999_999 {
		t.Errorf("%d is long", n)
	}
}

func TestSignalledExitCode(t *testing.T) {
	p := start(t, manager(t), shell("kill -TERM $$"))
	ended(t, p)
	if p.ExitCode() != 128+15 {
		t.Errorf("exit %d", p.ExitCode())
	}
}

func TestStartErrorsAreSentences(t *testing.T) {
	m := manager(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/plain", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		c    Command
		want string
	}{
		"nothing":     {Command{Cwd: dir}, "no command"},
		"no program":  {Command{Argv: []string{"towline-no-such"}, Cwd: dir}, `no program "towline-no-such"`},
		"not a file":  {Command{Argv: []string{"./missing"}, Cwd: dir}, `no program "./missing"`},
		"plain file":  {Command{Argv: []string{"./plain"}, Cwd: dir}, "not an executable"},
		"relative":    {Command{Argv: []string{"true"}, Cwd: "x"}, "not an absolute path"},
		"no dir":      {Command{Argv: []string{"true"}, Cwd: dir + "/none"}, "does not exist"},
		"file as dir": {Command{Argv: []string{"true"}, Cwd: dir + "/plain"}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.c.Policy = full
			_, err := m.Start(t.Context(), tc.c)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if n := len(m.Running()); n != 0 {
		t.Errorf("%d processes after failed starts", n)
	}
}

func TestStdin(t *testing.T) {
	m := manager(t)
	c := Command{Argv: []string{"cat"}, KeepStdin: true}
	p := start(t, m, c)
	for _, s := range []string{"one\n", "two\n"} {
		if err := p.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		until(t, p, s)
	}
	p.CloseStdin()
	ended(t, p)
	if err := p.Write([]byte("late")); !errors.Is(err, ErrExited) {
		t.Errorf("write after the end: %v", err)
	}
	p = start(t, m, Command{Argv: []string{"cat"}})
	ended(t, p) // /dev/null
	if p.ExitCode() != 0 {
		t.Errorf("exit %d", p.ExitCode())
	}
	p = start(t, m, shell("sleep 100"))
	if err := p.Write([]byte("x")); !errors.Is(err, ErrNoStdin) {
		t.Errorf("write without stdin: %v", err)
	}
}

// TestWriteToDeafProcess fills the pipe of a process that never reads.
func TestWriteToDeafProcess(t *testing.T) {
	for _, tty := range []bool{false, true} {
		c := shell("stty raw -echo 2>/dev/null; echo ready; sleep 1000")
		c.KeepStdin, c.TTY = true, tty
		p := start(t, manager(t), c)
		until(t, p, "ready")
		p.patience = 50 * time.Millisecond
		if err := p.Write(make([]byte, 1<<20)); !errors.Is(err, ErrStuck) {
			t.Errorf("tty %v: got %v, want %v", tty, err, ErrStuck)
		}
		p.Kill()
		ended(t, p)
	}
}

func TestShortOutputIsComplete(t *testing.T) {
	m := manager(t)
	for i := range 60 {
		p := start(t, m, Command{Argv: []string{"echo", "hello"}, TTY: i%2 == 0})
		ended(t, p)
		if out, _ := p.Output(); strings.TrimSpace(out) != "hello" {
			t.Fatalf("run %d: %q", i, out)
		}
	}
}

func TestLargeOutputKeepsItsEnds(t *testing.T) {
	c := shell("echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last")
	c.OutputCap = 10000
	var seen int
	c.OnOutput = func(_ string, b []byte) { seen += len(b) }
	p := start(t, manager(t), c)
	ended(t, p)
	out, cut := p.Output()
	if !cut || !strings.HasPrefix(out, "first\n") || !strings.HasSuffix(out, "x\nlast\n") || len(out) > 10100 {
		t.Errorf("cut %v, %d bytes: %.20q…", cut, len(out), out)
	}
	if seen != 3000000+len("first\n\nlast\n") {
		t.Errorf("callback saw %d bytes", seen)
	}
}

func TestTake(t *testing.T) {
	p := start(t, manager(t), Command{Argv: []string{"sh", "-c", "echo ready; read x; echo got $x; read x"}, KeepStdin: true})
	until(t, p, "ready")
	if text, exited := p.Take(t.Context(), 0, 0); text != "ready\n" || exited {
		t.Errorf("%q %v", text, exited)
	}
	if err := p.Write([]byte("it\n")); err != nil {
		t.Fatal(err)
	}
	until(t, p, "got it")
	if text, exited := p.Take(t.Context(), 0, 0); text != "got it\n" || exited {
		t.Errorf("%q %v", text, exited)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if text, exited := p.Take(ctx, time.Hour, 0); text != "" || exited {
		t.Errorf("%q %v", text, exited)
	}
	p.CloseStdin()
	if text, exited := p.Take(t.Context(), time.Hour, 0); text != "" || !exited {
		t.Errorf("%q %v", text, exited)
	}
}

func TestTakeReturnsAtTheEnd(t *testing.T) {
	p := start(t, manager(t), shell("echo quick"))
	begin := time.Now()
	if text, exited := p.Take(t.Context(), time.Minute, 0); text != "quick\n" || !exited {
		t.Errorf("%q %v", text, exited)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestTerminal(t *testing.T) {
	p := start(t, manager(t), Command{
		Argv: []string{"sh", "-c", "test -t 0 && test -t 1 && echo tty $TERM; stty size; read x; stty size; echo got $x; cat"},
		TTY:  true, Rows: 40, Cols: 120,
	})
	until(t, p, "tty xterm-256color")
	until(t, p, "40 120")
	if err := p.Resize(50, 132); err != nil {
		t.Fatal(err)
	}
	if err := p.Write([]byte("line\r")); err != nil {
		t.Fatal(err)
	}
	until(t, p, "50 132")
	until(t, p, "got line")
	p.CloseStdin()
	ended(t, p)
	if p.ExitCode() != 0 {
		t.Errorf("exit %d", p.ExitCode())
	}
}

func TestInterruptKeyOnTerminal(t *testing.T) {
	p := start(t, manager(t), Command{Argv: []string{"sh", "-c", "trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.05; done"}, TTY: true})
	until(t, p, "ready")
	if err := p.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	ended(t, p)
	if p.ExitCode() != 7 {
		t.Errorf("exit %d", p.ExitCode())
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ") && !strings.Contains(string(b), ") X ")
}

// pids reads the process ids a script printed.
func pids(t *testing.T, p *Process) []int {
	t.Helper()
	out, _ := p.Output()
	var ids []int
	for _, f := range strings.Fields(out) {
		if n, err := strconv.Atoi(f); err == nil {
			ids = append(ids, n)
		}
	}
	if len(ids) == 0 {
		t.Fatalf("no pids in %q", out)
	}
	return ids
}

func gone(t *testing.T, ids []int) {
	t.Helper()
	for _, id := range ids {
		for deadline := time.Now().Add(10 * time.Second); alive(id); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				_ = syscall.Kill(id, syscall.SIGKILL) // ours: the test started it
				t.Errorf("process %d is still there", id)
				break
			}
		}
	}
}

func TestKillReachesAllChildren(t *testing.T) {
	for name, script := range map[string]string{
		"children":      "sleep 1000 & echo $!; sleep 1000 & echo $!; echo ready; wait",
		"ignoring TERM": "trap '' TERM INT HUP; (trap '' TERM HUP; while :; do sleep 1000; done) & echo $!; echo ready; wait",
		"own session":   "setsid sleep 1000 & echo $!; sh -c 'setsid sh -c \"echo \\$\\$; sleep 1000\"' & echo ready; wait",
	} {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tty=%v", name, tty), func(t *testing.T) {
				p := start(t, manager(t), Command{Argv: []string{"sh", "-c", script}, TTY: tty})
				until(t, p, "ready")
				ids := pids(t, p)
				p.Kill()
				ended(t, p)
				gone(t, append(ids, p.Pid()))
				if p.ExitCode() != 137 {
					t.Errorf("exit %d", p.ExitCode())
				}
			})
		}
	}
}

// TestGrandchildHoldsThePipe is the shape of `server &`: the command ends, its
// child keeps the output open. The call must end soon, and so must the child.
func TestGrandchildHoldsThePipe(t *testing.T) {
	p := start(t, manager(t), shell("sleep 1000 & echo $!; exit 4"))
	ended(t, p)
	if p.ExitCode() != 4 || p.Duration() > 10*time.Second {
		t.Errorf("exit %d after %v", p.ExitCode(), p.Duration())
	}
	gone(t, pids(t, p))
}

// TestStrangerHoldsThePipe has a child leave group and session: it cannot be
// found, but it must not keep the caller waiting.
func TestStrangerHoldsThePipe(t *testing.T) {
	p := start(t, manager(t), shell("(setsid sh -c 'echo $$; exec sleep 1000' &) ; sleep 0.2"))
	ended(t, p)
	for _, id := range pids(t, p) {
		_ = syscall.Kill(id, syscall.SIGKILL) // ours: the test started it
	}
}

func TestLateOutputOfChildrenIsKept(t *testing.T) {
	p := start(t, manager(t), shell("(sleep 0.1; echo late) & echo early"))
	ended(t, p)
	if out, _ := p.Output(); out != "early\nlate\n" {
		t.Errorf("%q", out)
	}
}

func TestContextEndsProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := manager(t)
	p, err := m.Start(ctx, Command{Argv: []string{"sh", "-c", "echo ready; sleep 1000"}, Cwd: "/", Policy: full})
	if err != nil {
		t.Fatal(err)
	}
	until(t, p, "ready")
	cancel()
	ended(t, p)
	if p.ExitCode() != 137 {
		t.Errorf("exit %d", p.ExitCode())
	}
}

func TestCloseKillsAndRefuses(t *testing.T) {
	m := manager(t)
	p := start(t, m, shell("sleep 1000"))
	m.Close()
	select {
	case <-p.Done():
	default:
		t.Error("Close returned before the process ended")
	}
	if _, err := m.Start(t.Context(), Command{Argv: []string{"true"}, Cwd: "/", Policy: full}); !errors.Is(err, ErrClosed) {
		t.Errorf("start after close: %v", err)
	}
}

func TestLimits(t *testing.T) {
	m := manager(t)
	var first *Process
	for range MaxProcesses {
		p := start(t, m, shell("sleep 1000"))
		if first == nil {
			first = p
		}
	}
	if _, err := m.Start(t.Context(), Command{Argv: []string{"true"}, Cwd: "/", Policy: full}); !errors.Is(err, ErrTooMany) {
		t.Errorf("got %v, want %v", err, ErrTooMany)
	}
	first.Kill()
	ended(t, first)
	for range MaxProcesses + 1 {
		ended(t, start(t, m, shell("")))
	}
	if _, ok := m.Get(first.ID()); ok {
		t.Error("the oldest ended process is still remembered")
	}
	if n := len(m.Running()); n != MaxProcesses-1 {
		t.Errorf("%d running", n)
	}
}

// TestManyLeaveNothing starts 200 processes of every kind and compares
// descriptors and children; goleak looks after goroutines.
func TestManyLeaveNothing(t *testing.T) {
	fds := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("NOT TESTED, this system has no /proc/self/fd")
		}
		return len(e)
	}
	m := manager(t)
	ended(t, start(t, m, shell("true"))) // what is made once
	before := fds()
	for i := range 200 {
		c := shell("echo hello; sleep 1000 & exit 0")
		switch i % 4 {
		case 1:
			c = Command{Argv: []string{"sh", "-c", "echo hello; cat"}, TTY: true}
		case 2:
			c = Command{Argv: []string{"cat"}, KeepStdin: true}
		case 3:
			c = shell("echo hello")
		}
		p := start(t, m, c)
		if i%4 == 1 || i%4 == 2 {
			p.Kill()
		}
		if i%16 == 15 {
			for _, p := range m.Running() {
				ended(t, p)
			}
		}
	}
	m.Close()
	if after := fds(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	var ws syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); err == nil {
		t.Errorf("a child is left over: %d", pid)
	}
}

func TestEnvironment(t *testing.T) {
	m := manager(t)
	t.Setenv("TOWLINE_LEAK", "secret")
	c := shell("env")
	c.Env = []string{"MARK=own", "EXTRA=1", "PAGER=less"}
	p := start(t, m, c)
	ended(t, p)
	out, _ := p.Output()
	for _, w := range []string{"MARK=own\n", "EXTRA=1\n", "TERM=dumb\n", "NO_COLOR=1\n", "PAGER=less\n", "GIT_PAGER=cat\n", "LANG=C.UTF-8\n"} {
		if !strings.Contains("\n"+out, "\n"+w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
	if strings.Contains(out, "TOWLINE_LEAK") || strings.Contains(out, "MARK=base") {
		t.Errorf("environment\n%s", out)
	}
}

func TestScrub(t *testing.T) {
	got := Scrub([]string{"PATH=/bin", "OPENAI_API_KEY=x", "GH_TOKEN=x", "db_password=x", "AWS_SECRET=x", "MINE=x", "HOME=/"}, "MINE")
	if s := strings.Join(got, " "); s != "PATH=/bin HOME=/" {
		t.Errorf("%q", s)
	}
}

func TestSandboxedProcess(t *testing.T) {
	m := manager(t)
	if err := m.cfg.Sandbox.Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED, this machine cannot confine programs: %v", err)
	}
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprintf("tty=%v", tty), func(t *testing.T) {
			dir := t.TempDir()
			p := start(t, m, Command{
				Argv: []string{"sh", "-c", "echo ok > in; echo bad > ../out-$$; touch ../out; echo noise > /dev/tty; test -t 0 && echo terminal; echo $0; exit 5"},
				Cwd:  dir, TTY: tty, Policy: protocol.SandboxPolicy{Type: protocol.PolicyWorkspaceWrite, ExcludeSlashTmp: true, ExcludeTmpdirEnvVar: true},
			})
			ended(t, p)
			out, _ := p.Output()
			if p.ExitCode() != 5 || !strings.Contains(out, "sh") || strings.Contains(out, "terminal") != tty {
				t.Errorf("exit %d, output %q", p.ExitCode(), out)
			}
			if b, err := os.ReadFile(dir + "/in"); err != nil || string(b) != "ok\n" {
				t.Errorf("%q %v", b, err)
			}
			if left, _ := filepath.Glob(filepath.Dir(dir) + "/out*"); len(left) > 0 {
				t.Errorf("escaped: %v", left)
			}
			if tty && !strings.Contains(out, "noise") {
				t.Errorf("the terminal cannot be opened: %q", out)
			}
		})
	}
}

func TestNoSandboxMeansNoRestrictedCommand(t *testing.T) {
	m := NewManager(Config{})
	defer m.Close()
	if _, err := m.Start(t.Context(), Command{Argv: []string{"true"}, Cwd: "/", Policy: protocol.SandboxPolicy{Type: protocol.PolicyReadOnly}}); err == nil {
		t.Error("ran unconfined")
	}
	if _, err := m.Start(t.Context(), Command{Argv: []string{"true"}, Cwd: "/"}); err == nil {
		t.Error("ran unconfined under no policy at all")
	}
}
