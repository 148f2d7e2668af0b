package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"towline/appserver/protocol"
)

// The probes below run confined; nil means that the escape worked.
func init() {
	socket := func(family, typ, proto int) error {
		fd, err := unix.Socket(family, typ, proto)
		if err == nil {
			_ = unix.Close(fd) // a probe
		}
		return err
	}
	call := func(nr uintptr, args ...uintptr) error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if e != 0 {
			return e
		}
		return nil
	}
	for name, f := range map[string]func(args []string) error{
		"tcp":                func([]string) error { return socket(unix.AF_INET, unix.SOCK_STREAM, 0) },
		"tcp6":               func([]string) error { return socket(unix.AF_INET6, unix.SOCK_STREAM, 0) },
		"udp":                func([]string) error { return socket(unix.AF_INET, unix.SOCK_DGRAM, 0) },
		"mptcp":              func([]string) error { return socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP) },
		"raw":                func([]string) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
		"ping":               func([]string) error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) },
		"packet":             func([]string) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
		"netlink":            func([]string) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) },
		"vsock":              func([]string) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
		"bluetooth":          func([]string) error { return socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0) },
		"alg":                func([]string) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
		"family's high half": func([]string) error { return call(unix.SYS_SOCKET, 1<<32|unix.AF_INET, unix.SOCK_STREAM, 0) },
		"unix datagram":      func([]string) error { return socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0) },
		"datagram pair": func([]string) error {
			_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			return err
		},
		"stream pair": func([]string) error {
			for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK} {
				if _, err := unix.Socketpair(unix.AF_UNIX, typ, 0); err != nil {
					return err
				}
			}
			return nil
		},
		"dial":   func(a []string) error { _, err := net.DialTimeout(a[0], a[1], 5*time.Second); return err },
		"listen": func(a []string) error { _, err := net.Listen(a[0], a[1]); return err },
		"sendto": func(a []string) error {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			return unix.Sendto(fds[0], []byte("x"), 0, &unix.SockaddrUnix{Name: a[0]})
		},
		"open for writing": func(a []string) error {
			f, err := os.OpenFile(a[0], os.O_WRONLY, 0)
			if err == nil {
				_ = f.Close() // a probe
			}
			return err
		},
		"truncate":      func(a []string) error { return os.Truncate(a[0], 0) },
		"open truncate": func(a []string) error { _, err := unix.Open(a[0], unix.O_RDONLY|unix.O_TRUNC, 0); return err },
		"exchange": func(a []string) error {
			return unix.Renameat2(unix.AT_FDCWD, a[0], unix.AT_FDCWD, a[1], unix.RENAME_EXCHANGE)
		},
		"chmod":  func(a []string) error { return os.Chmod(a[0], 0o777) },
		"times":  func(a []string) error { return os.Chtimes(a[0], time.Unix(1, 0), time.Unix(1, 0)) },
		"xattr":  func(a []string) error { return unix.Setxattr(a[0], "user.x", []byte("x"), 0) },
		"chown":  func(a []string) error { return os.Chown(a[0], 1, 1) },
		"device": func(a []string) error { return unix.Mknod(a[0], unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) },
		"ptrace": func(a []string) error {
			pid, _ := strconv.Atoi(a[0])
			return unix.PtraceAttach(pid)
		},
		"read memory": func(a []string) error {
			pid, _ := strconv.Atoi(a[0])
			b := make([]byte, 8)
			_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&b[0])), Len: 8}}, 0)
			return err
		},
		"read environment": func(a []string) error { _, err := os.ReadFile("/proc/" + a[0] + "/environ"); return err },
		"signal": func(a []string) error {
			pid, _ := strconv.Atoi(a[0])
			return syscall.Kill(pid, 0)
		},
		"io_uring": func([]string) error {
			var p [256]byte
			return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)))
		},
		"bpf": func([]string) error { var a [128]byte; return call(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&a)), 128) },
		"perf": func([]string) error {
			var a [128]byte
			return call(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&a)), 0, ^uintptr(0), ^uintptr(0), 0)
		},
		"keyring":      func([]string) error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); return err },
		"userfaultfd":  func([]string) error { return call(unix.SYS_USERFAULTFD, 0) },
		"unshare user": func([]string) error { return unix.Unshare(unix.CLONE_NEWNS) },
		"clone user": func([]string) error {
			cmd := osexec.Command("/bin/true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
			return cmd.Run()
		},
		"clone3":  func([]string) error { return call(unix.SYS_CLONE3, 0, 0) },
		"mount":   func(a []string) error { return unix.Mount(a[0], a[0], "", unix.MS_BIND, "") },
		"unmount": func(a []string) error { return unix.Unmount(a[0], unix.MNT_DETACH) },
		"remount": func(a []string) error {
			return unix.MountSetattr(unix.AT_FDCWD, a[0], unix.AT_RECURSIVE, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
		},
		"handle":    func(a []string) error { _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, a[0], 0); return err },
		"chroot":    func(a []string) error { return unix.Chroot(a[0]) },
		"module":    func([]string) error { return call(unix.SYS_INIT_MODULE, 0, 0, 0) },
		"reboot":    func([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
		"host name": func([]string) error { return unix.Sethostname([]byte("x")) },
		"core": func([]string) error {
			var l unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
				return err
			}
			if l.Cur != 0 || l.Max != 0 {
				return nil
			}
			return errors.New("no core dumps")
		},
		"privileges": func([]string) error {
			if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || n != 1 {
				return nil
			}
			return errors.New("no new privileges")
		},
		// memfd runs a copy of this program from memory: what it may do must stay
		// the same.
		"memfd": func(a []string) error {
			fd, err := unix.MemfdCreate("x", 0)
			if err != nil {
				return err
			}
			self, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				return err
			}
			if _, err := unix.Write(fd, self); err != nil {
				return err
			}
			return unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{"x", "probe"}, a...), os.Environ())
		},
	} {
		probes[name] = f
	}
}

