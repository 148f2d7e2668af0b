package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What a supervisor is doing.
const (
	Starting = "starting" // the daemon was started and does not answer yet
	Running  = "running"  // it answers
	Waiting  = "waiting"  // it ended badly; it is started again at State.NextAt
	Stopping = "stopping" // it was asked to end
	Ended    = "ended"    // the supervisor is gone, or about to
)

// State is what a supervisor does and did. It is kept in the home, as JSON, and
// replaced whole.
type State struct {
	Phase      string    `json:"phase"`
	Supervisor int       `json:"supervisorPid"`
	Daemon     int       `json:"daemonPid,omitempty"`
	Began      time.Time `json:"began"`           // the supervisor
	Since      time.Time `json:"since"`           // the phase
	NextAt     time.Time `json:"nextAt,omitzero"` // of the next start, while Waiting
	Restarts   int       `json:"restarts"`        // starts after a bad end, since Began
	// Last is how the daemon ended last when that was not asked for; nil when it
	// never did. It is kept when supervisors change.
	Last *Exit `json:"lastExit,omitempty"`
	// HandOver is how a successor ended that did not take over; nil when none did,
	// or a later one has.
	HandOver *Exit `json:"handOver,omitempty"`
	// Final: the last end was of a kind that starting again does not mend.
	Final bool `json:"final,omitempty"`
	// Backend is what keeps the supervisor itself: "pid" (nothing), "systemd" or
	// "launchd".
	Backend string `json:"backend"`
}

// Exit is how a daemon ended.
type Exit struct {
	At     time.Time `json:"at"`
	PID    int       `json:"pid"`
	Ran    float64   `json:"ranSeconds"`       // from its start
	Status int       `json:"status"`           // exit status; -1 with a signal, or when it is not known
	Signal string    `json:"signal,omitempty"` // "killed"
	Said   []string  `json:"said,omitempty"`   // its last lines, fit for a terminal
	// Answered: it had been reachable before it ended.
	Answered bool `json:"answered"`
}

// wentTogether is said of a daemon whose supervisor did not see it end.
const wentTogether = "error: its supervisor was killed with it, or the machine went down"

// Reason is how it ended in a few words: "signal: killed", "exit status 1: error: …".
func (e *Exit) Reason() string {
	why := "it is not known how"
	switch {
	case len(e.Said) == 1 && e.Said[0] == wentTogether:
		return strings.TrimPrefix(wentTogether, "error: ")
	case e.Signal != "":
		why = "signal: " + e.Signal
	case e.Status >= 0:
		why = fmt.Sprintf("exit status %d", e.Status)
	}
	for i := len(e.Said) - 1; i >= 0; i-- { // the error, not the hint below it
		if strings.HasPrefix(e.Said[i], "error: ") || strings.HasPrefix(e.Said[i], "panic: ") || strings.HasPrefix(e.Said[i], "fatal error: ") {
			said := strings.TrimPrefix(e.Said[i], "error: ")
			if strings.HasSuffix(said, ":") && i+1 < len(e.Said) { // it goes on below
				said += " " + e.Said[i+1]
			}
			return why + ", " + said
		}
	}
	return why
}

const (
	stateFile = "supervisor.json"
	lockFile  = "supervisor.lock"
	// maxState bounds the state file, in bytes.
	maxState = 256 << 10
)

// Find reads the state kept in dir, a home's state folder, and reports whether a
// supervisor is there now. Without a readable state it is the zero one.
func Find(dir string) (st State, alive bool) {
	st, _ = readState(dir) // a damaged one says nothing; the lock does
	if pid, held := holder(filepath.Join(dir, lockFile)); held {
		if pid > 0 {
			st.Supervisor = pid
		}
		return st, true
	}
	st.Phase = Ended
	return st, false
}

func readState(dir string) (st State, err error) {
	f, err := os.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return State{}, err
	}
	defer func() { _ = f.Close() }() // read-only
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return State{}, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return State{}, err
	}
	return st, nil
}

// writeState replaces the file. It is not synced: after a crash of the machine
// nothing in it is true but the last end, which nobody needs to the second.
func writeState(dir string, st State) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, stateFile+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, stateFile))
	}
	if err != nil {
		_ = os.Remove(f.Name()) // half a file is of no use
	}
	return err
}
