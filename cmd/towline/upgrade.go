package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	estate "towline/appserver/handover"
	"towline/appserver/supervisor"
	"towline/config"
)

// takeOverFlag, among the arguments of a `serve` or an `app-server`, makes it
// succeed the daemon that runs with the same home: it takes that one's listeners,
// and turns at work end where they run. When it cannot, it ends with an error and
// the old one goes on as if nothing had happened. Whoever starts it that way
// knows that it has taken over by config.Paths.Holder, which then names it, or by
// its ready line.
const takeOverFlag = "--take-over"

// detachedFlag says that nobody waits for the process: when it has been succeeded
// and its work is done, it ends.
const detachedFlag = "--detached"

// upgradeTimeout is how long a successor may take to get ready and take over.
const upgradeTimeout = 90 * time.Second

// upgraded is what `app-server upgrade --json` prints. Scripts rely on it.
type upgraded struct {
	Status  string      `json:"status"` // upgraded
	PID     int         `json:"pid"`
	Version string      `json:"version"`
	Socket  string      `json:"socket"`
	From    upgradeFrom `json:"from"`
}

// upgradeFrom is the daemon before.
type upgradeFrom struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	// Finishing: it is still there, and ends what runs in it.
	Finishing bool `json:"finishing"`
}

func newUpgrade() *cobra.Command {
	var program string
	var asJSON bool
	c := &cobra.Command{
		Use:   "upgrade",
		Short: "Have this program take over from the daemon that runs",
		Long: "upgrade replaces the running daemon by the program it is typed with, or by\n" +
			"--program, without interrupting a turn: the new one takes the listeners, clients\n" +
			"come back to it at once, and the old one ends when its last turn has. When the\n" +
			"new one cannot start, the old one goes on. docs/upgrade.md says more.",
		Example: "  towline app-server upgrade\n" +
			"  towline app-server upgrade --program ~/.local/bin/towline --json",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := config.Locate(os.Getenv)
			if err != nil {
				return err
			}
			if program == "" {
				program, err = programPath()
			} else {
				program, err = filepath.Abs(program)
			}
			if err != nil {
				return err
			}
			r, err := upgrade(cmd.Context(), paths, program)
			if err != nil {
				return err
			}
			return printUpgraded(cmd.OutOrStdout(), asJSON, r)
		},
	}
	c.Flags().StringVar(&program, "program", "", "`PATH` of the program that is to take over (default: this one)")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

// upgrade has program take over from the home's daemon and returns when it has. A
// daemon with a supervisor is succeeded by what that one keeps running, which is
// the program at its usual path.
func upgrade(ctx context.Context, paths config.Paths, program string) (upgraded, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, upgradeTimeout, fmt.Errorf("it has not taken over within %v", upgradeTimeout))
	defer cancel()
	socket := estate.Socket(paths.FindSocket())
	old, err := estate.Ask(ctx, socket)
	if err != nil {
		return upgraded{}, upgradeProblem(paths, err)
	}
	logged := logEnd(paths)
	pid := 0 // of a successor that is not the supervisor's
	if st, ok := supervisor.Find(paths.State); ok && st.Supervisor > 0 {
		err = hurry(st.Supervisor)
	} else {
		pid, err = estate.Start(ctx, socket, program)
	}
	if err != nil {
		return upgraded{}, upgradeProblem(paths, err)
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		if h, ok := paths.Holder(); ok && h.PID > 0 && h.PID != old.PID {
			r := upgraded{
				Status: "upgraded", PID: h.PID, Socket: h.Socket,
				From: upgradeFrom{PID: old.PID, Version: old.Version, Finishing: running(old.PID)},
			}
			if st, err := readStatus(ctx, paths); err == nil {
				r.Version = st.Version
			}
			return r, nil
		}
		if pid != 0 && !running(pid) {
			err := errors.New("the successor ended before it took over; the daemon goes on as before")
			if said := supervisor.Tail(paths.Log(), logged); len(said) > 0 {
				if cause, hints := ownWords(joinLines(said)); cause != "" {
					return upgraded{}, &config.Problem{Stage: "upgrade", Err: fmt.Errorf("%w: %s", err, cause), Hints: hints, Exit: config.ExitFailure}
				}
			}
			return upgraded{}, upgradeProblem(paths, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return upgraded{}, upgradeProblem(paths, fmt.Errorf("the successor: %w", context.Cause(ctx)))
		}
	}
}

// logEnd is where the daemon's log ends now, 0 when it has none.
func logEnd(paths config.Paths) int64 {
	info, err := os.Stat(paths.Log())
	if err != nil {
		return 0
	}
	return info.Size()
}

func joinLines(lines []string) (out string) {
	for _, l := range lines {
		out += l + "\n"
	}
	return out
}

func upgradeProblem(paths config.Paths, err error) error {
	p := &config.Problem{Stage: "upgrade", Err: err, Exit: config.ExitFailure}
	var refused *estate.RefusedError
	switch {
	case errors.As(err, &refused):
		p.Err, p.Hints = refused, refused.Hints
	case errors.Is(err, estate.ErrUnsupported):
		p.Err, p.Exit = estate.ErrUnsupported, config.ExitUnavailable
		p.Hints = []string{"stop it and start it: `towline app-server stop`, then `towline app-server start`"}
	case errors.Is(err, estate.ErrNobody):
		p.Exit = config.ExitUnavailable
		if h, ok := paths.Holder(); ok {
			p.Err = fmt.Errorf("the daemon (pid %d) cannot be succeeded: it is of an older build, or serves only whoever started it", h.PID)
			p.Hints = []string{"stop it when it is idle: `towline app-server stop --if-idle`, then `towline app-server start`"}
			break
		}
		p.Err, p.Hints = errors.New("no daemon runs"), []string{"start one: `towline app-server start`"}
	default:
		p.Hints = []string{"the daemon's log says more: " + paths.Log(), "to see it at work: `" + "towline app-server " + takeOverFlag + " --verbose`"}
	}
	return p
}

func printUpgraded(out io.Writer, asJSON bool, r upgraded) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := fmt.Fprintf(out, "the daemon is %s now (pid %d)\n", printable(r.Version), r.PID)
	if err == nil && r.From.Finishing {
		_, err = fmt.Fprintf(out, "the one before, %s (pid %d), ends when what runs in it has\n", printable(r.From.Version), r.From.PID)
	}
	return err
}
