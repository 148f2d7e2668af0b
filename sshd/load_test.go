package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// screen is the smallest UI that shows what a session gives it.
type screen struct{ w, h int }

func (m screen) Init() tea.Cmd { return nil }

func (m screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.w, m.h = msg.Width, msg.Height
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+c" || msg.String() == "q" {
			return m, tea.Quit
		}
	}
	return m, nil
}

func (m screen) View() tea.View {
	v := tea.NewView(fmt.Sprintf("first line\nsize %dx%d.", m.w, m.h))
	v.AltScreen = true
	return v
}

// teaUI is how Bubble Tea runs on a Session: input and output, the environment
// and the colours it allows, the context, no signals of this process, and sizes
// sent from a goroutine that ends with the program.
func teaUI(ctx context.Context, s *Session) int {
	ctx, cancel := context.WithCancel(ctx)
	p := tea.NewProgram(
		screen{s.Size.Cols, s.Size.Rows},
		tea.WithContext(ctx), tea.WithInput(s.In), tea.WithOutput(s.Out), tea.WithEnvironment(s.Environ),
		tea.WithColorProfile(colorprofile.Env(s.Environ)), tea.WithWindowSize(s.Size.Cols, s.Size.Rows),
		tea.WithoutSignalHandler(),
	)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case sz := <-s.Sizes:
				p.Send(tea.WindowSizeMsg{Width: sz.Cols, Height: sz.Rows})
			}
		}
	})
	_, err := p.Run()
	cancel()
	wg.Wait()
	if err != nil && !errors.Is(err, tea.ErrProgramKilled) {
		return 1
	}
	return 0
}

// usage is what a process can leak.
type usage struct {
	goroutines, descriptors int
	heap                    uint64
}

func measure(t testing.TB) usage {
	t.Helper()
	runtime.GC()
	runtime.GC() // finalizers of the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), len(descriptors(t)), m.HeapAlloc}
}

// settles waits until nothing is left of what the clients made the server hold.
func settles(t *testing.T, h *host, before usage) {
	t.Helper()
	eventually(t, "all connections are gone", func() bool { return h.connections() == 0 })
	var now usage
	eventually(t, fmt.Sprintf("back to %+v", before), func() bool {
		now = measure(t)
		return now.goroutines <= before.goroutines && now.descriptors <= before.descriptors
	})
	if grown := int64(now.heap) - int64(before.heap); grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	t.Logf("before %+v, after %+v", before, now)
}

// Clients that resize and vanish, leave in order, or vanish in the middle of a
// storm, leave goroutines, descriptors and memory where they were.
func TestDefect02VanishingClientsLeaveNothing(t *testing.T) {
	const atOnce = 16
	h := start(t, func(c *Config) { c.UI = teaUI })
	one := func(i int) error {
		c, err := h.tryDial(h.clientConfig(h.key.signer))
		if err != nil {
			return err
		}
		s, err := c.NewSession()
		if err != nil {
			return err
		}
		out := &awaited{want: "size ", seen: make(chan struct{})}
		s.Stdout = out
		in, err := s.StdinPipe()
		if err != nil {
			return err
		}
		if err := errors.Join(s.RequestPty("xterm-256color", 24, 80, nil), s.Shell()); err != nil {
			return err
		}
		select {
		case <-out.seen:
		case <-time.After(patience):
			return fmt.Errorf("no first screen: %q", out.String())
		}
		for n := range 200 {
			if _, err := s.SendRequest("window-change", false, windowChange(uint32(40+n%100), uint32(10+n%50))); err != nil {
				return err
			}
			if i%3 == 1 && n == 20+i%100 {
				c.vanish()
				return nil
			}
		}
		if i%3 == 2 {
			_, _ = io.WriteString(in, "q")
			if err := s.Wait(); err != nil {
				return fmt.Errorf("quit: %w", err)
			}
			return c.Close()
		}
		c.vanish()
		return nil
	}
	must(t, one(2)) // whatever is made once is made now
	eventually(t, "the first is gone", func() bool { return h.connections() == 0 })
	before := measure(t)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range stormClients {
		g.Go(func() error { return one(i) })
	}
	must(t, g.Wait())
	settles(t, h, before)
}

// awaited collects output and says when a text appeared in it.
type awaited struct {
	lockedBuffer
	want string
	seen chan struct{}
	once sync.Once
}

func (a *awaited) Write(p []byte) (int, error) {
	n, err := a.lockedBuffer.Write(p)
	if strings.Contains(a.String(), a.want) {
		a.once.Do(func() { close(a.seen) })
	}
	return n, err
}

