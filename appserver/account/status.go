package account

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"towline/config/managed"
	"towline/config/secret"
)

// Status says how things stand, asking nobody on the network. That nobody is
// logged in is no error.
func (m *Manager) Status(ctx context.Context) (Status, error) {
	m.mu.Lock()
	lent := m.lent
	m.mu.Unlock()
	if lent != nil {
		return lent.status(), nil
	}
	if t := m.cfg.AccessToken; t != "" {
		if err := m.mayChatGPT(); err != nil {
			return Status{}, err
		}
		s := Status{LoggedIn: true, Env: "CODEX_ACCESS_TOKEN", Mode: tokenMode(t)}
		m.addIdentity(&s, t)
		return s, nil
	}
	a, w, err := m.load(ctx)
	if errors.Is(err, ErrNotLoggedIn) {
		return Status{Where: w}, nil
	}
	if err != nil {
		return Status{}, err
	}
	return m.describe(a, w), nil
}

// Verify is Status, after asking the issuer whether a personal access token is
// still good, as Codex does for its login status.
func (m *Manager) Verify(ctx context.Context) (Status, error) {
	s, err := m.Status(ctx)
	if err != nil || s.Lent || s.Mode != secret.ModePAT {
		return s, err
	}
	token := m.cfg.AccessToken
	if token == "" {
		a, _, err := m.load(ctx)
		if err != nil {
			return Status{}, err
		}
		token = a.PersonalAccessToken
	}
	who, err := m.verifyPAT(ctx, token)
	if err != nil {
		return s, err
	}
	who.fill(&s)
	return s, nil
}

// describe says what a stored credential is, without it.
func (m *Manager) describe(a secret.Auth, w secret.Where) Status {
	s := Status{
		LoggedIn: true, Mode: a.Mode, Where: w, Fingerprint: a.Fingerprint(), LastRefresh: a.LastRefresh, Ended: m.ended(a),
	}
	switch a.Mode {
	case secret.ModeAPIKey:
		s.Masked = mask(a.APIKey)
	case secret.ModeChatGPT:
		if a.Tokens == nil {
			s.LoggedIn = false
			return s
		}
		c := describeTokens(&s, *a.Tokens)
		s.Expires = m.expires(a, c)
	case secret.ModePAT:
		m.addIdentity(&s, a.PersonalAccessToken)
	case secret.ModeAgent:
		var jwt string
		if json.Unmarshal(a.AgentIdentity, &jwt) == nil {
			m.addIdentity(&s, jwt)
		}
	}
	return s
}

// describeTokens fills in what a ChatGPT login's tokens say, and gives the access
// token's claims.
func describeTokens(s *Status, t secret.Tokens) secret.IDClaims {
	id, _ := secret.Claims(t.IDToken) // unreadable: shown as unknown
	access, _ := secret.Claims(t.AccessToken)
	s.Email, s.Plan, s.UserID = first(id.Email, access.Email), first(id.Plan, access.Plan), first(id.UserID, access.UserID, id.Subject)
	s.AccountID = first(t.AccountID, id.AccountID, access.AccountID)
	s.Issuer = first(t.Issuer, id.Issuer)
	s.Renews = t.RefreshToken != ""
	return access
}

// expires is when an access token does: it says so itself, or the issuer said it
// to this process.
func (m *Manager) expires(a secret.Auth, access secret.IDClaims) time.Time {
	if !access.Expires.IsZero() {
		return access.Expires
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expiry[a.Fingerprint()]
}

// addIdentity fills in who an access token was found to be, when it was asked.
func (m *Manager) addIdentity(s *Status, token string) {
	m.mu.Lock()
	who, ok := m.whoami[token]
	m.mu.Unlock()
	if ok && s.Mode == secret.ModePAT {
		who.fill(s)
		return
	}
	claims := jwt.MapClaims{} // an agent identity, verified when it was stored
	if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err == nil {
		agentOf(claims).fill(s)
		if at, err := claims.GetExpirationTime(); err == nil && at != nil {
			s.Expires = at.UTC()
		}
	}
}

// Before says what a ChatGPT login here would meet, or refuses it as a mandate
// demands: to be told to the person before they walk through it.
func (m *Manager) Before(ctx context.Context) (Prospect, error) {
	if err := m.cfg.Policy.CheckLogin(managed.LoginChatGPT); err != nil {
		return Prospect{}, err
	}
	p := Prospect{}
	if w := m.cfg.Policy.Workspaces; w.Set {
		p.Workspaces, p.Source = w.Value, w.From
	}
	s, err := m.Status(ctx)
	if err != nil {
		m.cfg.Log.Warn("the stored login cannot be read; a new one replaces it", "err", err)
		return p, nil
	}
	p.Current = s
	return p, nil
}

// mask hides the middle of a key as Codex does.
func mask(key string) string {
	if len(key) <= 13 {
		return "***"
	}
	return strings.ToValidUTF8(key[:8]+"***"+key[len(key)-5:], "?")
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
