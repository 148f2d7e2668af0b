package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strings"
	"syscall"

	"towline/appserver/protocol"
	"towline/config"
)

// spec is what the helper is told, as JSON in its first argument. It holds no
// secrets: command lines are public.
type spec struct {
	Program string `json:"program,omitempty"` // absolute; empty: only try the confinement
	Dir     string `json:"dir,omitempty"`
	Areas   []area `json:"areas,omitempty"`
	// Hidden directories appear empty.
	Hidden []string `json:"hidden,omitempty"`
	// Open leaves the file system alone (externalSandbox).
	Open    bool `json:"open,omitempty"`
	Network bool `json:"network,omitempty"`
	// Mounts says that the helper was started in namespaces of its own.
	Mounts bool `json:"mounts,omitempty"`
}

func (r *Runner) confine(cmd *osexec.Cmd, p protocol.SandboxPolicy) error {
	sup := r.support()
	if sup.problem != nil {
		return sup.problem
	}
	s := spec{Program: cmd.Path, Dir: cmd.Dir, Network: NetworkAllowed(p), Open: writesEverywhere(p)}
	if !s.Open {
		s.Areas = areas(roots(p, cmd.Dir, lookupEnv(cmd.Env, "TMPDIR")))
		s.Mounts = sup.namespaces
		s.Hidden = r.hidden
	}
	return r.through(cmd, s)
}

// through makes cmd start the helper, which becomes the program.
func (r *Runner) through(cmd *osexec.Cmd, s spec) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the confinement: %w", err)
	}
	cmd.Path = r.self
	cmd.Args = append([]string{"towline", Command, string(b), "--"}, cmd.Args...)
	if !s.Mounts {
		return nil
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	a := cmd.SysProcAttr
	a.Cloneflags |= syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	a.UidMappings, a.GidMappings, a.GidMappingsEnableSetgroups = idMaps()
	return nil
}

// idMaps keeps every id as it is. Root maps all ids it has, so that it can
// still read and write other people's files; others may map only themselves.
func idMaps() (uids, gids []syscall.SysProcIDMap, setgroups bool) {
	if os.Geteuid() == 0 {
		uids, gids = ownMap("/proc/self/uid_map"), ownMap("/proc/self/gid_map")
		if uids != nil && gids != nil {
			return uids, gids, true
		}
	}
	one := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
	}
	return one(os.Geteuid()), one(os.Getegid()), false
}

// ownMap reads which ids exist in our own namespace.
func ownMap(file string) []syscall.SysProcIDMap {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var out []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inside, outside, size int
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return nil
		}
		out = append(out, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: size})
	}
	return out
}

func lookupEnv(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// examine finds out by trying what this machine can enforce: flags and version
// numbers do not tell what a container's or distribution's policy forbids.
func (r *Runner) examine() support {
	var sup support
	abi, err := landlockABI()
	if err != nil {
		sup.problem = problem("commands cannot be confined here: the kernel has no Landlock, or it is switched off (%w)", err)
		return sup
	}
	nsErr := r.try(true)
	sup.namespaces = nsErr == nil
	if !sup.namespaces {
		if err := r.try(false); err != nil {
			sup.problem = problem("commands cannot be confined here: %w", err)
			return sup
		}
		if abi < minABIAlone {
			sup.problem = problem("commands cannot be confined here: Landlock version %d cannot stop truncation (%d can), "+
				"and user namespaces, which would, are refused (%w)", abi, minABIAlone, nsErr)
			return sup
		}
		sup.weak = append(sup.weak, fmt.Sprintf("user namespaces are refused here (%v): commands under workspace-write can change "+
			"the workspace's .git and .codex folders, and the modes and times of your files elsewhere", nsErr))
	}
	if abi < abiScopes {
		sup.weak = append(sup.weak, fmt.Sprintf("Landlock version %d (Linux 6.12 has %d) lets confined commands signal your other processes", abi, abiScopes))
	}
	return sup
}

func problem(format string, args ...any) error {
	return &config.Problem{
		Stage: "sandbox", Err: fmt.Errorf(format, args...), Exit: config.ExitUnavailable,
		Hints: []string{
			"use Linux 6.2 or later with landlock in its `lsm=` list (`cat /sys/kernel/security/lsm`)",
			"or run the real Codex engine, which brings its own sandbox",
			"or choose sandbox danger-full-access, if this machine may be lost",
		},
	}
}

// try runs the helper without a program.
func (r *Runner) try(mounts bool) error {
	cmd := &osexec.Cmd{Dir: "/", Env: []string{}}
	if err := r.through(cmd, spec{Dir: "/", Mounts: mounts}); err != nil {
		return err
	}
	out, err := cmd.CombinedOutput()
	if msg := strings.TrimSpace(string(out)); err != nil && msg != "" {
		return errors.New(strings.TrimPrefix(msg, complaint))
	}
	return err
}
