package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver"
	"towline/appserver/protocol"
	"towline/appserver/supervisor"
	"towline/appserver/transport"
	"towline/config"
)

// remoteOptions are the flags of remote-control and its commands.
type remoteOptions struct {
	json, foreground bool
	project          string
}

func newRemoteControl() *cobra.Command {
	var o remoteOptions
	c := &cobra.Command{
		Use:   "remote-control",
		Short: "The daemon in the background, open to your other machines",
		Long: "remote-control keeps a host running in the background: it is started again when\n" +
			"it crashes, and goes on when you log out. While remote control is enabled it\n" +
			"also listens where [app_server] listen in config.toml says, for other machines;\n" +
			"`remote-control off` closes that at once, and the SSH door and the local socket\n" +
			"stay. Without a command it does what start does. To have it start with the\n" +
			"machine, see `towline service install`.",
		Example: "  towline remote-control start\n" +
			"  towline remote-control status\n" +
			"  towline remote-control off\n" +
			"  towline remote-control --no-daemon      in the foreground",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return remoteStart(cmd, o) },
	}
	// As Codex has them: they may stand before the command as well as after it.
	c.PersistentFlags().BoolVar(&o.json, "json", false, "print one JSON object")
	c.Flags().BoolVar(&o.foreground, "no-daemon", false, "run in the foreground until interrupted")
	start := &cobra.Command{
		Use:   "start",
		Short: "Start the daemon unless it runs, and enable remote control",
		Long: "start enables remote control, for good, and makes sure that the daemon runs. It\n" +
			"says what can be reached from where. Saying it twice does no harm.",
		Example: "  towline remote-control start\n  towline remote-control start --json | jq .daemon.pid",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remoteStart(cmd, o) },
	}
	start.Flags().BoolVar(&o.foreground, "no-daemon", false, "run in the foreground until interrupted")
	stop := &cobra.Command{
		Use:   "stop",
		Short: "Stop the daemon, if it runs",
		Long: "stop ends the daemon in good order and waits until it is gone. Running turns are\n" +
			"interrupted, and offered for continuation. Remote control stays enabled or not,\n" +
			"for the next start.",
		Example: "  towline remote-control stop\n  towline remote-control stop --json",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remoteStop(cmd, o) },
	}
	restart := &cobra.Command{
		Use:     "restart",
		Short:   "Start the daemon anew, with the program and configuration of now",
		Long:    "restart has a new daemon take the place of the one that runs; where that can\nhand over to it, no turn is interrupted and clients see at most a moment's pause.",
		Example: "  towline remote-control restart",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remoteRestart(cmd, o) },
	}
	status := &cobra.Command{
		Use:     "status",
		Short:   "Say whether the daemon runs, what can be reached, and why it ended last",
		Example: "  towline remote-control status\n  towline remote-control status --json | jq -r .status",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remoteStatus(cmd, o) },
	}
	pair := &cobra.Command{
		Use:     "pair",
		Short:   "Make a code that pairs a device through a relay",
		Example: "  towline remote-control pair",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remotePair(cmd, o) },
	}
	off := &cobra.Command{
		Use:   "off",
		Short: "Close everything other machines reach but the SSH door, at once",
		Long: "off closes the listeners beyond this machine and drops their clients now, and\n" +
			"keeps them closed until the next `remote-control start`. The daemon goes on; its\n" +
			"SSH door and its local socket stay open. It works without a daemon as well.",
		Example: "  towline remote-control off",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return remoteOff(cmd, o) },
	}
	c.AddCommand(start, stop, restart, status, pair, off)
	return c
}

// remoteStart is start, in the background or in the foreground.
func remoteStart(cmd *cobra.Command, o remoteOptions) error {
	paths, cfg, err := setup()
	if err != nil {
		return err
	}
	if err := mayRelay(); err != nil {
		return err
	}
	ctx, tell := cmd.Context(), cmd.ErrOrStderr()
	if o.foreground {
		return remoteForeground(ctx, o, paths, cfg, cmd.OutOrStdout(), tell)
	}
	m := managedDaemon{paths: paths, tell: tell}
	if err := paths.SetRemoteControl(true); err != nil {
		return err
	}
	status, err := m.start(ctx)
	if err != nil {
		return stillEnabled(err)
	}
	if status == statusAlready {
		// One that was started while it was off opens its listeners now.
		if err := setRemote(ctx, paths, true); err != nil {
			return err
		}
	}
	st, err := readStatus(ctx, paths)
	if err != nil {
		return err
	}
	r := remoteStarted{
		Mode: "daemon", Status: remoteConnected, ServerName: hostName(),
		Daemon: ptr(m.object(status, st)), Reachable: reachable(st),
	}
	if o.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return printStarted(cmd.OutOrStdout(), r, paths)
}

