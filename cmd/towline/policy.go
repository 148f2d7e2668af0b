package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
)

// credentials is what every command that touches a credential begins with: what
// the owner of this machine allows, what people set, and the store that follows
// from both.
type credentials struct {
	policy managed.Policy
	codex  config.CodexSettings
	home   string // CODEX_HOME
	kind   string // of the store, a config.Store constant
	from   string // who decided that
	store  *secret.Store
}

// openCredentials reads the policy and both configurations and prepares the
// store. passphrase may be nil. Nothing is read from the store yet.
//
// When Codex's own configuration cannot be read that is the error, and the policy
// of the machine and, where it mandates one, the store come with it: nobody gets
// around a mandate by breaking a file of their own.
func openCredentials(paths config.Paths, cfg config.Config, passphrase func(context.Context) (string, error), log *slog.Logger) (credentials, error) {
	c := credentials{home: cfg.CodexHome(os.Getenv)}
	var codexErr, err error
	c.codex, codexErr = config.LoadCodex(c.home, "")
	if c.policy, err = managed.Load(managed.Options{Codex: c.codex}); err != nil {
		return c, err
	}
	if codexErr != nil && !c.policy.Store.Set {
		return c, codexErr
	}
	if c.kind, c.from, err = c.policy.StoreKind(cfg.CredentialStore(paths, c.codex)); err != nil {
		return c, err
	}
	c.store, err = secret.Open(secret.Options{
		CodexHome: c.home, Kind: secret.Kind(c.kind), Environ: os.Getenv, StateDir: paths.State,
		KeyringTimeout: cfg.Auth.Timeout(), Passphrase: passphrase, Log: log,
	})
	if err != nil {
		return c, &config.Problem{Stage: "store", Err: err, Hints: []string{"see where credentials are: `towline credentials status`"}, Exit: config.ExitConfig}
	}
	return c, codexErr
}

// startLimit bounds what a host does about stored credentials before it serves.
const startLimit = 30 * time.Second

// policyAtStart holds what is stored against the mandates of this machine before a
// host serves: what lies where none may is moved into the mandated store, or the
// host does not start.
func policyAtStart(ctx context.Context, paths config.Paths, cfg config.Config, log *slog.Logger) error {
	c, err := openCredentials(paths, cfg, nil, log)
	if c.policy.Err() != nil || err != nil && c.store == nil && c.policy.Store.Set {
		return err
	}
	if err != nil { // Codex's own configuration is Codex's to complain of, when it runs
		log.Warn("how people log in to Codex is not known", "err", err)
	}
	if !c.policy.Store.Set {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	act, err := c.policy.AtStart(c.store.Places(ctx))
	if err != nil || act == managed.Keep {
		return err
	}
	// Nothing usable may be there, only what a killed program left.
	if err := c.store.Migrate(ctx, secret.Kind(c.kind)); err != nil && !errors.Is(err, secret.ErrNone) {
		return c.policy.MigrateFailed(err)
	}
	if left := c.policy.Misplaced(c.store.Places(ctx)); len(left) > 0 {
		return c.policy.MigrateFailed(fmt.Errorf("%s cannot be read as a login; look at it and remove it", strings.Join(left, ", ")))
	}
	log.Info("credentials were moved into the mandated store", "store", c.kind, "policy", c.from)
	return nil
}
