package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"towline/appserver/protocol"
	"towline/appserver/supervisor"
	"towline/config"
)

// superviseCommand is what a supervisor's process is called with.
const superviseCommand = "supervise"

// What may keep a supervisor itself.
const (
	backendNone    = "pid"
	backendSystemd = "systemd"
	backendLaunchd = "launchd"
)

// newSupervise is the process that keeps a daemon running. People meet it in ps
// and in a service's definition, and start it by `towline remote-control start`.
func newSupervise() *cobra.Command {
	var program, backend string
	c := &cobra.Command{
		Use:     superviseCommand,
		Short:   "Keep the daemon running: what `remote-control start` leaves behind",
		Long:    "supervise runs `towline serve` and starts it again when it crashes, more slowly\nthe more often. `towline remote-control status` shows what it knows.",
		Example: "  towline remote-control start",
		Hidden:  true,
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			if err := paths.Ensure(); err != nil {
				return err
			}
			if program == "" {
				if program, err = programPath(); err != nil {
					return err
				}
			}
			return supervise(cmd.Context(), paths, program, backend, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)).With("part", "supervisor"))
		},
	}
	c.Flags().StringVar(&program, "program", "", "`PATH` of the program to run, as it will still be called after an upgrade")
	c.Flags().StringVar(&backend, "backend", backendNone, "what keeps this process itself: pid, systemd or launchd")
	return c
}

func supervise(ctx context.Context, paths config.Paths, program, backend string, log *slog.Logger) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	s := supervisor.New(supervisor.Config{
		Dir: paths.State, LogFile: paths.Log(), Backend: backend, Log: log,
		Command:   func() (*exec.Cmd, error) { return lastingCommand(program, "serve") },
		Successor: func() (*exec.Cmd, error) { return lastingCommand(program, "serve", takeOverFlag) },
		Holder:    func() (int, bool) { h, ok := paths.Holder(); return h.PID, ok },
		Answers:   func(ctx context.Context) error { return answers(ctx, paths) },
		Final:     unmendable,
		Replace:   func() { becomeNewer(program, log) },
	})
	err := s.Run(ctx, reload)
	if !errors.Is(err, supervisor.ErrFinal) {
		if err != nil {
			err = &config.Problem{Stage: "supervise", Err: err, Exit: config.ExitUnavailable, Hints: []string{"`towline remote-control status` shows what runs"}}
		}
		return err
	}
	if backend == backendLaunchd {
		log.Error("the daemon is not started again: mend what ended it first, then `towline remote-control start`")
		return nil // launchd knows no statuses, and would try for ever
	}
	// Whatever keeps this process is told by the status that again is of no use.
	st, _ := supervisor.Find(paths.State)
	exit := config.ExitConfig
	if st.Last != nil && st.Last.Status > 0 {
		exit = st.Last.Status
	}
	return &config.Problem{
		Stage: "supervise", Err: err, Exit: exit,
		Hints: []string{"its log is " + paths.Log(), "mend it, then `towline remote-control start`"},
	}
}

// unmendable are the ends of a start that trying again does not mend: somebody has
// to change a file first.
func unmendable(status int) bool {
	return status == config.ExitUsage || status == config.ExitConfig || status == config.ExitDenied
}

// managedCommand is a towline as a process of its own, see daemonCommand.
func managedCommand(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...) //nolint:noctx // it outlives every context here
	cmd.Args[0] = "towline"
	cmd.Env = withoutConnection(os.Environ())
	cmd.Dir = homeDir()
	cmd.SysProcAttr = ownSession()
	return cmd
}

// lastingCommand is managedCommand for what nobody looks at when it starts.
func lastingCommand(program string, args ...string) (*exec.Cmd, error) {
	if err := lasting(program); err != nil {
		return nil, err
	}
	return managedCommand(program, args...), nil
}

func homeDir() string {
	if dir, err := os.UserHomeDir(); err == nil {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return string(filepath.Separator)
}

// programPath is this program by the name that will still be its name after an
// upgrade: the one that was typed, links and all, where that is this program.
func programPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", &config.Problem{Stage: "start", Err: fmt.Errorf("find this program: %w", err)}
	}
	self = strings.TrimSuffix(self, " (deleted)") // Linux, when an upgrade has replaced it
	typed := os.Args[0]
	if !strings.ContainsRune(typed, filepath.Separator) {
		if typed, err = exec.LookPath(typed); err != nil {
			return self, nil
		}
	}
	if typed, err = filepath.Abs(typed); err != nil {
		return self, nil
	}
	a, err := os.Stat(typed)
	if err != nil {
		return self, nil
	}
	if b, err := os.Stat(self); err != nil || os.SameFile(a, b) {
		return typed, nil
	}
	return self, nil
}

// restartSoon is how soon after an end the daemon that is started again begins, at
// most: the supervisor waits no longer than a minute.
const restartSoon = 5 * time.Minute

// restartedAfter is why a daemon that began at a time, in Unix seconds, had to be started again, nil
// when nothing went wrong before it.
func restartedAfter(paths config.Paths, began int64) *protocol.Restarted {
	st, alive := supervisor.Find(paths.State)
	if !alive || st.Last == nil || st.Restarts == 0 {
		return nil
	}
	if d := time.Unix(began, 0).Sub(st.Last.At); d > restartSoon || d < -2*time.Second {
		return nil
	}
	return &protocol.Restarted{At: st.Last.At.UnixMilli(), Reason: config.OneLine(st.Last.Reason())}
}
