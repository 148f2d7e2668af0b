package account

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"towline/config"
)

// Limits of looking around in /proc.
const (
	maxProcesses = 4096
	maxHolders   = 4
)

// ours says whether the listener on a loopback port is this user's, as far as the
// kernel tells: somebody else's login is not ours to cancel.
func ours(port int) bool {
	raw, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return true
	}
	want := fmt.Sprintf(":%04X", port)
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid …
		f := strings.Fields(s.Text())
		if len(f) > 7 && f[3] == "0A" && strings.HasSuffix(f[1], want) && f[7] != strconv.Itoa(os.Getuid()) {
			return false
		}
	}
	return true
}

// holders names other programs of this user that have files of the Codex home
// open: who may have used the login.
func (m *Manager) holders() []string {
	home, err := filepath.EvalSymlinks(m.cfg.CodexHome)
	if err != nil || m.cfg.CodexHome == "" {
		return nil
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []string
	seen := 0
	for _, p := range all {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if seen++; seen > maxProcesses || len(out) == maxHolders {
			break
		}
		dir := filepath.Join("/proc", p.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // not ours to see
		}
		if slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			return err == nil && strings.HasPrefix(to, home+"/")
		}) {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			out = append(out, fmt.Sprintf("%s (pid %d)", config.OneLine(string(name)), pid))
		}
	}
	return out
}
