package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"towline/appserver/engine/codex"
	"towline/appserver/engine/native/sandbox"
	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher"
)

// checkMachine is `towline doctor` without a host: what this machine can do as a
// client, and as a host.
func checkMachine(ctx context.Context, tell func(launcher.Finding)) launcher.Diagnosis {
	m := &machine{d: launcher.Diagnosis{Version: version(), At: time.Now()}, say: tell}
	paths, cfg, ok := m.configuration()
	m.sshClient(ctx)
	if ok {
		m.sshConfig(sshOptions(cfg, ""))
	}
	m.agent(ctx)
	if ok {
		m.state(paths)
		m.daemon(ctx, paths)
		m.codex(ctx, cfg)
		m.credentials(ctx, paths, cfg)
	}
	m.sandbox()
	m.linger()
	m.ports(ctx)
	m.d.OK, m.d.Took = true, time.Since(m.d.At)
	for _, f := range m.d.Findings {
		if f.Status == launcher.FindingFailed {
			m.d.OK = false
		}
	}
	return m.d
}

// machine collects findings about this one.
type machine struct {
	d   launcher.Diagnosis
	say func(launcher.Finding)
}

// found adds a finding. Its cause and what to do come from err, when there is one.
func (m *machine) found(name, status, text string, err error, next ...string) {
	f := launcher.Finding{Stage: "machine", Name: name, Status: status, Text: printable(text), Next: append(next, config.Hints(err)...)}
	if err != nil {
		var p *config.Problem
		if errors.As(err, &p) {
			err = p.Err
		}
		f.Cause = printable(err.Error())
	}
	m.d.Findings = append(m.d.Findings, f)
	m.say(f)
}

func (m *machine) configuration() (config.Paths, config.Config, bool) {
	m.found("towline", launcher.FindingOK, fmt.Sprintf("%s on %s/%s", version(), runtime.GOOS, runtime.GOARCH), nil)
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		m.found("config", launcher.FindingFailed, "nowhere to keep anything", err)
		return paths, config.Config{}, false
	}
	cfg, err := config.Load(paths)
	if err != nil {
		m.found("config", launcher.FindingFailed, paths.ConfigFile()+" cannot be used", err)
		return paths, cfg, false
	}
	text := paths.ConfigFile()
	if _, err := os.Stat(text); errors.Is(err, fs.ErrNotExist) {
		text += " is not there: the defaults count"
	}
	m.found("config", launcher.FindingOK, text, nil)
	return paths, cfg, true
}

func (m *machine) sshClient(ctx context.Context) {
	path, err := exec.LookPath("ssh")
	if err != nil {
		m.found("ssh", launcher.FindingNote, "the OpenSSH client is not installed: Match blocks and security keys are beyond us", nil,
			"install it: `apt install openssh-client`, `dnf install openssh-clients`")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "-V").CombinedOutput()
	if err != nil {
		m.found("ssh", launcher.FindingFailed, path+" does not run", err)
		return
	}
	m.found("ssh", launcher.FindingOK, string(bytes.TrimSpace(said))+", "+path, nil)
}

func (m *machine) sshConfig(o sshconfig.Options) {
	list := sshconfig.List(o)
	text := strconv.Itoa(len(list.Aliases)) + " hosts"
	if len(list.Faults) == 0 {
		m.found("ssh config", launcher.FindingOK, text, nil)
		return
	}
	var faults []string
	for _, f := range list.Faults[:min(len(list.Faults), 5)] {
		faults = append(faults, f.String())
	}
	m.found("ssh config", launcher.FindingNote, text+"; "+strings.Join(faults, "; "), nil, "mend these lines; the others count all the same")
}

