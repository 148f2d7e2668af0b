package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
	"towline/sshd/auth"
	"towline/sshd/session"
)

// subsystemName is the protocol's name for clients that ask for subsystems.
const subsystemName = "codex-app-server"

// exitUnknown is what a shell leaves with for a command it does not find.
const exitUnknown = 127

const defaultHelp = `ssh -t HOST                 the UI; plain "ssh HOST" does the same from a terminal
ssh HOST app-server         the app-server protocol, one JSON message a line (also: ssh -s HOST ` + subsystemName + `)
ssh HOST app-server proxy   the same as WebSocket messages, for "towline HOST" and bridges
ssh HOST help               this text
`

// visit is one session of a principal: it finds out what is wanted and runs it.
type visit struct {
	c         *conn
	grant     auth.Grant
	principal access.Principal
	user      string
}

// subsystem is whether one exists. With a forced command any name leads to that.
func (v *visit) subsystem(name string) bool { return v.grant.Forced || name == subsystemName }

// command is one thing a session can run.
type command struct {
	name string // for the log: what the client sent may hold anything
	mode session.Mode
	run  func(context.Context, *session.Channel) int
}

func (v *visit) handle(ctx context.Context, ch *session.Channel) int {
	cmd := v.find(ch)
	ch.Open(cmd.mode)
	start := time.Now()
	log := v.c.log.With("principal", v.principal.Name, "command", cmd.name)
	log.Info("session opened", "terminal", ch.Terminal)
	v.notices(ch)
	status := cmd.run(ctx, ch)
	v.notices(ch)
	if why := context.Cause(ctx); errors.Is(why, ErrStopping) || errors.Is(why, ErrRevoked) {
		_, _ = fmt.Fprintf(ch.Err, "towline: %v\n", why)
	}
	log.Info("session closed", "status", status, "after", time.Since(start).Round(time.Millisecond))
	return status
}

// find decides what to run. The key's forced command comes before the client's.
func (v *visit) find(ch *session.Channel) command {
	text := ch.Raw
	switch {
	case v.grant.Forced:
		text = v.grant.Command
	case ch.Subsystem != "":
		text = "app-server"
	}
	words := strings.Fields(text)
	if len(words) > 1 && words[0] == "towline" && !v.grant.Forced { // as one would say it to a shell
		words = words[1:]
	}
	switch {
	case len(words) == 0 && ch.Terminal:
		return command{"ui", session.Text, v.ui}
	case len(words) == 0:
		return refusal(config.ExitFailure, noTerminal(ch.NoTTY))
	case words[0] == "app-server" && stdio(words[1:]):
		return command{"app-server", session.Messages, v.appServer}
	case words[0] == "app-server" && proxied(words[1:]) && ch.Terminal:
		return refusal(config.ExitUsage, "app-server proxy carries bytes that a terminal would change: ssh -T HOST app-server proxy")
	case words[0] == "app-server" && proxied(words[1:]) && v.c.s.cfg.WebSocket != nil:
		return command{"app-server proxy", session.Messages, v.proxy}
	case words[0] == "app-server":
		return refusal(config.ExitUsage, "app-server speaks on stdin and stdout here and takes no arguments")
	case words[0] == "help":
		return command{"help", session.Text, v.help}
	case v.c.s.hasErrands() && isErrand(words[0]):
		return v.errand(words, ch)
	}
	return refusal(exitUnknown, fmt.Sprintf("there is no command %q here; there is:\n%s", auth.Printable(text, 120), v.helpText()))
}

// notices tells what was refused without a reason, before and after: the
// request and the session race each other.
func (v *visit) notices(ch *session.Channel) {
	for _, n := range v.c.takeNotices() {
		_, _ = fmt.Fprintf(ch.Err, "towline: %s\n", n)
	}
}

