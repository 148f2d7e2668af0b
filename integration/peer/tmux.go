// Package peer starts the real programs Towline meets, for tests: tmux as the
// terminal, OpenSSH, the stock Codex, and Towline's own binary. Everything it
// starts ends with the test that asked for it.
package peer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Patience bounds every wait for a screen. Machines are slow and shared; a
// screen that never comes is still noticed.
const Patience = 45 * time.Second

// Terminal is a program on a real terminal: a tmux server of its own.
type Terminal struct {
	t      testing.TB
	socket string
}

// Need fails in CI, and skips elsewhere with what is lacking, unless every
// program is on the PATH (sshd also in /usr/sbin).
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if _, err := os.Stat("/usr/sbin/" + p); err == nil {
			continue
		}
		Lacking(t, p+" is not installed")
	}
}

// Lacking skips the test and says why; in CI, which must lack nothing, it fails.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING in CI: %s", what)
	}
	t.Skipf("SKIPPED, LACKING: %s", what)
}

// Open runs argv in a terminal of cols x rows with exactly the environment env
// (nil: a plain one) plus TERM. The terminal stays when the program ends, and
// then shows its exit status as [exit N]; Ctrl-C is for the program alone.
func Open(t testing.TB, cols, rows int, env []string, argv ...string) *Terminal {
	t.Helper()
	Need(t, "tmux")
	dir, err := os.MkdirTemp("", "tmux")
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("tmux", "-S", term.socket, "capture-pane", "-p", "-t", "t").Output() //nolint:noctx // short
			t.Logf("the terminal of %.80q shows at the end:\n%s", argv, bytes.TrimSpace(out))
		}
		_ = exec.Command("tmux", "-S", term.socket, "kill-server").Run() //nolint:noctx // the test's context is over; gone is as good
		_ = os.RemoveAll(dir)
	})
	if env == nil {
		env = Environ(t)
	}
	var script strings.Builder
	script.WriteString("exec env -i TERM=\"$TERM\"")
	for _, kv := range env {
		script.WriteString(" " + quote(kv))
	}
	script.WriteString(" sh -c " + quote(`trap : INT; "$@"; printf '\n[exit %d]\n' $?; exec sleep 3600`) + " sh")
	for _, a := range argv {
		script.WriteString(" " + quote(a))
	}
	term.tmux("-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows), script.String())
	return term
}

// Environ is the environment of a plain user with nothing configured.
func Environ(t testing.TB) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8", "LC_ALL=C.UTF-8"}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (p *Terminal) tmux(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "tmux", append([]string{"-S", p.socket}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Screen is what the terminal shows now.
func (p *Terminal) Screen() string { p.t.Helper(); return p.tmux("capture-pane", "-p", "-t", "t") }

// Scrollback is the screen with everything that scrolled off it.
func (p *Terminal) Scrollback() string {
	p.t.Helper()
	return p.tmux("capture-pane", "-p", "-S", "-", "-t", "t")
}

// Keys presses keys by tmux's names: "Enter", "Escape", "C-c", "Up".
func (p *Terminal) Keys(keys ...string) {
	p.t.Helper()
	p.tmux(append([]string{"send-keys", "-t", "t"}, keys...)...)
}

// Type types text as a person would.
func (p *Terminal) Type(text string) { p.t.Helper(); p.tmux("send-keys", "-t", "t", "-l", text) }

// Paste inserts text as a bracketed paste.
func (p *Terminal) Paste(text string) {
	p.t.Helper()
	p.tmux("set-buffer", "--", text)
	p.tmux("paste-buffer", "-p", "-t", "t")
}

// Resize changes the terminal's size under the running program.
func (p *Terminal) Resize(cols, rows int) {
	p.t.Helper()
	p.tmux("resize-window", "-t", "t", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows))
}

// PID is the process of the program (of the shell around it).
func (p *Terminal) PID() string {
	p.t.Helper()
	return strings.TrimSpace(p.tmux("display-message", "-p", "-t", "t", "#{pane_pid}"))
}

// Wait waits until the screen contains every one of want and returns it.
func (p *Terminal) Wait(want ...string) string {
	p.t.Helper()
	return p.until(fmt.Sprintf("%q", want), func(s string) bool {
		for _, w := range want {
			if !strings.Contains(s, w) {
				return false
			}
		}
		return true
	})
}

// Shows reports whether the screen contains text within d.
func (p *Terminal) Shows(text string, d time.Duration) bool {
	p.t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(30 * time.Millisecond) {
		if strings.Contains(p.Screen(), text) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// WaitGone waits until the screen no longer contains text.
func (p *Terminal) WaitGone(text string) string {
	p.t.Helper()
	return p.until("no "+text, func(s string) bool { return !strings.Contains(s, text) })
}

// WaitMatch waits until the screen matches the pattern.
func (p *Terminal) WaitMatch(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	return p.until(pattern, re.MatchString)
}

// until polls the screen: a terminal has no event for "something was drawn".
func (p *Terminal) until(what string, ok func(string) bool) string {
	p.t.Helper()
	end := time.Now().Add(Patience)
	for {
		s := p.Screen()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			p.t.Fatalf("the screen never showed %s; it shows:\n%s", what, s)
		}
		time.Sleep(30 * time.Millisecond)
	}
}
