package account

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"towline/config"
)

// IssuerKind is which endpoints an issuer has.
type IssuerKind string

// The two kinds.
const (
	KindOpenAI IssuerKind = config.IssuerOpenAI // Codex's: /oauth/authorize, /oauth/token, /api/accounts/deviceauth/*
	KindOIDC   IssuerKind = config.IssuerOIDC   // discovery, authorization code with PKCE, RFC 8628 device grant
)

// What Codex uses.
const (
	OpenAIIssuer   = "https://auth.openai.com"
	OpenAIClientID = "app_EMoamEEZ73f0CkXaXp7hrann"
)

const (
	openAIScope   = "openid profile email offline_access api.connectors.read api.connectors.invoke"
	oidcScope     = "openid profile email offline_access"
	codexName     = "codex_cli_rs"
	defaultAuth   = "https://auth.openai.com/api/accounts"
	defaultJWKS   = "https://chatgpt.com/backend-api"
	discoveryPath = "/.well-known/openid-configuration"
)

// Issuer is who logs people in. The zero value is OpenAI, as Codex uses it.
type Issuer struct {
	URL      string
	ClientID string
	Kind     IssuerKind
}

// withDefaults fills what is not said.
func (i Issuer) withDefaults() Issuer {
	if i.URL == "" {
		i.URL = OpenAIIssuer
	}
	if i.Kind == "" {
		i.Kind = KindOpenAI
	}
	if i.ClientID == "" && i.Kind == KindOpenAI {
		i.ClientID = OpenAIClientID
	}
	if i.Kind == KindOpenAI { // its paths are added; an OIDC issuer's name is exact
		i.URL = strings.TrimSuffix(i.URL, "/")
	}
	return i
}

// Environ takes over the variables Codex knows from an environment:
// CODEX_APP_SERVER_LOGIN_ISSUER and _CLIENT_ID (which make the issuer one of
// Codex's kind), CODEX_AUTHAPI_BASE_URL, CODEX_AGENT_IDENTITY_JWKS_BASE_URL,
// CODEX_REFRESH_TOKEN_URL_OVERRIDE, CODEX_REVOKE_TOKEN_URL_OVERRIDE and
// CODEX_ACCESS_TOKEN. They stand before what the Config says.
func (c *Config) Environ(getenv func(string) string) {
	take := func(to *string, name string) {
		if v := getenv(name); v != "" {
			*to = v
		}
	}
	if v := getenv("CODEX_APP_SERVER_LOGIN_ISSUER"); v != "" {
		c.Issuer = Issuer{URL: v, Kind: KindOpenAI}
	}
	take(&c.Issuer.ClientID, "CODEX_APP_SERVER_LOGIN_CLIENT_ID")
	take(&c.AuthAPI, "CODEX_AUTHAPI_BASE_URL")
	take(&c.AgentKeys, "CODEX_AGENT_IDENTITY_JWKS_BASE_URL")
	take(&c.RefreshURL, "CODEX_REFRESH_TOKEN_URL_OVERRIDE")
	take(&c.RevokeURL, "CODEX_REVOKE_TOKEN_URL_OVERRIDE")
	take(&c.AccessToken, "CODEX_ACCESS_TOKEN")
}

// endpoints are an issuer's addresses.
type endpoints struct {
	issuer    Issuer
	authorize string
	token     string
	revoke    string
	device    string // RFC 8628; empty when it has none
	jwks      string
}

// endpoints finds them: known for Codex's kind, discovered for the other.
func (m *Manager) endpoints(ctx context.Context, i Issuer) (endpoints, error) {
	if err := safeURL(i.URL); err != nil {
		return endpoints{}, err
	}
	if i.Kind != KindOIDC {
		return endpoints{
			issuer: i, authorize: i.URL + "/oauth/authorize", token: i.URL + "/oauth/token", revoke: i.URL + "/oauth/revoke",
		}, nil
	}
	m.mu.Lock()
	known, ok := m.discovered[i]
	m.mu.Unlock()
	if ok {
		return known, nil
	}
	at := strings.TrimSuffix(i.URL, "/") + discoveryPath
	a, err := m.ask(ctx, http.MethodGet, at, "", nil, "")
	if err != nil {
		return endpoints{}, err
	}
	if !a.ok() {
		return endpoints{}, refused(at, a)
	}
	var d struct {
		Issuer    string   `json:"issuer"`
		Authorize string   `json:"authorization_endpoint"`
		Token     string   `json:"token_endpoint"`
		Revoke    string   `json:"revocation_endpoint"`
		Device    string   `json:"device_authorization_endpoint"`
		JWKS      string   `json:"jwks_uri"`
		PKCE      []string `json:"code_challenge_methods_supported"`
	}
	if err := a.into(&d); err != nil {
		return endpoints{}, fmt.Errorf("%s: %w", host(at), err)
	}
	if d.Issuer != i.URL { // OpenID Connect Discovery section 4.3: exactly the same
		return endpoints{}, fmt.Errorf("%s says it is the issuer %q, not %q", host(at), config.OneLine(d.Issuer), config.OneLine(i.URL))
	}
	for _, u := range []string{d.Authorize, d.Token, d.Revoke, d.Device, d.JWKS} {
		if u == "" {
			continue
		}
		if err := safeURL(u); err != nil {
			return endpoints{}, err
		}
	}
	if d.Authorize == "" || d.Token == "" || d.JWKS == "" {
		return endpoints{}, errors.New(host(at) + " names no authorization_endpoint, token_endpoint or jwks_uri")
	}
	e := endpoints{issuer: i, authorize: d.Authorize, token: d.Token, revoke: d.Revoke, device: d.Device, jwks: d.JWKS}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.discovered[i] = e
	return e, nil
}