// stdio accepts how Codex's own command says it too.
func stdio(args []string) bool {
	switch strings.Join(args, " ") {
	case "", "--listen stdio://", "--listen=stdio://":
		return true
	}
	return false
}

// proxied accepts what starts a daemon elsewhere too; this one runs.
func proxied(args []string) bool {
	switch strings.Join(args, " ") {
	case "proxy", "proxy --start":
		return true
	}
	return false
}

func noTerminal(refused bool) string {
	if refused {
		return "this key may not have a terminal here (restrict or no-pty in authorized_keys);\n" +
			"it may speak the protocol: ssh -T HOST app-server"
	}
	return "the UI needs a terminal; ask for one: ssh -t HOST\n" +
		"programs speak the protocol: ssh HOST app-server"
}

// refusal is a command that says why not.
func refusal(status int, text string) command {
	return command{"refused", session.Text, func(_ context.Context, ch *session.Channel) int {
		_, _ = fmt.Fprintf(ch.Err, "towline: %s\n", strings.TrimRight(text, "\n"))
		return status
	}}
}

func (v *visit) helpText() string {
	if v.c.s.cfg.Help != nil {
		return v.c.s.cfg.Help(v.principal)
	}
	if v.c.s.hasErrands() && v.principal.Role >= protocol.RoleAdmin {
		return defaultHelp + errandHelp
	}
	return defaultHelp
}

func (v *visit) help(_ context.Context, ch *session.Channel) int {
	_, _ = io.WriteString(ch.Out, v.helpText())
	return config.ExitOK
}

func (v *visit) ui(ctx context.Context, ch *session.Channel) int {
	return v.c.s.cfg.UI(ctx, &Session{
		Principal: v.principal, Remote: v.c.RemoteAddr().String(), User: v.user, Term: ch.Term,
		Environ: ch.Environ, Size: ch.Size, Sizes: ch.Sizes, In: ch.In, Out: ch.Out, Err: ch.Err,
	})
}

// appServer keeps stdout for the protocol; whatever a person should know is on
// stderr. A terminal changes nothing but that, and that Ctrl-C and Ctrl-D leave.
func (v *visit) appServer(ctx context.Context, ch *session.Channel) int {
	if ch.Terminal {
		_, _ = io.WriteString(ch.Err, "towline: app-server expects JSON messages, one a line; Ctrl-D leaves; for the UI: ssh -t HOST\n")
	}
	return v.protocol(ctx, ch, v.c.s.cfg.AppServer)
}

// proxy is appServer for a client that makes a WebSocket of it.
func (v *visit) proxy(ctx context.Context, ch *session.Channel) int {
	return v.protocol(ctx, ch, v.c.s.cfg.WebSocket)
}

func (v *visit) protocol(ctx context.Context, ch *session.Channel, serve func(context.Context, io.ReadWriteCloser, access.Principal, string) error) int {
	err := serve(ctx, bytePipe{ch}, v.principal, v.c.RemoteAddr().String())
	var p *config.Problem
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return config.ExitOK
	case ctx.Err() != nil:
		return config.ExitFailure // handle says why to whoever is still there
	case errors.As(err, &p):
		_, _ = io.WriteString(ch.Err, config.Explain(err))
	default:
		_, _ = io.WriteString(ch.Err, "towline: the app-server connection ended with an error; the host's log says which\n")
	}
	v.c.log.Error("app-server session", "principal", v.principal.Name, "err", err)
	return config.ExitCode(err)
}

// bytePipe is a session's stdin and stdout. Close ends both even while a Read or
// Write waits, and leaves stderr and the exit status to come.
type bytePipe struct{ ch *session.Channel }

func (p bytePipe) Read(b []byte) (int, error)  { return p.ch.In.Read(b) }
func (p bytePipe) Write(b []byte) (int, error) { return p.ch.Out.Write(b) }

func (p bytePipe) Close() error {
	p.ch.In.Close()
	p.ch.Out.Close()
	return nil
}
