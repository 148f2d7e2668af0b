package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/appserver/account"
	"towline/config"
	"towline/config/secret"
)

// loginFlags are those of `towline login [HOST]`.
type loginFlags struct {
	deviceAuth      bool
	withAPIKey      bool
	withAccessToken bool
	events          bool
	noBrowser       bool
	host            hostOptions // for HOST
	remote          loginHostFlags
}

func newLogin() *cobra.Command {
	var f loginFlags
	c := &cobra.Command{
		Use:   "login [HOST]",
		Short: "Log in on this machine, or on a host",
		Long: "login logs this machine in, so that Codex and Towline both work with it: through a\n" +
			"browser here, with a code typed in a browser anywhere (--device-auth), or with a key\n" +
			"or token from standard input. What is stored is Codex's own, in Codex's place.\n\n" +
			"With HOST it logs that host in, through the browser of this machine. Nothing is\n" +
			"copied: the login is made on the host.",
		Example: "  towline login\n" +
			"  towline login --device-auth\n" +
			"  towline login dev-server\n" +
			"  printenv OPENAI_API_KEY | towline login --with-api-key\n" +
			"  printenv CODEX_ACCESS_TOKEN | towline login --with-access-token\n" +
			"  towline login status",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(f.check(), f.remote.check(args)); err != nil {
				return err
			}
			if len(args) == 1 {
				return loginHost(cmd, args[0], f)
			}
			return loginHere(cmd, f)
		},
	}
	fl := c.Flags()
	fl.BoolVar(&f.deviceAuth, "device-auth", false, "show a code to type in a browser anywhere")
	fl.BoolVar(&f.withAPIKey, "with-api-key", false, "read an API key from standard input")
	fl.BoolVar(&f.withAccessToken, "with-access-token", false, "read an access token from standard input")
	fl.BoolVar(&f.noBrowser, "no-browser", false, "show the address and open no browser")
	fl.BoolVar(&f.events, "events", false, "for a program: print events as lines of JSON, read redirect addresses from standard input, end when it closes")
	f.host.flags(c)
	f.remote.flags(c)
	c.AddCommand(newLoginStatus())
	return c
}

// check refuses flags that mean different logins.
func (f loginFlags) check() error {
	var ways []string
	for _, w := range []struct {
		on   bool
		name string
	}{{f.deviceAuth, "--device-auth"}, {f.withAPIKey, "--with-api-key"}, {f.withAccessToken, "--with-access-token"}} {
		if w.on {
			ways = append(ways, w.name)
		}
	}
	if len(ways) > 1 {
		return wrongUse("login", strings.Join(ways, " and ")+" are different logins", "use one of them")
	}
	return nil
}

// openAccount opens this machine's login, as its configuration, its policy and the
// environment have it. Close the Manager.
func openAccount(log *slog.Logger, errOut *os.File) (credentials, *account.Manager, error) {
	paths, cfg, err := setup()
	if err != nil {
		return credentials{}, nil, err
	}
	c, err := openCredentials(paths, cfg, nil, log)
	if err != nil {
		return c, nil, err
	}
	if c.kind == config.StoreEncrypted && errOut != nil && term.IsTerminal(int(os.Stdin.Fd())) {
		// Only where a person chose the encrypted file: asked for a passphrase, auto
		// would write a login that the host could not read by itself.
		ask := func(ctx context.Context) (string, error) {
			return askSecret(ctx, os.Stdin, errOut, "Passphrase of the credential store: ")
		}
		if c, err = openCredentials(paths, cfg, ask, log); err != nil {
			return c, nil, err
		}
	}
	a := accountConfig(cfg, c, log)
	a.Elsewhere = elsewhere(paths, cfg, c, log)
	a.Audit = func(event string, facts ...any) {
		// A machine that never was a host has no folder for its audit yet.
		if err := config.PrivateDir(paths.State); err != nil {
			log.Warn("not in the audit", "event", event, "err", err)
			return
		}
		note(context.Background(), paths, event, slog.Group("", facts...).Value.Group()...)
	}
	m, err := account.New(a)
	return c, m, err
}

