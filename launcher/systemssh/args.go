package systemssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"towline/config"
	"towline/config/sshconfig"
	"towline/launcher/remote"
)

// Keepalive when the configuration says nothing: a dead peer is noticed in 45
// seconds.
const (
	aliveInterval = 15 * time.Second
	aliveCount    = 3
)

// release is the version of an OpenSSH: what its ssh understands.
type release struct {
	major, minor int
	windows      bool
}

func (r release) atLeast(major, minor int) bool {
	return r.major > major || r.major == major && r.minor >= minor
}

// multiplexes says whether a control master speaks the proxy protocol. Windows'
// OpenSSH has no control master at all.
func (r release) multiplexes() bool { return r.atLeast(7, 4) && !r.windows }

var versionPattern = regexp.MustCompile(`OpenSSH(_for_Windows)?_(\d{1,4})\.(\d{1,4})`)

func parseRelease(s string) (release, bool) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return release{}, false
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	return release{major: major, minor: minor, windows: m[1] != ""}, true
}

// releaseOf asks ssh for its version.
func releaseOf(ctx context.Context, program string) (release, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-V")
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if r, ok := parseRelease(out.String()); ok {
		return r, nil
	}
	if err == nil {
		err = fmt.Errorf("it says %q", clean(firstLine(out.String())))
	}
	p := &config.Problem{
		Stage: remote.StageDial, Err: fmt.Errorf("run %s: %w", program, err), Exit: config.ExitUnavailable,
		Hints: []string{"check that `" + program + " -V` prints a version of OpenSSH"},
	}
	if errors.Is(err, exec.ErrNotFound) {
		p.Hints = []string{"install the OpenSSH client, or use the built-in one where the host allows it"}
	}
	return release{}, p
}

// neutral are the options that keep our channel ours whatever the configuration
// wants of a terminal session. They stand on the command line, where they win.
var neutral = []string{
	"RemoteCommand=none",
	"RequestTTY=no",
	"ClearAllForwardings=yes", // LocalForward and its kin; a port that is taken is not our failure
	"ExitOnForwardFailure=no",
	"PermitLocalCommand=no",
	"ForwardX11=no",
	"Tunnel=no",
	"EscapeChar=none", // bytes are bytes
	"VisualHostKey=no",
}

// arguments are what both ways of running ssh have in common.
func arguments(c Config, r release, scratch string) []string {
	t := c.Target
	args := []string{"-T", "-v"}
	if c.ConfigFile != "" {
		args = append(args, "-F", c.ConfigFile)
	}
	for _, o := range neutral {
		args = append(args, "-o", o)
	}
	if r.atLeast(8, 7) {
		// Unknown before that, and IgnoreUnknown would replace the user's own.
		args = append(args, "-o", "ForkAfterAuthentication=no", "-o", "StdinNull=no")
	}
	if t.ServerAliveInterval == 0 {
		args = append(args, "-o", fmt.Sprintf("ServerAliveInterval=%d", aliveInterval/time.Second),
			"-o", fmt.Sprintf("ServerAliveCountMax=%d", aliveCount))
	}
	// ssh counts the time a person takes at a jump host against the connection
	// behind it, so through a proxy the clock is ours (see login.patience).
	switch proxied := len(t.ProxyJump) > 0 || t.ProxyCommand != ""; {
	case proxied && t.ConnectTimeout > 0:
		args = append(args, "-o", "ConnectTimeout=none")
	case !proxied && t.ConnectTimeout == 0:
		args = append(args, "-o", fmt.Sprintf("ConnectTimeout=%d", max(1, c.Patience/time.Second)))
	}
	if t.StrictHostKeyChecking == "no" && r.atLeast(7, 6) {
		// With "no" ssh goes on although a key has changed. The built-in client does
		// not, and a host must not get around that by asking for this one.
		args = append(args, "-o", "StrictHostKeyChecking=accept-new")
	}
	if c.Ask == nil {
		args = append(args, "-o", "BatchMode=yes")
	}
	if scratch != "" {
		args = append(args, "-o", "UserKnownHostsFile="+quoteFiles(append([]string{scratch}, t.UserKnownHosts...)))
	}
	if t.User != "" {
		args = append(args, "-l", t.User)
	}
	if t.Port != 0 {
		args = append(args, "-p", strconv.Itoa(t.Port))
	}
	return args
}

// masterArgs run a private control master that is nothing else.
func masterArgs(c Config, r release, scratch, socket string) []string {
	return append(arguments(c, r, scratch), "-M", "-N", "-S", socket, "-o", "ControlPersist=no", "--", destination(c.Target))
}

// singleArgs run one command, and share it with nobody.
func singleArgs(c Config, r release, scratch, command string) []string {
	return append(arguments(c, r, scratch), "-S", "none", "-o", "ControlMaster=no", "--", destination(c.Target), command)
}

// destination is the name the person used, so that ssh finds what is configured
// for it.
func destination(t sshconfig.Target) string {
	if t.Alias != "" {
		return t.Alias
	}
	return t.HostName
}

// quoteFiles writes a list of files as one option's value.
func quoteFiles(files []string) string {
	quoted := make([]string, len(files))
	for i, f := range files {
		quoted[i] = `"` + strings.ReplaceAll(f, `%`, `%%`) + `"`
	}
	return strings.Join(quoted, " ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
