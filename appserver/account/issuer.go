package account

// IssuerKind is which endpoints an issuer has.
type IssuerKind string

// The two kinds.
const (
	KindOpenAI IssuerKind = "openai" // Codex's: /oauth/authorize, /oauth/token, /api/accounts/deviceauth/*
	KindOIDC   IssuerKind = "oidc"   // discovery, authorization code with PKCE, RFC 8628 device grant
)

// What Codex uses.
const (
	OpenAIIssuer   = "https://auth.openai.com"
	OpenAIClientID = "app_EMoamEEZ73f0CkXaXp7hrann"
)

// Issuer is who logs people in. The zero value is OpenAI, as Codex uses it.
type Issuer struct {
	URL      string
	ClientID string
	Kind     IssuerKind
}

// Environ takes over the variables Codex knows from an environment:
// CODEX_APP_SERVER_LOGIN_ISSUER and _CLIENT_ID, CODEX_AUTHAPI_BASE_URL,
// CODEX_REFRESH_TOKEN_URL_OVERRIDE, CODEX_REVOKE_TOKEN_URL_OVERRIDE and
// CODEX_ACCESS_TOKEN. They stand before what the Config says.
func (c *Config) Environ(getenv func(string) string) {
	take := func(to *string, name string) {
		if v := getenv(name); v != "" {
			*to = v
		}
	}
	take(&c.Issuer.URL, "CODEX_APP_SERVER_LOGIN_ISSUER")
	take(&c.Issuer.ClientID, "CODEX_APP_SERVER_LOGIN_CLIENT_ID")
	take(&c.AuthAPI, "CODEX_AUTHAPI_BASE_URL")
	take(&c.RefreshURL, "CODEX_REFRESH_TOKEN_URL_OVERRIDE")
	take(&c.RevokeURL, "CODEX_REVOKE_TOKEN_URL_OVERRIDE")
	take(&c.AccessToken, "CODEX_ACCESS_TOKEN")
}
