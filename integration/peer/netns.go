package peer

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
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
)

// Machine is a computer of its own, as far as the programs on it can tell: a
// loopback of its own (so ports 1455 and 1457 of its own), its own names and
// authorities, its own /etc. It reaches nothing but what a test serves on
// [Machine.Near], as if that were the internet.
//
// What is set after a program was started on it counts for later ones only.
type Machine struct {
	*Place
	// Near is the test's end of the machine's wire. What listens there, or on
	// Internet, is all the machine reaches.
	Near string
	// Internet is an address of the test's beyond that wire, which is of no private
	// network, so that programs take what is there for a site.
	Internet string

	t      testing.TB
	etc    string // what lies over its /etc
	mounts []string

	mu    sync.Mutex // guards names
	names []string   // lines of /etc/hosts
}

// NewMachine makes one that lives until the end of the test.
func NewMachine(t testing.TB) *Machine {
	t.Helper()
	Need(t, "ip", "unshare", "setpriv")
	m := &Machine{Place: Chain(t, 1)[0], t: t}
	m.Near = m.near
	m.Internet = m.claim()
	if err := ip("-n", m.Name, "route", "add", m.Internet+"/32", "via", m.Near); err != nil {
		t.Fatal(err)
	}
	// Accounts made for tests read it, so it is not below t.TempDir.
	dir, err := os.MkdirTemp("/var/tmp", "machine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m.etc = filepath.Join(dir, "etc")
	for _, d := range []string{dir, m.etc} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // a machine's /etc
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // a machine's /etc
			t.Fatal(err)
		}
	}
	m.Resolve("127.0.0.1", "localhost")
	m.Resolve("::1", "localhost")
	m.Etc("nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
	m.Etc("resolv.conf", "")
	return m
}

// claim finds an address of the ranges kept for documentation (RFC 5737) that no
// other machine has, and makes it one of the test's end of the wire.
func (m *Machine) claim() string {
	m.t.Helper()
	ranges := [][3]byte{{192, 0, 2}, {198, 51, 100}, {203, 0, 113}}
	for range 100 {
		var b [2]byte
		if _, err := rand.Read(b[:]); err != nil {
			m.t.Fatal(err)
		}
		r := ranges[b[0]%3]
		addr := fmt.Sprintf("%d.%d.%d.%d", r[0], r[1], r[2], 1+b[1]%254)
		// Who has it listens on a port that nobody wants.
		const mark = "1"
		listen := func() (net.Listener, error) { return net.Listen("tcp", net.JoinHostPort(addr, mark)) } //nolint:noctx // closed with the test
		if ln, err := listen(); err == nil || errors.Is(err, syscall.EADDRINUSE) {
			if err == nil {
				_ = ln.Close()
			}
			continue // an address of this machine's already
		}
		if err := ip("addr", "add", addr+"/32", "dev", m.nearDevice); err != nil {
			m.t.Fatal(err)
		}
		ln, err := listen()
		if err != nil { // somebody came to it at the same moment
			_ = ip("addr", "del", addr+"/32", "dev", m.nearDevice)
			continue
		}
		m.t.Cleanup(func() { _ = ln.Close() })
		return addr
	}
	m.t.Fatal("no address is free for a site")
	return ""
}

// Etc puts a file into the machine's /etc, over one the real machine may have.
func (m *Machine) Etc(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.etc, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a machine's /etc
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // everyone reads it
		m.t.Fatal(err)
	}
}

// Resolve makes the machine know a name.
func (m *Machine) Resolve(addr, name string) {
	m.t.Helper()
	m.mu.Lock()
	m.names = append(m.names, addr+"\t"+name)
	text := strings.Join(m.names, "\n") + "\n"
	m.mu.Unlock()
	m.Etc("hosts", text)
}

// Trust makes the machine accept what the authority signed, next to what the
// real machine does.
func (m *Machine) Trust(pem []byte) {
	m.t.Helper()
	const bundle = "ssl/certs/ca-certificates.crt"
	// A machine may have no authorities at all.
	old, _ := os.ReadFile("/etc/" + bundle)
	m.Etc(bundle, string(old)+"\n"+string(pem))
}

