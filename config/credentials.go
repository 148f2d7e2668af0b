package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
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
	// KeyringTimeout bounds every question to the keyring, as "5s" or "500ms"; see
	// [Auth.Timeout].
	KeyringTimeout string `toml:"keyring_timeout"`
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
		return filepath.Join(v, ".codex")
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
	if a.KeyringTimeout != "" {
		if d, err := time.ParseDuration(a.KeyringTimeout); err != nil {
			bad("auth.keyring_timeout", "%q is no time; write it as \"5s\" or \"500ms\"", a.KeyringTimeout)
		} else if d < minKeyring || d > maxKeyring {
			bad("auth.keyring_timeout", "%s is not between %s and %s", a.KeyringTimeout, minKeyring, maxKeyring)
		}
	}
}

// Bounds of keyring_timeout: less is no answer, more is a hang.
const (
	minKeyring = 100 * time.Millisecond
	maxKeyring = time.Minute
)

// Timeout bounds every question to the keyring; 0 leaves it to the store.
func (a Auth) Timeout() time.Duration {
	d, err := time.ParseDuration(a.KeyringTimeout)
	if err != nil {
		return 0 // not set; anything else was refused when it was read
	}
	return d
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
