package native

import (
	"context"
	"errors"
	"slices"
	"time"

	"towline/appserver/account"
	"towline/appserver/engine/native/model"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
	"towline/config/secret"
)

// Accounts is the host's login, as *account.Manager keeps it. It is one interface
// because it is one thing: who is logged in, and the ways to change that.
type Accounts interface {
	model.Auth
	Status(ctx context.Context) (account.Status, error)
	Refresh(ctx context.Context) (account.Status, error)
	Browser(ctx context.Context, o account.BrowserOptions) (account.Status, error)
	Device(ctx context.Context, show func(account.DeviceCode)) (account.Status, error)
	SetAPIKey(ctx context.Context, key string) (account.Status, error)
	Lend(ctx context.Context, t account.LentTokens, renew func(ctx context.Context, reason string) (account.LentTokens, error)) (account.Status, error)
	Unlend() bool
	Logout(ctx context.Context) (bool, error)
}

var _ Accounts = (*account.Manager)(nil)

// accountTime bounds what a request about the account may take: a keyring may
// have to be unlocked, an issuer asked.
const accountTime = 45 * time.Second

// accountRead says who the host works as. A login that is known to be over is
// none, as in Codex: clients then offer to log in.
func (c *conn) accountRead(r *rpc.Request) (any, error) {
	var p struct {
		Refresh bool `json:"refreshToken"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	out := protocol.AccountStatus{Required: c.e.cfg.NeedsLogin}
	s, err := c.e.accountStatus(c.ctx, p.Refresh)
	if err != nil {
		return nil, err
	}
	if !usable(s) {
		return out, nil
	}
	out.Account = accountOf(s)
	if out.Account.Type == "chatgpt" {
		out.UserID = optional(s.UserID)
		out.Routing = &protocol.WorkspaceRouting{AccountID: s.AccountID, Origin: c.e.cfg.ChatGPTOrigin, Override: "NO_CONSTRAINT"}
	}
	return out, nil
}

// accountStatus asks the manager; refresh first makes a new token, as far as that
// works: a login that cannot be refreshed says so by itself.
func (e *Engine) accountStatus(ctx context.Context, refresh bool) (account.Status, error) {
	a := e.cfg.Accounts
	if a == nil || !e.cfg.NeedsLogin {
		return account.Status{}, nil // Codex names no account either that it would not use
	}
	ctx, cancel := context.WithTimeout(ctx, accountTime)
	defer cancel()
	if refresh {
		if _, err := a.Refresh(ctx); err != nil {
			e.log.Info("login not refreshed", "err", err)
		}
	}
	s, err := a.Status(ctx)
	if err != nil {
		return s, protocol.Internalf("%s", plain(err))
	}
	return s, nil
}

// usable reports whether requests can be made as this.
func usable(s account.Status) bool { return s.LoggedIn && s.Ended == nil }

func accountOf(s account.Status) *protocol.Account {
	if s.Mode == secret.ModeAPIKey {
		return &protocol.Account{Type: "apiKey"}
	}
	return &protocol.Account{Type: "chatgpt", Email: optional(s.Email), Plan: planOf(s.Plan)}
}

// plans are the plan types clients know; any other would fail a strict one.
var plans = []string{
	"free", "go", "plus", "pro", "prolite", "promax", "team", "self_serve_business_prolite", "self_serve_business_usage_based",
	"business", "ent26", "enterprise_cbp_automation", "enterprise_cbp_usage_based", "enterprise", "edu", "edu_plus", "edu_pro", "sci", "sci_plus",
}

func planOf(plan string) string {
	if slices.Contains(plans, plan) {
		return plan
	}
	return "unknown"
}

// change is what account/updated says about a status.
func change(s account.Status) protocol.AccountChange {
	if !usable(s) {
		return protocol.AccountChange{}
	}
	mode := modeOf(s)
	if s.Mode == secret.ModeAPIKey {
		return protocol.AccountChange{AuthMode: &mode}
	}
	plan := planOf(s.Plan)
	return protocol.AccountChange{AuthMode: &mode, Plan: &plan}
}

// modeOf is Codex's name for how a status authorises.
func modeOf(s account.Status) string {
	if s.Lent {
		return protocol.AuthModeLent
	}
	return string(s.Mode)
}

// getAuthStatus is account/read as older clients ask, without the token: no
// client of a shared host gets that.
func (c *conn) getAuthStatus(r *rpc.Request) (any, error) {
	var p struct {
		Refresh bool `json:"refreshToken"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	s, err := c.e.accountStatus(c.ctx, p.Refresh)
	if err != nil {
		return nil, err
	}
	var method *string
	if s.LoggedIn {
		mode := modeOf(s)
		method = &mode
	}
	return map[string]any{"authMethod": method, "authToken": nil, "requiresOpenaiAuth": c.e.cfg.NeedsLogin}, nil
}

func (c *conn) accountRateLimitsRead(*rpc.Request) (any, error) {
	return nil, protocol.Errorf("codex account authentication required to read rate limits")
}

func (c *conn) accountUsageRead(*rpc.Request) (any, error) {
	return nil, protocol.Errorf("codex account authentication required to read token usage")
}

func (c *conn) gatewayOAuthRead(*rpc.Request) (any, error) {
	return map[string]any{
		"providerId": c.e.cfg.Provider, "providerName": c.e.cfg.Provider, "required": false,
		"supportsDeviceAuth": false, "status": nil, "error": nil,
	}, nil
}

// accountLogout logs out, or only gives back what is lent: the host's own login
// is under it and nobody's to lose.
func (c *conn) accountLogout(r *rpc.Request) (any, error) {
	e := c.e
	if e.cfg.Accounts == nil {
		r.Reply(struct{}{})
		e.broadcast(protocol.AccountUpdated, protocol.AccountChange{})
		return nil, nil
	}
	defer e.logins.hold()()
	if !e.unlend(nil) {
		ctx, cancel := context.WithTimeout(c.ctx, accountTime)
		defer cancel()
		if _, err := e.cfg.Accounts.Logout(ctx); err != nil {
			return nil, protocol.Internalf("failed to log out: %s", plain(err))
		}
	}
	r.Reply(struct{}{})
	e.tellAccount(true)
	return nil, nil
}

// tellAccount broadcasts who the host works as now: when that is news, or always.
func (e *Engine) tellAccount(always bool) {
	s, err := e.accountStatus(e.life, false)
	if err != nil {
		e.log.Warn("the login cannot be read", "err", err)
	}
	if now := change(s); e.logins.news(now) || always {
		e.broadcast(protocol.AccountUpdated, now)
	}
}

// followAccount tells clients of logins and logouts that none of them asked for:
// `towline login` on the host, and a login that ran out.
func (e *Engine) followAccount() {
	s, _ := e.accountStatus(e.life, false) // what cannot be read is told when it is asked for
	e.logins.news(change(s))
	for {
		changed := e.cfg.Accounts.Changed()
		select {
		case <-changed:
			if !e.logins.held() { // else whoever holds it tells, in the right order
				e.tellAccount(false)
			}
		case <-e.life.Done():
			return
		}
	}
}

// plain is an error for a client: without the stage a command line shows.
func plain(err error) string {
	var p *config.Problem
	if errors.As(err, &p) {
		err = p.Err
	}
	return config.OneLine(err.Error())
}