// NoIPv6Loopback takes ::1 away.
func (m *Machine) NoIPv6Loopback() {
	m.t.Helper()
	if err := ip("-n", m.Name, "addr", "del", "::1/128", "dev", "lo"); err != nil {
		m.t.Fatal(err)
	}
}

// Mounts are the shell commands that give a mount namespace the machine's /etc.
// See [OpenSSH.Mounts].
func (m *Machine) Mounts() []string {
	return append([]string{"mount -t overlay -o lowerdir=" + m.etc + ":/etc none /etc"}, m.mounts...)
}

// Mount adds a shell command to those: a folder laid over another.
func (m *Machine) Mount(command string) { m.mounts = append(m.mounts, command) }

// Argv is the command line that runs args on the machine, as root. The process
// it starts becomes that of args.
func (m *Machine) Argv(args ...string) []string {
	// `ip netns exec` also makes a mount namespace.
	return append([]string{
		sbin("ip"), "netns", "exec", m.Name, "sh", "-ec", strings.Join(m.Mounts(), "\n") + "\nexec \"$@\"", "sh",
	}, args...)
}

// Command runs args on the machine, as root.
func (m *Machine) Command(ctx context.Context, args ...string) *exec.Cmd {
	argv := m.Argv(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = Environ(m.t)
	return cmd
}

// Occupy holds a port of the machine's loopback with a program of root's that is
// not ours, until the end of the test, and returns its process id.
func (m *Machine) Occupy(port int) int {
	m.t.Helper()
	return m.occupy(m.Command(context.Background(), occupier(port)...), port)
}

// Occupy is [Machine.Occupy] with a program of the account's own.
func (u *User) Occupy(port int) int {
	u.t.Helper()
	return u.machine.occupy(u.Command(context.Background(), occupier(port)...), port)
}

func occupier(port int) []string { return []string{"nc", "-l", "-k", "127.0.0.1", strconv.Itoa(port)} }

func (m *Machine) occupy(cmd *exec.Cmd, port int) int {
	m.t.Helper()
	Need(m.t, "nc")
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = in.Close(); _ = cmd.Wait() })
	m.WaitListener(port)
	return cmd.Process.Pid
}

// Expose makes addr, which the test can reach, a port of the machine's wire: the
// way from one machine to another. It returns the address on the machine's side.
func (m *Machine) Expose(addr string) *Link {
	m.t.Helper()
	return newLink(m.t, net.JoinHostPort(m.Near, "0"), addr)
}

// Listeners are the TCP ports something listens on, on the machine, sorted, each
// once.
func (m *Machine) Listeners() []int {
	m.t.Helper()
	var out []int
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		raw, err := exec.CommandContext(ctx, sbin("ip"), "netns", "exec", m.Name, "cat", table).Output()
		cancel()
		if err != nil {
			m.t.Fatalf("%s: %v", table, err)
		}
		for line := range bytes.Lines(raw) {
			f := strings.Fields(string(line))
			const listening = "0A"
			if len(f) < 4 || f[3] != listening {
				continue
			}
			_, hexPort, _ := strings.Cut(f[1], ":")
			b, err := hex.DecodeString(hexPort)
			if err != nil || len(b) != 2 {
				m.t.Fatalf("%s has %q", table, line)
			}
			if port := int(b[0])<<8 | int(b[1]); !slices.Contains(out, port) {
				out = append(out, port)
			}
		}
	}
	slices.Sort(out)
	return out
}

// WaitListener waits until something listens on the port.
func (m *Machine) WaitListener(port int) {
	m.t.Helper()
	Eventually(m.t, fmt.Sprintf("a listener on port %d of %s", port, m.Name), func() bool {
		return slices.Contains(m.Listeners(), port)
	})
}

// WaitNoListener waits until nothing listens on the ports.
func (m *Machine) WaitNoListener(ports ...int) {
	m.t.Helper()
	Eventually(m.t, fmt.Sprintf("nothing listening on %v of %s", ports, m.Name), func() bool {
		return !slices.ContainsFunc(m.Listeners(), func(p int) bool { return slices.Contains(ports, p) })
	})
}

// Eventually waits until ok, looking again and again: for what has no event.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}
