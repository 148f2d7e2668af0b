//go:build unix

package systemssh

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/launcher/remote/remotetest"
)

// leftover is a control master in a folder whose owner is gone.
func leftover(t *testing.T, s *setting, old time.Duration) (dir string, gone <-chan struct{}) {
	t.Helper()
	if err := os.MkdirAll(s.RuntimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := newRundir(s.RuntimeDir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh", "-F", s.ConfigFile, "-M", "-N", "-S", d.file(masterName), "-o", "ControlPersist=no", "box")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	for end := time.Now().Add(remotetest.Bound); ; time.Sleep(10 * time.Millisecond) {
		if c, err := dialControl(t.Context(), d.file(masterName)); err == nil {
			_ = c.nc.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-old)
	if err := os.Chtimes(d.path, then, then); err != nil {
		t.Fatal(err)
	}
	_ = d.lock.Close() // as the end of the process would
	return d.path, done
}

func TestMastersOfTheDeadAreEnded(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	dir, gone := leftover(t, s, time.Hour)
	young, _ := leftover(t, s, 0)
	mine, err := newRundir(s.RuntimeDir) // of somebody who lives
	if err != nil {
		t.Fatal(err)
	}
	defer mine.remove()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(mine.path, then, then); err != nil {
		t.Fatal(err)
	}
	s.must()
	wait(t, "the end of a forgotten control master", gone)
	if _, err := os.Stat(dir); err == nil {
		t.Error("its folder is still there")
	}
	for _, kept := range []string{young, mine.path} {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("swept what was in use: %v", err)
		}
	}
}

func TestShortFolderForSockets(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 20))
	d, err := newRundir(long)
	if err != nil {
		t.Fatal(err)
	}
	defer d.remove()
	if strings.HasPrefix(d.path, long) || len(d.file(masterName)) > 86 {
		t.Errorf("sockets go to %s", d.path)
	}
	if info, err := os.Stat(d.path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if d, err := newRundir(open); err == nil {
		d.remove()
		t.Error("a folder others can write to was taken")
	}
}

// dyingEnv makes this test binary dial, say so, and wait to be killed.
const dyingEnv = "TOWLINE_TEST_DYING"

// A program that is killed leaves no ssh behind, where the kernel can see to it.
func TestNoSSHOutlivesUs(t *testing.T) {
	if file := os.Getenv(dyingEnv); file != "" {
		s := newSetting(t, "box", file)
		known, err := os.ReadFile(os.Getenv(dyingEnv + "_KNOWN"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.known(), known, 0o600); err != nil {
			t.Fatal(err)
		}
		c := s.must()
		fmt.Printf("pid %d\n", c.(*mux).login.child.cmd.Process.Pid)
		select {}
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("LACKING: a kernel that ends the children of the dead; the next dial sweeps up instead")
	}
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	ctx, cancel := context.WithTimeout(t.Context(), remotetest.Bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestNoSSHOutlivesUs$")
	cmd.Env = append(os.Environ(), dyingEnv+"="+host("box", d, d.Port), dyingEnv+"_KNOWN="+s.known(), "TMPDIR="+s.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "pid %d", &pid)
	}
	if pid == 0 || !running(pid) {
		t.Fatalf("no ssh runs (pid %d)", pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(remotetest.Bound); running(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("ssh outlives the program that started it")
		}
	}
}

// Who does not know the token is not heard, and no secret is in the environment.
func TestQuestionsNeedTheToken(t *testing.T) {
	a, err := newAsking(t.TempDir(), os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	for _, text := range []string{`{"token":"x","prompt":"p"}` + "\n", "\n", "not json\n"} {
		c, err := net.Dial("unix", a.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(remotetest.Bound))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%q was answered", text)
		}
		_ = c.Close()
	}
	select {
	case q := <-a.questions:
		t.Errorf("asked %q", q.text)
	default:
	}
	t.Setenv(askpassSocket, a.path)
	t.Setenv(askpassToken, a.token)
	t.Setenv(askpassHint, hintConfirm)
	status := make(chan int, 1)
	go func() { status <- Askpass("Allow it?") }()
	q := <-a.questions
	if q.text != "Allow it?" || q.hint != hintConfirm || q.parent != os.Getppid() {
		t.Errorf("asked %+v", q)
	}
	q.reply <- askReply{}
	if got := <-status; got != 1 {
		t.Errorf("a refusal ends with %d", got)
	}
}