var networked = protocol.SandboxPolicy{Type: protocol.PolicyWorkspaceWrite, ExcludeSlashTmp: true, NetworkAccess: true}

func probe(t *testing.T, r *Runner, p protocol.SandboxPolicy, dir string, args ...string) (string, bool) {
	t.Helper()
	out, code := run(t, r, p, dir, append([]string{r.self, "probe"}, args...)...)
	if code == ExitHelper {
		t.Fatalf("the helper failed: %s", out)
	}
	return out, code == 0
}

// refused runs a probe and wants it to fail.
func refused(t *testing.T, r *Runner, p protocol.SandboxPolicy, dir string, args ...string) {
	t.Helper()
	t.Run(args[0], func(t *testing.T) {
		out, worked := probe(t, r, p, dir, args...)
		if worked {
			t.Errorf("worked: %s", out)
			return
		}
		t.Log(strings.TrimSpace(out))
	})
}

func TestNetworkIsOff(t *testing.T) {
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	sock := filepath.Join(t.TempDir(), "s")
	local, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	abstract := fmt.Sprintf("@towline-test-%d", os.Getpid())
	hidden, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer hidden.Close()
	dgram := filepath.Join(t.TempDir(), "d")
	pc, err := net.ListenPacket("unixgram", dgram)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()

	for name, p := range map[string]protocol.SandboxPolicy{
		"read-only": readOnly, "workspace": workspace,
		"external": {Type: protocol.PolicyExternal, NetworkAccess: "restricted"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, r *Runner) {
				ws, _ := project(t)
				for _, kind := range []string{
					"tcp", "tcp6", "udp", "mptcp", "raw", "ping", "packet", "netlink", "vsock", "bluetooth", "alg",
					"family's high half", "unix datagram", "datagram pair", "io_uring",
				} {
					refused(t, r, p, ws, kind)
				}
				refused(t, r, p, ws, "dial", "tcp", stream.Addr().String())
				refused(t, r, p, ws, "dial", "unix", sock)
				refused(t, r, p, ws, "dial", "unix", abstract)
				refused(t, r, p, ws, "dial", "unixgram", dgram)
				refused(t, r, p, ws, "sendto", dgram)
				refused(t, r, p, ws, "memfd", "tcp")
				if out, ok := probe(t, r, p, ws, "stream pair"); !ok {
					t.Errorf("pairs for children do not work: %s", out)
				}
			})
		})
	}
	t.Run("on", func(t *testing.T) {
		both(t, func(t *testing.T, r *Runner) {
			ws, _ := project(t)
			if out, ok := probe(t, r, networked, ws, "dial", "tcp", stream.Addr().String()); !ok {
				t.Error(out)
			}
			refused(t, r, networked, ws, "vsock")
			refused(t, r, networked, ws, "io_uring")
		})
	})
}

