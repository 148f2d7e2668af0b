package sshconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"towline/config"
)

const (
	// resolveTimeout bounds `ssh -G`: it reads files, but `Match exec` runs
	// commands and canonicalisation asks the DNS.
	resolveTimeout = 5 * time.Second
	// maxOutput bounds what is kept of ssh's output, in bytes; real ones have 5 KB.
	maxOutput = 1 << 20
	// stage is where every failure here belongs.
	stage = "resolve"
)

// Resolve says what the configuration means for one destination, written as for
// ssh: a host or alias, user@host, or ssh://[user@]host[:port]. Names that are in
// no file work as they do with ssh. An error is a *config.Problem of stage
// "resolve".
//
// It runs `ssh -G`, and with it whatever `Match exec` commands the configuration
// holds, for at most five seconds and without a terminal. ssh cannot be told
// another Home or SystemFile; those count for List and without ssh.
func Resolve(ctx context.Context, o Options, name string) (Target, error) {
	d, err := parseDest(name)
	if err != nil {
		return Target{}, badName(name, err)
	}
	return resolve(ctx, o.withDefaults(), d)
}

// ResolveHop is [Resolve] for one entry of Target.ProxyJump, where a port may
// follow a plain host name.
func ResolveHop(ctx context.Context, o Options, hop string) (Target, error) {
	d, err := parseHop(hop)
	if err != nil {
		return Target{}, badName(hop, err)
	}
	return resolve(ctx, o.withDefaults(), d)
}

func badName(name string, err error) error {
	return &config.Problem{
		Stage: stage, Err: fmt.Errorf("%q is not a host: %w", clean(name), err), Exit: config.ExitUsage,
		Hints: []string{"name a host as for ssh: an alias, user@host or ssh://user@host:port; `towline hosts` lists the aliases"},
	}
}

func resolve(ctx context.Context, o Options, d dest) (Target, error) {
	program, err := findProgram(o)
	if err != nil {
		return Target{}, err
	}
	if program == "" {
		return fromLibrary(o, d)
	}
	return fromSSH(ctx, o, program, d)
}

// findProgram locates ssh; "" when there is none and nobody asked for one.
func findProgram(o Options) (string, error) {
	if o.Program == NoProgram {
		return "", nil
	}
	path, err := exec.LookPath(or(o.Program, "ssh"))
	if err == nil {
		return path, nil
	}
	if o.Program != "" {
		return "", &config.Problem{
			Stage: stage, Err: fmt.Errorf("the ssh to ask is not there: %w", err), Exit: config.ExitConfig,
			Hints: []string{"name an ssh that exists, or none, to take the one on the PATH"},
		}
	}
	if runtime.GOOS == "windows" { // an optional feature, not always on the PATH
		own := filepath.Join(or(o.Getenv("SystemRoot"), `C:\Windows`), "System32", "OpenSSH", "ssh.exe")
		if exists(own) {
			return own, nil
		}
	}
	return "", nil
}

// fromSSH asks ssh.
func fromSSH(ctx context.Context, o Options, program string, d dest) (Target, error) {
	args := []string{"-G"}
	if o.UserFile != "" {
		args = append(args, "-F", o.UserFile)
	}
	if d.user != "" {
		args = append(args, "-l", d.user)
	}
	if d.port != 0 {
		args = append(args, "-p", strconv.Itoa(d.port))
	}
	out, said, err := run(ctx, resolveTimeout, program, append(args, "--", d.host))
	if err != nil && strings.Contains(said, "Cannot forward agent socket") {
		// With ExitOnForwardFailure, ssh gives up here already when the agent to
		// forward is not there. Our channel forwards on its own terms.
		out, said, err = run(ctx, resolveTimeout, program, append([]string{"-o", "ExitOnForwardFailure=no"}, append(args, "--", d.host)...))
	}
	if err != nil {
		return Target{}, explain(command(o, d), said, err)
	}
	options, err := parseOptions(out)
	if err != nil {
		return Target{}, &config.Problem{
			Stage: stage, Err: fmt.Errorf("`%s -G` answered what is not a configuration: %w", clean(program), err),
			Hints: []string{"run `" + command(o, d) + "` and see"},
		}
	}
	t := Target{Source: SourceSSH, Warnings: warnings(said)}
	if err := t.fill(o, d, options); err != nil {
		return Target{}, err
	}
	if t.GSSAPIAuthentication && setFor(o, d.host, "gssapiauthentication") {
		t.NeedsSystem = appendNew(t.NeedsSystem, "GSSAPIAuthentication")
	}
	return t, nil
}

