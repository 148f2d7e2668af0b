package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Main is the helper: args are what follows Command on its command line. It
// replaces the process by the program and returns only when that failed.
func Main(args []string) int {
	if err := become(args); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s%v\n", complaint, err) // nowhere else to say it
		return ExitHelper
	}
	return 0
}

func become(args []string) error {
	if len(args) < 2 || args[1] != "--" {
		return errors.New("this is a part of towline, not a command to type")
	}
	var s spec
	d := json.NewDecoder(strings.NewReader(args[0]))
	d.DisallowUnknownFields() // a rule this version does not know must not be dropped
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("read the confinement: %w", err)
	}
	argv := args[2:]
	// Capabilities, no_new_privs and the filter belong to a thread; execve keeps
	// those of the thread that calls it.
	runtime.LockOSThread()

	var terminals []string
	if s.Mounts {
		if err := mountReadOnly(s.Areas); err != nil {
			return err
		}
		if err := hide(s.Hidden); err != nil {
			return err
		}
		if ownTerminals() {
			terminals = []string{"/dev/pts"}
		}
		// The working directory still lies in the mount that was covered.
		if err := unix.Chdir(s.Dir); err != nil {
			return fmt.Errorf("enter %s: %w", s.Dir, err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switch off core dumps: %w", err)
	}
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("close inherited files: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up gaining privileges: %w", err)
	}
	if !s.Open {
		if err := restrictFiles(s.Areas, terminals...); err != nil {
			return err
		}
	}
	if err := restrictCalls(s); err != nil {
		return err
	}
	if s.Program == "" {
		return nil
	}
	if err := unix.Exec(s.Program, argv, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", s.Program, err)
	}
	return nil
}

// keptCapabilities are those a root user's programs may keep: they reach no
// further than the files the other layers leave open. All others go.
var keptCapabilities = map[int]bool{
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_DAC_READ_SEARCH: true, unix.CAP_FOWNER: true,
	unix.CAP_FSETID: true, unix.CAP_KILL: true, unix.CAP_SETGID: true, unix.CAP_SETUID: true,
}

// dropCapabilities empties the bounding set but for the kept ones: with
// no_new_privs the program can never have more. Without the right to do so
// there is nothing to drop.
func dropCapabilities() error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if keptCapabilities[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EPERM) {
			return nil // an ordinary user outside a namespace
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: newer than this kernel
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
