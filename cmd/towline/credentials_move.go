package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
	"towline/launcher"
)

func newCredentialsMove() *cobra.Command {
	var o reachOptions
	var replace bool
	c := &cobra.Command{
		Use:   "move HOST",
		Short: "Move this machine's ChatGPT login to a host",
		Long: "move gives the ChatGPT login of this machine to HOST. The host renews it, which\n" +
			"proves that it works there and spends the token that was here; only then is it\n" +
			"gone here. From the moment the host is asked until it has answered, nobody here\n" +
			"uses the login: not Towline, and not Codex.\n\n" +
			"When the answer is lost, this command asks the host again, whenever it is run: the\n" +
			"login is then on the host, or back here, and never on both.",
		Example: "  towline credentials move dev-server\n" +
			"  towline credentials move dev-server --json\n" +
			"  towline credentials move dev-server --replace     (give up a login that is there)",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := moveCredential(cmd.Context(), &o, args[0], replace, cmd.ErrOrStderr())
			return told(cmd.OutOrStdout(), cmd.ErrOrStderr(), o.asJSON, args[0], st, err)
		},
	}
	o.hostOptions.flags(c)
	f := c.Flags()
	f.BoolVar(&replace, "replace", false, "give up a login that is on HOST for it")
	f.BoolVar(&o.install, "install", false, "put this version of Towline there first, without asking")
	f.BoolVar(&o.asJSON, "json", false, "print one JSON object")
	return c
}

// moveCredential resolves a move that is not over, and begins one when none is.
func moveCredential(ctx context.Context, o *reachOptions, host string, replace bool, errOut io.Writer) (custody.Stored, error) {
	none := custody.Stored{}
	paths, cfg, err := setup()
	if err != nil {
		return none, err
	}
	c, ask, err := openForPerson(paths, cfg)
	if err != nil {
		return none, err
	}
	aside, err := openAside(paths, c, cfg.Auth.Timeout(), ask)
	if err != nil {
		return none, err
	}
	ledger := custody.Ledger{Path: paths.Moving(), Aside: aside}
	pending, err := ledger.Pending()
	if err != nil {
		return none, err
	}
	if pending != nil && pending.Host != host && pending.Step == custody.StepCommitted {
		return none, &config.Problem{
			Stage: custody.StageMove, Exit: config.ExitFailure,
			Err: fmt.Errorf("the login of this machine is being moved to %s since %s: %w",
				printable(pending.Host), pending.Since.Local().Format(time.DateTime), custody.ErrUnresolved),
			Hints: []string{"resolve that first: `towline credentials move " + pending.Host + "`"},
		}
	}
	local := localLogin{c, paths, cfg, host}
	if pending == nil { // before anybody is asked for a password
		if err := local.movable(ctx, host); err != nil {
			return none, err
		}
	}
	say := func(text string) {
		if !o.asJSON {
			fmt.Fprintf(errOut, "%s\n", printable(text))
		}
	}
	link := &relink{o: o, host: host, errOut: errOut}
	defer link.close()
	mv := &custody.Mover{Local: local, Ledger: ledger, Host: host, Dial: link.dial, Replace: replace, Step: say}
	if pending != nil {
		say("A move to " + pending.Host + " that began at " + pending.Since.Local().Format(time.DateTime) + " is not over; asking the host.")
		res, err := mv.Resolve(ctx)
		switch {
		case err != nil:
			return none, link.explain(err)
		case res != nil && res.Outcome == custody.Proved:
			return res.Stored, nil
		case res != nil:
			return none, res.Err()
		}
	}
	st, err := mv.Move(ctx)
	return st, link.explain(err)
}

// openForPerson opens this machine's credentials; whoever is there is asked for the
// passphrase of an encrypted store, once.
func openForPerson(paths config.Paths, cfg config.Config) (credentials, func(context.Context) (string, error), error) {
	c, err := openCredentials(paths, cfg, nil, nil)
	if err != nil || c.kind != config.StoreEncrypted || !term.IsTerminal(int(os.Stdin.Fd())) {
		return c, nil, err
	}
	var typed string
	ask := func(ctx context.Context) (string, error) {
		if typed != "" {
			return typed, nil
		}
		var err error
		typed, err = askSecret(ctx, os.Stdin, os.Stderr, "Passphrase of the credential store: ")
		return typed, err
	}
	c, err = openCredentials(paths, cfg, ask, nil)
	return c, ask, err
}

// aside is a store of the machine's kind for a login that no program is to find.
type aside struct {
	*secret.Store
	dir string
}

// openAside prepares it. What the owner of the machine demands of stores it keeps.
func openAside(paths config.Paths, c credentials, keyring time.Duration, ask func(context.Context) (string, error)) (aside, error) {
	a := aside{dir: filepath.Join(paths.State, "aside")}
	var err error
	a.Store, err = secret.Open(secret.Options{
		CodexHome: a.dir, Kind: secret.Kind(c.kind), Environ: os.Getenv, StateDir: paths.State, KeyringTimeout: keyring, Passphrase: ask,
	})
	return a, err
}

