package systemssh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestSingleChannel(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	s.SingleChannel = true
	c := s.must()
	if got := s.events.stages(); got[len(got)-1] != "authenticate@box ok" {
		t.Errorf("stages: %q", got)
	}
	if !strings.HasPrefix(c.Server(), "SSH-2.0-OpenSSH_") {
		t.Errorf("server is %q", c.Server())
	}
	p, err := c.Exec(t.Context(), "printf '<%s>' 'a  b' '\\' \"it's\"\ncat; printf 'no line end' >&2; exit 7", remote.ExecOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "true", remote.ExecOptions{}); !errors.Is(err, errSingle) {
		t.Errorf("a second Exec: %v", err)
	}
	if _, err := c.DialTCP(t.Context(), "127.0.0.1:22"); !errors.Is(err, errForward) {
		t.Errorf("DialTCP: %v", err)
	}
	if _, err := c.DialUnix(t.Context(), "/s"); !errors.Is(err, errForward) {
		t.Errorf("DialUnix: %v", err)
	}
	var errs bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&errs, p.Stderr()) })
	data := bytes.Repeat([]byte("0123456789abcde\n"), 200<<10/16)
	wg.Go(func() { _, _ = p.Stdin().Write(data); _ = p.Stdin().Close() })
	out, err := io.ReadAll(p.Stdout())
	if err != nil || string(out) != `<a  b><\><it's>`+string(data) {
		t.Errorf("%d bytes came back, %v: %.40q", len(out), err, out)
	}
	wg.Wait()
	var exit *remote.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Status != 7 {
		t.Errorf("ended with %v", err)
	}
	if errs.String() != "no line end" {
		t.Errorf("stderr is %q", &errs)
	}
	wait(t, "the end of the connection", c.Done())
	if c.Err() == nil || d.Logins() != 1 {
		t.Errorf("err %v, %d logins", c.Err(), d.Logins())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.empty()
}

func TestSingleChannelEnds(t *testing.T) {
	d := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, d.Addr)
	open := func(t *testing.T) (remote.Conn, remote.Process) {
		s := newSetting(t, "box", host("box", d, relay.Port()))
		s.knows("box", d)
		s.SingleChannel = true
		c := s.must()
		p, err := c.Exec(t.Context(), "echo up; cat", remote.ExecOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.Stdout(), make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		return c, p
	}
	t.Run("closed", func(t *testing.T) {
		c, p := open(t)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := p.Wait(); err == nil {
			t.Error("the command ended well")
		}
	})
	t.Run("cut", func(t *testing.T) {
		c, p := open(t)
		relay.Cut()
		wait(t, "the end of the connection", c.Done())
		err := p.Wait()
		var e *Error
		if !errors.As(err, &e) || e.Cause == "" {
			t.Errorf("a cut link is a status of the command: %v", err)
		}
	})
	t.Run("255 is a status", func(t *testing.T) {
		s := newSetting(t, "box", host("box", d, d.Port))
		s.knows("box", d)
		s.SingleChannel = true
		_, _, err := remotetest.Run(t, s.must(), "exit 255")
		var exit *remote.ExitError
		if !errors.As(err, &exit) || exit.Status != 255 {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestSingleChannelBehindAShellThatDoesNot(t *testing.T) {
	for name, tc := range map[string]struct{ directive, want string }{
		"runs something else":  {"ForceCommand echo go away >&2; exit 1", "go away"},
		"talks without an end": {"ForceCommand yes", "too much"},
	} {
		t.Run(name, func(t *testing.T) {
			d := remotetest.StartSSHD(t, tc.directive)
			s := newSetting(t, "box", host("box", d, d.Port))
			s.knows("box", d)
			s.SingleChannel = true
			c, err := s.dial()
			if err == nil {
				_ = c.Close()
				t.Fatal("it worked")
			}
			if text := explained(t, err, remote.StageShell); !strings.Contains(text, "ForceCommand") || !strings.Contains(text, tc.want) {
				t.Errorf("got:\n%s", text)
			}
			s.empty()
		})
	}
}

// Whatever a login shell is, it must hand our line of sh on unchanged.
func TestWaiterUnderManyShells(t *testing.T) {
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "csh", "mksh"} {
		t.Run(shell, func(t *testing.T) {
			program := remotetest.Program(t, shell)
			cmd := exec.CommandContext(t.Context(), program, "-c", fmt.Sprintf(waiter, "MARK"))
			cmd.Env = []string{"SHELL=" + program, "PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
			cmd.Stdin = strings.NewReader(encodeCommand("echo 'a  b' \\\\; echo second\necho third; cat") + "input")
			out, err := cmd.CombinedOutput()
			if want := "MARK\na  b \\\nsecond\nthird\ninput"; err != nil || strings.ReplaceAll(string(out), `\\`, `\`) != want {
				t.Errorf("got %q, %v; want %q", out, err, want)
			}
		})
	}
}

func TestMoreLogins(t *testing.T) {
	d := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, d.Addr)
	s := newSetting(t, "box", host("box", d, relay.Port()))
	s.knows("box", d)
	who := &person{}
	s.SingleChannel, s.MoreLogins, s.Ask = true, true, who
	c := s.must()
	if told := strings.Join(who.notices, "\n"); !strings.Contains(told, "logs in again for each command") {
		t.Errorf("nobody was told: %q", told)
	}
	before := len(s.events.stages())
	for i := range 3 {
		if out, _, err := remotetest.Run(t, c, fmt.Sprintf("echo %d", i)); out != fmt.Sprintf("%d\n", i) || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
	}
	if d.Logins() != 3 {
		t.Errorf("%d logins for 3 commands", d.Logins())
	}
	if len(s.events.stages()) != before {
		t.Error("later logins told of their stages")
	}
	select {
	case <-c.Done():
		t.Fatalf("a command that ended ended the connection: %v", c.Err())
	default:
	}
	var all []remote.Process
	for range 2 {
		p, err := c.Exec(t.Context(), "echo up; cat", remote.ExecOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.Stdout(), make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	relay.Cut()
	wait(t, "the end of the connection", c.Done())
	for _, p := range all {
		if err := p.Wait(); err == nil {
			t.Error("a command ended well on a cut link")
		}
	}
	if _, err := c.Exec(t.Context(), "true", remote.ExecOptions{}); err == nil {
		t.Error("Exec works on")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c = s.must() // and one nobody uses
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	s.empty()
}
