package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/golang-jwt/jwt/v5"

	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
)

// patPrefix marks a personal access token.
const patPrefix = "at-"

// Who makes agent identities, and for whom: what Codex accepts.
const (
	agentIssuer   = "https://chatgpt.com/codex-backend/agent-identity"
	agentAudience = "codex-app-server"
)

// agentOf is who an agent identity says it is.
func agentOf(claims jwt.MapClaims) identity {
	text := func(name string) string { s, _ := claims[name].(string); return s }
	return identity{Email: text("email"), UserID: text("chatgpt_user_id"), AccountID: text("account_id"), Plan: text("plan_type")}.tidy()
}

// identity is who an access token stands for.
type identity struct {
	Email     string `json:"email"`
	UserID    string `json:"chatgpt_user_id"`
	AccountID string `json:"chatgpt_account_id"`
	Plan      string `json:"chatgpt_plan_type"`
}

func (i identity) fill(s *Status) {
	s.Email, s.UserID, s.AccountID, s.Plan = i.Email, i.UserID, i.AccountID, i.Plan
}

// tidy makes what an issuer says fit to show.
func (i identity) tidy() identity {
	return identity{
		Email: config.OneLine(i.Email), UserID: config.OneLine(i.UserID), AccountID: config.OneLine(i.AccountID), Plan: config.OneLine(i.Plan),
	}
}

func tokenMode(token string) secret.Mode {
	if strings.HasPrefix(token, patPrefix) {
		return secret.ModePAT
	}
	return secret.ModeAgent
}

// handed checks a key or token somebody handed in, without quoting it.
func handed(what, s string) (string, error) {
	s = strings.TrimSpace(s)
	bad := func(text string) (string, error) {
		return "", &config.Problem{Stage: stageLogin, Err: fmt.Errorf("%s %s", what, text), Exit: config.ExitUsage}
	}
	switch {
	case s == "":
		return bad("is missing")
	case len(s) > maxSecret:
		return bad(fmt.Sprintf("has %d bytes; at most %d are one", len(s), maxSecret))
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar }):
		return bad("holds blanks or control characters; give it alone, on one line")
	}
	return s, nil
}

// SetAPIKey stores an API key. Like Codex it verifies nothing: it is checked when a
// request is made with it.
func (m *Manager) SetAPIKey(ctx context.Context, key string) (Status, error) {
	if err := m.cfg.Policy.CheckLogin(managed.LoginAPI); err != nil {
		return Status{}, err
	}
	key, err := handed("the API key", key)
	if err != nil {
		return Status{}, err
	}
	return m.store(ctx, secret.Auth{Mode: secret.ModeAPIKey, APIKey: key})
}

// SetAccessToken verifies and stores a personal access token (at-…) or an agent
// identity.
func (m *Manager) SetAccessToken(ctx context.Context, token string) (Status, error) {
	if err := m.mayChatGPT(); err != nil {
		return Status{}, err
	}
	token, err := handed("the access token", token)
	if err != nil {
		return Status{}, err
	}
	a := secret.Auth{Mode: tokenMode(token)}
	var who identity
	if a.Mode == secret.ModePAT {
		a.PersonalAccessToken = token
		who, err = m.verifyPAT(ctx, token)
	} else {
		if a.AgentIdentity, err = json.Marshal(token); err != nil {
			return Status{}, err
		}
		who, err = m.verifyAgent(ctx, token)
	}
	if err != nil {
		return Status{}, err
	}
	if err := m.cfg.Policy.CheckWorkspace(who.AccountID); err != nil {
		return Status{}, err
	}
	return m.store(ctx, a)
}

// accessToken is the bearer for a personal access token, stored or from the
// environment, if a mandate lets it be used: whose it is has to be asked, once.
func (m *Manager) accessToken(ctx context.Context, token string) (Bearer, error) {
	if tokenMode(token) != secret.ModePAT {
		return m.fixed(ctx, secret.Auth{Mode: secret.ModeAgent})
	}
	m.mu.Lock()
	who, ok := m.whoami[token]
	m.mu.Unlock()
	if !ok {
		var err error
		if who, err = m.verifyPAT(ctx, token); err != nil {
			return Bearer{}, err
		}
	}
	if err := errors.Join(m.mayChatGPT(), m.cfg.Policy.CheckWorkspace(who.AccountID)); err != nil {
		return Bearer{}, err
	}
	return Bearer{Token: token, AccountID: who.AccountID, Mode: secret.ModePAT}, nil
}

// verifyPAT asks whose a personal access token is.
func (m *Manager) verifyPAT(ctx context.Context, token string) (identity, error) {
	at := strings.TrimSuffix(m.cfg.AuthAPI, "/") + "/v1/user-auth-credential/whoami"
	a, err := m.ask(ctx, http.MethodGet, at, "", nil, token)
	if err == nil && !a.ok() {
		err = refused(at, a)
	}
	var who identity
	if err == nil {
		if err = a.into(&who); err == nil && who.AccountID == "" {
			err = errors.New("its answer names no account")
		}
	}
	switch {
	case err == nil:
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		return identity{}, &config.Problem{
			Stage: stageLogin, Err: fmt.Errorf("the personal access token is not accepted: %w: %w", ErrLoginExpired, err),
			Hints: []string{"make a new one in the account's settings, and check that nothing was cut off when it was copied"},
		}
	default:
		return identity{}, problem(stageLogin, fmt.Errorf("the personal access token could not be verified: %w", err), "nothing was changed here")
	}
	who = who.tidy()
	m.mu.Lock()
	m.whoami[token] = who
	m.mu.Unlock()
	return who, nil
}

// verifyAgent checks an agent identity: a token signed by its issuer that carries
// the agent's own key.
func (m *Manager) verifyAgent(ctx context.Context, token string) (identity, error) {
	bad := func(err error) (identity, error) {
		return identity{}, problem(stageLogin, fmt.Errorf("the access token is neither a personal access token (%s…) nor an agent identity: %w", patPrefix, err),
			"check that nothing was cut off when it was copied", "an API key is stored with `towline login --with-api-key`")
	}
	if strings.Count(token, ".") != 2 {
		return bad(errors.New("it does not have three parts"))
	}
	claims, err := m.verify(ctx, strings.TrimSuffix(m.cfg.AgentKeys, "/")+"/agent-identities/jwks", token,
		jwt.WithExpirationRequired(), jwt.WithIssuer(agentIssuer), jwt.WithAudience(agentAudience))
	if err != nil {
		return bad(err)
	}
	for _, name := range []string{"agent_runtime_id", "agent_private_key", "account_id"} {
		if s, _ := claims[name].(string); s == "" {
			return bad(fmt.Errorf("it has no %s", name))
		}
	}
	who := agentOf(claims)
	m.mu.Lock()
	m.whoami[token] = who
	m.mu.Unlock()
	return who, nil
}
