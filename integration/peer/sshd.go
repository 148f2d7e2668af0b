package peer

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Server is something that speaks SSH, as a [Laptop] needs to know it.
type Server struct {
	Addr    string // HOST:PORT
	HostKey Key
	// HostCA signed the host key, when the server shows a certificate.
	HostCA *Key

	log  *syncBuffer
	stop func()
	drop func()
	once sync.Once
}

// Log is what the server has said so far.
func (s *Server) Log() string { return s.log.String() }

// At is the same server under another address: behind a [Link].
func (s *Server) At(addr string) *Server {
	return &Server{Addr: addr, HostKey: s.HostKey, HostCA: s.HostCA, log: s.log, stop: func() {}, drop: s.drop}
}

// Stop ends the server, and with it the connections it serves.
func (s *Server) Stop() { s.once.Do(s.stop) }

// OpenSSH says how an sshd is set up. The zero value lets keys in, forwards
// everything and is quiet.
type OpenSSH struct {
	NoForwarding bool   // AllowTcpForwarding and AllowStreamLocalForwarding no
	ForceCommand string // runs instead of what the client asks for
	// AuthenticationMethods as in sshd_config: "publickey,keyboard-interactive".
	AuthenticationMethods string
	Passwords             bool // PasswordAuthentication, by PAM
	Challenges            bool // KbdInteractiveAuthentication, by PAM
	UserCA                *Key // trusted to sign users' keys
	HostCertificate       bool // the host key is shown as a certificate of a CA of its own
	MaxSessions           int  // sessions a connection may have; 0 is sshd's default, 10
	Banner                string
	Config                string // further lines, before everything else: the first value wins
	Match                 string // a Match block, at the end

	HostKey *Key   // instead of a fresh one
	Listen  string // ADDR:PORT instead of a loopback address of its own
	// Place is a network namespace to listen in.
	Place *Place
	// Mounts are shell commands run in a mount namespace of this server alone,
	// before it starts: a read-only home, a /tmp without exec.
	Mounts []string
	// Machine is where it runs: its network and its /etc.
	Machine *Machine
}

// NoExecTmp is a mount for [OpenSSH.Mounts]: programs in /tmp do not run.
const NoExecTmp = "mount -t tmpfs -o noexec,nosuid,mode=1777 none /tmp"

// ReadOnly is a mount for [OpenSSH.Mounts]: dir cannot be written.
func ReadOnly(dir string) string {
	return "mount --bind " + quote(dir) + " " + quote(dir) + "; mount -o remount,bind,ro " + quote(dir)
}

