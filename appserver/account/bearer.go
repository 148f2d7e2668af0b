package account

import (
	"context"
	"errors"
	"fmt"

	"towline/config"
	"towline/config/secret"
)

// Token is what to authorise a request with now: borrowed, from the environment,
// or stored. A token about to expire is refreshed first; when that fails only
// because the issuer is away, the old one is given as long as it lasts.
func (m *Manager) Token(ctx context.Context) (Bearer, error) {
	if b, ok, err := m.unstored(ctx, ""); ok {
		return b, err
	}
	a, err := m.allowed(ctx)
	if err != nil {
		return Bearer{}, err
	}
	if a.Mode != secret.ModeChatGPT {
		return m.fixed(ctx, a)
	}
	if err := m.ended(a); err != nil {
		return Bearer{}, err
	}
	b := m.bearer(a)
	if b.Token != "" && !m.due(a, b) {
		return b, nil
	}
	fresh, err := m.join(ctx, a, reasonScheduled)
	if errors.Is(err, ErrUnavailable) && b.Token != "" && (b.Expires.IsZero() || m.cfg.Now().Before(b.Expires)) {
		m.cfg.Log.Warn("refresh later: the issuer is not available", "err", err)
		return b, nil
	}
	return fresh, err
}

// Rejected is called after a request authorised with used was answered 401. It
// gives another bearer (adopted from the store, refreshed, or borrowed anew), or
// ErrLoginExpired when there is none better.
func (m *Manager) Rejected(ctx context.Context, used Bearer) (Bearer, error) {
	if b, ok, err := m.unstored(ctx, used.Token); ok {
		return b, err
	}
	a, err := m.allowed(ctx)
	if err != nil {
		return Bearer{}, err
	}
	if a.Mode != secret.ModeChatGPT {
		b, err := m.fixed(ctx, a)
		if err == nil && b.Token == used.Token {
			err = &config.Problem{
				Stage: stageLogin, Err: fmt.Errorf("the %s was not accepted: %w", nounOf(a.Mode), ErrLoginExpired), Hints: []string{hintLogin},
			}
		}
		if err != nil {
			return Bearer{}, err
		}
		return b, nil
	}
	if err := m.ended(a); err != nil {
		return Bearer{}, err
	}
	if b := m.bearer(a); b.Token != used.Token && !m.due(a, b) {
		return b, nil // another process was faster
	}
	return m.join(ctx, a, reasonRejected)
}

// Refresh makes a new access token now, whatever the old one's age, and gives the
// status after: Codex's account/read with refreshToken.
func (m *Manager) Refresh(ctx context.Context) (Status, error) {
	m.mu.Lock()
	borrowed := m.lent != nil
	m.mu.Unlock()
	if borrowed || m.cfg.AccessToken != "" {
		return m.Status(ctx)
	}
	a, _, err := m.load(ctx)
	if err != nil {
		return Status{}, err
	}
	if a.Mode == secret.ModeChatGPT {
		if err := m.ended(a); err != nil {
			return Status{}, err
		}
		if _, err := m.join(ctx, a, reasonForced); err != nil {
			return Status{}, err
		}
	}
	return m.Status(ctx)
}

// unstored serves what does not come from the store: ok says whether it did.
// rejected is a token that was refused, or empty.
func (m *Manager) unstored(ctx context.Context, rejected string) (b Bearer, ok bool, err error) {
	m.mu.Lock()
	lent := m.lent
	m.mu.Unlock()
	if lent != nil {
		b, err = m.borrowed(ctx, lent, rejected)
		return b, true, err
	}
	if t := m.cfg.AccessToken; t != "" {
		if err := m.mayChatGPT(); err != nil {
			return Bearer{}, true, err
		}
		if t == rejected {
			return Bearer{}, true, &config.Problem{
				Stage: stageLogin, Err: fmt.Errorf("the access token in CODEX_ACCESS_TOKEN was not accepted: %w", ErrLoginExpired),
				Hints: []string{"set CODEX_ACCESS_TOKEN to a new one, or unset it to use the stored login"},
			}
		}
		b, err = m.accessToken(ctx, t)
		return b, true, err
	}
	return Bearer{}, false, nil
}

// allowed reads the store and refuses what a mandate forbids to use: a login may be
// older than the mandate.
func (m *Manager) allowed(ctx context.Context) (secret.Auth, error) {
	a, _, err := m.load(ctx)
	if err != nil {
		return a, err
	}
	return a, m.cfg.Policy.CheckStored(a)
}

// fixed is the bearer of a credential that does not expire by itself.
func (m *Manager) fixed(ctx context.Context, a secret.Auth) (Bearer, error) {
	switch a.Mode {
	case secret.ModeAPIKey:
		return Bearer{Token: a.APIKey, Mode: a.Mode}, nil
	case secret.ModePAT:
		return m.accessToken(ctx, a.PersonalAccessToken)
	}
	return Bearer{}, &config.Problem{
		Stage: stageLogin, Err: fmt.Errorf("a login with %s gives no bearer token; only Codex itself can use it", nounOf(a.Mode)),
		Hints: []string{"use the codex engine, or log in another way: `towline login`"},
	}
}

func (m *Manager) bearer(a secret.Auth) Bearer {
	if a.Tokens == nil {
		return Bearer{Mode: a.Mode}
	}
	c, _ := secret.Claims(a.Tokens.AccessToken) // opaque: no claims
	return Bearer{Token: a.Tokens.AccessToken, AccountID: first(a.Tokens.AccountID, c.AccountID), Mode: a.Mode, Expires: m.expires(a, c)}
}

// due says whether a token is to be refreshed before it is used.
func (m *Manager) due(a secret.Auth, b Bearer) bool {
	now := m.cfg.Now()
	if b.Expires.IsZero() {
		return !a.LastRefresh.IsZero() && now.Sub(a.LastRefresh) > staleAge
	}
	margin := early
	if c, err := secret.Claims(b.Token); err == nil && !c.IssuedAt.IsZero() {
		margin = min(early, b.Expires.Sub(c.IssuedAt)/5) // short-lived tokens are used as well
	}
	return !now.Before(b.Expires.Add(-margin))
}
