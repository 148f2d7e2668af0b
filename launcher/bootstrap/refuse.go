package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"towline/config"
	"towline/launcher/remote"
)

// windowsServer begins the rest of what native Windows calls its SSH server.
const windowsServer = "OpenSSH_for_Windows"

var errWindows = errors.New("this host runs Windows without a POSIX shell, where Towline cannot work yet")

// windowsHints are what to do about it.
var windowsHints = []string{
	"run an SSH server inside WSL on that machine and connect to it",
	"or connect to a Linux or macOS host",
}

// signs are texts by which a refusal is known, in lower case, and what they mean.
var signs = []struct {
	text, cause, hint string
}{
	{"account is currently not available", "the account has no login shell (nologin)", "ask the host's administrator for a shell: `chsh -s /bin/sh USER`"},
	{"nologin", "the account has no login shell (nologin)", "ask the host's administrator for a shell: `chsh -s /bin/sh USER`"},
	{"this service allows sftp connections only", "the account may transfer files only (a forced command)", "use an account without ForceCommand, or have the key's command= removed"},
	{"git-shell", "the account is for git only", "use an account with a login shell"},
	{"gitolite", "the account is for git only", "use an account with a login shell"},
	{"restricted", "the login shell is a restricted one", "use an account with an ordinary shell"},
	{"command not allowed", "a forced command or policy refused our script", "use an account without ForceCommand, or have the key's command= removed"},
	{"not allowed to execute", "a forced command or policy refused our script", "use an account without ForceCommand, or have the key's command= removed"},
	{"open terminal failed", "the login shell's rc file starts tmux or screen in every session", "guard that line so that it runs in terminals only: `[ -t 0 ] && …`"},
	{"must be connected to a terminal", "the login shell's rc file starts tmux or screen in every session", "guard that line so that it runs in terminals only: `[ -t 0 ] && …`"},
	{"/bin/sh: no such file", "there is no /bin/sh on this host", "use a host with a POSIX shell"},
	{"password has expired", "the account's password has expired", "log in once in a terminal and change it: `ssh %s`"},
	{"password change required", "the account's password has expired", "log in once in a terminal and change it: `ssh %s`"},
}

// windowsSigns are what cmd.exe and PowerShell say of our command.
var windowsSigns = []string{
	"is not recognized as an internal or external command", "the system cannot find the path specified",
	"commandnotfoundexception", "is not recognized as the name of a cmdlet", "is not recognized as a name of a cmdlet",
	"microsoft windows [version",
}

// refusal is the Problem of a command that could not even be sent.
func refusal(ctx context.Context, o Options, err error) error {
	p := &config.Problem{
		Stage: remote.StageShell, Exit: config.ExitUnavailable,
		Err:   fmt.Errorf("the server does not run commands for us: %w", err),
		Hints: []string{"try it without Towline: `ssh " + o.host() + " true`"},
	}
	if ctx.Err() != nil {
		p.Err = context.Cause(ctx)
	}
	return p
}

// lost is the Problem of a script that ended, or never began, before its last
// word. cause is what reading met.
func (t *talk) lost(cause error) error {
	var ended error
	if t.aborted() == nil {
		ended = t.status()
	} else {
		_ = t.p.Close()
	}
	t.wg.Wait() // all of stderr is here
	host := t.o.host()
	p := &config.Problem{Stage: remote.StageShell, Exit: config.ExitUnavailable}
	said := join(t.noise.first(), t.stderr.first())
	switch {
	case errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded):
		p.Err = cause
		return p
	case errors.Is(cause, errNoise):
		p.Err = fmt.Errorf("%w: %s", errNoise, said)
		p.Hints = []string{"guard the output of the rc files so that it comes in terminals only: `[ -t 1 ] && …`"}
		return p
	case t.began && errors.Is(cause, errSilent):
		p.Stage = remote.StageProbe
		p.Err = fmt.Errorf("the host stopped answering for %v", t.silence)
		p.Hints = []string{"see whether the host is busy or a file system hangs: `ssh " + host + " uptime`"}
		return p
	case t.began:
		p.Stage = remote.StageProbe
		p.Err = errors.New("the connection or our script ended too early" + outcome(ended) + quoted(t.stderr.last()))
		p.Hints = []string{"try again; see every step: `towline doctor " + host + "`"}
		return p
	}
	low := strings.ToLower(t.noise.text() + "\n" + t.stderr.text())
	if strings.Contains(t.server, windowsServer) || contains(low, windowsSigns) {
		p.Err, p.Hints = fmt.Errorf("%w%s", errWindows, quoted(said)), windowsHints
		return p
	}
	for _, s := range signs {
		if strings.Contains(low, s.text) {
			p.Err = errors.New(s.cause + quoted(said))
			p.Hints = []string{strings.ReplaceAll(s.hint, "%s", host)}
			return p
		}
	}
	switch {
	case errors.Is(cause, errSilent) && said == "":
		p.Err = fmt.Errorf("the login shell said nothing for %v", t.o.ShellTimeout)
		p.Hints = []string{
			"see where it waits: `ssh " + host + " true`",
			"rc files must not wait for input in sessions without a terminal",
		}
	case errors.Is(cause, errSilent):
		p.Err = fmt.Errorf("the login shell did not run our script within %v%s", t.o.ShellTimeout, quoted(said))
		p.Hints = []string{
			"see what it waits for: `ssh " + host + " true`",
			"an `exec` of another shell in an rc file must be for terminals only: `[ -t 0 ] && exec …`",
		}
	case said == "":
		p.Err = errors.New("the login shell ended without running our script" + outcome(ended))
		p.Hints = []string{
			"the account may have no login shell, or a forced command: try `ssh " + host + " echo ok`",
		}
	default:
		p.Err = errors.New("the login shell did not run our script" + outcome(ended) + quoted(said))
		p.Hints = []string{
			"try it without Towline: `ssh " + host + " echo ok` must print ok",
			"an `exec` of another shell or of tmux in an rc file must be for terminals only: `[ -t 0 ] && exec …`",
		}
	}
	return p
}

func contains(text string, signs []string) bool {
	for _, s := range signs {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func quoted(said string) string {
	if said == "" {
		return ""
	}
	return "; it said: " + said
}

// outcome names a status other than 0.
func outcome(err error) string {
	var exit *remote.ExitError
	if errors.As(err, &exit) {
		return " (" + exit.Error() + ")"
	}
	return ""
}

func join(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, " / ")
}
