package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"towline/appserver/protocol"
	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
)

// mayLogIn holds an account/login/start against the mandates of this machine. They
// are read anew: an administrator may have changed them since the start. Codex
// knows those of its own two files only, so what Towline's says of a login that
// Codex would make is decided here, before it is one.
func (l servedLogin) mayLogIn(engine string, params json.RawMessage) error {
	p, err := managed.Load(managed.Options{})
	if err != nil {
		return err
	}
	return l.allowed(p, engine, params)
}

func (l servedLogin) allowed(p managed.Policy, engine string, params json.RawMessage) (err error) {
	kind := protocol.StringField(params, "type")
	switch kind {
	case protocol.LoginAPIKey:
		err = p.CheckLogin(managed.LoginAPI)
	case protocol.LoginBrowser, protocol.LoginDevice:
		err = p.CheckLogin(managed.LoginChatGPT)
	case protocol.LoginLend:
		return mayBorrow(p, params)
	default:
		// Another way of Codex's; whether it counts as one that is allowed is unknown.
		if p.LoginMethods.Set {
			err = p.CheckLogin(kind)
		}
	}
	if err != nil || engine != config.EngineCodex {
		return err
	}
	if w := p.Workspaces; w.Set && kind != protocol.LoginAPIKey && !p.CodexSeesToWorkspaces() {
		return &config.Problem{
			Stage: "policy", Exit: config.ExitDenied,
			Err: fmt.Errorf("only some workspaces are allowed on this machine (set by %s), which Codex cannot see to: log in with `towline login`", w.From),
		}
	}
	if s, keeps := p.Store, l.codexKeepsIn(p); s.Set && p.CheckKind(keeps) != nil {
		return &config.Problem{
			Stage: "policy", Exit: config.ExitDenied,
			Err: fmt.Errorf("credentials must be in the store %q on this machine (set by %s), and Codex would keep this one in %q: log in with `towline login`",
				s.Value, s.From, keeps),
		}
	}
	return nil
}

// mayRelay holds a remote control of Codex's against the mandates of this machine.
func mayRelay() error {
	p, err := managed.Load(managed.Options{})
	if err != nil {
		return err
	}
	return p.CheckRemoteControl()
}

// mayBorrow is mayLogIn for a login that is lent. The account its token names
// counts as well as the one it is said to be for.
func mayBorrow(p managed.Policy, params json.RawMessage) error {
	account := protocol.StringField(params, "chatgptAccountId")
	if err := errors.Join(p.CheckLendCredentials(), p.CheckLogin(managed.LoginChatGPT), p.CheckWorkspace(account)); err != nil {
		return err
	}
	if c, err := secret.Claims(protocol.StringField(params, "accessToken")); err == nil && c.AccountID != "" && c.AccountID != account {
		return p.CheckWorkspace(c.AccountID)
	}
	return nil
}

// codexKeepsIn is where Codex would store a login: what its own files mandate, else
// its configuration.
func (l servedLogin) codexKeepsIn(p managed.Policy) secret.Kind {
	if s := p.CodexStore(); s != "" {
		return secret.Kind(s)
	}
	s, err := config.LoadCodex(l.home, "")
	if err != nil || s.OwnStore == "" {
		return secret.KindFile
	}
	return secret.Kind(s.OwnStore)
}

// mayServe refuses to start Codex with a login that came before a mandate did:
// Towline's own engine does not use one, and Codex would.
func (l servedLogin) mayServe(ctx context.Context) error {
	if l.store == nil {
		return nil
	}
	p, err := managed.Load(managed.Options{})
	if err != nil {
		return err
	}
	if !p.LoginMethods.Set && !p.Workspaces.Set {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storedTimeout)
	defer cancel()
	a, _, err := l.store.Load(ctx)
	if err != nil {
		if !errors.Is(err, secret.ErrNone) {
			l.log.Warn("the credential store cannot be read", "err", err)
		}
		return nil
	}
	if err := p.CheckStored(a); err != nil {
		return &config.Problem{
			Stage: "policy", Exit: config.ExitDenied, Err: fmt.Errorf("the login that is stored here may not be used: %w", err),
			Hints: []string{"remove it with `towline logout`, then start again", "see what is allowed: `towline credentials status`"},
		}
	}
	return nil
}