func TestOtherProcessesAreOutOfReach(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ws, _ := project(t)
		victim := osexec.Command("sleep", "1000")
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = victim.Process.Kill()
			_ = victim.Wait() // killed
		}()
		pid := strconv.Itoa(victim.Process.Pid)
		for _, kind := range []string{"ptrace", "read memory", "read environment"} {
			refused(t, r, workspace, ws, kind, pid)
		}
		refused(t, r, workspace, ws, "open for writing", "/proc/"+pid+"/mem")
		if abi, _ := landlockABI(); abi >= abiScopes {
			refused(t, r, workspace, ws, "signal", pid)
		}
	})
}

func TestKernelIsOutOfReach(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ws, outside := project(t)
		for _, kind := range []string{
			"bpf", "perf", "keyring", "userfaultfd", "unshare user", "clone user", "clone3", "module", "reboot", "host name",
			"core", "privileges",
		} {
			refused(t, r, workspace, ws, kind)
		}
		for _, kind := range []string{"mount", "unmount", "remount", "chroot"} {
			refused(t, r, workspace, ws, kind, ws)
		}
		refused(t, r, workspace, ws, "unmount", ws+"/.git")
		refused(t, r, workspace, ws, "remount", "/")
		refused(t, r, workspace, ws, "handle", outside+"/precious")
		if os.Getuid() == 0 {
			refused(t, r, workspace, ws, "device", ws+"/disk")
		}
		refused(t, r, workspace, ws, "open for writing", "/proc/sys/kernel/core_pattern")
	})
}

func TestFilesOutsideByEveryCall(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		ws, outside := project(t)
		precious := outside + "/precious"
		for _, kind := range []string{"open for writing", "truncate", "open truncate"} {
			refused(t, r, workspace, ws, kind, precious)
		}
		refused(t, r, workspace, ws, "exchange", ws+"/old.txt", precious)
		refused(t, r, workspace, ws, "memfd", "open for writing", precious)
		kinds := []string{"chmod", "times", "xattr"}
		if os.Getuid() == 0 {
			kinds = append(kinds, "chown")
		}
		for _, kind := range kinds {
			refused(t, r, readOnly, ws, kind, precious)
			if r.support().namespaces {
				refused(t, r, workspace, ws, kind, precious)
			}
		}
		want(t, precious, "precious")
	})
}

// TestForeignCallNumbers makes a call through another architecture's entry,
// where all numbers differ: go-seccomp-bpf 1.6.0 alone lets those pass.
func TestForeignCallNumbers(t *testing.T) {
	prog, err := filter(spec{})
	if err != nil {
		t.Fatal(err)
	}
	// A small machine for the few instructions the beginning has.
	if prog[0].Code != unix.BPF_LD|unix.BPF_W|unix.BPF_ABS || prog[0].K != 4 {
		t.Fatalf("the filter does not begin with the architecture: %+v", prog[0])
	}
	if prog[1].Code != unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K || prog[1].Jt != 1 || prog[1].Jf != 0 {
		t.Fatalf("no branch on it: %+v", prog[1])
	}
	if prog[2].Code != unix.BPF_RET|unix.BPF_K || prog[2].K != 0x80000000 { // SECCOMP_RET_KILL_PROCESS
		t.Errorf("a foreign call is not fatal: %+v", prog[2])
	}
}