// stillEnabled says of a start that failed what has become of the switch.
func stillEnabled(err error) error {
	var p *config.Problem
	if errors.As(err, &p) {
		p.Hints = append(p.Hints, "remote control stays enabled; `towline remote-control off` closes it")
	}
	return err
}

// remoteForeground is a host in this process, with remote control enabled.
func remoteForeground(ctx context.Context, o remoteOptions, paths config.Paths, cfg config.Config, out, errOut io.Writer) error {
	if err := paths.SetRemoteControl(true); err != nil {
		return err
	}
	h, err := openHost(ctx, serveOptions{project: o.project, lasting: true}, paths, cfg, errOut)
	if err != nil {
		return stillEnabled(err)
	}
	defer h.close()
	st := h.server.Status()
	r := remoteStarted{Mode: "foreground", Status: remoteConnected, ServerName: hostName(), Reachable: reachable(st)}
	if o.json {
		err = json.NewEncoder(out).Encode(r)
	} else {
		err = printStarted(out, r, paths)
	}
	if err != nil {
		return err
	}
	return h.run(ctx)
}

func remoteStop(cmd *cobra.Command, o remoteOptions) error {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return err
	}
	m := managedDaemon{paths: paths, tell: cmd.ErrOrStderr()}
	r, err := stopDaemon(cmd.Context(), paths)
	if err != nil {
		return err
	}
	if !o.json {
		return printResult(cmd.OutOrStdout(), false, r)
	}
	d := m.object(r.Status, protocol.HostStatus{})
	d.PID = r.PID
	return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
}

func remoteRestart(cmd *cobra.Command, o remoteOptions) error {
	paths, _, err := setup()
	if err != nil {
		return err
	}
	m := managedDaemon{paths: paths, tell: cmd.ErrOrStderr()}
	if err := m.restart(cmd.Context()); err != nil {
		return err
	}
	st, err := readStatus(cmd.Context(), paths)
	if err != nil {
		return err
	}
	d := m.object("restarted", st)
	if o.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the daemon was started anew (pid %d, version %s)\n", st.PID, printable(st.Version))
	return err
}

func remotePair(cmd *cobra.Command, o remoteOptions) error {
	paths, _, err := setup()
	if err != nil {
		return err
	}
	if err := mayRelay(); err != nil {
		return err
	}
	var answer json.RawMessage
	err = askDaemon(cmd.Context(), paths, "remoteControl/pairing/start", map[string]any{"manualCode": true}, &answer)
	var refused *protocol.Error
	if errors.As(err, &refused) {
		return &config.Problem{
			Stage: "pair", Err: fmt.Errorf("remoteControl/pairing/start failed: %s", config.OneLine(refused.Message)), Exit: config.ExitUnavailable,
			Hints: []string{
				"without a relay, other machines come by SSH, or to a listener of [app_server] in " + paths.ConfigFile(),
				"see what can be reached: `towline remote-control status`",
			},
		}
	}
	if err != nil {
		return err
	}
	if o.json {
		_, err = cmd.OutOrStdout().Write(append(answer, '\n'))
		return err
	}
	var p struct {
		Code      string `json:"pairingCode"`
		Manual    string `json:"manualPairingCode"`
		ExpiresAt int64  `json:"expiresAt"`
	}
	if err := json.Unmarshal(answer, &p); err != nil {
		return &config.Problem{Stage: "pair", Err: fmt.Errorf("the daemon's answer: %w", err), Exit: config.ExitUnavailable}
	}
	code := p.Manual
	if code == "" {
		code = p.Code
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "type this on the device before %s:\n\n  %s\n", time.Unix(p.ExpiresAt, 0).Format(time.TimeOnly), printable(code))
	return err
}

