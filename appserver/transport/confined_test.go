//go:build linux

package transport

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	if url := os.Getenv("TRANSPORT_TEST_CONFINED"); url != "" {
		dialConfined(url)
		os.Exit(1)
	}
}

// A command of the agent's is a process of the same user; it must not answer its
// own approvals, whichever door it finds.
func TestConfinedProcessesAreRefused(t *testing.T) {
	for _, url := range []string{socketURL(t), "ws://127.0.0.1:0", "ws://[::1]:0"} {
		l := open(t, url, Options{}, echo)
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"TRANSPORT_TEST_CONFINED=" + l.URL()}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "refused") || !strings.Contains(string(out), "confined") {
			t.Errorf("%s: %s %v", url, out, err)
		}
		if got := roundTrip(t, dial(t, l.URL()), `{"id":1}`); got != `{"id":1}` {
			t.Errorf("%s: then we got %s", url, got)
		}
	}
}

// dialConfined starts this program again as a sandbox would, and dials.
func dialConfined(url string) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fmt.Println("lacking:", err)
		return
	}
	fmt.Println(syscall.Exec("/proc/self/exe", os.Args[:1], []string{"TRANSPORT_TEST_DIAL=" + url}))
}

func TestConfinementIsWhatIsMoreThanOurs(t *testing.T) {
	for name, tc := range map[string]struct {
		theirs, ours confinement
		beyond       bool
	}{
		"free":               {confinement{}, confinement{}, false},
		"like us":            {confinement{true, 2}, confinement{true, 2}, false},
		"less than us":       {confinement{}, confinement{true, 2}, false},
		"no new privileges":  {confinement{true, 0}, confinement{}, true},
		"one filter more":    {confinement{true, 3}, confinement{true, 2}, true},
		"a filter, as root":  {confinement{false, 1}, confinement{}, true},
		"privileges, filter": {confinement{false, 2}, confinement{true, 1}, true},
	} {
		if got := tc.theirs.beyond(tc.ours); got != tc.beyond {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func BenchmarkHolder(b *testing.B) {
	uid := uint32(os.Geteuid()) //nolint:gosec // uids are 32 bits
	for b.Loop() {
		_ = new(holders).unconfinedHolder(uid, 1)
	}
}