// TestSetuidProgramGainsNothing runs a setuid copy of id as another user.
func TestSetuidProgramGainsNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED, only root can make a setuid program of another user")
	}
	both(t, func(t *testing.T, r *Runner) {
		ws, _ := project(t)
		id, err := osexec.LookPath("id")
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(id)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ws+"/id", b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(ws+"/id", 1234, 1234); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(ws+"/id", 0o4755); err != nil {
			t.Fatal(err)
		}
		if out, _ := run(t, r, workspace, ws, ws+"/id", "-u"); strings.TrimSpace(out) != "0" {
			t.Errorf("became user %s", out)
		}
	})
}

func TestInheritedDescriptorIsClosed(t *testing.T) {
	r := runner(t)
	ws, outside := project(t)
	f, err := os.OpenFile(outside+"/precious", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := osexec.Command("/bin/sh", "-c", "echo x >&3")
	cmd.Dir, cmd.Env = ws, []string{"PATH=/bin:/usr/bin"}
	if err := r.Confine(cmd, workspace); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{f} // a mistake of ours must not reach the program
	if err := cmd.Run(); err == nil {
		t.Error("wrote through an inherited descriptor")
	}
	want(t, outside+"/precious", "precious")
}

// TestOtherTerminalsAreOutOfReach has a terminal of the same user elsewhere:
// what is written there is read as a person's typing or shown as a program's
// output.
func TestOtherTerminalsAreOutOfReach(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	both(t, func(t *testing.T, r *Runner) {
		ws, _ := project(t)
		refused(t, r, workspace, ws, "open for writing", slave.Name())
	})
}

// TestDaemonIsHidden has a program with network, which could otherwise talk to
// the daemon's socket and approve its own requests.
func TestDaemonIsHidden(t *testing.T) {
	r := runner(t)
	if !r.support().namespaces {
		t.Skipf("NOT TESTED, namespaces do not work here: %v", r.Weaknesses())
	}
	ws, outside := project(t)
	sock := outside + "/s"
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if out, ok := probe(t, r, networked, ws, "dial", "unix", sock); !ok {
		t.Fatalf("the test's own socket cannot be reached: %s", out)
	}
	r = New(r.self, r.log, outside, "/towline-no-such-directory")
	refused(t, r, networked, ws, "dial", "unix", sock)
	refused(t, r, networked, ws, "unmount", outside)
	if out, code := sh(t, r, networked, ws, "cat ../outside/precious || ls -A ../outside"); code == 0 && strings.TrimSpace(out) == "precious" {
		t.Errorf("hidden files can be read: %q", out)
	}
}

// TestToolsWork runs what agents run all day.
func TestToolsWork(t *testing.T) {
	both(t, func(t *testing.T, r *Runner) {
		for name, script := range map[string]string{
			"git reads":   `git init -q x && cd x && git status --short && git log 2>&1 | head -1`,
			"locks":       `command -v python3 >/dev/null || exit 0; python3 -c 'import multiprocessing as m; m.Lock(); m.Pool(2).map(abs, [1, -2])'`,
			"pty":         `command -v python3 >/dev/null || exit 0; python3 -c 'import pty, os; pty.spawn(["true"])' </dev/null`,
			"temp files":  `f=$(mktemp) && echo x > "$f" && rm "$f"`,
			"pipes":       `seq 1000 | sort -rn | head -1`,
			"descriptors": `echo a > /dev/stdout; echo b > /dev/fd/1; cat < /dev/stdin < /dev/null`,
			"background":  `sleep 0 & wait`,
			"users":       `id && ls -ln / > /dev/null`,
		} {
			t.Run(name, func(t *testing.T) {
				if name == "pty" && !r.support().namespaces {
					t.Skip("without namespaces no program may open the shared /dev/pts")
				}
				ws, _ := project(t)
				p := workspace
				p.ExcludeSlashTmp = false
				if out, code := sh(t, r, p, ws, script); code != 0 {
					t.Errorf("exit %d: %s", code, out)
				}
			})
		}
	})
}
