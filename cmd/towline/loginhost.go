package main

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"towline/appserver/account"
	"towline/forward/login"
	"towline/forward/sshfwd"
	"towline/launcher"
	"towline/launcher/bootstrap"
	"towline/launcher/remote"
)

// loginHostFlags are the flags of `towline login HOST` that a login of this machine
// does not have.
type loginHostFlags struct {
	json, install bool
}

func (f *loginHostFlags) flags(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&f.json, "json", false, "with HOST: print what happens as JSON objects, one a line")
	fl.BoolVar(&f.install, "install", false, "with HOST: put this version there without asking, beside any other")
}

// check refuses them where no host is named.
func (f loginHostFlags) check(args []string) error {
	if len(args) == 0 && (f.json || f.install) {
		return wrongUse("login", "--json and --install are for a host", "name it: `towline login HOST`; a program that logs this machine in uses --events")
	}
	return nil
}

// loginHost logs a host in through the browser of this machine.
func loginHost(cmd *cobra.Command, host string, f loginFlags) error {
	ctx, stop := hangUp(cmd.Context())
	defer stop()
	who := newLoginPerson(cmd.OutOrStdout(), host, f)
	if f.events && !f.withAPIKey && !f.withAccessToken {
		driven, left := context.WithCancelCause(ctx)
		defer left(nil)
		who.driven(driven, func() { left(errDriverLeft) })
		ctx = driven
	}
	err := runLoginHost(ctx, cmd, host, f, who)
	who.close()
	if err != nil && who.enc != nil {
		who.Tell(failedEvent(host, err))
	}
	return err
}

func runLoginHost(ctx context.Context, cmd *cobra.Command, host string, f loginFlags, who *loginPerson) error {
	c := login.Config{Name: host, Person: who}
	switch {
	case f.deviceAuth:
		c.Method = login.DeviceCode
	case f.withAPIKey:
		c.Method = login.APIKey
	case f.withAccessToken:
		c.Method = login.AccessToken
	}
	if f.withAPIKey || f.withAccessToken { // before anything else: what is missing shows at once
		what, example := "API key", "printenv OPENAI_API_KEY | towline login "+host+" --with-api-key"
		if f.withAccessToken {
			what, example = "access token", "printenv CODEX_ACCESS_TOKEN | towline login "+host+" --with-access-token"
		}
		text, err := secretFromInput(ctx, newLoginScreen(os.Stderr, credentials{}), what, example)
		if err != nil {
			return err
		}
		c.Secret = login.Secret(text)
	}
	lc, err := f.host.launcher(host, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	lc = who.through(lc)
	lc.Fresh = true // what is there decides how it is done
	if f.remote.install {
		lc.Install = launcher.InstallAlways
	}
	at, err := launcher.Reach(ctx, lc)
	if err != nil {
		return err
	}
	defer func() { _ = at.Close() }() // all that ran over it has ended
	// A link that is lost takes the login along, on both sides.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the connection
		<-at.Conn.Done()
		cancel(at.Lost())
	}()
	c.Host, c.Lost, c.Log = sshHost{at}, at.Lost, lc.Log
	c.Door, c.TowlinePath = at.Report.Door, at.Program(bootstrap.Towline)
	c.HasCodex = at.Program(bootstrap.Codex) != "" && lc.Pin != string(bootstrap.Towline)
	c.CodexHome = codexHomeOf(at.Report)
	if !f.noBrowser {
		c.Open, c.Known = openBrowser, knownIssuer
	}
	done, err := login.Run(ctx, c)
	if err != nil {
		return err
	}
	who.Tell(done)
	return nil
}

// knownIssuer reports whether a site is one that this machine's own configuration
// would log in at, or Codex's.
func knownIssuer(site string) bool {
	known := []string{account.OpenAIIssuer, os.Getenv("CODEX_APP_SERVER_LOGIN_ISSUER")}
	if _, cfg, err := setup(); err == nil {
		known = append(known, cfg.Auth.Issuer)
	}
	return slices.ContainsFunc(known, func(issuer string) bool {
		u, err := url.Parse(issuer)
		return err == nil && u.Hostname() != "" && strings.EqualFold(u.Hostname(), site)
	})
}

// codexHomeOf is where Codex keeps its credentials on a host.
func codexHomeOf(rep bootstrap.Report) string {
	switch {
	case strings.HasPrefix(rep.Env["CODEX_HOME"], "/"):
		return rep.Env["CODEX_HOME"]
	case rep.Home != "":
		return rep.Home + "/.codex"
	}
	return ""
}

// sshHost is a host as a login needs it.
type sshHost struct{ *launcher.Reached }

// Exec implements sshfwd.Host.
func (h sshHost) Exec(ctx context.Context, command string) (sshfwd.Process, error) {
	if h.Report.Door {
		return nil, sshfwd.ErrNoShell
	}
	p, err := h.Conn.Exec(ctx, command, remote.ExecOptions{})
	if err != nil {
		return nil, err // not a typed nil
	}
	return p, nil
}

// Run implements login.Host.
func (h sshHost) Run(ctx context.Context, c login.Command) (sshfwd.Process, error) {
	if h.Report.Door {
		p, err := h.Conn.Exec(ctx, strings.Join(c.Args, " "), remote.ExecOptions{})
		if err != nil {
			return nil, err
		}
		return doorProgram{newStream(p)}, nil
	}
	pr := bootstrap.Program{Args: c.Args, Input: map[login.Input]bootstrap.Input{
		login.Watched: bootstrap.InputNone, login.Open: bootstrap.InputAll, login.Line: bootstrap.InputLine,
	}[c.Input]}
	if c.Program == login.Codex {
		pr.Path = h.Program(bootstrap.Codex)
		// The browser is here: one that Codex found there would open for nobody.
		pr.Env = map[string]string{"BROWSER": "true"}
	} else {
		pr.Path = h.Program(bootstrap.Towline)
	}
	p, err := h.Reached.Run(ctx, pr)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// DialTCP implements sshfwd.Host.
func (h sshHost) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return h.Conn.DialTCP(ctx, addr)
}

// doorProgram is a command of Towline's own door. It keeps what it complains of.
type doorProgram struct{ *stream }

// Stderr gives nothing: it is kept for LastWords.
func (doorProgram) Stderr() io.Reader { return strings.NewReader("") }

// LastWords is what it said on standard error.
func (p doorProgram) LastWords() string { return p.said.String() }