// Delete implements custody.Aside, and leaves no lock files either.
func (a aside) Delete(ctx context.Context) (bool, error) {
	had, err := a.Store.Delete(ctx)
	if err == nil {
		err = os.RemoveAll(a.dir)
	}
	return had, err
}

// relink opens streams to a host's receiving program, over a new connection when
// the last one is lost.
type relink struct {
	o      *reachOptions
	host   string
	errOut io.Writer

	at   *launcher.Reached
	last *stream
}

func (l *relink) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	if l.at != nil && l.at.Lost() != nil {
		l.close()
	}
	if l.at == nil {
		at, err := l.o.reach(ctx, l.host, l.errOut)
		if err != nil {
			return nil, err
		}
		l.at = at
	}
	r := receiver{l.at}
	if !r.hasTowline() {
		return nil, noTowline(l.host, "moving a login there")
	}
	s, err := r.open(ctx)
	if err != nil {
		return nil, err // no stream that is nil inside
	}
	l.last = s
	return s, nil
}

func (l *relink) close() {
	if l.at != nil {
		_ = l.at.Close() // what was to be said was answered
		l.at = nil
	}
}

func (l *relink) explain(err error) error {
	if l.at == nil || l.last == nil {
		return err
	}
	return receiver{l.at}.explain(err, l.last)
}

// localLogin is the login of this machine, in all its places.
type localLogin struct {
	c     credentials
	paths config.Paths
	cfg   config.Config
	host  string // where it is to go
}

var _ custody.Local = localLogin{}

// localLockTime is how long another program may be renewing the login.
const localLockTime = 60 * time.Second

// movable says whether there is a login that can be moved.
func (l localLogin) movable(ctx context.Context, host string) error {
	a, err := l.Load(ctx)
	if err != nil {
		return err
	}
	if a.Mode == secret.ModeChatGPT {
		return nil
	}
	return &config.Problem{
		Stage: custody.StageMove, Err: fmt.Errorf("this machine is logged in with %s, which is put and not moved", strings.ToLower(modeNames[string(a.Mode)])),
		Hints: []string{"put it there: `towline credentials put " + host + "`"}, Exit: config.ExitUsage,
	}
}

// Lock implements custody.Local.
func (l localLogin) Lock(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, localLockTime)
	defer cancel()
	return l.c.store.Lock(ctx)
}

// Load implements custody.Local.
func (l localLogin) Load(ctx context.Context) (secret.Auth, error) {
	a, _, err := l.c.store.Load(ctx)
	if errors.Is(err, secret.ErrNone) {
		return a, &config.Problem{
			Stage: custody.StageMove, Err: errors.New("this machine is not logged in"), Exit: config.ExitFailure,
			Hints: []string{"log in on the host: `towline login " + l.host + "`"},
		}
	}
	return a, err
}

// Remove implements custody.Local.
func (l localLogin) Remove(ctx context.Context) error {
	a, _, err := l.c.store.Load(ctx)
	if err != nil {
		return err
	}
	if _, err := l.c.store.Delete(ctx); err != nil {
		return err
	}
	// An older store may still have it: a copy that nobody remembers is a holder.
	for _, p := range l.c.store.Places(ctx) {
		if p.Err != nil || custody.MarkOf(p.Auth) != custody.MarkOf(a) {
			continue
		}
		if err := l.removeFrom(ctx, p.Kind); err != nil {
			return err
		}
	}
	for _, p := range l.c.store.Places(ctx) {
		if p.Err == nil && custody.MarkOf(p.Auth) == custody.MarkOf(a) {
			return &config.Problem{
				Stage: custody.StageMove, Err: fmt.Errorf("the login cannot be removed from %s", p.Path), Exit: config.ExitFailure,
				Hints: []string{"see every place: `towline credentials status`"},
			}
		}
	}
	return nil
}

// removeFrom empties a store of another kind than the one that is used.
func (l localLogin) removeFrom(ctx context.Context, kind secret.Kind) error {
	other, err := secret.Open(secret.Options{CodexHome: l.c.home, Kind: kind, StateDir: l.paths.State, KeyringTimeout: l.cfg.Auth.Timeout()})
	if err != nil {
		return err
	}
	_, err = other.Delete(ctx)
	return err
}

// Restore implements custody.Local.
func (l localLogin) Restore(ctx context.Context, a secret.Auth) (bool, error) {
	now, _, err := l.c.store.Load(ctx)
	switch {
	case errors.Is(err, secret.ErrNone):
		_, err := l.c.store.Save(ctx, a)
		return err == nil, err
	case err != nil:
		return false, err
	}
	// It never left, or was renewed since; or somebody logged in anew.
	return now.Mode == a.Mode && custody.MarkOf(now).Account == custody.MarkOf(a).Account, nil
}