func (m *machine) agent(ctx context.Context) {
	sock := os.Getenv("SSH_AUTH_SOCK")
	if sock == "" {
		m.found("ssh agent", launcher.FindingOK, "none: keys are read from their files", nil)
		return
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", sock)
	if err == nil {
		defer func() { _ = c.Close() }() // only asked
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		var keys []*agent.Key
		if keys, err = agent.NewClient(c).List(); err == nil {
			m.found("ssh agent", launcher.FindingOK, fmt.Sprintf("%d keys, %s", len(keys), sock), nil)
			return
		}
	}
	m.found("ssh agent", launcher.FindingNote, "SSH_AUTH_SOCK leads nowhere", err, "start an agent: `eval $(ssh-agent)`, or unset SSH_AUTH_SOCK")
}

// state looks at the folders without mending them, as the daemon would.
func (m *machine) state(paths config.Paths) {
	var dirs []string
	for _, dir := range []string{paths.Config, paths.State, paths.Runtime} {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			m.found("state", launcher.FindingFailed, dir, err)
			return
		case runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0:
			m.found("state", launcher.FindingFailed, fmt.Sprintf("others can write to %s (mode %#o)", dir, info.Mode().Perm()), nil,
				"look at what is in it, then `chmod 700 "+dir+"`")
			return
		}
		dirs = append(dirs, dir)
	}
	for _, file := range []string{paths.Database(), paths.Audit(), paths.HostKey()} {
		if err := config.PrivateFile(file); err != nil {
			m.found("state", launcher.FindingFailed, file, err)
			return
		}
	}
	if len(dirs) == 0 {
		m.found("state", launcher.FindingOK, "nothing is kept yet", nil)
		return
	}
	m.found("state", launcher.FindingOK, "private: "+strings.Join(dirs, ", "), nil)
}

func (m *machine) daemon(ctx context.Context, paths config.Paths) {
	if _, err := os.Lstat(paths.Socket()); errors.Is(err, fs.ErrNotExist) {
		m.found("daemon", launcher.FindingOK, "none runs: this machine is no host", nil)
		return
	}
	st, err := readStatus(ctx, paths)
	if err != nil {
		m.found("daemon", launcher.FindingFailed, "a daemon was here and does not answer", err)
		return
	}
	m.found("daemon", launcher.FindingOK, fmt.Sprintf("towline %s runs (pid %d), %d attached", st.Version, st.PID, len(st.Attached)), nil)
	text := strings.TrimSpace(st.Engine.Kind+" "+st.Engine.Version) + ": " + st.Engine.State
	switch {
	case st.Engine.State != "ready":
		m.found("engine", launcher.FindingFailed, text, errors.New(st.Engine.Problem), st.Engine.Hints...)
	case st.Engine.Problem != "":
		m.found("engine", launcher.FindingNote, text, errors.New(st.Engine.Problem), st.Engine.Hints...)
	default:
		m.found("engine", launcher.FindingOK, text, nil)
	}
}

func (m *machine) codex(ctx context.Context, cfg config.Config) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	path, v, err := codex.Find(ctx, os.Environ())
	switch {
	case err == nil:
		m.found("codex", launcher.FindingOK, v+", "+path, nil)
	case cfg.Engine.Kind == config.EngineCodex:
		m.found("codex", launcher.FindingFailed, "the configuration asks for it", err)
	default:
		m.found("codex", launcher.FindingOK, "not installed here, and not needed to work on other hosts", nil)
	}
}

func (m *machine) sandbox() {
	self, err := selfPath()
	if err == nil {
		r := sandbox.New(self, slog.New(slog.DiscardHandler))
		if err = r.Check(); err == nil {
			if weak := r.Weaknesses(); len(weak) > 0 {
				m.found("sandbox", launcher.FindingNote, "works, but "+strings.Join(weak, "; "), nil)
				return
			}
			m.found("sandbox", launcher.FindingOK, "commands of the native engine can be confined", nil)
			return
		}
	}
	m.found("sandbox", launcher.FindingNote, "the native engine cannot confine commands here", err)
}

// linger is whether systemd keeps a daemon past the last logout.
func (m *machine) linger() {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		m.found("linger", launcher.FindingOK, "no systemd: nothing ends what you started at logout", nil)
		return
	}
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if _, err := os.Stat(filepath.Join("/var/lib/systemd/linger", name)); err == nil {
		m.found("linger", launcher.FindingOK, "on", nil)
		return
	}
	m.found("linger", launcher.FindingNote, "off: a daemon does not come back after a reboot by itself, and may end with your last logout", nil, "turn it on: `loginctl enable-linger`")
}

// ports looks at those that logging in to ChatGPT with a browser needs.
func (m *machine) ports(ctx context.Context) {
	var states []string
	free := false
	var last error
	for _, port := range []string{"1455", "1457"} {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp4", "127.0.0.1:"+port)
		switch {
		case err == nil:
			_ = ln.Close() // it was only a question
			free = true
			states = append(states, port+" free")
		case errors.Is(err, syscall.EADDRINUSE):
			states = append(states, port+" in use")
		default:
			states, last = append(states, port+" cannot be opened"), err
		}
	}
	if free {
		m.found("login ports", launcher.FindingOK, strings.Join(states, ", "), nil)
		return
	}
	m.found("login ports", launcher.FindingNote, strings.Join(states, ", "), last, "log in with a device code instead: `towline login --device-auth`")
}
