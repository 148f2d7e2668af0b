// Package sandbox confines the programs the agent runs, and answers where a
// patch may write without asking.
//
// A confined program is started through a helper: the towline binary itself,
// run again as `towline __sandbox`. The helper narrows its own rights and then
// becomes the program, so nothing of this ever happens to the daemon. Three
// layers, each complete in itself where the kernel has it:
//
//   - a user and mount namespace in which the whole file system is read-only
//     except the writable roots, with the control folders of those roots
//     (see [ControlFolders]) read-only again. Optional: where the kernel or its
//     policy refuses unprivileged namespaces, [Runner.Weaknesses] says what is
//     lost.
//   - Landlock: no write, creation, removal, rename, truncation or device ioctl
//     outside the writable roots, no signal to and no abstract socket of a
//     process outside.
//   - seccomp: no sockets but AF_UNIX pairs when the network is off; no ptrace,
//     mounting, namespaces, keyrings, io_uring, module loading and the like.
//
// Without Landlock nothing restricted runs at all: see [Runner.Check].
//
// Reading is allowed everywhere, as Codex has it.
//
// Start with [New], then hand a command to [Runner.Confine]. main must pass
// `towline __sandbox …` to [Main] before it does anything else.
package sandbox
