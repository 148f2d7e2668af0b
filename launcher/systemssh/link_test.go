package systemssh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// usersMaster runs a control master as the user's own configuration would, and
// waits until it listens.
func usersMaster(t *testing.T, s *setting, alias string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(remotetest.Program(t, "ssh"), "-F", s.ConfigFile, "-v", "-M", "-N", "-o", "ControlPersist=no", alias)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the control master said:\n%s", &said)
		}
	})
	for end := time.Now().Add(remotetest.Bound); !MasterAlive(t.Context(), s.Target); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the control master does not come up")
		}
	}
	return cmd
}

func TestUsersControlMasterIsShared(t *testing.T) {
	d := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, d.Addr)
	s := newSetting(t, "box", host("box", d, relay.Port())+"  ControlPath DIR/cm-%C\n")
	s.knows("box", d)
	if MasterAlive(t.Context(), s.Target) {
		t.Fatal("a master is alive that nobody started")
	}
	usersMaster(t, s, "box")
	s.Program = "no-such-ssh" // none is needed
	c := s.must()
	want := []string{"dial@box", "dial@box ok", "host key@box", "host key@box ok", "authenticate@box", "authenticate@box ok"}
	if diff := cmp.Diff(want, s.events.stages()); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if out, _, err := remotetest.Run(t, c, "echo hi"); out != "hi\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	if conn, err := c.DialTCP(t.Context(), fmt.Sprintf("127.0.0.1:%d", closedPort(t))); err == nil {
		_ = conn.Close()
		t.Error("a port nobody listens on was dialed")
	}
	if relay.Count() != 1 || d.Logins() != 1 {
		t.Errorf("%d connections, %d logins", relay.Count(), d.Logins())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !MasterAlive(t.Context(), s.Target) {
		t.Error("closing ended the user's own control master")
	}
	t.Run("conformance", func(t *testing.T) {
		s.Program = "ssh"
		var lacks []string
		if r, err := releaseOf(t.Context(), "ssh"); err != nil || !r.atLeast(9, 4) {
			lacks = append(lacks, remotetest.UnixSockets)
		}
		remotetest.Conformance(t, func() remote.Conn { return s.must() }, lacks...)
		if relay.Count() != 1 {
			t.Errorf("%d connections", relay.Count())
		}
	})
}

func TestUsersControlMasterEnds(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port)+"  ControlPath DIR/cm-%C\n")
	s.knows("box", d)
	master := usersMaster(t, s, "box")
	c := s.must()
	_ = master.Process.Kill()
	wait(t, "the end of the connection", c.Done())
	if c.Err() == nil {
		t.Error("no reason is given")
	}
	// What is left is a socket nobody listens on: then we log in ourselves.
	c = s.must()
	if out, _, err := remotetest.Run(t, c, "echo hi"); out != "hi\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	if d.Logins() != 2 {
		t.Errorf("%d logins", d.Logins())
	}
}

// A master behind a link that went silent is noticed, although it has no
// keepalive of its own.
func TestUsersControlMasterOnADeadLink(t *testing.T) {
	d := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, d.Addr)
	s := newSetting(t, "box", host("box", d, relay.Port())+"  ControlPath DIR/cm-%C\n")
	s.knows("box", d)
	usersMaster(t, s, "box")
	s.beat = time.Second
	c := s.must()
	if out, _, err := remotetest.Run(t, c, "sleep 3; echo hi"); out != "hi\n" || err != nil {
		t.Errorf("a living link was given up: %q, %v", out, err)
	}
	relay.Stall(true)
	wait(t, "noticing the dead peer", c.Done())
	if c.Err() == nil || !strings.Contains(c.Err().Error(), "no answer from box") {
		t.Errorf("because of %v", c.Err())
	}
}

func TestAControlMasterThatAsksIsLeftAlone(t *testing.T) {
	d := remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("box", d, d.Port)+"  ControlPath DIR/cm-%C\n")
	s.knows("box", d)
	usersMaster(t, s, "box")
	s.Target.ControlMaster = "autoask"
	if MasterAlive(t.Context(), s.Target) {
		t.Error("it counts as alive")
	}
	s.must()
	if d.Logins() != 2 {
		t.Errorf("%d logins", d.Logins())
	}
}

