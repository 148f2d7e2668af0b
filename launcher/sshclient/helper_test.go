package sshclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target is what sshconfig would say about s for somebody with s.Key.
func target(s *remotetest.SSHD) sshconfig.Target {
	return at("dev", s.Port, s.User, s.Key, s.KnownHosts())
}

// at is a target on this machine.
func at(alias string, port int, user, key, knownHosts string) sshconfig.Target {
	t := sshconfig.Target{
		Alias: alias, HostName: "127.0.0.1", Port: port, User: user, IdentitiesOnly: true, IdentityAgent: "none",
		UserKnownHosts: []string{knownHosts}, StrictHostKeyChecking: "ask", ForwardAgent: "no", TCPKeepAlive: true,
		PubkeyAuthentication: true, PasswordAuthentication: true, KbdInteractiveAuthentication: true, NumberOfPasswordPrompts: 3,
	}
	if key != "" {
		t.IdentityFiles = []string{key}
	}
	return t
}

// person answers as told and remembers what they were asked.
type person struct {
	hostKey func(remote.HostKeyQuestion) (remote.Decision, error)
	secret  func(remote.SecretQuestion) (string, error)

	mu       sync.Mutex
	hostKeys []remote.HostKeyQuestion
	secrets  []remote.SecretQuestion
	notices  []string
}

func (p *person) HostKey(_ context.Context, q remote.HostKeyQuestion) (remote.Decision, error) {
	p.mu.Lock()
	p.hostKeys = append(p.hostKeys, q)
	p.mu.Unlock()
	if p.hostKey == nil {
		return remote.Refuse, remote.ErrNobody
	}
	return p.hostKey(q)
}

func (p *person) Secret(_ context.Context, q remote.SecretQuestion) (string, error) {
	p.mu.Lock()
	p.secrets = append(p.secrets, q)
	p.mu.Unlock()
	if p.secret == nil {
		return "", remote.ErrNobody
	}
	return p.secret(q)
}

func (p *person) Notice(hop, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices = append(p.notices, hop+": "+text)
}

func (p *person) asked() []remote.SecretQuestion {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]remote.SecretQuestion(nil), p.secrets...)
}

func (p *person) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.notices, "\n")
}

// answers is a person who says the same to every secret.
func answers(s string) *person {
	return &person{secret: func(remote.SecretQuestion) (string, error) { return s, nil }}
}

// log collects events.
type eventLog struct {
	mu     sync.Mutex
	events []remote.Event
}

func (l *eventLog) add(e remote.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) all() []remote.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]remote.Event(nil), l.events...)
}

// text is every event on a line, details included.
func (l *eventLog) text() string {
	var b strings.Builder
	for _, e := range l.all() {
		fmt.Fprintf(&b, "%s %s: %s done=%v detail=%v waiting=%v err=%v\n", e.Hop, e.Stage, e.Text, e.Done, e.Detail, e.Waiting, e.Err)
	}
	return b.String()
}

// steps are the stages in the order they ended well.
func (l *eventLog) steps() []string {
	var s []string
	for _, e := range l.all() {
		if e.Done {
			s = append(s, e.Hop+" "+e.Stage)
		}
	}
	return s
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), remotetest.Bound)
	t.Cleanup(cancel)
	return ctx
}

// mustDial connects, and closes when the test ends.
func mustDial(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := Dial(bounded(t), cfg)
	if err != nil {
		t.Fatalf("dial: %v\n%s", err, strings.Join(config.Hints(err), "\n"))
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// mustFail connects in vain and returns the problem, after checking what every
// problem must have.
func mustFail(t *testing.T, cfg Config, stage string) *config.Problem {
	t.Helper()
	var log eventLog
	if cfg.Events == nil {
		cfg.Events = log.add
	}
	c, err := Dial(bounded(t), cfg)
	if err == nil {
		_ = c.Close()
		t.Fatal("the connection came about")
	}
	return checkProblem(t, err, stage)
}

func checkProblem(t *testing.T, err error, stage string) *config.Problem {
	t.Helper()
	var p *config.Problem
	if !errors.As(err, &p) {
		t.Fatalf("%T is not a Problem: %v", err, err)
	}
	var h *HopError
	if !errors.As(err, &h) || h.Host == "" || h.Port == 0 || h.Hop == "" {
		t.Errorf("no host, port and hop in %v (%+v)", err, h)
	}
	if p.Stage != stage {
		t.Errorf("stage %q, want %q: %v", p.Stage, stage, err)
	}
	if len(p.Hints) == 0 {
		t.Errorf("no hint what to do about %v", err)
	}
	if s := config.Explain(err); printableLines(s, 1<<20)+"\n" != s {
		t.Errorf("the error has characters that do not belong on a terminal: %q", s)
	}
	return p
}

// wants checks that text holds every one of parts.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in\n%s", p, text)
		}
	}
}

// tool runs a program that the test needs, and returns what it wrote.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(remotetest.Program(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fingerprint is what ssh-keygen says of a key file.
func fingerprint(t *testing.T, pub string) string {
	t.Helper()
	return strings.Fields(tool(t, "ssh-keygen", "-lf", pub))[1]
}

// startAgent runs a real ssh-agent with the given keys, and returns its socket.
func startAgent(t *testing.T, keys ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command(remotetest.Program(t, "ssh-agent"), "-D", "-a", sock)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "the agent listens", func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	for _, k := range keys {
		add := exec.Command(remotetest.Program(t, "ssh-add"), "-q", k)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add %s: %v\n%s", k, err, out)
		}
	}
	return sock
}

// env is an environment with just these variables.
func env(kv ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(kv); i += 2 {
			if kv[i] == name {
				return kv[i+1]
			}
		}
		return ""
	}
}

// deadPort is a loopback port nobody listens on.
func deadPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// server answers each TCP connection with f.
func server(t *testing.T, f func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// echoes runs a command and returns its output.
func echoes(t *testing.T, c remote.Conn, command string) string {
	t.Helper()
	out, errs, err := remotetest.Run(t, c, command)
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, errs)
	}
	return strings.TrimSpace(out)
}

func hostPort(s *remotetest.SSHD) string { return "[127.0.0.1]:" + strconv.Itoa(s.Port) }

// eventually waits for something that happens by itself elsewhere.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(remotetest.Bound); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// logins counts the logins of a server that tells of keys as well.
func logins(s *remotetest.SSHD) int { return strings.Count(s.Log(), "\nAccepted publickey for ") }
