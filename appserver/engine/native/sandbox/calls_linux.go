package sandbox

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// forbidden are system calls no confined program needs: they reach into other
// processes, change the machine or the name space, hand out ways around the
// filter (io_uring makes sockets without socket), or are known for holes.
var forbidden = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
	"io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "bpf", "perf_event_open",
	"mount", "umount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"unshare", "setns", "open_by_handle_at", "name_to_handle_at",
	"add_key", "request_key", "keyctl",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
	"settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "sethostname", "setdomainname",
	"acct", "quotactl", "quotactl_fd", "syslog", "iopl", "ioperm", "vhangup", "lookup_dcookie", "nfsservctl", "fanotify_init",
}

// metadata are the calls that change files without writing to them; Landlock
// does not know them.
var metadata = []string{
	"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "chown32", "fchown32", "lchown32",
	"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
	"utime", "utimes", "utimensat", "futimesat",
}

// Socket families and types (the flags that may ride on a type are CLOEXEC and
// NONBLOCK).
var localTypes = []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET}

// restrictCalls installs the filter on this thread. It needs no_new_privs.
func restrictCalls(s spec) error {
	prog, err := filter(s)
	if err != nil {
		return fmt.Errorf("build the system call filter: %w", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)), 0, 0)
	runtime.KeepAlive(prog)
	if err != nil {
		return fmt.Errorf("install the system call filter: %w", err)
	}
	return nil
}

func filter(s spec) ([]unix.SockFilter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	known := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
			_, ok := info.SyscallNames[n]
			return !ok
		})
	}
	refuse := func(e unix.Errno) seccomp.Action { return seccomp.ActionErrno | seccomp.Action(e) }

	deny := seccomp.SyscallGroup{Action: refuse(unix.EPERM), Names: known(forbidden)}
	if !s.Open && !s.Mounts && !slices.ContainsFunc(s.Areas, func(a area) bool { return a.Write }) {
		deny.Names = append(deny.Names, known(metadata)...)
	}
	// New namespaces give a process capabilities to attack the kernel with.
	const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	conds := []seccomp.NameWithConditions{{Name: "clone", Conditions: seccomp.ArgumentConditions{
		{Argument: 0, Operation: seccomp.BitsSet, Value: namespaces},
	}}}
	if s.Network {
		// A virtual machine's host is not the network anybody meant.
		conds = append(conds, seccomp.NameWithConditions{Name: "socket", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.Equal, Value: unix.AF_VSOCK},
		}})
	} else {
		deny.Names = append(deny.Names, "connect")
		conds = append(conds, localOnly("socket")...)
		conds = append(conds, localOnly("socketpair")...)
	}
	deny.NamesWithCondtions = conds

	policy := seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		deny,
		// Its flags lie in memory, out of a filter's sight; libc falls back to clone.
		{Action: refuse(unix.ENOSYS), Names: known([]string{"clone3"})},
	}}
	body, err := policy.Assemble()
	if err != nil {
		return nil, err
	}
	// The library lets every call of another architecture pass (on x86-64: int
	// 0x80, where all numbers differ). Nothing may run but our own.
	const archOffset = 4 // in struct seccomp_data
	guarded := append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
	}, body...)
	raw, err := bpf.Assemble(guarded)
	if err != nil {
		return nil, err
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// localOnly refuses all sockets but AF_UNIX ones with a connection. Datagram
// sockets are left out even as pairs: they can send to any address. With
// connect refused too, a pair is all that can be talked through, and neither
// D-Bus, Docker, an ssh agent nor towline itself can be asked to act outside.
func localOnly(call string) []seccomp.NameWithConditions {
	var types seccomp.ArgumentConditions
	for _, t := range localTypes {
		for _, flags := range []int{0, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK, unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK} {
			types = append(types, seccomp.Condition{Argument: 1, Operation: seccomp.NotEqual, Value: uint64(t | flags)})
		}
	}
	return []seccomp.NameWithConditions{
		{Name: call, Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}},
		{Name: call, Conditions: types},
	}
}