// elsewhere opens the stores of other kinds than the configured one: a login from
// before the setting changed may lie there, and a logout takes it too.
func elsewhere(paths config.Paths, cfg config.Config, c credentials, log *slog.Logger) []*secret.Store {
	var out []*secret.Store
	for _, kind := range []secret.Kind{secret.KindFile, secret.KindKeyring, secret.KindEncrypted} {
		if string(kind) == c.kind {
			continue
		}
		s, err := secret.Open(secret.Options{
			CodexHome: c.home, Kind: kind, Environ: os.Getenv, StateDir: paths.State, KeyringTimeout: cfg.Auth.Timeout(), Log: log,
		})
		if err != nil {
			log.Warn("a store is not looked at", "store", string(kind), "err", err)
			continue
		}
		out = append(out, s)
	}
	return out
}

// newManager makes a Manager over opened credentials.
func newManager(cfg config.Config, c credentials, log *slog.Logger) (*account.Manager, error) {
	return account.New(accountConfig(cfg, c, log))
}

// accountConfig is what a Manager works with here.
func accountConfig(cfg config.Config, c credentials, log *slog.Logger) account.Config {
	a := account.Config{
		Store: c.store, Policy: c.policy, CodexHome: c.home, Log: log, UserAgent: "towline/" + version(),
		Issuer: account.Issuer{URL: cfg.Auth.Issuer, ClientID: cfg.Auth.ClientID, Kind: account.IssuerKind(cfg.Auth.Kind)},
	}
	a.Environ(os.Getenv)
	return a
}

// loginHere logs this machine in.
func loginHere(cmd *cobra.Command, f loginFlags) error {
	errOut := os.Stderr
	log := slog.New(slog.DiscardHandler)
	if f.host.verbose {
		log = slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if f.events {
		return loginEvents(cmd, f, log)
	}
	c, m, err := openAccount(log, errOut)
	if err != nil {
		return err
	}
	defer m.Close()
	s := newLoginScreen(errOut, c)
	switch {
	case f.withAPIKey:
		key, err := secretFromInput(cmd.Context(), s, "API key", "printenv OPENAI_API_KEY | towline login --with-api-key")
		if err != nil {
			return err
		}
		st, err := m.SetAPIKey(cmd.Context(), key)
		if err != nil {
			return err
		}
		return s.done(st)
	case f.withAccessToken:
		token, err := secretFromInput(cmd.Context(), s, "access token", "printenv CODEX_ACCESS_TOKEN | towline login --with-access-token")
		if err != nil {
			return err
		}
		st, err := m.SetAccessToken(cmd.Context(), token)
		if err != nil {
			return err
		}
		return s.done(st)
	}
	before, err := m.Before(cmd.Context())
	if err != nil {
		return err
	}
	s.before(before)
	var st account.Status
	if f.deviceAuth {
		st, err = s.device(cmd.Context(), m)
	} else {
		st, err = s.browser(cmd.Context(), m, !f.noBrowser)
	}
	if err != nil {
		return err
	}
	return s.done(st)
}

// secretFromInput reads a key or token: from a pipe, or from a person without
// showing it.
func secretFromInput(ctx context.Context, s *loginScreen, what, example string) (string, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		text, err := askSecret(ctx, os.Stdin, s.out, upperFirst(what)+" (it is not shown): ")
		if err == nil && text == "" {
			err = &config.Problem{Stage: "login", Err: errors.New("no " + what + " was given"), Hints: []string{"pipe it in: `" + example + "`"}, Exit: config.ExitUsage}
		}
		return text, err
	}
	s.line("Reading %s from stdin...", what)
	text, err := readSecret(ctx, os.Stdin)
	if err == nil && text == "" {
		err = &config.Problem{Stage: "login", Err: errors.New("no " + what + " came from standard input"), Hints: []string{"pipe it in: `" + example + "`"}, Exit: config.ExitUsage}
	}
	return text, err
}

// loginOrigin names a stored login for a line: "ChatGPT pro, grace@example.com".
func loginOrigin(st account.Status) string {
	text := cmp.Or(modeNames[string(st.Mode)], string(st.Mode))
	if st.Lent {
		text = modeNames[modeLent]
	}
	if st.Plan != "" && st.Mode == secret.ModeChatGPT {
		text += " " + st.Plan
	}
	if who := st.Account(); who != "" {
		text += ", " + who
	}
	return printable(text)
}