// Windows of a shared connection are closed; the master stays. Nothing of them
// goes on, and the process is idle.
func TestDefect03ClosedWindowsOfAMasterUseNoCPU(t *testing.T) {
	ended := make(chan struct{}, 8)
	h := start(t, func(c *Config) {
		// A master whose window was killed says so only when it next wakes up: the
		// keepalive wakes it.
		c.Limits.KeepAlive, c.Limits.KeepAliveMissed = 100*time.Millisecond, 100
		c.UI = func(ctx context.Context, s *Session) int {
			defer func() { ended <- struct{}{} }()
			return teaUI(ctx, s)
		}
	})
	control := filepath.Join(t.TempDir(), "c")
	opts := append([]string{"-o", "ControlPath=" + control}, h.sshOptions(h.key)...)
	master := exec.Command(program(t, "ssh"), append([]string{"-M", "-N"}, opts...)...)
	must(t, master.Start())
	defer func() { _ = master.Process.Kill(); _ = master.Wait() }()
	eventually(t, "the master is up", func() bool { return fileExists(control) })
	before := runtime.NumGoroutine()
	for range 5 {
		out := &awaited{want: "size ", seen: make(chan struct{})}
		window := exec.Command(program(t, "ssh"), append([]string{"-tt"}, opts...)...)
		window.Stdout = out
		stdin, err := window.StdinPipe() // open, as a terminal is
		must(t, err)
		must(t, window.Start())
		wait(t, "its screen", out.seen)
		must(t, window.Process.Kill())
		_ = window.Wait()
		_ = stdin.Close()
		wait(t, "the UI ends with its window", ended)
	}
	eventually(t, "goroutines of the windows are gone", func() bool { return runtime.NumGoroutine() <= before })
	if n := h.connections(); n != 1 {
		t.Errorf("%d connections, want the master's", n)
	}
	const span = 300 * time.Millisecond
	start := cpu(t)
	time.Sleep(span) // measuring what happens when nothing happens takes time
	if used := cpu(t) - start; used > span/5 {
		t.Errorf("%v of CPU in %v with no session open", used, span)
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Clients killed outright in the middle of a session, as by the kernel.
func TestKilledOpenSSHClientsLeaveNothing(t *testing.T) {
	h := start(t, func(c *Config) { c.UI = teaUI })
	kill := func() {
		out := &awaited{want: "size ", seen: make(chan struct{})}
		cmd := exec.Command(program(t, "ssh"), append([]string{"-tt"}, h.sshOptions(h.key)...)...)
		cmd.Stdout = out
		stdin, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		wait(t, "its screen", out.seen)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		_ = stdin.Close()
	}
	kill()
	eventually(t, "the first is gone", func() bool { return h.connections() == 0 })
	before := measure(t)
	for range 5 {
		kill()
	}
	settles(t, h, before)
}

// A client that answers but does not read makes its own UI wait; neighbours and
// the server's end do not.
func TestClientThatDoesNotReadBlocksNobodyElse(t *testing.T) {
	full, unblocked := make(chan struct{}), make(chan error, 1)
	h := start(t, func(c *Config) {
		c.Limits.Drain = 50 * time.Millisecond
		c.UI = func(_ context.Context, s *Session) int {
			var err error
			for n := 0; err == nil; n++ {
				if n == 100 { // 3 MB: more than any client's first window
					close(full)
				}
				_, err = s.Out.Write(make([]byte, 32<<10))
			}
			unblocked <- err
			return 0
		}
	})
	c := h.dial()
	ch, reqs, err := c.OpenChannel("session", nil)
	must(t, err)
	go gossh.DiscardRequests(reqs)
	pty := gossh.Marshal(struct {
		Term                     string
		Cols, Rows, Width, Depth uint32
		Modes                    string
	}{"xterm", 80, 24, 0, 0, ""})
	if ok, err := ch.SendRequest("pty-req", true, pty); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := ch.SendRequest("shell", true, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if got := c.exec(t, "help"); got.status != 0 {
		t.Errorf("the same connection: %v", got)
	}
	if got := h.dial().exec(t, "help"); got.status != 0 {
		t.Errorf("another connection: %v", got)
	}
	select {
	case <-full:
		t.Error("the UI could write without end")
	default:
	}
	must(t, h.stop())
	if err := wait(t, "the UI is let go", unblocked); err == nil {
		t.Error("a write into nowhere succeeded")
	}
}
