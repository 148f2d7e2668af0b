package sshd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pane is a terminal of its own with a program in it.
type pane struct {
	t    testing.TB
	tmux string
	sock string
}

// newPane runs a shell command in tmux, in a window of that size. It has a
// server of its own, which ends with the test.
func newPane(t testing.TB, size [2]string, command string) *pane {
	t.Helper()
	dir, err := os.MkdirTemp("", "tl") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &pane{t, program(t, "tmux"), filepath.Join(dir, "s")}
	conf := filepath.Join(dir, "conf")
	must(t, os.WriteFile(conf, []byte("set -g status off\nset -g default-terminal screen-256color\nset -g remain-on-exit on\n"), 0o600))
	p.run("-f", conf, "new-session", "-d", "-x", size[0], "-y", size[1], command)
	t.Cleanup(func() { p.run("kill-server") })
	return p
}

func (p *pane) run(args ...string) string {
	p.t.Helper()
	cmd := exec.Command(p.tmux, append([]string{"-S", p.sock}, args...)...)
	cmd.Env = append(os.Environ(), "TMUX=", "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func (p *pane) keys(k ...string) { p.run(append([]string{"send-keys"}, k...)...) }

func (p *pane) shows(text string) {
	p.t.Helper()
	var screen string
	defer func() {
		if p.t.Failed() {
			p.t.Logf("screen:\n%s", screen)
		}
	}()
	eventually(p.t, "the screen shows "+text, func() bool {
		screen = p.run("capture-pane", "-p")
		return strings.Contains(screen, text)
	})
}

func quote(args []string) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "' ")
	}
	return b.String()
}

// A person with the real ssh in a real terminal: first screen, resizes to the
// cell, Ctrl-C as a key, the exit status, and a clean screen after.
func TestPersonAtATerminal(t *testing.T) {
	h := start(t, func(c *Config) { c.UI = teaUI })
	ssh := h.openssh(h.key)
	p := newPane(t, [2]string{"100", "30"}, quote(ssh.Args)+"; echo status=$?")
	p.shows("size 100x30.")
	if screen := p.run("capture-pane", "-p"); !strings.HasPrefix(screen, "first line\nsize") {
		t.Errorf("lines do not start at the left:\n%s", screen)
	}
	for _, size := range [][2]string{{"60", "20"}, {"120", "40"}, {"80", "24"}} {
		p.run("resize-window", "-x", size[0], "-y", size[1])
		p.shows("size " + size[0] + "x" + size[1] + ".")
	}
	p.keys("C-c")
	p.shows("status=0")
	if screen := p.run("capture-pane", "-p"); strings.Contains(screen, "size") {
		t.Errorf("the UI's screen is still there:\n%s", screen)
	}
	eventually(t, "the connection ends", func() bool { return h.connections() == 0 })
}

// The window is closed, as by a window manager.
func TestClosedWindowEndsTheSession(t *testing.T) {
	h := start(t, func(c *Config) { c.UI = teaUI })
	p := newPane(t, [2]string{"80", "24"}, quote(h.openssh(h.key).Args))
	p.shows("size 80x24.")
	p.run("respawn-pane", "-k", "sleep 1000")
	eventually(t, "the connection ends", func() bool { return h.connections() == 0 })
}
