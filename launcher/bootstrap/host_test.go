//go:build linux

package bootstrap

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"towline/launcher/remote"
)

// local is a Remote that runs commands on this machine as sshd would: with the
// login shell's -c, in an environment of its own.
type local struct {
	shell  string   // absolute
	env    []string // KEY=value; HOME and SHELL come from the fields
	home   string
	server string
	wrap   func(command string) *exec.Cmd // instead of the shell; may be nil
}

func (l *local) Server() string { return l.server }

// newLocal is a host with an empty home and a usual PATH. shell is a name or a path.
func newLocal(t testing.TB, shell string) *local {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		lacking(t, shell)
	}
	home := t.TempDir()
	return &local{shell: path, home: home, env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}}
}

// lacking skips a test whose peer is missing, and fails it in CI.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING: %s", what)
	}
	t.Skipf("LACKING: %s", what)
}

// write puts a file into the home.
func (l *local) write(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(l.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil { //nolint:gosec // test's own
		t.Fatal(err)
	}
	return path
}

func (l *local) Exec(ctx context.Context, command string, _ remote.ExecOptions) (remote.Process, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	cmd := exec.Command(l.shell, "-c", command) //nolint:noctx // Close ends it
	if l.wrap != nil {
		cmd = l.wrap(command)
	}
	cmd.Dir = l.home
	cmd.Env = append(append([]string{"HOME=" + l.home, "SHELL=" + l.shell}, l.env...), cmd.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p := &process{cmd: cmd, waited: make(chan struct{})}
	var err error
	if p.in, err = cmd.StdinPipe(); err == nil {
		var out, errs *os.File
		p.out, out, err = os.Pipe()
		if err == nil {
			p.errs, errs, err = os.Pipe()
		}
		if err == nil {
			cmd.Stdout, cmd.Stderr = out, errs
			err = cmd.Start()
			_, _ = out.Close(), errs.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	go func() { p.err = cmd.Wait(); close(p.waited) }()
	return p, nil
}

type process struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, errs *os.File
	waited    chan struct{}
	err       error
	once      sync.Once
}

func (p *process) Stdin() io.WriteCloser { return p.in }
func (p *process) Stdout() io.Reader     { return p.out }
func (p *process) Stderr() io.Reader     { return p.errs }

func (p *process) Wait() error {
	<-p.waited
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		return &remote.ExitError{Status: exit.ExitCode()}
	}
	return p.err
}

// Close is what sshd does without a terminal: the pipes close, the process may
// find out or not. What is left is ended, so that tests leave nothing behind.
func (p *process) Close() error {
	p.once.Do(func() {
		_, _, _ = p.in.Close(), p.out.Close(), p.errs.Close()
		select {
		case <-p.waited:
		case <-time.After(2 * time.Second):
			_ = p.cmd.Process.Kill() // it alone: the script's own clocks must end the rest
			<-p.waited
		}
	})
	return nil
}

// options are for tests: patient, and telling the test what happens.
func options(t testing.TB) Options {
	return Options{
		Host: "dev", ShellTimeout: patience, EnvTimeout: patience / 3, ItemTimeout: patience / 3, StartTimeout: patience,
		Events: func(e remote.Event) { t.Logf("%s: %s %v", e.Stage, e.Text, e.Err) },
	}
}

func probe(t testing.TB, l *local, o Options) Report {
	t.Helper()
	rep, err := Probe(t.Context(), l, o)
	if err != nil {
		t.Fatalf("Probe: %v", err)
	}
	return rep
}

// fake writes a program that prints what its argument asks for.
func (l *local) fake(t testing.TB, path, version string) string {
	t.Helper()
	name := filepath.Base(path)
	text := "#!/bin/sh\n[ \"$*\" = --version ] && echo 'codex-cli " + version + "'\nexit 0\n"
	if name == "towline" {
		text = "#!/bin/sh\n[ \"$*\" = 'version --json' ] && echo '{\"version\":\"" + version + "\",\"protocol\":{\"min\":1,\"max\":1},\"os\":\"linux\",\"arch\":\"amd64\"}'\nexit 0\n"
	}
	return l.write(t, path, text, 0o700)
}

func find(rep Report, path string) *Candidate {
	for i, c := range rep.Candidates {
		if c.Path == path || strings.HasSuffix(c.Path, "/"+path) {
			return &rep.Candidates[i]
		}
	}
	return nil
}

func itoa(n int) string { return strconv.Itoa(n) }
