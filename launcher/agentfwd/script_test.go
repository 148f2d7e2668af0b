package agentfwd

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towline/launcher/remote/remotetest"
)

// keep runs a keeper under some shell, and returns its stdin and lines.
func keep(t *testing.T, home, sock, id string, argv ...string) (io.WriteCloser, *bufio.Reader, *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), remotetest.Bound)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"HOME=" + home, "TOWLINE_HOME=" + home, "SSH_AUTH_SOCK=" + sock, "PATH=" + os.Getenv("PATH")}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := io.WriteString(in, script("MARK", id)); err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewReader(out), cmd
}

func said(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("the script said %q, then %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func sockets(t *testing.T, names ...string) (home string, paths []string) {
	t.Helper()
	home, err := os.MkdirTemp("", "ah")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	for _, n := range names {
		l, err := net.Listen("unix", filepath.Join(home, n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		paths = append(paths, l.Addr().String())
	}
	return home, paths
}

// The remote's sh is whatever it is, and so is the login shell in front of it.
func TestKeeperUnderManyShells(t *testing.T) {
	for name, shell := range map[string][]string{
		"dash": {"dash"}, "bash": {"bash", "--posix"}, "busybox": {"busybox", "sh"}, "mksh": {"mksh"}, "zsh as sh": {"zsh", "--emulate", "sh"},
	} {
		t.Run(name, func(t *testing.T) {
			remotetest.Program(t, shell[0])
			home, socks := sockets(t, "one", "two")
			run := func(sock, id string) (io.WriteCloser, *bufio.Reader, *exec.Cmd) {
				inner, _ := strings.CutPrefix(command(script("MARK", id)), "/bin/sh -c '")
				return keep(t, home, sock, id, append(shell, "-c", strings.TrimSuffix(inner, "'"))...)
			}
			exercise(t, home, socks, run)
		})
	}
	for name, shell := range map[string][]string{
		"fish": {"fish", "-c"}, "csh": {"csh", "-c"}, "zsh": {"zsh", "-c"}, "bash": {"bash", "-c"},
	} {
		t.Run("login shell "+name, func(t *testing.T) {
			remotetest.Program(t, shell[0])
			home, socks := sockets(t, "one", "two")
			run := func(sock, id string) (io.WriteCloser, *bufio.Reader, *exec.Cmd) {
				return keep(t, home, sock, id, append(shell, command(script("MARK", id)))...)
			}
			exercise(t, home, socks, run)
		})
	}
}

// exercise lets two keepers come, claim and go.
func exercise(t *testing.T, home string, socks []string, run func(sock, id string) (io.WriteCloser, *bufio.Reader, *exec.Cmd)) {
	t.Helper()
	path := filepath.Join(home, "run", "agent.sock")
	leads := func(to string) {
		t.Helper()
		got, err := filepath.EvalSymlinks(path)
		want, _ := filepath.EvalSymlinks(to)
		if err != nil || got != want {
			t.Errorf("the path leads to %s (%v), not %s", got, err, to)
		}
	}
	ready := "MARK ready " + path
	in1, out1, one := run(socks[0], "idone")
	if got := said(t, out1); got != ready {
		t.Fatalf("said %q", got)
	}
	leads(socks[0])
	in2, out2, two := run(socks[1], "idtwo")
	if got := said(t, out2); got != ready {
		t.Fatalf("said %q", got)
	}
	leads(socks[1])
	if _, err := io.WriteString(in1, "claim\n"); err != nil {
		t.Fatal(err)
	}
	if got := said(t, out1); got != ready {
		t.Fatalf("said %q", got)
	}
	leads(socks[0])
	_ = in1.Close()
	if err := one.Wait(); err != nil {
		t.Errorf("the first ended with %v", err)
	}
	leads(socks[1])
	_ = in2.Close()
	if err := two.Wait(); err != nil {
		t.Errorf("the second ended with %v", err)
	}
	for _, p := range []string{path, filepath.Join(home, "run", "agents", "idone"), filepath.Join(home, "run", "agents", "idtwo")} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("%s is left", p)
		}
	}
}

func TestKeeperRefuses(t *testing.T) {
	home, socks := sockets(t, "one")
	for name, tc := range map[string]struct{ sock, want string }{
		"no agent":                 {"", "MARK refused the server gave this connection no agent"},
		"an agent that is gone":    {filepath.Join(home, "gone"), "MARK refused the server's agent socket is not there"},
		"its own path, from an rc": {filepath.Join(home, "run", "agent.sock"), "MARK refused the shell's startup files replace SSH_AUTH_SOCK"},
	} {
		t.Run(name, func(t *testing.T) {
			_, out, cmd := keep(t, home, tc.sock, "id", "/bin/sh", "-c", command(script("MARK", "id")))
			if got := said(t, out); got != tc.want {
				t.Errorf("said %q", got)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("a folder that cannot be", func(t *testing.T) {
		file := filepath.Join(home, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, out, _ := keep(t, file, socks[0], "id", "/bin/sh", "-c", command(script("MARK", "id")))
		if got := said(t, out); !strings.HasPrefix(got, "MARK refused no private folder at "+file) {
			t.Errorf("said %q", got)
		}
	})
}

// Those who were killed leave links behind. The next to come removes them.
func TestKeeperSweepsTheDead(t *testing.T) {
	home, socks := sockets(t, "one")
	agents := filepath.Join(home, "run", "agents")
	if err := os.MkdirAll(agents, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dead := range []string{"dead1", "dead2"} {
		if err := os.Symlink(filepath.Join(home, dead), filepath.Join(agents, dead)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("agents/dead1", filepath.Join(home, "run", "agent.sock")); err != nil {
		t.Fatal(err)
	}
	in, out, cmd := keep(t, home, socks[0], "mine", "/bin/sh", "-c", command(script("MARK", "mine")))
	if got := said(t, out); !strings.HasPrefix(got, "MARK ready ") {
		t.Fatalf("said %q", got)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(agents); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Lstat(filepath.Join(home, "run", "agent.sock")); err == nil {
		t.Error("the stable path is left")
	}
}

func TestLocateIsWhereTowlineLooks(t *testing.T) {
	for name, tc := range map[string]struct {
		env  []string
		want string
	}{
		"a home of its own": {[]string{"TOWLINE_HOME=/t", "XDG_RUNTIME_DIR=/run/user/1", "HOME=/h"}, "/t/run/agent.sock"},
		"a runtime folder":  {[]string{"XDG_RUNTIME_DIR=/run/user/1", "HOME=/h"}, "/run/user/1/towline/agent.sock"},
		"a relative one":    {[]string{"XDG_RUNTIME_DIR=run", "HOME=/h"}, "/h/.local/state/towline/run/agent.sock"},
		"a state folder":    {[]string{"XDG_STATE_HOME=/s", "HOME=/h"}, "/s/towline/run/agent.sock"},
		"a home":            {[]string{"HOME=/h h"}, "/h h/.local/state/towline/run/agent.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", Locate+`; printf %s "$towline_agent"`)
			cmd.Env = tc.env
			out, err := cmd.Output()
			if string(out) != tc.want || err != nil {
				t.Errorf("got %q, %v; want %q", out, err, tc.want)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add("MARK ready /run/user/1000/towline/agent.sock\n")
	f.Add("Welcome!\x1b[1m MARK refused no agent\r\n")
	f.Add("MARK \n")
	f.Fuzz(func(t *testing.T, line string) {
		word, rest, ok := parseLine(line, "MARK")
		if ok && word != "ready" && word != "refused" {
			t.Errorf("accepted %q", word)
		}
		if ok && !strings.Contains(line, "MARK "+word) {
			t.Errorf("%q %q made up from %q", word, rest, line)
		}
	})
}
