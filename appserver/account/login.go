package account

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"

	"towline/config/managed"
	"towline/config/secret"
)

// random is n unguessable bytes, as they go into URLs.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// exchange changes a code for tokens.
func (m *Manager) exchange(ctx context.Context, e endpoints, code, redirect, verifier string) (granted, error) {
	a, err := m.postForm(ctx, e.token, url.Values{
		"grant_type": {"authorization_code"}, "client_id": {e.issuer.ClientID}, "code": {code},
		"redirect_uri": {redirect}, "code_verifier": {verifier},
	})
	if err != nil {
		return granted{}, problem(stageExchange, err, "start the login again: its code works only once")
	}
	return m.grantedBy(e, a)
}

// grantedBy reads a token endpoint's answer to a login.
func (m *Manager) grantedBy(e endpoints, a answer) (granted, error) {
	if !a.ok() {
		return granted{}, problem(stageExchange, refused(e.token, a), "start the login again: its code works only once")
	}
	var g granted
	if err := a.into(&g); err != nil {
		return granted{}, problem(stageExchange, fmt.Errorf("%s: %w", host(e.token), err), hintLogin)
	}
	if g.Access == "" || g.ID == "" {
		return granted{}, problem(stageExchange, fmt.Errorf("%s gave no access token or no id token", host(e.token)), "check client_id under [auth] in config.toml")
	}
	return g, nil
}

// apiKey asks for an API key along with a login, as Codex does. Most accounts have
// none; that is no failure.
func (m *Manager) apiKey(ctx context.Context, e endpoints, idToken string) string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout/3)
	defer cancel()
	a, err := m.postForm(ctx, e.token, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "client_id": {e.issuer.ClientID},
		"requested_token": {"openai-api-key"}, "subject_token": {idToken},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
	})
	var got struct {
		Key string `json:"access_token"`
	}
	if err != nil || !a.ok() || a.into(&got) != nil {
		m.cfg.Log.Debug("no API key with this login")
		return ""
	}
	return got.Key
}

// settle checks a login against the mandates and stores it. What may not be used is
// handed back to the issuer.
func (m *Manager) settle(ctx context.Context, e endpoints, g granted, key string) (Status, error) {
	id, err := secret.Claims(g.ID)
	if err != nil {
		return Status{}, problem(stageExchange, fmt.Errorf("the id token of %s: %w", host(e.token), err), hintLogin)
	}
	access, _ := secret.Claims(g.Access) // opaque with some issuers
	a := secret.Auth{
		Mode: secret.ModeChatGPT, APIKey: key, LastRefresh: m.cfg.Now().UTC(),
		Tokens: &secret.Tokens{
			IDToken: g.ID, AccessToken: g.Access, RefreshToken: g.Refresh, AccountID: first(id.AccountID, access.AccountID),
			Issuer: e.issuer.URL, ClientID: e.issuer.ClientID, LoginOwnerID: random(32),
		},
	}
	if err := m.cfg.Policy.CheckWorkspace(a.Tokens.AccountID); err != nil {
		if rerr := m.revoke(ctx, a); rerr != nil {
			m.cfg.Log.Warn("a login that may not be used could not be revoked", "err", rerr)
		}
		return Status{}, err
	}
	m.noteExpiry(a, g.ExpiresIn)
	return m.store(ctx, a)
}

// store makes a the login of this machine.
func (m *Manager) store(ctx context.Context, a secret.Auth) (Status, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return Status{}, err
	}
	defer unlock()
	was, _, err := m.cfg.Store.Load(ctx)
	if err != nil && !errors.Is(err, secret.ErrNone) {
		m.cfg.Log.Warn("what was stored cannot be read and is replaced", "err", err)
	}
	if a.Mode == secret.ModeChatGPT {
		if err := m.cfg.Store.Journal(ctx, was, a); err != nil {
			m.cfg.Log.Warn("the new login is not journaled", "err", err)
		}
	}
	w, err := m.cfg.Store.Save(ctx, a)
	switch {
	case err != nil && w.Kind == "":
		return Status{}, storeProblem(err)
	case err != nil:
		m.cfg.Log.Warn("the login is stored, and an older copy could not be removed", "err", err)
	}
	m.mu.Lock()
	m.unsaved = nil
	clear(m.dead)
	m.mu.Unlock()
	s := m.describe(a, w)
	m.cfg.Log.Info("logged in", "mode", string(a.Mode), "account", s.AccountID, "store", string(w.Kind))
	m.cfg.Audit("credential.login", "mode", string(a.Mode), "account", s.AccountID, "store", string(w.Kind), "fingerprint", s.Fingerprint)
	m.announce()
	return s, nil
}

// mayChatGPT is the mandate's first word on a ChatGPT login.
func (m *Manager) mayChatGPT() error { return m.cfg.Policy.CheckLogin(managed.LoginChatGPT) }