// remoteOff closes what is open, and keeps it so. It asks nobody: closing must
// work whatever else does not.
func remoteOff(cmd *cobra.Command, o remoteOptions) error {
	paths, err := config.Locate(os.Getenv)
	if err != nil {
		return err
	}
	if err := paths.SetRemoteControl(false); err != nil {
		return err
	}
	runs := false
	if h, ok := paths.Holder(); ok || answers(cmd.Context(), paths) == nil {
		runs = true
		if err := setRemote(cmd.Context(), paths, false); err != nil {
			var p *config.Problem
			if errors.As(err, &p) {
				err = p.Err
			}
			return &config.Problem{
				Stage: "remote control", Err: fmt.Errorf("it stays closed from the next start on, but the daemon that runs (pid %d) has not closed it: %w", h.PID, err),
				Hints: []string{"end the daemon to close it now: `towline remote-control stop`"},
			}
		}
	}
	if o.json {
		off := false
		d := managedDaemon{paths: paths}.object("disabled", protocol.HostStatus{})
		d.RemoteControl = &off
		return json.NewEncoder(cmd.OutOrStdout()).Encode(d)
	}
	text := "remote control is off, and stays off: no daemon runs"
	if runs {
		text = "remote control is off: the network listeners are closed and their clients gone;\nthe SSH door and the local socket stay open"
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// setRemote has the daemon that runs open or close what is beyond this machine.
func setRemote(ctx context.Context, paths config.Paths, on bool) error {
	var now struct {
		Enabled bool `json:"enabled"`
	}
	err := askDaemon(ctx, paths, protocol.ExtRemoteControl, map[string]bool{"enabled": on}, &now)
	var refused *protocol.Error
	if errors.As(err, &refused) {
		return &config.Problem{
			Stage: "remote control", Err: fmt.Errorf("the daemon refuses: %s", config.OneLine(refused.Message)), Exit: config.ExitFailure,
			Hints: []string{"start it anew, with the switch as it is now: `towline remote-control restart`"},
		}
	}
	if err != nil {
		return err
	}
	if now.Enabled != on {
		return &config.Problem{Stage: "remote control", Err: errors.New("the daemon did not take the switch"), Hints: []string{"its log is " + paths.Log()}}
	}
	return nil
}

// managedDaemon is the daemon of a home together with what keeps it running.
type managedDaemon struct {
	paths config.Paths
	tell  io.Writer // progress, for people
}

// What a start says it did.
const (
	statusStarted = "started"
	statusAlready = "alreadyRunning"
)

func (m managedDaemon) say(format string, args ...any) {
	if m.tell != nil {
		fmt.Fprintf(m.tell, format+"\n", args...)
	}
}

// start makes sure that a daemon answers. One that runs already stays, by whomever
// it was started; one whose supervisor was killed gets another.
func (m managedDaemon) start(ctx context.Context) (status string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it does not answer after %v", startTimeout))
	defer cancel()
	if err := m.paths.Ensure(); err != nil {
		return "", err
	}
	unlock, err := lockStart(ctx, m.paths)
	if err != nil {
		return "", startProblem(m.paths, err)
	}
	defer unlock()
	return m.startLocked(ctx)
}

func (m managedDaemon) startLocked(ctx context.Context) (string, error) {
	st, supervised := supervisor.Find(m.paths.State)
	up := answers(ctx, m.paths) == nil
	if up && (supervised || !m.orphan(st)) {
		return statusAlready, nil
	}
	if supervised {
		// It is on its way, or waits after a crash: now is better than later.
		m.say("the daemon is %s; it is started now", st.Phase)
		if st.Phase == supervisor.Waiting && st.Supervisor > 0 {
			_ = hurry(st.Supervisor) // it starts it by itself otherwise
		}
		return statusStarted, m.await(ctx, time.Time{}, time.Now(), nil)
	}
	if up {
		m.say("the daemon runs, but nothing looks after it; that changes now")
	} else {
		m.say("starting the daemon")
	}
	began := time.Now()
	if s := installedService(m.paths); s != nil {
		err := s.start(ctx)
		if err == nil {
			return m.started(up), m.await(ctx, began, began, nil)
		}
		m.say("the service does not start (%s); the daemon is started without it", config.OneLine(err.Error()))
	}
	ended, err := m.spawn()
	if err != nil {
		return "", startProblem(m.paths, err)
	}
	return m.started(up), m.await(ctx, began, began, ended)
}

func (m managedDaemon) started(up bool) string {
	if up {
		return statusAlready
	}
	return statusStarted
}

// orphan reports whether the daemon that runs is one a supervisor had, which was
// killed.
func (m managedDaemon) orphan(st supervisor.State) bool {
	h, ok := m.paths.Holder()
	return ok && h.PID > 0 && h.PID == st.Daemon
}

// spawn leaves a supervisor behind. What comes is how it ended, if it does while
// this process lives.
func (m managedDaemon) spawn() (<-chan error, error) {
	program, err := programPath()
	if err != nil {
		return nil, err
	}
	log, _, err := supervisor.OpenLog(m.paths.Log())
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the supervisor has its own
	cmd := managedCommand(program, superviseCommand, "--program", program)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it outlives this process, or ends with it
	return ended, nil
}

// await waits until the daemon answers. One that ends instead, for a reason of its
// own, is not waited for: nobody sees its next tries.
//
// since is when its supervisor was started at the earliest: what another left in the
// state is not about this one.
func (m managedDaemon) await(ctx context.Context, since, began time.Time, ended <-chan error) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	gone := time.Time{}
	var why error // it has failed, and its supervisor is on its way out
	for {
		select {
		case <-ended:
			ended = nil
		case <-tick.C:
		case <-ctx.Done():
			if why != nil {
				return why
			}
			return m.stuck(context.Cause(ctx))
		}
		st, alive := supervisor.Find(m.paths.State)
		if why != nil {
			if !alive {
				return why
			}
			continue
		}
		if alive && !st.Began.Before(since) && answers(ctx, m.paths) == nil {
			return nil
		}
		failed := st.Last != nil && st.Last.At.After(began)
		switch {
		case !alive && ended == nil && gone.IsZero():
			gone = time.Now() // or it has not come yet, where a service starts it
		case alive:
			gone = time.Time{}
		case failed, !gone.IsZero() && time.Since(gone) > awaitSupervisor:
			return m.failed(st, failed)
		}
		if alive && failed && st.Last.Signal == "" && !st.Last.Answered {
			// It would be tried again and again; but the one who asked is here now.
			why = m.failed(st, true)
			if st.Supervisor == 0 || terminate(st.Supervisor) != nil {
				return why
			}
		}
	}
}

// awaitSupervisor is how long a supervisor may take to come.
const awaitSupervisor = 10 * time.Second

func (m managedDaemon) failed(st supervisor.State, known bool) error {
	if !known {
		return inItsWords(m.paths, errors.New("its supervisor ended"), 0, supervisor.Tail(m.paths.Log(), 0))
	}
	return inItsWords(m.paths, errors.New(st.Last.Reason()), st.Last.Status, st.Last.Said)
}

// stuck names what a start that took too long was at, with the last that was said.
func (m managedDaemon) stuck(err error) error {
	st, alive := supervisor.Find(m.paths.State)
	at := "the supervisor is not there"
	if alive {
		at = "the daemon is " + st.Phase
	}
	text := fmt.Sprintf("start the daemon: %v; %s", err, at)
	for _, line := range supervisor.Tail(m.paths.Log(), 0) {
		text += "\n  " + line
	}
	return &config.Problem{
		Stage: "start", Err: errors.New(text), Exit: config.ExitUnavailable,
		Hints: []string{"its log is " + m.paths.Log(), "it is tried on: `towline remote-control status`", "give it up: `towline remote-control stop`"},
	}
}

// restart has a new daemon succeed the one that runs, which ends its turns where
// they are; or starts one. Where one cannot succeed the other, a daemon at work is
// left alone.
func (m managedDaemon) restart(ctx context.Context) error {
	old, runs := m.paths.Holder()
	if runs && old.PID > 0 {
		err := m.succeed(ctx, old.PID)
		if err == nil {
			return nil
		}
		if busy, _ := isBusy(ctx, m.paths); busy {
			return &config.Problem{
				Stage: "restart", Err: fmt.Errorf("the daemon (pid %d) is at work, and goes on as it is: %w", old.PID, err), Exit: config.ExitUnavailable,
				Hints: []string{
					"wait until it is done: `towline status` tells",
					"or interrupt its turns, which can be continued: `towline remote-control stop`, then `towline remote-control start`",
				},
			}
		}
		m.say("the daemon cannot hand over (%s); it is stopped and started", config.OneLine(err.Error()))
	}
	if _, err := stopDaemon(ctx, m.paths); err != nil {
		return err
	}
	_, err := m.start(ctx)
	return err
}

// succeed starts a daemon that takes over from the one with this pid, under its
// supervisor, which it gets when it has none.
func (m managedDaemon) succeed(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no successor after %v", startTimeout))
	defer cancel()
	unlock, err := lockStart(ctx, m.paths)
	if err != nil {
		return err
	}
	defer unlock()
	began := time.Now()
	if _, supervised := supervisor.Find(m.paths.State); !supervised {
		m.say("nothing looks after the daemon; that changes now")
		ended, err := m.spawn()
		if err != nil {
			return err
		}
		if err := m.await(ctx, began, began, ended); err != nil {
			return err
		}
	}
	asked := false
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		st, alive := supervisor.Find(m.paths.State)
		switch {
		case !alive:
			return errors.New("the supervisor has ended")
		case !asked && st.Supervisor > 0 && (st.Phase == supervisor.Running || st.Phase == supervisor.Waiting):
			if err := hurry(st.Supervisor); err != nil {
				return err
			}
			asked = true
			m.say("a new daemon takes over from pid %d", pid)
		case st.HandOver != nil && st.HandOver.At.After(began):
			return fmt.Errorf("the successor ended: %s", st.HandOver.Reason())
		case st.Phase == supervisor.Running && st.Daemon > 0 && st.Daemon != pid && answers(ctx, m.paths) == nil:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// remoteSwitch is the switch as a host finds it: a listener for other machines that
// was named on the command line is open unless somebody switched that off.
func remoteSwitch(paths config.Paths, named []string, log *slog.Logger) *appserver.RemoteControl {
	r, err := appserver.NewRemoteControl(paths, mayRelay, slices.ContainsFunc(named, transport.Remote))
	if err != nil {
		log.Warn("remote control is off", "why", config.OneLine(err.Error()))
	}
	return r
}
