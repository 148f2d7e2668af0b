package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/supervisor"
	"towline/config"
)

// serviceManager is what starts programs on this machine, and keeps them: systemd
// for a user, or launchd.
type serviceManager interface {
	name() string // "systemd", "launchd"
	// file is the definition's path, unit its name to the manager.
	file() string
	unit() string
	// define is the definition's text.
	define(d serviceDefinition) (string, error)
	// enable has the manager know the definition that is in the file now, and start
	// it with the machine; start starts it now. disable undoes enable and ends it;
	// the file is there still. forget comes after the file has gone.
	enable(ctx context.Context) error
	start(ctx context.Context) error
	disable(ctx context.Context) error
	forget(ctx context.Context) error
	state(ctx context.Context) (enabled, active bool)
	// survives says whether the service goes on after logout and starts with the
	// machine, and what to type where it does not.
	survives(ctx context.Context) (ok bool, why string, hint string)
}

// serviceDefinition is what every manager is told.
type serviceDefinition struct {
	Program  string
	Dir      string // where it begins
	Log      string
	EnvFile  string            // of a person's own, may be missing
	Env      map[string]string // what it cannot do without
	Hardened bool
}

// serviceCall bounds one call of a manager's program.
const serviceCall = 90 * time.Second

// inherited is what a service keeps of the environment it is installed in. Secrets
// are not among it: a definition is a file that others may come to read.
var inherited = []string{
	"PATH", "TOWLINE_HOME", "CODEX_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "LANG",
}

func newService() *cobra.Command {
	var asJSON, hardened bool
	c := &cobra.Command{
		Use:   "service",
		Short: "Have the daemon start with the machine, and outlive your logins",
		Long: "service makes the daemon a service of yours: a systemd user unit, or a launchd\n" +
			"agent on macOS. No root is needed. Whether other machines can reach it beyond ssh\n" +
			"is another matter: `towline remote-control start` and `off`.",
		Example: "  towline service install\n  towline service status\n  towline service uninstall",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.PersistentFlags().BoolVar(&asJSON, "json", false, "print one JSON object")
	install := &cobra.Command{
		Use:   "install",
		Short: "Write the service's definition, enable it and start it",
		Long: "install may be typed again: after an upgrade, or when PATH has changed. The\n" +
			"daemon that runs becomes the service's, unless it is at work: then the service\n" +
			"takes over at the next start.",
		Example: "  towline service install\n  towline service install --hardened",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return installService(cmd, hardened, asJSON) },
	}
	install.Flags().BoolVar(&hardened, "hardened", false, "let nothing under it gain privileges: sudo fails in the agent's commands (systemd)")
	uninstall := &cobra.Command{
		Use:     "uninstall",
		Short:   "Stop the service and remove every trace of it",
		Long:    "uninstall ends the daemon, and removes the definition. Threads, keys and the\nconfiguration stay.",
		Example: "  towline service uninstall",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return uninstallService(cmd, asJSON) },
	}
	status := &cobra.Command{
		Use:     "status",
		Short:   "Say whether the service is there, runs, and survives a reboot",
		Example: "  towline service status --json | jq .survivesLogout",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return serviceStatus(cmd, asJSON) },
	}
	c.AddCommand(install, uninstall, status)
	return c
}

// serviceResult is what the commands print with --json.
type serviceResult struct {
	Status   string   `json:"status"` // installed, alreadyInstalled, notInstalled, uninstalled
	Manager  string   `json:"manager"`
	Unit     string   `json:"unit"`
	File     string   `json:"file"`
	Program  string   `json:"program,omitempty"`
	Enabled  bool     `json:"enabled"`
	Active   bool     `json:"active"`
	Current  bool     `json:"current"` // the definition is what install would write now
	Survives bool     `json:"survivesLogout"`
	Why      string   `json:"why,omitempty"`
	PID      int      `json:"pid,omitempty"` // of the daemon
	Hints    []string `json:"hints,omitempty"`
}

