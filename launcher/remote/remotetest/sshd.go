package remotetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Passphrase opens SSHD.EncryptedKey.
const Passphrase = "open sesame"

// SSHD is a real OpenSSH server on a loopback port, for the user who runs the
// test.
type SSHD struct {
	Dir  string // everything of it
	Addr string // host:port
	Port int
	User string

	// Key, EncryptedKey and StrangerKey are private key files. The first two may
	// log in; the third may not.
	Key, EncryptedKey, StrangerKey string
	HostKey                        string // private; the public one has .pub behind it

	t   testing.TB
	cmd *exec.Cmd
}

// Program finds a program a test needs. Without it the test is skipped, loudly,
// or fails where nothing may be missing (CI=true).
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("this test needs %s, which is not installed", names[0])
	}
	t.Skipf("LACKING: this test needs %s, which is not installed", names[0])
	return ""
}

// StartSSHD runs sshd until the test ends. Directives come before its own
// settings, and sshd takes the first value of each.
func StartSSHD(t testing.TB, directives ...string) *SSHD {
	t.Helper()
	program := Program(t, "/usr/sbin/sshd", "sshd", "/usr/local/sbin/sshd")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // where it separates its privileges
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "sshd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &SSHD{
		Dir: dir, User: me.Username, t: t, HostKey: filepath.Join(dir, "host"), Key: filepath.Join(dir, "id"),
		EncryptedKey: filepath.Join(dir, "id_encrypted"), StrangerKey: filepath.Join(dir, "id_stranger"),
	}
	Keygen(t, s.HostKey, "")
	Keygen(t, s.Key, "")
	Keygen(t, s.StrangerKey, "")
	Keygen(t, s.EncryptedKey, Passphrase)
	var keys []byte
	for _, k := range []string{s.Key, s.EncryptedKey} {
		pub, err := os.ReadFile(k + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, pub...)
	}
	s.write("authorized_keys", string(keys))
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	s.Addr, s.Port = l.Addr().String(), l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	s.write("sshd_config", fmt.Sprintf("%s\nPort %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\n"+
		"PidFile none\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\nMaxStartups 100\nPermitRootLogin yes\n",
		strings.Join(directives, "\n"), s.Port, s.HostKey, filepath.Join(dir, "authorized_keys")))
	s.run(program)
	return s
}

func (s *SSHD) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *SSHD) run(program string) {
	s.t.Helper()
	s.cmd = exec.Command(program, "-D", "-f", filepath.Join(s.Dir, "sshd_config"), "-E", s.logFile())
	// A file, not a buffer: sshd's children keep it open for longer than sshd.
	errs, err := os.Create(filepath.Join(s.Dir, "stderr"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Stderr = errs
	err = s.cmd.Start()
	_ = errs.Close() // it has its own
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.Stop)
	for end := time.Now().Add(Bound); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", s.Addr)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(errs.Name())
			s.t.Fatalf("sshd does not listen: %v\n%s%s", err, said, s.Log())
		}
	}
}

func (s *SSHD) logFile() string { return filepath.Join(s.Dir, "log") }

// Log is what sshd logged so far.
func (s *SSHD) Log() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return string(b)
}

// Logins counts the logins so far.
func (s *SSHD) Logins() int { return len(accepted.FindAllString(s.Log(), -1)) }

var accepted = regexp.MustCompile(`Accepted \S+ for `)

// KnownHosts writes a known_hosts file that knows this server, and returns its
// path.
func (s *SSHD) KnownHosts() string {
	s.t.Helper()
	pub, err := os.ReadFile(s.HostKey + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("known_hosts", "[127.0.0.1]:"+strconv.Itoa(s.Port)+" "+string(pub))
	return filepath.Join(s.Dir, "known_hosts")
}

// Stop ends the server and the connections it has. Idempotent.
func (s *SSHD) Stop() {
	if s.cmd.ProcessState != nil {
		return
	}
	children := s.children()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	for _, pid := range children {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// Drop ends the connections there are, as a server that reboots would.
func (s *SSHD) Drop() {
	for _, pid := range s.children() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// children are the processes serving connections, and those below them that
// speak for a user.
func (s *SSHD) children() []int {
	ctx, cancel := context.WithTimeout(context.Background(), Bound)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=,ppid=,comm=").Output()
	if err != nil {
		s.t.Logf("ps: %v", err)
		return nil
	}
	type process struct {
		pid, parent int
		name        string
	}
	var all []process
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		pid, _ := strconv.Atoi(f[0])
		parent, _ := strconv.Atoi(f[1])
		all = append(all, process{pid, parent, f[2]})
	}
	ours := map[int]bool{s.cmd.Process.Pid: true}
	var found []int
	for range 4 { // sshd, its monitor, its user's half, and newer ones' helpers
		for _, p := range all {
			if ours[p.parent] && !ours[p.pid] && strings.HasPrefix(filepath.Base(p.name), "sshd") {
				ours[p.pid] = true
				found = append(found, p.pid)
			}
		}
	}
	return found
}

// Keygen makes an ed25519 key pair.
func Keygen(t testing.TB, path, passphrase string) {
	t.Helper()
	out, err := exec.Command(Program(t, "ssh-keygen"), "-q", "-t", "ed25519", "-N", passphrase, "-C", filepath.Base(path), "-f", path).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}
