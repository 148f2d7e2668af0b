package systemssh

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/config/sshconfig"
	"towline/launcher/remote"
	"towline/launcher/remote/remotetest"
)

// TestMain is also what ssh asks its questions with: the test binary is Self.
func TestMain(m *testing.M) {
	if args := AskpassArgs(os.Args); len(args) > 1 && args[1] == AskpassCommand {
		os.Exit(Askpass(args[3]))
	}
	goleak.VerifyTestMain(m)
}

// person answers questions as a test wants, and remembers them.
type person struct {
	key     func(remote.HostKeyQuestion) (remote.Decision, error)
	secret  func(remote.SecretQuestion) (string, error)
	mu      sync.Mutex // guards what follows
	keys    []remote.HostKeyQuestion
	secrets []remote.SecretQuestion
	notices []string
}

func (p *person) HostKey(_ context.Context, q remote.HostKeyQuestion) (remote.Decision, error) {
	p.mu.Lock()
	p.keys = append(p.keys, q)
	p.mu.Unlock()
	if p.key == nil {
		return remote.Refuse, remote.ErrNobody
	}
	return p.key(q)
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

// events keeps what was told of progress.
type events struct {
	mu  sync.Mutex // guards all
	all []remote.Event
}

func (e *events) add(v remote.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, v)
}

// stages is the story without details: "dial@hop", "dial@hop ok", …
func (e *events) stages() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, v := range e.all {
		if v.Detail {
			continue
		}
		s := v.Stage + "@" + v.Hop
		switch {
		case v.Done:
			s += " ok"
		case v.Err != nil:
			s += " failed"
		case v.Waiting:
			s += " waiting"
		}
		out = append(out, s)
	}
	return out
}

func (e *events) details() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, v := range e.all {
		if v.Detail {
			fmt.Fprintln(&b, v.Text)
		}
	}
	return b.String()
}

// setting is a client's configuration file and what goes with it.
type setting struct {
	t      *testing.T
	dir    string
	events *events
	Config
}

// newSetting writes an ssh_config and prepares a Config for one alias in it.
func newSetting(t *testing.T, alias, file string) *setting {
	t.Helper()
	remotetest.Program(t, "ssh")
	dir, err := os.MkdirTemp("", "sys")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &setting{t: t, dir: dir, events: &events{}}
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(file, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	target, err := sshconfig.Resolve(t.Context(), sshconfig.Options{UserFile: path}, alias)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.Config = Config{Target: target, ConfigFile: path, Self: self, Events: s.events.add, RuntimeDir: filepath.Join(dir, "run")}
	return s
}

// host is the stanza of a server that is known and takes its key.
func host(alias string, d *remotetest.SSHD, port int) string {
	return fmt.Sprintf("Host %s\n  HostName 127.0.0.1\n  Port %d\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n"+
		"  UserKnownHostsFile DIR/known\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking ask\n  HostKeyAlias %s\n", alias, port, d.User, d.Key, alias)
}

// knows writes the known_hosts file that host names.
func (s *setting) knows(alias string, d *remotetest.SSHD) {
	s.t.Helper()
	pub, err := os.ReadFile(d.HostKey + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := os.OpenFile(s.known(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s %s", alias, pub); err != nil {
		s.t.Fatal(err)
	}
}

func (s *setting) known() string { return filepath.Join(s.dir, "known") }

func (s *setting) dial() (remote.Conn, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), remotetest.Bound)
	defer cancel()
	return Dial(ctx, s.Config)
}

// must dials, and closes at the end of the test.
func (s *setting) must() remote.Conn {
	s.t.Helper()
	c, err := s.dial()
	if err != nil {
		s.t.Fatalf("dial: %v\n%s", err, s.events.details())
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// wait gives up on something that does not come.
func wait(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(remotetest.Bound):
		t.Fatalf("%s did not happen", what)
	}
}

// empty checks that nothing is left in the runtime folder.
func (s *setting) empty() {
	s.t.Helper()
	left, err := os.ReadDir(s.RuntimeDir)
	if err != nil {
		s.t.Fatal(err)
	}
	var names bytes.Buffer
	for _, e := range left {
		fmt.Fprintln(&names, e.Name())
	}
	if names.Len() > 0 {
		s.t.Errorf("left in the runtime folder:\n%s", &names)
	}
}
