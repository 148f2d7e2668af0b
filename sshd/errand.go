package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config"
	"towline/sshd/auth"
	"towline/sshd/session"
)

// Self is how to run this program again.
type Self struct {
	Path string // "" means that it cannot be
	// Env is all that such a process finds in its environment, besides what the
	// client may say about its terminal. It holds no secret.
	Env []string
	Dir string
}

const errandHelp = `ssh -t HOST login           log this host in: its URL, a code (--device-auth), or a key on stdin (--with-api-key, --with-access-token)
ssh HOST login status       which login this host has (--json); "logout" ends it
ssh HOST credentials status where it lies and what is demanded (--json); "towline credentials put HOST" brings one
`

const (
	// endGrace is how long a command may take to end when nobody is there any more,
	// and storeGrace how long one may that is halfway through exchanging a login: a
	// process that is killed there may leave nobody with one.
	endGrace   = 5 * time.Second
	storeGrace = 90 * time.Second
	// outGrace is how long the end of what it said may take to be read.
	outGrace = 2 * time.Second
)

// errand is a command that is a process of its own: this program, as this user.
type errand struct {
	words []string
	flags [][]string    // at most one of each group
	also  []string      // flags that are always there
	bytes bool          // it exchanges bytes, which a terminal would change
	limit time.Duration // no longer than that
	grace time.Duration
}

// errands are all there are. What a client says is held against them word by
// word, and nothing else reaches a command line.
var errands = []errand{
	{words: []string{"login", "status"}, flags: [][]string{{"--json"}}, limit: time.Minute, grace: endGrace},
	{
		words: []string{"login"}, limit: 20 * time.Minute, grace: endGrace,
		flags: [][]string{{"--events"}, {"--device-auth", "--with-api-key", "--with-access-token"}},
		also:  []string{"--no-browser"}, // the person is elsewhere
	},
	{words: []string{"logout"}, limit: time.Minute, grace: endGrace},
	{words: []string{"credentials", "status"}, flags: [][]string{{"--json"}}, limit: time.Minute, grace: endGrace},
	{words: []string{"credentials", "receive"}, bytes: true, limit: 10 * time.Minute, grace: storeGrace},
}

// hasErrands reports whether there are any on this host.
func (s *Server) hasErrands() bool { return canRun && s.cfg.Self.Path != "" }

// isErrand reports whether a command begins like one of the errands.
func isErrand(word string) bool {
	return slices.ContainsFunc(errands, func(p errand) bool { return p.words[0] == word })
}

// findErrand is the one that words ask for.
func findErrand(words []string) (errand, bool) {
	for _, p := range errands {
		if len(words) >= len(p.words) && slices.Equal(words[:len(p.words)], p.words) {
			return p, p.takes(words[len(p.words):])
		}
	}
	return errand{}, false
}

// takes reports whether the flags are among p's, one of a group.
func (p errand) takes(flags []string) bool {
	used := make([]bool, len(p.flags))
	for _, f := range flags {
		i := slices.IndexFunc(p.flags, func(group []string) bool { return slices.Contains(group, f) })
		if i < 0 || used[i] {
			return false
		}
		used[i] = true
	}
	return true
}

// errand decides whether the principal may have what words ask for.
func (v *visit) errand(words []string, ch *session.Channel) command {
	said := strings.Join(words, " ")
	p, ok := findErrand(words)
	switch name := strings.Join(p.words, " "); {
	case v.principal.Role < protocol.RoleAdmin:
		v.c.refuse("command " + words[0])
		return refusal(config.ExitDenied, fmt.Sprintf("%s needs the role %q; %s has %q", words[0], protocol.RoleAdmin, v.principal.Name, v.principal.Role))
	case !ok:
		return refusal(config.ExitUsage, fmt.Sprintf("%q is not how that is said here; there is:\n%s", auth.Printable(said, 120), v.helpText()))
	case p.bytes && ch.Terminal:
		return refusal(config.ExitUsage, name+" takes bytes that a terminal would change; it is what `towline credentials put HOST` and `move HOST` speak to")
	default:
		return command{name, session.Bytes, func(ctx context.Context, ch *session.Channel) int { return v.run(ctx, ch, p, words) }}
	}
}

// run is the process's life, within the session's.
func (v *visit) run(ctx context.Context, ch *session.Channel, p errand, words []string) int {
	tell := func(format string, args ...any) { _, _ = fmt.Fprintf(ch.Err, "towline: "+format+"\n", args...) }
	if !v.c.s.errands.take() {
		tell("too many commands at once; try again shortly")
		return config.ExitUnavailable
	}
	defer v.c.s.errands.free()
	name := strings.Join(p.words, " ")
	v.c.audit(EventCommand, v.principal, slog.String("command", name))
	ctx, cancel := context.WithTimeoutCause(ctx, p.limit, errTooLong)
	defer cancel()
	cmd := v.c.s.command(slices.Concat(words, p.also), ch, v.c.RemoteAddr().String(), v.c.LocalAddr().String())
	err := runChild(ctx, cmd, ch, p.grace)
	status := exitOf(cmd)
	if cmd.ProcessState == nil {
		v.c.log.Error("a command does not start", "command", name, "err", err)
		tell("%s does not start; the host's log says why", name)
	}
	if errors.Is(context.Cause(ctx), errTooLong) {
		tell("%s took longer than %v, and was ended", name, p.limit)
	}
	v.c.audit(EventCommand, v.principal, slog.String("command", name), slog.Int("status", status))
	return status
}

var errTooLong = errors.New("it took too long")

// command is the process to be, with nothing in its environment that this server
// happens to have.
func (s *Server) command(words []string, ch *session.Channel, client, server string) *exec.Cmd {
	self := s.cfg.Self
	cmd := exec.Command(self.Path, words...) //nolint:gosec,noctx // words come from the table; runChild ends it
	cmd.Env = append(slices.Clip(self.Env), ch.Environ...)
	cmd.Env = append(cmd.Env, "SSH_CONNECTION="+connection(client, server))
	cmd.Dir, cmd.WaitDelay = self.Dir, outGrace
	return cmd
}

// connection is both ends as sshd says them to what it starts: programs know by
// it that their person is elsewhere.
func connection(client, server string) string {
	flat := func(addr string) string {
		i := strings.LastIndexByte(addr, ':')
		if i < 0 {
			return addr + " 0"
		}
		return strings.Trim(addr[:i], "[]") + " " + addr[i+1:]
	}
	return flat(client) + " " + flat(server)
}

// exitOf is the status to tell: a shell's way of counting signals.
func exitOf(cmd *exec.Cmd) int {
	st := cmd.ProcessState
	switch {
	case st == nil:
		return config.ExitFailure
	case st.ExitCode() >= 0:
		return st.ExitCode()
	}
	if n := signalOf(st); n > 0 {
		return 128 + n
	}
	return config.ExitFailure
}

// end ends a process and what it started, politely first; over is closed when
// it has.
func end(p *os.Process, over <-chan struct{}, grace time.Duration) {
	_ = hangUp(p) // it may have ended by itself
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
		killAll(p)
	}
}
