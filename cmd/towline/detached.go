package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/supervisor"
	"towline/appserver/transport"
	"towline/config"
)

const (
	// startTimeout is how long a daemon may take until it answers, stopTimeout
	// until it has ended: an engine may be given time to end its turns.
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	// lookAgain is how often that is looked at.
	lookAgain = 20 * time.Millisecond
)

// daemonResult is what start and stop print with --json. Scripts rely on it.
type daemonResult struct {
	Status string `json:"status"` // started, alreadyRunning, stopped, notRunning, busy
	PID    int    `json:"pid,omitempty"`
	Socket string `json:"socket,omitempty"`
	Log    string `json:"log,omitempty"`
}

func newStart() *cobra.Command {
	var project string
	var asJSON bool
	c := &cobra.Command{
		Use:   "start",
		Short: "Start the daemon in the background, unless it runs",
		Long: "start leaves a daemon behind that listens on its unix socket alone and stays\n" +
			"until `towline app-server stop`. It writes to a log file in Towline's home.",
		Example: "  towline app-server start\n  towline app-server start --project ~/src/shop --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			if project != "" {
				if project, err = projectDir(project, "--project"); err != nil {
					return err
				}
			}
			started, err := startDaemon(cmd.Context(), paths, project)
			if err != nil {
				return err
			}
			r := daemonResult{Status: "alreadyRunning", Socket: paths.FindSocket()}
			if started {
				r.Status, r.Log = "started", paths.Log()
			}
			if st, err := readStatus(cmd.Context(), paths); err == nil {
				r.PID = st.PID
			}
			return printResult(cmd.OutOrStdout(), asJSON, r)
		},
	}
	c.Flags().StringVar(&project, "project", "", "`DIR` new threads work in (default: your home folder)")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func newStop() *cobra.Command {
	var asJSON, ifIdle bool
	c := &cobra.Command{
		Use:     "stop",
		Short:   "Stop the daemon of this home, if one runs",
		Long:    "stop ends the daemon in good order, however it was started, and waits until it is gone.",
		Example: "  towline app-server stop\n  towline app-server stop --json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			if ifIdle {
				if busy, pid := isBusy(cmd.Context(), paths); busy {
					return printResult(cmd.OutOrStdout(), asJSON, daemonResult{Status: "busy", PID: pid})
				}
			}
			r, err := stopDaemon(cmd.Context(), paths)
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), asJSON, r)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	c.Flags().BoolVar(&ifIdle, "if-idle", false, "leave it alone while a thread works or waits for somebody")
	return c
}

// isBusy reports whether the daemon has work that its end would interrupt.
func isBusy(ctx context.Context, paths config.Paths) (busy bool, pid int) {
	st, err := readStatus(ctx, paths)
	if err != nil {
		return false, 0
	}
	return st.Threads.Working > 0 || st.Threads.Waiting > 0, st.PID
}