// managerOf finds what manages services here.
func managerOf(paths config.Paths) (serviceManager, error) {
	suffix := ""
	if os.Getenv("TOWLINE_HOME") != "" {
		suffix = "-" + shortHash(paths.State)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("systemctl"); err == nil {
		return newSystemd(home, suffix), nil
	}
	if _, err := exec.LookPath("launchctl"); err == nil {
		return newLaunchd(home, suffix), nil
	}
	program, _ := programPath() // "" is as good as the name
	if program == "" {
		program = "towline"
	}
	return nil, &config.Problem{
		Stage: "service", Err: errors.New("there is neither systemd nor launchd on this machine"), Exit: config.ExitUnavailable,
		Hints: []string{
			"with cron, `crontab -e` and this line start it with the machine: @reboot " + program + " remote-control start",
			"until the next reboot `towline remote-control start` is enough: it outlives your login",
		},
	}
}

// installedService is the service of this home, nil when there is none.
func installedService(paths config.Paths) serviceManager {
	m, err := managerOf(paths)
	if err != nil {
		return nil
	}
	if _, err := os.Stat(m.file()); err != nil {
		return nil
	}
	return m
}

func definition(paths config.Paths, hardened bool) (serviceDefinition, error) {
	program, err := programPath()
	if err == nil {
		err = lasting(program)
	}
	if err != nil {
		return serviceDefinition{}, err
	}
	d := serviceDefinition{
		Program: program, Dir: homeDir(), Log: paths.Log(), EnvFile: filepath.Join(paths.Config, "environment"),
		Env: map[string]string{}, Hardened: hardened,
	}
	for _, name := range inherited {
		if v := os.Getenv(name); v != "" {
			d.Env[name] = v
		}
	}
	for name, v := range d.Env {
		if strings.ContainsAny(v, "\n\r\x00") {
			return d, &config.Problem{Stage: "service", Err: fmt.Errorf("%s has a line break in it", name), Exit: config.ExitUsage}
		}
	}
	return d, nil
}

func installService(cmd *cobra.Command, hardened, asJSON bool) error {
	paths, cfg, err := setup()
	if err != nil {
		return err
	}
	m, err := managerOf(paths)
	if err != nil {
		return err
	}
	ctx, tell := cmd.Context(), cmd.ErrOrStderr()
	d, err := definition(paths, hardened)
	if err != nil {
		return err
	}
	text, err := m.define(d)
	if err != nil {
		return &config.Problem{Stage: "service", Err: err, Exit: config.ExitUsage}
	}
	if err := paths.Ensure(); err != nil {
		return err
	}
	r := serviceResult{Status: "installed", Manager: m.name(), Unit: m.unit(), File: m.file(), Program: d.Program, Current: true}
	old, err := os.ReadFile(m.file())
	if err == nil && string(old) == text {
		r.Status = "alreadyInstalled"
	} else if err := writeDefinition(m.file(), text); err != nil {
		return &config.Problem{Stage: "service", Err: err, Exit: config.ExitConfig}
	}
	if err := m.enable(ctx); err != nil {
		if old == nil {
			_ = os.Remove(m.file()) // half a service is worse than none
		}
		return err
	}
	if isTemporary(d.Program) {
		r.Hints = append(r.Hints, "the program is in a temporary folder; copy it to a lasting one and type this again: "+d.Program)
	}
	if name := cfg.Engine.Native.APIKeyEnv; name != "" && os.Getenv(name) != "" {
		r.Hints = append(r.Hints, name+" is not passed on: `towline login --with-api-key` keeps it, or put it into "+d.EnvFile+" (chmod 600)")
	}
	if err := runInService(ctx, paths, m, tell, &r, old != nil && string(old) != text); err != nil {
		return err
	}
	return finishService(cmd, paths, m, r, asJSON)
}

// runInService makes the daemon the service's. One that is at work goes on where it
// is: being interrupted is not what somebody asked for who wants it to last.
func runInService(ctx context.Context, paths config.Paths, m serviceManager, tell io.Writer, r *serviceResult, changed bool) error {
	st, supervised := supervisor.Find(paths.State)
	inside := supervised && st.Backend == m.name()
	if inside && !changed {
		return nil
	}
	if busy, pid := isBusy(ctx, paths); busy {
		r.Hints = append(r.Hints, fmt.Sprintf("the daemon (pid %d) is at work and goes on as it is; the service takes over with `towline remote-control restart`", pid))
		return nil
	}
	managed := managedDaemon{paths: paths, tell: tell}
	if _, err := stopDaemon(ctx, paths); err != nil {
		return err
	}
	_, err := managed.start(ctx)
	return err
}

func uninstallService(cmd *cobra.Command, asJSON bool) error {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return err
	}
	m, err := managerOf(paths)
	if err != nil {
		return err
	}
	r := serviceResult{Status: "notInstalled", Manager: m.name(), Unit: m.unit(), File: m.file()}
	if _, err := os.Stat(m.file()); err == nil {
		r.Status = "uninstalled"
		// A manager that cannot be reached has nothing running, or what it has ends
		// with the daemon below; the file must go all the same.
		if err := m.disable(cmd.Context()); err != nil {
			r.Hints = append(r.Hints, config.OneLine(err.Error()))
		}
		if st, ok := supervisor.Find(paths.State); ok && st.Backend == m.name() {
			if _, err := stopDaemon(cmd.Context(), paths); err != nil {
				return err
			}
		}
		if err := os.Remove(m.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &config.Problem{Stage: "service", Err: err, Exit: config.ExitConfig}
		}
		for dir := filepath.Dir(m.file()); len(dir) > len(homeDir()); dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil { // somebody else has something in it
				break
			}
		}
		if err := m.forget(cmd.Context()); err != nil {
			r.Hints = append(r.Hints, config.OneLine(err.Error()))
		}
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	text := "there is no service to remove"
	if r.Status == "uninstalled" {
		text = "the service was stopped and removed: " + r.File
	}
	for _, h := range r.Hints {
		text += "\n" + h
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func serviceStatus(cmd *cobra.Command, asJSON bool) error {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return err
	}
	m, err := managerOf(paths)
	if err != nil {
		return err
	}
	r := serviceResult{Status: "notInstalled", Manager: m.name(), Unit: m.unit(), File: m.file()}
	if text, err := os.ReadFile(m.file()); err == nil {
		r.Status = "installed"
		d, err := definition(paths, bytes.Contains(text, []byte(hardenedMark)))
		if err != nil {
			return err
		}
		now, err := m.define(d)
		r.Current, r.Program = err == nil && sameProgram(string(text), now, d), d.Program
		if !r.Current {
			r.Hints = append(r.Hints, "the definition is of another program or home; write it anew: `towline service install`")
		}
	}
	return finishService(cmd, paths, m, r, asJSON)
}

// sameProgram compares definitions but for the environment, which differs from one
// shell to the next.
func sameProgram(a, b string, d serviceDefinition) bool {
	return a == b || strings.Contains(a, d.Program) && (d.Env["TOWLINE_HOME"] == "" || strings.Contains(a, d.Env["TOWLINE_HOME"]))
}

// finishService adds what the manager knows, and prints.
func finishService(cmd *cobra.Command, paths config.Paths, m serviceManager, r serviceResult, asJSON bool) error {
	ctx := cmd.Context()
	if r.Status != "notInstalled" {
		r.Enabled, r.Active = m.state(ctx)
		var hint string
		if r.Survives, r.Why, hint = m.survives(ctx); hint != "" {
			r.Hints = append(r.Hints, hint)
		}
		if h, ok := paths.Holder(); ok {
			r.PID = h.PID
		}
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), r.text())
	return err
}

