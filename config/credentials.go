package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Where credentials may be kept: the values of cli_auth_credentials_store. All
// but the last are Codex's, with Codex's meaning.
const (
	StoreFile      = "file"      // auth.json in CODEX_HOME, 0600
	StoreKeyring   = "keyring"   // the system's keyring, and nothing else
	StoreAuto      = "auto"      // the keyring when it works, else an encrypted file when there is a key for one, else the file
	StoreEphemeral = "ephemeral" // the memory of one process
	StoreEncrypted = "encrypted" // a file nobody reads without its key; Codex cannot read it
)

// Stores are the values cli_auth_credentials_store may have.
var stores = []string{StoreFile, StoreKeyring, StoreAuto, StoreEphemeral, StoreEncrypted}

// Kinds of issuer.
const (
	IssuerOpenAI = "openai" // what Codex speaks: /oauth/authorize, /oauth/token, /api/accounts/deviceauth
	IssuerOIDC   = "oidc"   // discovery, the authorization code with PKCE, RFC 8628
)

// Auth says how to log in here and where credentials are kept.
type Auth struct {
	// Store is cli_auth_credentials_store again: it may stand here or at top level.
	Store string `toml:"cli_auth_credentials_store"`
	// Issuer and ClientID are whom to log in to; empty is what Codex uses.
	Issuer   string `toml:"issuer"`
	ClientID string `toml:"client_id"`
	// Kind is openai or oidc; empty is openai.
	Kind string `toml:"kind"`
	// KeyringTimeout bounds every question to the keyring, "5s"; 0 is the default.
	KeyringTimeout Duration `toml:"keyring_timeout"`
}

// Duration is a time.Duration that stands in a file as "5s" or "1m30s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no time; write it as \"5s\" or \"500ms\"", b)
	}
	*d = Duration(v)
	return nil
}

// Setting is a value and the place that says so.
type Setting struct {
	Value string
	From  string // a file, or "the default"
}

// CredentialStore is where credentials shall be kept as far as people may
// choose: Towline's configuration, else Codex's, else the file. What the owner of
// the machine mandates is for package managed, which comes first.
func (c Config) CredentialStore(p Paths, codex CodexSettings) Setting {
	if v := cmp.Or(c.Store, c.Auth.Store); v != "" {
		return Setting{Value: v, From: p.ConfigFile()}
	}
	if codex.Store.Value != "" {
		return codex.Store
	}
	return Setting{Value: StoreFile, From: "the default"}
}

// CodexHome is Codex's folder: what the configuration says, else CODEX_HOME,
// else ~/.codex; "" when none of them is known.
func (c Config) CodexHome(getenv func(string) string) string {
	if c.Engine.Codex.Home != "" {
		return c.Engine.Codex.Home
	}
	if v := getenv("CODEX_HOME"); v != "" {
		return v
	}
	if v := getenv("HOME"); v != "" {
		return v + "/.codex"
	}
	return ""
}

// validate reports every value that cannot work.
func (a Auth) validate(bad func(key, format string, args ...any)) {
	if a.Kind != "" && a.Kind != IssuerOpenAI && a.Kind != IssuerOIDC {
		bad("auth.kind", "%q is none of %s, %s", a.Kind, IssuerOpenAI, IssuerOIDC)
	}
	if a.Issuer != "" {
		if err := loginURL(a.Issuer); err != nil {
			bad("auth.issuer", "%v", err)
		}
	}
	if a.Kind == IssuerOIDC && (a.Issuer == "" || a.ClientID == "") {
		bad("auth.kind", "oidc needs auth.issuer and auth.client_id")
	}
	if d := time.Duration(a.KeyringTimeout); d < 0 || d > time.Minute {
		bad("auth.keyring_timeout", "%s is not between 0 and 1m", d)
	}
}

// loginURL: what logs people in is reached over TLS, or is on this machine.
func loginURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q is not an https URL", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("only scheme, host and path belong there")
	case u.Scheme == "http" && !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname()):
		return fmt.Errorf("%q is not an https URL; plain http is for this machine only", s)
	}
	return nil
}

func validStore(v string) error {
	if v != "" && !slices.Contains(stores, v) {
		return fmt.Errorf("%q is none of %s", v, strings.Join(stores, ", "))
	}
	return nil
}