func printResult(out io.Writer, asJSON bool, r daemonResult) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	text := map[string]string{
		"started": "the daemon is running", "alreadyRunning": "the daemon runs already",
		"stopped": "the daemon has stopped", "notRunning": "no daemon runs",
		"busy": "the daemon is at work, and goes on",
	}[r.Status]
	if r.PID != 0 {
		text += fmt.Sprintf(" (pid %d)", r.PID)
	}
	if r.Log != "" {
		text += "; its log is " + r.Log
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// startDaemon makes sure that a daemon answers on the home's socket. Of several
// that try at once one starts it, and the others find it.
func startDaemon(ctx context.Context, paths config.Paths, project string) (started bool, err error) {
	if answers(ctx, paths) == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it does not answer after %v", startTimeout))
	defer cancel()
	if err := paths.Ensure(); err != nil {
		return false, err
	}
	unlock, err := lockStart(ctx, paths)
	if err != nil {
		return false, startProblem(paths, err)
	}
	defer unlock()
	if answers(ctx, paths) == nil {
		return false, nil
	}
	log, begin, err := supervisor.OpenLog(paths.Log())
	if err != nil {
		return false, startProblem(paths, err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	cmd, err := daemonCommand(project)
	if err != nil {
		return false, startProblem(paths, err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return false, startProblem(paths, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it outlives this process, or ends with it
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return false, died(paths, err, cmd.ProcessState.ExitCode(), begin)
		case <-tick.C:
			if answers(ctx, paths) == nil {
				return true, nil
			}
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM) // half a daemon is of no use
			return false, startProblem(paths, context.Cause(ctx))
		}
	}
}

// daemonCommand is the daemon as a process of its own: no terminal, no ties to
// whoever starts it, in the environment of this process. It begins in the
// person's home folder, since it outlives every other. Its umask is the login's:
// it is that of the commands an agent runs, whose files are the person's. What
// the daemon itself keeps is made private one by one.
func daemonCommand(project string) (*exec.Cmd, error) {
	self, err := selfPath()
	if err != nil {
		return nil, err
	}
	args := []string{"app-server", "--listen", "unix://", detachedFlag}
	if project != "" {
		args = append(args, "--project", project)
	}
	cmd := exec.Command(self, args...) //nolint:noctx // it outlives every context here
	cmd.Args[0] = "towline"
	cmd.Env = withoutConnection(os.Environ())
	if cmd.Dir, err = os.UserHomeDir(); err != nil {
		cmd.Dir = string(filepath.Separator)
	}
	cmd.SysProcAttr = ownSession()
	return cmd, nil
}

// answers is nil when a daemon does.
func answers(ctx context.Context, paths config.Paths) error {
	s, err := transport.Dial(ctx, "unix://"+paths.FindSocket())
	if err != nil {
		return err
	}
	return s.Close(nil)
}

// died explains a daemon that ended instead of answering, in its own words.
func died(paths config.Paths, err error, status int, begin int64) error {
	return inItsWords(paths, err, status, supervisor.Tail(paths.Log(), begin))
}

func inItsWords(paths config.Paths, err error, status int, said []string) error {
	cause, hints := ownWords(strings.Join(said, "\n"))
	if cause == "" {
		cause = "the daemon ended"
		if err != nil {
			cause += ": " + err.Error()
		}
		for _, line := range said[max(0, len(said)-3):] {
			cause += "\n  " + line
		}
	}
	exit := status
	if exit <= 0 || exit > config.ExitDenied {
		exit = config.ExitUnavailable
	}
	return &config.Problem{
		Stage: "start", Err: errors.New(cause), Exit: exit,
		Hints: append(hints, "its log is "+paths.Log()),
	}
}

// ownWords finds the error and the hints among what a towline said, see
// config.Explain.
func ownWords(said string) (cause string, hints []string) {
	for line := range strings.Lines(said) {
		line = printable(strings.TrimRight(line, "\n"))
		if rest, ok := strings.CutPrefix(line, "error: "); ok {
			cause, hints = rest, nil
		} else if rest, ok := strings.CutPrefix(line, "hint: "); ok && cause != "" {
			hints = append(hints, rest)
		} else if cause != "" && line != "" && len(hints) == 0 {
			cause += "\n" + line
		}
	}
	return cause, hints
}

func startProblem(paths config.Paths, err error) error {
	return &config.Problem{
		Stage: "start", Err: fmt.Errorf("start the daemon: %w", err), Exit: config.ExitUnavailable,
		Hints: []string{"its log is " + paths.Log(), "start it by hand to see more: `towline app-server --listen unix:// --verbose`"},
	}
}

// stopDaemon ends the daemon that answers on the home's socket.
func stopDaemon(ctx context.Context, paths config.Paths) (daemonResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stopTimeout, fmt.Errorf("it has not ended after %v", stopTimeout))
	defer cancel()
	none := daemonResult{Status: "notRunning"}
	if _, err := os.Stat(paths.State); errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	unlock, err := lockStart(ctx, paths)
	if err != nil {
		return none, &config.Problem{Stage: "stop", Err: err, Hints: []string{"wait until the start that is under way has ended"}}
	}
	defer unlock()
	pid, err := daemonPID(ctx, paths)
	st, supervised := supervisor.Find(paths.State)
	if pid == 0 && (!supervised || st.Supervisor == 0) {
		return none, err
	}
	ask := func(p int) error {
		if err := terminate(p); err != nil {
			return &config.Problem{Stage: "stop", Err: fmt.Errorf("pid %d: %w", p, err), Exit: config.ExitDenied, Hints: []string{"stop it as the user it runs as"}}
		}
		return nil
	}
	// A supervisor first: it ends its daemon itself, and would start it again.
	first := pid
	if supervised && st.Supervisor > 0 {
		first = st.Supervisor
	}
	if err := ask(first); err != nil {
		return none, err
	}
	ended := func() bool {
		if supervised {
			if _, there := supervisor.Find(paths.State); there {
				return false
			}
			supervised = false
			// One that was killed meanwhile has left its daemon to us.
			if h, ok := paths.Holder(); ok && h.PID > 0 {
				pid = h.PID
				_ = ask(pid) // or it has ended by now
			}
		}
		h, ok := paths.Holder()
		return !(ok && h.PID == pid) && (pid == 0 || !running(pid))
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for !ended() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return none, &config.Problem{
				Stage: "stop", Err: fmt.Errorf("pid %d: %w", pid, context.Cause(ctx)),
				Hints: []string{"`towline status` shows what it does", fmt.Sprintf("end it at once with `kill -9 %d`; its turns are marked as interrupted", pid)},
			}
		}
	}
	return daemonResult{Status: "stopped", PID: pid}, nil
}

// daemonPID is the process to stop; 0 when there is none, or none that can be
// named.
func daemonPID(ctx context.Context, paths config.Paths) (int, error) {
	if h, ok := paths.Holder(); ok && h.PID > 0 { // also when its socket was swept away
		return h.PID, nil
	}
	err := answers(ctx, paths)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	st, err := readStatus(ctx, paths)
	return st.PID, err
}