// StartOpenSSH starts OpenSSH's sshd until the end of the test. Anyone with an
// account may try to log in; what is not a test's own account has no key here.
func StartOpenSSH(t testing.TB, o OpenSSH) *Server {
	t.Helper()
	NeedRoot(t)
	Need(t, "sshd")
	// Not in the temporary directory, which a test may mount over.
	dir, err := os.MkdirTemp("/var/tmp", "sshd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if o.Machine != nil {
		o.Place, o.Mounts = o.Machine.Place, append(o.Machine.Mounts(), o.Mounts...)
	}
	s := &Server{Addr: o.Listen, log: &syncBuffer{}}
	switch {
	case o.Place != nil:
		s.Addr = net.JoinHostPort(o.Place.Addr, "22")
	case s.Addr == "":
		s.Addr = Loopback(t) + ":2222"
	}
	if o.HostKey != nil {
		s.HostKey = *o.HostKey
	} else {
		s.HostKey = NewKey(t, Ed25519, "host", "")
	}
	conf := o.config(t, dir, s)
	_ = os.MkdirAll("/run/sshd", 0o755) //nolint:gosec // what Debian's unit does; root's sshd asks for it
	argv := []string{sbin("sshd"), "-D", "-e", "-f", conf}
	if len(o.Mounts) > 0 {
		Need(t, "unshare")
		argv = append([]string{
			"unshare", "--mount", "--propagation", "private", "sh", "-ec",
			strings.Join(o.Mounts, "\n") + "\nexec \"$@\"", "sh",
		}, argv...)
	}
	if o.Place != nil {
		argv = append([]string{sbin("ip"), "netns", "exec", o.Place.Name}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // Stop ends it
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	s.run(t, cmd, "Server listening on")
	return s
}

// Loopback is a loopback address that nothing else uses: a port of one address
// can be taken by anyone between looking and listening.
func Loopback(t testing.TB) string {
	t.Helper()
	b := make([]byte, 3)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+b[0]%254, b[1], 1+b[2]%254)
}

func sbin(program string) string {
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	return "/usr/sbin/" + program
}

// config writes sshd_config and what it names, and returns its path.
func (o OpenSSH) config(t testing.TB, dir string, s *Server) string {
	t.Helper()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	set := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if o.Config != "" {
		set("%s", o.Config)
	}
	set("Port %s\nListenAddress %s\nPidFile none\nLogLevel VERBOSE", port, host)
	set("HostKey %s", file("host", s.HostKey.PEM))
	if o.HostCertificate {
		ca := NewKey(t, Ed25519, "host-ca", "")
		s.HostCA = &ca
		set("HostCertificate %s", file("host-cert.pub", s.HostKey.Certificate(t, ca, ssh.HostCert, time.Time{}, host)+"\n"))
	}
	if o.UserCA != nil {
		set("TrustedUserCAKeys %s", file("user-ca.pub", o.UserCA.Line+"\n"))
	}
	onOff := func(name string, on bool) { set("%s %s", name, map[bool]string{true: "yes", false: "no"}[on]) }
	// PAM also opens the session, so it is off unless somebody is asked.
	onOff("UsePAM", o.Passwords || o.Challenges)
	onOff("PasswordAuthentication", o.Passwords)
	onOff("KbdInteractiveAuthentication", o.Challenges)
	if o.NoForwarding {
		set("AllowTcpForwarding no\nAllowStreamLocalForwarding no")
	}
	if o.AuthenticationMethods != "" {
		set("AuthenticationMethods %s", o.AuthenticationMethods)
	}
	if o.ForceCommand != "" {
		set("ForceCommand %s", o.ForceCommand)
	}
	if o.MaxSessions > 0 {
		set("MaxSessions %d", o.MaxSessions)
	}
	if o.Banner != "" {
		set("Banner %s", file("banner", o.Banner))
	}
	set("MaxStartups 200\nPerSourcePenalties no") // a test connects as often as it likes
	if o.Match != "" {
		set("%s", o.Match)
	}
	conf := b.String()
	if !supportsPenalties(t) {
		conf = strings.ReplaceAll(conf, "\nPerSourcePenalties no", "")
	}
	return file("sshd_config", conf)
}

// supportsPenalties tells OpenSSH 9.8 and newer, which slow down who fails
// often and refuse options they do not know.
var supportsPenalties = func() func(testing.TB) bool {
	var once sync.Once
	var yes bool
	return func(t testing.TB) bool {
		once.Do(func() {
			out, _ := exec.CommandContext(t.Context(), sbin("sshd"), "-T", "-f", "/dev/null", "-o", "PerSourcePenalties=no").CombinedOutput()
			yes = !strings.Contains(string(out), "Bad configuration option")
		})
		return yes
	}
}()

// run starts cmd and waits until it has said text, on either stream.
func (s *Server) run(t testing.TB, cmd *exec.Cmd, text string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	s.drop = dropper(cmd.Process.Pid, "sshd", "sshd-session", "dropbear")
	up := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		seen := false
		for in := bufio.NewReader(r); ; {
			line, err := in.ReadString('\n')
			_, _ = io.WriteString(s.log, line)
			if !seen && strings.Contains(line, text) {
				seen = true
				close(up)
			}
			if err != nil {
				return
			}
		}
	}()
	s.stop = func() {
		s.drop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = r.SetReadDeadline(time.Now().Add(time.Second)) // a stray child may hold the other end
		<-read
		_ = r.Close()
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("the server on %s said:\n%s", s.Addr, s.Log())
		}
	})
	select {
	case <-up:
	case <-read:
		t.Fatalf("%v ended:\n%s", cmd.Args, s.Log())
	case <-time.After(Patience):
		t.Fatalf("%v does not listen:\n%s", cmd.Args, s.Log())
	}
}

// DropConnections ends every connection as a dying server process would, and
// leaves the listener and what people left running.
func (s *Server) DropConnections() { s.drop() }

// dropper kills the connection processes of the listener with the given id:
// its descendants that run the server's own program, not what they started.
func dropper(listener int, names ...string) func() {
	return func() {
		for _, pid := range descendants(listener) {
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && slices.Contains(names, strings.TrimSpace(string(comm))) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// descendants are the ids of what pid started, and what that started.
func descendants(pid int) []int {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, parent := processState(id); parent != 0 {
			children[parent] = append(children[parent], id)
		}
	}
	var out []int
	for todo := []int{pid}; len(todo) > 0; {
		next := children[todo[0]]
		out = append(out, next...)
		todo = append(todo[1:], next...)
	}
	return out
}

// processState is the letter of a process's state and the id of its parent.
func processState(pid int) (state string, parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// The name, in brackets, may hold anything; the two come after it.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(f[1])
	return f[0], parent
}
