//go:build linux

package bootstrap

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"towline/launcher/remote"
)

// posixShells are what /bin/sh may be; the script is written for all of them.
var posixShells = []string{"dash", "bash", "busybox", "ksh", "mksh", "zsh"}

// eachSh runs f with a host whose /bin/sh is each of the shells installed here.
func eachSh(t *testing.T, f func(t *testing.T, l *local)) {
	for _, name := range posixShells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLocal(t, name)
			if name == "busybox" {
				l.shell = sh(t, l, name+" sh")
			} else {
				l.shell = sh(t, l, name)
			}
			f(t, l)
		})
	}
}

// sh is a login shell that gives "/bin/sh -s" to another shell.
func sh(t *testing.T, l *local, shell string) string {
	return l.write(t, "loginshell", "#!/bin/sh\ncase $2 in '"+Command+"') exec "+shell+" -s ;; esac\nexec /bin/sh \"$@\"\n", 0o755)
}

func (l *local) report(t testing.TB) Report {
	return Report{Home: l.home, Env: map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}, OS: "linux"}.With(Options{Host: "box", EnvTimeout: 5 * time.Second})
}

// gone waits until a process is no more.
func gone(t testing.TB, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d goes on", pid)
		}
	}
}

func TestRunStatusOutputAndArguments(t *testing.T) {
	eachSh(t, func(t *testing.T, l *local) {
		bin := l.write(t, "bin/prog", "#!/bin/sh\nprintf '<%s>' \"$@\"; echo \" $WORD\"; echo complaint >&2; cat; pwd; exit 3\n", 0o755)
		p, err := Run(context.Background(), l, l.report(t), Program{
			Path: bin, Args: []string{"a b", "it's", "$HOME", ""}, Env: map[string]string{"WORD": "x'y"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		out, err := io.ReadAll(p.Stdout())
		if err != nil {
			t.Fatal(err)
		}
		if want := "<a b><it's><$HOME><> x'y\ncomplaint\n" + l.home + "\n"; string(out) != want {
			t.Errorf("it said %q, want %q", out, want)
		}
		var exit *remote.ExitError
		if err := p.Wait(); !errors.As(err, &exit) || exit.Status != 3 {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A program that never reads its input ends when we do, with its children, also
// one that does not listen to a polite request.
func TestRunEndsWithItsChannel(t *testing.T) {
	eachSh(t, func(t *testing.T, l *local) {
		bin := l.write(t, "bin/prog", "#!/bin/sh\ntrap '' TERM HUP INT\nsleep 1000 & echo $$ $!; wait; wait; sleep 1000\n", 0o755)
		p, err := Run(context.Background(), l, l.report(t), Program{Path: bin})
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, err := p.Stdout().Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		pids := strings.Fields(string(buf[:n]))
		if len(pids) != 2 {
			t.Fatalf("it said %q", buf[:n])
		}
		_ = p.Stdin().Close()
		_ = p.Wait()
		_ = p.Close()
		for _, s := range pids {
			pid, _ := strconv.Atoi(s)
			gone(t, pid)
		}
	})
}

// Signs of life keep it; they are not its input.
func TestRunLivesWhileWeShowThatWeAreThere(t *testing.T) {
	eachSh(t, func(t *testing.T, l *local) {
		fifo := filepath.Join(l.home, "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		bin := l.write(t, "bin/prog", "#!/bin/sh\necho up; read x <"+fifo+"; echo \"read $x\"\n", 0o755)
		p, err := Run(context.Background(), l, l.report(t), Program{Path: bin})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		for range 20 {
			if _, err := io.WriteString(p.Stdin(), "\n"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(fifo, []byte("word\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(p.Stdout())
		if string(out) != "up\nread word\n" {
			t.Errorf("it said %q", out)
		}
		if err := p.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A link that is lost without a word ends it too.
func TestRunEndsAfterSilence(t *testing.T) {
	l := newLocal(t, "dash")
	bin := l.write(t, "bin/prog", "#!/bin/sh\necho $$; exec sleep 1000\n", 0o755)
	rep := l.report(t)
	p, err := runSilent(context.Background(), l, rep, Program{Path: bin}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	out, _ := io.ReadAll(p.Stdout()) // ends with the program
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("it said %q", out)
	}
	gone(t, pid)
}

func TestRunLine(t *testing.T) {
	eachSh(t, func(t *testing.T, l *local) {
		seen := filepath.Join(l.home, "seen")
		bin := l.write(t, "bin/prog", "#!/bin/sh\ncat >"+seen+"; tr '\\0' '\\n' </proc/$PPID/environ | grep -c canary; echo done >&2\n", 0o755)
		run := func(text string) {
			t.Helper()
			p, err := Run(context.Background(), l, l.report(t), Program{Path: bin, Input: InputLine})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(p.Stdin(), text); err != nil {
				t.Fatal(err)
			}
			_ = p.Stdin().Close()
			out, _ := io.ReadAll(p.Stdout())
			if s := strings.TrimSpace(string(out)); s != "0" && s != "" {
				t.Errorf("the environment has it: %q", out)
			}
			_ = p.Wait()
			_ = p.Close()
		}
		run("sk-canary-0123_x\nmore\n")
		if b, _ := os.ReadFile(seen); string(b) != "sk-canary-0123_x\n" {
			t.Errorf("the program read %q", b)
		}
		_ = os.Remove(seen)
		run("sk-canary-ha") // the link was cut here
		if b, err := os.ReadFile(seen); err == nil {
			t.Errorf("the program read half a line: %q", b)
		}
	})
}

func TestRunRefusals(t *testing.T) {
	l := newLocal(t, "dash")
	_, err := Run(context.Background(), l, l.report(t), Program{Path: filepath.Join(l.home, "absent")})
	refused(t, err, remote.StageStart, "not there any more", "towline doctor box")
	_, err = Run(context.Background(), l, Report{Door: true}.With(Options{Host: "box"}), Program{Path: "/bin/true"})
	refused(t, err, remote.StageStart, "no /bin/true to run", "towline doctor box")
	_, err = Run(context.Background(), l, l.report(t), Program{Path: "/bin/true", Env: map[string]string{"bad-name": ""}})
	refused(t, err, remote.StageStart, "cannot be an environment variable", "SetEnv")
}