func TestJumpHosts(t *testing.T) {
	one, two, last := remotetest.StartSSHD(t), remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	file := host("one", one, one.Port) + host("two", two, two.Port) + host("box", last, last.Port) + "  ProxyJump one,two\n"
	s := newSetting(t, "box", strings.ReplaceAll(file, two.Key+"\n", two.EncryptedKey+"\n"))
	s.knows("one", one)
	s.knows("two", two)
	s.knows("box", last)
	p := &person{secret: func(remote.SecretQuestion) (string, error) { return remotetest.Passphrase, nil }}
	s.Ask = p
	c := s.must()
	var want []string
	for _, hop := range []string{"one", "two", "box"} {
		for _, stage := range []string{"dial", "host key", "authenticate"} {
			want = append(want, stage+"@"+hop)
			if hop == "two" && stage == "authenticate" {
				want = append(want, stage+"@"+hop+" waiting")
			}
			want = append(want, stage+"@"+hop+" ok")
		}
	}
	if diff := cmp.Diff(want, s.events.stages()); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if len(p.secrets) != 1 || p.secrets[0].Hop != "two" || p.secrets[0].Subject != two.EncryptedKey {
		t.Errorf("asked %+v", p.secrets)
	}
	if out, _, err := remotetest.Run(t, c, "echo hi"); out != "hi\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	if one.Logins() != 1 || two.Logins() != 1 || last.Logins() != 1 {
		t.Errorf("logins: %d, %d, %d", one.Logins(), two.Logins(), last.Logins())
	}
	two.Stop()
	wait(t, "the end of the connection", c.Done())
}

// A jump host is dialed by an ssh of its own, which remembers by its own rules.
func TestUnknownJumpHost(t *testing.T) {
	jump, last := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	s := newSetting(t, "box", host("jump", jump, jump.Port)+host("box", last, last.Port)+"  ProxyJump jump\n")
	p := &person{key: func(q remote.HostKeyQuestion) (remote.Decision, error) {
		if q.Hop == "jump" {
			return remote.AcceptSave, nil
		}
		return remote.AcceptOnce, nil
	}}
	s.Ask = p
	s.must()
	if len(p.keys) != 2 || p.keys[0].Hop != "jump" || p.keys[0].Fingerprint != fingerprintOf(t, jump) || p.keys[1].Hop != "box" || p.keys[1].Fingerprint != fingerprintOf(t, last) {
		t.Errorf("asked %+v", p.keys)
	}
	known, err := os.ReadFile(s.known())
	if err != nil || !bytes.HasPrefix(known, []byte("jump ssh-ed25519 ")) || bytes.Count(known, []byte("\n")) != 1 {
		t.Errorf("remembered (%v):\n%s", err, known)
	}
}

func TestJumpHostFailures(t *testing.T) {
	jump, last := remotetest.StartSSHD(t), remotetest.StartSSHD(t)
	closed := remotetest.StartSSHD(t, "AllowTcpForwarding no")
	gonePort := closedPort(t)
	for name, tc := range map[string]struct {
		jump    string
		port    int
		stage   string
		hop     string
		answer  remote.Decision
		want    []string
		unknown bool
	}{
		"is not there":       {jump: host("jump", jump, gonePort), stage: remote.StageDial, hop: "jump", want: []string{"jump host jump: ", "refused"}},
		"does not let us in": {jump: strings.ReplaceAll(host("jump", jump, jump.Port), jump.Key+"\n", jump.StrangerKey+"\n"), stage: remote.StageAuth, hop: "jump", want: []string{"jump host jump: ", "Permission denied"}},
		"forbids going on":   {jump: host("jump", closed, closed.Port), stage: remote.StageDial, hop: "box", want: []string{"prohibited", "AllowTcpForwarding"}},
		"cannot go on":       {jump: host("jump", jump, jump.Port), port: gonePort, stage: remote.StageDial, hop: "box", want: []string{"refused", "cannot reach"}},
		"is unknown, once":   {jump: host("jump", jump, jump.Port), unknown: true, answer: remote.AcceptOnce, stage: remote.StageHostKey, hop: "jump", want: []string{"just once", "for good"}},
	} {
		t.Run(name, func(t *testing.T) {
			port := last.Port
			if tc.port != 0 {
				port = tc.port
			}
			s := newSetting(t, "box", tc.jump+host("box", last, port)+"  ProxyJump jump\n")
			if !tc.unknown {
				s.knows("jump", jump)
				if strings.Contains(tc.jump, fmt.Sprint(closed.Port)) {
					_ = os.Remove(s.known())
					s.knows("jump", closed)
				}
			}
			s.knows("box", last)
			p := &person{key: func(remote.HostKeyQuestion) (remote.Decision, error) { return tc.answer, nil }}
			s.Ask = p
			c, err := s.dial()
			if err == nil {
				_ = c.Close()
				t.Fatal("it worked")
			}
			text := explained(t, err, tc.stage)
			for _, w := range tc.want {
				if !strings.Contains(text, w) {
					t.Errorf("no word of %q in:\n%s", w, text)
				}
			}
			all := s.events.stages()
			if end := all[len(all)-1]; end != tc.stage+"@"+tc.hop+" failed" {
				t.Errorf("the story ends with %q", end)
			}
			if tc.unknown && (len(p.keys) != 1 || p.keys[0].Hop != "jump") {
				t.Errorf("asked %+v", p.keys)
			}
		})
	}
}

