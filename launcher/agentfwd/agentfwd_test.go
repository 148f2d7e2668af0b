package agentfwd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
	"towline/launcher/sshclient"
	"towline/launcher/systemssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// localAgent is a real ssh-agent with one key in it, whose comment is name.
func localAgent(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ag")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock, key := filepath.Join(dir, "s"), filepath.Join(dir, name)
	remotetest.Keygen(t, key, "")
	cmd := exec.Command(remotetest.Program(t, "ssh-agent"), "-D", "-a", sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(remotetest.Bound); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", sock); err == nil {
			_ = c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	add := exec.Command(remotetest.Program(t, "ssh-add"), "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	return sock
}

// dialer is one of the two ways to make a connection.
type dialer func(ctx context.Context, target sshconfig.Target, file string) (remote.Conn, error)

// eachCarrier runs a test over both.
func eachCarrier(t *testing.T, test func(t *testing.T, dial dialer)) {
	t.Run("system ssh", func(t *testing.T) {
		test(t, func(ctx context.Context, target sshconfig.Target, file string) (remote.Conn, error) {
			return systemssh.Dial(ctx, systemssh.Config{Target: target, ConfigFile: file})
		})
	})
	t.Run("in process", func(t *testing.T) {
		test(t, func(ctx context.Context, target sshconfig.Target, _ string) (remote.Conn, error) {
			return sshclient.Dial(ctx, sshclient.Config{Target: target})
		})
	})
}

// remoteHost is an sshd whose Towline folder is the test's own.
type remoteHost struct {
	t    *testing.T
	d    *remotetest.SSHD
	home string
	with dialer
}

func newRemote(t *testing.T, with dialer, directives ...string) *remoteHost {
	t.Helper()
	remotetest.Program(t, "ssh")
	home, err := os.MkdirTemp("", "th")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	return &remoteHost{t: t, with: with, d: remotetest.StartSSHD(t, append(directives, "SetEnv TOWLINE_HOME="+home)...), home: home}
}

func (r *remoteHost) path() string { return filepath.Join(r.home, "run", "agent.sock") }

// dial makes a connection that forwards an agent, and the target it is to.
func (r *remoteHost) dial(port int, agent string) (remote.Conn, sshconfig.Target) {
	r.t.Helper()
	dir := r.t.TempDir()
	file := filepath.Join(dir, "config")
	text := fmt.Sprintf("Host box\n  HostName 127.0.0.1\n  Port %d\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n"+
		"  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n  ForwardAgent %s\n", port, r.d.User, r.d.Key, agent)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	target, err := sshconfig.Resolve(r.t.Context(), sshconfig.Options{UserFile: file}, "box")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), remotetest.Bound)
	defer cancel()
	c, err := r.with(ctx, target, file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c, target
}

func (r *remoteHost) hold(c remote.Conn, target sshconfig.Target) *Holder {
	r.t.Helper()
	h, err := Hold(r.t.Context(), c, Options{Policy: PolicyFor(target, os.Getenv)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = h.Close() })
	if h.Path() != r.path() {
		r.t.Fatalf("the stable path is %s, not %s", h.Path(), r.path())
	}
	return h
}

// keys is what a program on the remote, as a daemon there would start it, finds
// in its agent.
func (r *remoteHost) keys() string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), remotetest.Bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh-add", "-l")
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+r.path())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return ""
	}
	f := strings.Fields(string(out)) // bits, fingerprint, comment, (type)
	return f[2]
}

// becomes waits for keys to be want.
func (r *remoteHost) becomes(want string) {
	r.t.Helper()
	got := ""
	for end := time.Now().Add(remotetest.Bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got = r.keys(); got == want {
			return
		}
	}
	r.t.Fatalf("the stable path has %q behind it, not %q", got, want)
}

