package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// Laptop is the client's side: an account with a ~/.ssh of its own, in which
// towline and ssh are typed.
type Laptop struct {
	*User
	Key Key // ~/.ssh/id_ed25519, the default key
	env []string
	t   testing.TB
}

// NewLaptop makes one with a default key and nothing configured.
func NewLaptop(t testing.TB) *Laptop {
	t.Helper()
	Need(t, "ssh", "setpriv")
	l := &Laptop{User: NewUser(t, Account{}), t: t}
	l.Key = NewKey(t, Ed25519, l.Name+"@laptop", "")
	l.Install("id_ed25519", l.Key)
	return l
}

// Install puts a key pair into ~/.ssh.
func (l *Laptop) Install(name string, k Key) {
	l.t.Helper()
	l.Write(".ssh/"+name, k.PEM, 0o600)
	l.Write(".ssh/"+name+".pub", k.Line+"\n", 0o644)
}

// Configure adds to ~/.ssh/config.
func (l *Laptop) Configure(text string) { l.t.Helper(); l.Append(".ssh/config", text+"\n") }

// Knows adds the server's key to known_hosts, or its CA.
func (l *Laptop) Knows(s *Server) {
	l.t.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		l.t.Fatal(err)
	}
	name := host
	if port != "22" {
		name = "[" + host + "]:" + port
	}
	if s.HostCA != nil {
		l.Append(".ssh/known_hosts", "@cert-authority "+name+" "+s.HostCA.Public()+"\n")
		return
	}
	l.Append(".ssh/known_hosts", name+" "+s.HostKey.Public()+"\n")
}

// Alias writes a Host block that leads to the user u at s, with further lines.
// It adds no trust: see [Laptop.Knows] and [User.Authorize].
func (l *Laptop) Alias(name string, s *Server, u *User, lines ...string) {
	l.t.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		l.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Host %s\n  HostName %s\n  Port %s\n", name, host, port)
	if u != nil {
		fmt.Fprintf(&b, "  User %s\n", u.Name)
	}
	for _, line := range lines {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	l.Configure(b.String())
}

// Reach is the usual way: an alias, a known host key, and the default key let in.
func (l *Laptop) Reach(name string, s *Server, u *User, lines ...string) {
	l.t.Helper()
	l.Alias(name, s, u, lines...)
	l.Knows(s)
	if u != nil {
		u.Authorize(l.Key.Line)
	}
}

// Setenv adds to the environment of everything started here.
func (l *Laptop) Setenv(kv string) { l.env = append(l.env, kv) }

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a program on the laptop, without a terminal, until it ends.
func (l *Laptop) Run(args ...string) Result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	cmd := l.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errs.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.Code = exit.ExitCode()
	} else if err != nil {
		l.t.Fatalf("%v: %v\n%s", args, err, errs.String())
	}
	if ctx.Err() != nil {
		l.t.Fatalf("%v did not end; it said\n%s%s", args, r.Stdout, r.Stderr)
	}
	return r
}

// Towline runs a towline command, without a terminal, until it ends.
func (l *Laptop) Towline(args ...string) Result {
	l.t.Helper()
	return l.Run(append([]string{Binary(l.t)}, args...)...)
}

// Command is a program run on the laptop.
func (l *Laptop) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := l.User.Command(ctx, args...)
	cmd.Env = append(cmd.Env, l.env...)
	return cmd
}

// Open runs a program on the laptop in a terminal.
func (l *Laptop) Open(cols, rows int, args ...string) *Terminal {
	l.t.Helper()
	return Open(l.t, cols, rows, append(l.Environ(), l.env...), l.Argv(args...)...)
}

// OpenTowline runs a towline command in a terminal.
func (l *Laptop) OpenTowline(cols, rows int, args ...string) *Terminal {
	l.t.Helper()
	return l.Open(cols, rows, append([]string{Binary(l.t)}, args...)...)
}
