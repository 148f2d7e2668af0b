package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"towline/config"
)

// hardenedMark is in a unit that was made with --hardened.
const hardenedMark = "NoNewPrivileges=yes"

// systemd is the user's own service manager.
type systemd struct {
	dir   string // of the user's units
	title string
}

func newSystemd(home, suffix string) systemd {
	dir := filepath.Join(home, ".config")
	if v := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(v) {
		dir = v
	}
	return systemd{dir: filepath.Join(dir, "systemd", "user"), title: "towline" + suffix + ".service"}
}

func (s systemd) name() string { return backendSystemd }
func (s systemd) unit() string { return s.title }
func (s systemd) file() string { return filepath.Join(s.dir, s.title) }

// define writes the unit. What systemd could take from the daemon it would take
// from the agent's commands too, and for a user's unit nearly every such setting
// implies NoNewPrivileges: sudo would fail in commands that somebody has approved.
// The sandbox of those commands is the engine's; --hardened adds the rest.
func (s systemd) define(d serviceDefinition) (string, error) {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Written by `towline service install`; `towline service uninstall` removes it.")
	p("[Unit]")
	p("Description=Towline: a host for coding agents")
	p("# However often it fails, it is tried again.")
	p("StartLimitIntervalSec=0")
	p("")
	p("[Service]")
	p("Type=exec")
	p("ExecStart=%s supervise --program %s --backend %s", unitWord(d.Program), unitWord(d.Program), backendSystemd)
	p("# A new program takes over and no turn is interrupted.")
	p("ExecReload=/bin/kill -HUP $MAINPID")
	p("WorkingDirectory=%s", unitValue(d.Dir))
	for _, name := range slices.Sorted(maps.Keys(d.Env)) {
		p("Environment=%s", unitQuoted(name+"="+d.Env[name]))
	}
	p("# A file of yours for what else it needs to know, keys too; it may be missing.")
	p("EnvironmentFile=-%s", unitValue(d.EnvFile))
	p("Restart=on-failure")
	p("RestartSec=1")
	if s.version() >= 254 { // older ones complain
		p("RestartSteps=6")
		p("RestartMaxDelaySec=60")
	}
	p("# A wrong configuration does not get better by trying.")
	p("RestartPreventExitStatus=2 3 5")
	p("# The supervisor ends the daemon, and the daemon its turns.")
	p("KillMode=mixed")
	p("TimeoutStopSec=70")
	p("# A command of the agent's that takes all memory is not the host's end.")
	p("OOMPolicy=continue")
	p("# Memory of this process holds keys.")
	p("LimitCORE=0")
	if d.Hardened {
		p("# Nothing under it gains privileges, nor what only privileges would give.")
		p(hardenedMark)
		p("LockPersonality=yes")
		p("RestrictRealtime=yes")
		p("RestrictSUIDSGID=yes")
		p("SystemCallArchitectures=native")
	}
	p("")
	p("[Install]")
	p("WantedBy=default.target")
	return b.String(), nil
}

// version is systemd's, 0 when it does not say.
func (s systemd) version() (v int) {
	out, err := runManager(context.Background(), s.env(), "systemctl", "--version")
	if err == nil {
		_, _ = fmt.Sscanf(out, "systemd %d", &v) // 0 otherwise
	}
	return v
}

// unitWord is one word of a command line in a unit.
func unitWord(s string) string { return strings.ReplaceAll(unitQuoted(s), "$", "$$") }

// unitQuoted is one word where variables are not looked for.
func unitQuoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// unitValue is a whole value; only specifiers mean something in it.
func unitValue(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// env is for systemctl, which finds a user's manager by a folder that not every
// login is told of.
func (s systemd) env() []string {
	env := os.Environ()
	if os.Getenv("XDG_RUNTIME_DIR") == "" {
		dir := fmt.Sprintf("/run/user/%d", os.Getuid())
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			env = append(env, "XDG_RUNTIME_DIR="+dir)
		}
	}
	return env
}

func (s systemd) ctl(ctx context.Context, args ...string) (string, error) {
	return runManager(ctx, s.env(), "systemctl", append([]string{"--user"}, args...)...)
}

func (s systemd) enable(ctx context.Context) error {
	_, err := s.ctl(ctx, "daemon-reload")
	if err == nil {
		_, err = s.ctl(ctx, "enable", s.title)
	}
	if err == nil {
		return nil
	}
	program, _ := programPath() // said already, if it is not known
	return &config.Problem{
		Stage: "service", Err: err, Exit: config.ExitUnavailable,
		Hints: []string{
			"your systemd has to run: log in by ssh or on a terminal, not by `su`, and see `systemctl --user status`",
			"as root, `loginctl enable-linger " + userName() + "` starts it for good",
			"without systemd, `crontab -e` and this line: @reboot " + program + " remote-control start",
		},
	}
}

func (s systemd) start(ctx context.Context) error {
	_, _ = s.ctl(ctx, "reset-failed", s.title) // there may be nothing to forget
	_, err := s.ctl(ctx, "start", s.title)
	return err
}

func (s systemd) disable(ctx context.Context) error {
	_, err := s.ctl(ctx, "disable", "--now", s.title)
	return err
}

func (s systemd) forget(ctx context.Context) error {
	_, _ = s.ctl(ctx, "reset-failed", s.title) // there may be nothing to forget
	_, err := s.ctl(ctx, "daemon-reload")
	return err
}

func (s systemd) state(ctx context.Context) (enabled, active bool) {
	e, _ := s.ctl(ctx, "is-enabled", s.title) // the word says it, and so does its absence
	a, _ := s.ctl(ctx, "is-active", s.title)
	return e == "enabled", a == "active" || a == "reloading" || a == "activating"
}

// survives looks at lingering: without it a user's manager ends with the last
// login, and begins with the first.
func (s systemd) survives(ctx context.Context) (bool, string, string) {
	name := userName()
	v, err := runManager(ctx, s.env(), "loginctl", "show-user", name, "--property=Linger", "--value")
	if err != nil { // nobody is logged in, or there is no logind
		if _, err := os.Stat(filepath.Join("/var/lib/systemd/linger", name)); err == nil {
			return true, "", ""
		}
		return false, "whether you linger is not known", "so that it starts with the machine: `loginctl enable-linger " + name + "` (with sudo, where it is refused)"
	}
	if v == "yes" {
		return true, "", ""
	}
	return false, "it ends with your last login, and starts with the next",
		"so that it starts with the machine and outlives your logins: `loginctl enable-linger " + name + "` (with sudo, where it is refused)"
}