func (r *remoteHost) gone() {
	r.t.Helper()
	for end := time.Now().Add(remotetest.Bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(r.path()); errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	if _, err := os.Lstat(r.path()); err == nil {
		r.t.Fatal("the stable path is still there")
	}
	if left, err := os.ReadDir(filepath.Join(r.home, "run", "agents")); err != nil || len(left) > 0 {
		r.t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStablePathOverReconnects(t *testing.T) { eachCarrier(t, stablePath) }

func stablePath(t *testing.T, dial dialer) {
	r := newRemote(t, dial)
	relay := remotetest.StartRelay(t, r.d.Addr)
	agent := localAgent(t, "laptop")

	c, target := r.dial(relay.Port(), agent)
	first := r.hold(c, target)
	if got := r.keys(); got != "laptop" {
		t.Fatalf("the remote sees %q", got)
	}
	relay.Cut()
	select {
	case <-first.Done():
	case <-time.After(remotetest.Bound):
		t.Fatal("a cut link was not noticed")
	}
	if first.Err() == nil {
		t.Error("no reason is given")
	}
	r.gone() // the remote cleaned up by itself

	c, target = r.dial(relay.Port(), agent)
	second := r.hold(c, target)
	if got := r.keys(); got != "laptop" {
		t.Errorf("after the reconnect the remote sees %q", got)
	}
	info, err := os.Stat(filepath.Dir(r.path()))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder's mode is %v, %v", info.Mode(), err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	r.gone()
}

// A new connection is there before the old one is known to be dead: the laptop
// slept, the server still waits for it.
func TestReconnectBeforeTheOldOneEnds(t *testing.T) { eachCarrier(t, reconnectFirst) }

func reconnectFirst(t *testing.T, dial dialer) {
	r := newRemote(t, dial)
	agent := localAgent(t, "laptop")
	c, target := r.dial(r.d.Port, agent)
	first := r.hold(c, target)
	c2, target := r.dial(r.d.Port, agent)
	second := r.hold(c2, target)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if got := r.keys(); got != "laptop" {
		t.Errorf("once the old connection was cleaned up the remote sees %q", got)
	}
	_ = second.Close()
	r.gone()
}

func TestTwoClientsShareThePath(t *testing.T) { eachCarrier(t, twoClients) }

func twoClients(t *testing.T, dial dialer) {
	r := newRemote(t, dial)
	a, b := localAgent(t, "laptop"), localAgent(t, "tablet")
	ca, ta := r.dial(r.d.Port, a)
	laptop := r.hold(ca, ta)
	cb, tb := r.dial(r.d.Port, b)
	tablet := r.hold(cb, tb)
	if got := r.keys(); got != "tablet" {
		t.Fatalf("who came last is served: %q", got)
	}
	for range 3 {
		if err := laptop.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.keys(); got != "laptop" {
			t.Fatalf("who claimed last is served: %q", got)
		}
		if err := tablet.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.keys(); got != "tablet" {
			t.Fatalf("who claimed last is served: %q", got)
		}
	}
	_ = tablet.Close()
	r.becomes("laptop")
	if err := tablet.Claim(t.Context()); err == nil {
		t.Error("a holder that was closed claimed the path")
	}
	_ = ca.Close() // the connection, not the holder
	r.gone()
	<-laptop.Done()
}

func TestOnlyWhereItIsAllowed(t *testing.T) { eachCarrier(t, onlyAllowed) }

func onlyAllowed(t *testing.T, dial dialer) {
	agent := localAgent(t, "laptop")
	t.Run("by the configuration", func(t *testing.T) {
		r := newRemote(t, dial)
		c, target := r.dial(r.d.Port, "no")
		if _, err := Hold(t.Context(), c, Options{Policy: PolicyFor(target, os.Getenv)}); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("Hold: %v", err)
		}
	})
	t.Run("by the server", func(t *testing.T) {
		r := newRemote(t, dial, "AllowAgentForwarding no")
		c, target := r.dial(r.d.Port, agent)
		_, err := Hold(t.Context(), c, Options{Policy: PolicyFor(target, os.Getenv)})
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage == "" || len(p.Hints) == 0 || !strings.Contains(err.Error(), "no agent") {
			t.Errorf("Hold: %v", err)
		}
		if _, err := os.Lstat(r.path()); err == nil {
			t.Error("a path was made that leads nowhere")
		}
		if out, _, err := remotetest.Run(t, c, "echo fine"); out != "fine\n" || err != nil {
			t.Errorf("the connection suffered: %q, %v", out, err)
		}
	})
	t.Run("by a forced command", func(t *testing.T) {
		r := newRemote(t, dial, "ForceCommand echo go away")
		c, target := r.dial(r.d.Port, agent)
		_, err := Hold(t.Context(), c, Options{Policy: PolicyFor(target, os.Getenv)})
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage != remote.StageShell {
			t.Errorf("Hold: %v", err)
		}
	})
}

func TestPolicy(t *testing.T) {
	env := map[string]string{"SSH_AUTH_SOCK": "/env", "OTHER": "/other"}
	for name, tc := range map[string]struct{ forward, agent, want string }{
		"unset is no":                  {"", "", ""},
		"no":                           {"no", "/agent", ""},
		"yes":                          {"yes", "", "/env"},
		"yes, with an agent":           {"yes", "/agent", "/agent"},
		"yes, with a variable's agent": {"yes", "${OTHER}", "/other"},
		"yes, by name":                 {"yes", "SSH_AUTH_SOCK", "/env"},
		"yes, but no agent":            {"yes", "none", ""},
		"a path":                       {"/path", "none", "/path"},
		"a variable":                   {"$OTHER", "", "/other"},
		"a variable that is not set":   {"$NOTHING", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := PolicyFor(sshconfig.Target{ForwardAgent: tc.forward, IdentityAgent: tc.agent}, func(k string) string { return env[k] })
			if p.Socket != tc.want {
				t.Errorf("serves %q, want %q", p.Socket, tc.want)
			}
		})
	}
}