// What a configuration wants of a terminal session does not touch ours.
func TestOptionsForTerminalsAreNeutralised(t *testing.T) {
	d := remotetest.StartSSHD(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	mark := filepath.Join(t.TempDir(), "local")
	s := newSetting(t, "box", host("box", d, d.Port)+fmt.Sprintf("  RemoteCommand tmux attach\n  RequestTTY force\n  ExitOnForwardFailure yes\n"+
		"  LocalForward %s 127.0.0.1:1\n  PermitLocalCommand yes\n  LocalCommand touch %s\n  LogLevel QUIET\n  ControlMaster auto\n  ControlPath DIR/cm\n  ControlPersist yes\n"+
		"  ForkAfterAuthentication yes\n  StdinNull yes\n  SessionType default\n  ForwardX11 yes\n", taken.Addr(), mark))
	s.knows("box", d)
	for _, single := range []bool{false, true} {
		t.Run(fmt.Sprintf("single channel %v", single), func(t *testing.T) {
			s.SingleChannel = single
			c := s.must()
			if out, _, err := remotetest.Run(t, c, "tty || echo no tty"); out != "not a tty\nno tty\n" || err != nil {
				t.Errorf("got %q, %v", out, err)
			}
			if len(s.events.details()) == 0 {
				t.Error("QUIET silenced the details")
			}
		})
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("LocalCommand was run")
	}
	if MasterAlive(t.Context(), s.Target) {
		t.Error("a control master of the user's was started")
	}
}

func TestForwardingForbidden(t *testing.T) {
	d := remotetest.StartSSHD(t, "AllowTcpForwarding no", "AllowStreamLocalForwarding no")
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	c := s.must()
	if out, _, err := remotetest.Run(t, c, "echo hi"); out != "hi\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	if conn, err := c.DialTCP(t.Context(), "127.0.0.1:22"); err == nil || !strings.Contains(err.Error(), "box does not allow opening 127.0.0.1:22 (AllowTcpForwarding)") {
		t.Errorf("DialTCP: %v, %v", conn, err)
	}
	if conn, err := c.DialUnix(t.Context(), "/nothing"); err == nil || !strings.Contains(err.Error(), "AllowStreamLocalForwarding") {
		t.Errorf("DialUnix: %v, %v", conn, err)
	}
}

func TestForceCommand(t *testing.T) {
	d := remotetest.StartSSHD(t, `ForceCommand echo "forced instead of $SSH_ORIGINAL_COMMAND"`)
	s := newSetting(t, "box", host("box", d, d.Port))
	s.knows("box", d)
	c := s.must() // logging in is not the command's business
	if out, _, err := remotetest.Run(t, c, "echo hi"); out != "forced instead of echo hi\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestServerGoes(t *testing.T) {
	d := remotetest.StartSSHD(t)
	relay := remotetest.StartRelay(t, d.Addr)
	for name, end := range map[string]func(){
		"the link is cut":       relay.Cut,
		"the server goes":       d.Drop,
		"the link goes silent":  func() { relay.Stall(true) },
		"ssh itself is killed":  nil,
		"somebody exits by -O ": nil,
	} {
		t.Run(name, func(t *testing.T) {
			relay.Stall(false)
			s := newSetting(t, "box", host("box", d, relay.Port())+"  ServerAliveInterval 1\n  ServerAliveCountMax 2\n")
			s.knows("box", d)
			c := s.must()
			p, err := c.Exec(t.Context(), "echo up; cat", remote.ExecOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if _, err := p.Stdout().Read(make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			m := c.(*mux)
			switch {
			case end != nil:
				end()
			case strings.HasPrefix(name, "ssh"):
				_ = m.login.child.cmd.Process.Kill()
			default:
				out, err := exec.Command("ssh", "-F", "none", "-S", m.login.dir.file(masterName), "-O", "exit", "x").CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			wait(t, "noticing", c.Done())
			var e *Error
			if !errors.As(c.Err(), &e) || e.Cause == "" {
				t.Errorf("because of %v", c.Err())
			}
			if err := p.Wait(); err == nil {
				t.Error("the command ended well")
			}
			if _, err := c.Exec(t.Context(), "true", remote.ExecOptions{}); err == nil {
				t.Error("Exec works on")
			}
			s.empty()
		})
	}
}

// closedPort is a port nobody listens on.
func closedPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
