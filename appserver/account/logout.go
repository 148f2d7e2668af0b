package account

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"towline/config"
	"towline/config/secret"
)

// revokeTimeout bounds telling the issuer; the login goes away here regardless.
const revokeTimeout = 5 * time.Second

// Logout revokes the login at its issuer, as far as that works, and removes it from
// every place. It reports whether there was one. With ErrNotRevoked it is removed,
// and the issuer does not know.
func (m *Manager) Logout(ctx context.Context) (bool, error) {
	lent := m.Unlend()
	unlock, err := m.lock(ctx)
	if err != nil && !errors.Is(err, secret.ErrBusy) {
		return false, err
	}
	if err == nil {
		defer unlock()
	} // else somebody hangs in a refresh: going is not to wait for them
	a, _, err := m.load(ctx)
	if err != nil && !errors.Is(err, ErrNotLoggedIn) {
		m.cfg.Log.Warn("what is stored cannot be read, and is removed", "err", err)
	}
	rerr := m.revoke(ctx, a)
	removed, err := m.cfg.Store.Delete(context.WithoutCancel(ctx))
	if err != nil {
		return removed, storeProblem(err)
	}
	more, err := m.leaveElsewhere(ctx, a)
	removed, rerr = removed || more, errors.Join(rerr, err)
	m.mu.Lock()
	m.unsaved = nil
	clear(m.dead)
	clear(m.expiry)
	clear(m.whoami)
	m.mu.Unlock()
	if !removed {
		return lent, nil
	}
	m.cfg.Log.Info("logged out", "mode", string(a.Mode), "account", accountOf(a))
	m.cfg.Audit("credential.logout", "mode", string(a.Mode), "account", accountOf(a), "revoked", rerr == nil)
	m.announce()
	if rerr != nil {
		return true, &config.Problem{
			Stage: stageLogin, Err: fmt.Errorf("%w of it: %w", ErrNotRevoked, rerr),
			Hints: []string{"the login is gone from here; end it in the account's security settings if it may have been copied"},
		}
	}
	return true, nil
}

// leaveElsewhere removes what lies in stores of other kinds, from before the setting
// changed, and revokes it when it is another login. A store that is not there, or
// cannot be looked into, holds nothing anybody here uses.
func (m *Manager) leaveElsewhere(ctx context.Context, a secret.Auth) (removed bool, notRevoked error) {
	for _, s := range m.cfg.Elsewhere {
		other, w, err := s.Load(ctx)
		if err != nil {
			if !errors.Is(err, secret.ErrNone) {
				m.cfg.Log.Info("a store is not looked into", "err", err)
			}
			continue
		}
		if other.Fingerprint() != a.Fingerprint() {
			notRevoked = errors.Join(notRevoked, m.revoke(ctx, other))
		}
		gone, err := s.Delete(context.WithoutCancel(ctx))
		if err != nil {
			m.cfg.Log.Warn("an older login stays", "store", string(w.Kind), "err", err)
			notRevoked = errors.Join(notRevoked, err)
		}
		removed = removed || gone
	}
	return removed, notRevoked
}

// revoke tells the issuer that a ChatGPT login is over. Other credentials are not
// ours to end.
func (m *Manager) revoke(ctx context.Context, a secret.Auth) error {
	if a.Tokens == nil {
		return nil
	}
	token, hint := a.Tokens.RefreshToken, "refresh_token"
	if token == "" {
		token, hint = a.Tokens.AccessToken, "access_token"
	}
	if token == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	iss := m.issuerOf(*a.Tokens)
	to := m.cfg.RevokeURL
	if to == "" {
		e, err := m.endpoints(ctx, iss)
		if err != nil {
			return err
		}
		if e.revoke == "" {
			return nil // it has no such thing
		}
		to = e.revoke
	}
	var got answer
	var err error
	if iss.Kind == KindOIDC {
		got, err = m.postForm(ctx, to, url.Values{"token": {token}, "token_type_hint": {hint}, "client_id": {iss.ClientID}})
	} else {
		got, err = m.postJSON(ctx, to, map[string]string{"token": token, "token_type_hint": hint, "client_id": iss.ClientID})
	}
	if err != nil {
		return err
	}
	if !got.ok() {
		return refused(to, got)
	}
	return nil
}
