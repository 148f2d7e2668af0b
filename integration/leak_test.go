package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"towline/integration/peer"
)

// 200 clients that open the UI, resize and vanish leave the daemon as it was.
func TestVanishingClientsLeaveNothingBehind(t *testing.T) {
	h := peer.Start(t, peer.HostConfig{})
	raw, err := os.ReadFile(h.Home + "/id_ed25519")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	vanish := func(n int) {
		for range n {
			c, err := ssh.Dial("tcp", h.SSH, &ssh.ClientConfig{
				User: "u", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: 10 * time.Second,
				HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // loopback; the key is not what is tested
			})
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.RequestPty("xterm-256color", 24, 80, ssh.TerminalModes{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.StdinPipe(); err != nil { // without one the client ends its input at once
				t.Fatal(err)
			}
			if err := s.Shell(); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				if err := s.WindowChange(20+i, 60+i); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.Close() // without a word
		}
	}
	atStart := read(t, h.PID())
	vanish(50) // what the first ones leave is caches, not leaks
	before := settle(t, h.PID(), usage{fds: atStart.fds + 2})
	vanish(200)
	after := settle(t, h.PID(), before)
	t.Logf("before %v, after %v", before, after)
	if after.fds > before.fds || after.threads > before.threads+8 {
		t.Errorf("descriptors %d -> %d, threads %d -> %d; open now:\n%s", before.fds, after.fds, before.threads, after.threads, descriptors(h.PID()))
	}
	if after.rss > before.rss+before.rss/4+16<<20 {
		t.Errorf("memory %d -> %d bytes", before.rss, after.rss)
	}
}

type usage struct {
	fds, threads int
	rss          int64 // bytes
}

func (u usage) String() string {
	return fmt.Sprintf("%d fds, %d threads, %d MiB", u.fds, u.threads, u.rss>>20)
}

// settle reads a process's usage once its descriptors are back at the goal, or
// have had their time to get there: a thread that somebody opened and left
// stays loaded for a minute (native.DefaultIdleUnload).
func settle(t *testing.T, pid int, goal usage) usage {
	t.Helper()
	end := time.Now().Add(time.Minute + peer.Patience)
	for {
		u := read(t, pid)
		if goal.fds > 0 && u.fds <= goal.fds || time.Now().After(end) {
			return u
		}
		time.Sleep(500 * time.Millisecond) // there is no event for a descriptor of another process
	}
}

// descriptors lists what a process holds open.
func descriptors(pid int) string {
	var b strings.Builder
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	for _, fd := range fds {
		to, err := os.Readlink(dir + "/" + fd.Name())
		fmt.Fprintln(&b, fd.Name(), to, err)
	}
	return b.String()
}

func read(t testing.TB, pid int) usage {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	u := usage{fds: len(fds)}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "VmRSS:":
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			u.rss = kb << 10
		case len(f) > 1 && f[0] == "Threads:":
			u.threads, _ = strconv.Atoi(f[1])
		}
	}
	return u
}
