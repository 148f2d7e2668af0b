package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"towline/appserver/access"
	"towline/appserver/account"
	"towline/appserver/engine/native"
	"towline/config"
	"towline/config/secret"
)

// recordFunc puts an event into the host's audit.
type recordFunc func(event string, p access.Principal, attrs ...slog.Attr)

// storedTimeout bounds a look at the credential store while a client leaves.
const storedTimeout = 5 * time.Second

// servedLogin is the login of the machine a host runs on.
type servedLogin struct {
	manager *account.Manager // nil when the stores could not be opened
	store   *secret.Store
	home    string // CODEX_HOME
	baseURL string // chatgpt_base_url
	log     *slog.Logger
}

// hostLogin opens the machine's login for the daemon; record puts what happens to
// it into the audit. What Codex's own configuration gets wrong is no reason not to
// serve: there is no login then.
func hostLogin(paths config.Paths, cfg config.Config, network *lentNetwork, record recordFunc, log *slog.Logger) (servedLogin, error) {
	c, err := openCredentials(paths, cfg, nil, log)
	if err != nil {
		var p *config.Problem
		if c.policy.Err() == nil && errors.As(err, &p) && p.Stage == "config" {
			log.Warn("no login is used", "err", err)
			return servedLogin{home: c.home, log: log}, nil
		}
		return servedLogin{}, err
	}
	a := accountConfig(cfg, c, log)
	a.HTTP = viaNetwork(network)
	a.Audit = func(event string, facts ...any) {
		record(event, access.Principal{}, append([]slog.Attr{slog.String("via", "daemon")}, slog.Group("", facts...).Value.Group()...)...)
	}
	m, err := account.New(a)
	if err != nil {
		return servedLogin{}, err
	}
	return servedLogin{manager: m, store: c.store, home: c.home, baseURL: c.codex.ChatGPTBaseURL.Value, log: log}, nil
}

// accounts is the manager as an engine takes it; a nil one would not be nil there.
func (l servedLogin) accounts() native.Accounts {
	if l.manager == nil {
		return nil
	}
	return l.manager
}

// stored reports whether a login lies where the engine keeps its own. When that
// cannot be known it says yes: a login is not to be deleted on a guess.
func (l servedLogin) stored() bool {
	if l.store == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), storedTimeout)
	defer cancel()
	_, _, err := l.store.Load(ctx)
	if err != nil && !errors.Is(err, secret.ErrNone) {
		l.log.Warn("the credential store cannot be read", "err", err)
		return true
	}
	return err == nil
}

// close waits for a refresh under way: its token is spent.
func (l servedLogin) close() {
	if l.manager != nil {
		l.manager.Close()
	}
}