func (r serviceResult) text() string {
	if r.Status == "notInstalled" {
		return "there is no service: `towline service install` makes one\n"
	}
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s looks after the daemon as %s\n\n", r.Manager, r.Unit)
	fmt.Fprintf(&b, "  definition        %s\n  program           %s\n", r.File, r.Program)
	fmt.Fprintf(&b, "  starts by itself  %s\n  runs now          %s", yes(r.Enabled), yes(r.Active))
	if r.Active && r.PID > 0 {
		fmt.Fprintf(&b, " (daemon pid %d)", r.PID)
	}
	fmt.Fprintf(&b, "\n  outlives logout   %s", yes(r.Survives))
	if r.Why != "" {
		fmt.Fprintf(&b, ": %s", r.Why)
	}
	b.WriteByte('\n')
	for i, h := range r.Hints {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\n", h)
	}
	return b.String()
}

func writeDefinition(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".towline-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // half a file is of no use
	}
	return err
}

func isTemporary(program string) bool {
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp", "/dev/shm"} {
		if rel, err := filepath.Rel(dir, program); err == nil && !strings.HasPrefix(rel, "..") {
			return true
		}
	}
	return false
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// userName is whose service it is.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

// runManager runs a manager's program. Its words are the error's.
func runManager(ctx context.Context, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, serviceCall)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	text := strings.TrimSpace(out.String())
	if err != nil {
		said := config.OneLine(errs.String())
		if said == "" {
			said = config.OneLine(text)
		}
		if said != "" {
			err = errors.New(said)
		}
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return text, err
}