// run runs ssh without a terminal and gives what it printed and said.
func run(ctx context.Context, limit time.Duration, program string, args []string) (out []byte, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	stdout, stderr := bounded{left: maxOutput}, bounded{left: maxOutput / 16}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	detach(cmd)
	err = cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // ssh itself is done; something it started lingers
	}
	return stdout.b.Bytes(), stderr.b.String(), err
}

// bounded keeps the first bytes written to it.
type bounded struct {
	b    bytes.Buffer
	left int
}

func (w *bounded) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.b.Write(p[:n])
	w.left -= n
	return len(p), nil
}

// warnings are the lines ssh said that a person may want to read.
func warnings(said string) []string {
	var out []string
	for l := range strings.Lines(said) {
		l = clean(l)
		// Every ssh without a terminal says this where RequestTTY is not "no".
		if l == "" || strings.HasPrefix(l, "Pseudo-terminal will not be allocated") {
			continue
		}
		if len(out) == 20 {
			break
		}
		out = append(out, l)
	}
	return out
}

// atLine finds the place in "FILE line 3: text" and "FILE: line 3: text".
var atLine = regexp.MustCompile(`^(.+?):? line (\d+): (.+)$`)

// badOwner is ssh's complaint about a file others could have written.
var badOwner = regexp.MustCompile(`^Bad owner or permissions on (.+)$`)

// explain says why ssh could not tell, from what it said.
func explain(again, said string, err error) error {
	p := &config.Problem{Stage: stage, Exit: config.ExitConfig}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		p.Exit = 0
		p.Err = fmt.Errorf("`%s` did not answer within %v", again, resolveTimeout)
		p.Hints = []string{"run `" + strings.Replace(again, "-G", "-vG", 1) + "` and see where it stops: a `Match exec` command, or a name server"}
		return p
	case errors.Is(err, context.Canceled):
		p.Exit, p.Err = config.ExitInterrupted, err
		return p
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		p.Exit, p.Err = 0, fmt.Errorf("run ssh: %w", err)
		p.Hints = []string{"run `" + again + "` and see"}
		return p
	}
	lines := warnings(said)
	for _, l := range lines {
		if m := atLine.FindStringSubmatch(l); m != nil {
			p.Err = fmt.Errorf("%s, line %s: %s", m[1], m[2], m[3])
			p.Hints = []string{"mend line " + m[2] + " of " + m[1] + "; ssh refuses the whole file until then"}
			return p
		}
		if m := badOwner.FindStringSubmatch(l); m != nil {
			p.Err = errors.New(l)
			p.Hints = []string{"run `chmod 600 " + m[1] + "`, and see that the file is yours"}
			return p
		}
	}
	text := strings.Join(lines, "; ")
	if text == "" {
		text = "it said nothing"
	}
	p.Err = fmt.Errorf("ssh does not make sense of it (%w): %s", exit, text)
	p.Hints = []string{"run `" + again + "` and see"}
	return p
}

// command is what a person would type to see the same.
func command(o Options, d dest) string {
	s := "ssh -G "
	if o.UserFile != "" {
		s += "-F " + clean(o.UserFile) + " "
	}
	if d.user != "" {
		s += "-l " + d.user + " "
	}
	if d.port != 0 {
		s += "-p " + strconv.Itoa(d.port) + " "
	}
	return s + d.host
}

// userFileAbs makes a file named on a command line absolute, as ssh's Includes
// and our faults want it.
func userFileAbs(path, home string) string {
	if path == "" || path == "none" {
		return path
	}
	if p, err := expandHome(path, home); err == nil {
		path = p
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
