package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxSkew is by how much clocks may differ that tokens are judged by.
const maxSkew = 10 * time.Minute

// AppServerAuth is which bearer credentials the listeners accept, besides what
// flags say. docs/transports.md explains them to people.
type AppServerAuth struct {
	// AccessTokens lets a listener beyond loopback start with tokens of `towline
	// token` as what proves who comes.
	AccessTokens bool `toml:"access_tokens"`
	// CA is a PEM file with the certificates that issuers and key sets are trusted
	// by, instead of the system's.
	CA         string           `toml:"ca"`
	Capability []AuthCapability `toml:"capability"`
	JWT        []AuthJWT        `toml:"jwt"`
}

// AuthCapability is a secret that is a credential in itself: in a file, or known by
// its SHA-256.
type AuthCapability struct {
	Name   string   `toml:"name"`
	File   string   `toml:"file"`
	SHA256 string   `toml:"sha256"`
	Role   string   `toml:"role"`  // empty: operator
	Scope  []string `toml:"scope"` // empty: exec for an operator; "all" is no scope
}

// AuthJWT is a source of signed bearer tokens: one of SecretFile, KeyFile, JWKSURL
// and Issuer.
type AuthJWT struct {
	Name       string   `toml:"name"`
	SecretFile string   `toml:"secret_file"` // a shared secret: HS256
	KeyFile    string   `toml:"key_file"`    // public keys: PEM, a JWK or a JWKS
	JWKSURL    string   `toml:"jwks_url"`
	Issuer     string   `toml:"issuer"`  // OIDC: its keys are found by discovery
	Issuers    []string `toml:"issuers"` // what iss may be; with Issuer it is that one
	Audience   []string `toml:"audience"`
	Algorithms []string `toml:"algorithms"`
	Skew       string   `toml:"skew"` // "30s"
	JWKSHosts  []string `toml:"jwks_hosts"`
	MaxStale   string   `toml:"max_stale"` // "24h"
	// EndAtExpiry ends connections when their token expires.
	EndAtExpiry bool `toml:"end_at_expiry"`
	// AnySubject lets an issuer's keys count without rules.
	AnySubject bool       `toml:"any_subject"`
	Role       string     `toml:"role"`
	Scope      []string   `toml:"scope"`
	Principal  string     `toml:"principal"` // a template of the name: "{repository}@{ref}"
	Rules      []AuthRule `toml:"rules"`
}

// AuthRule gives a role to tokens whose claims all match.
type AuthRule struct {
	Claims    map[string]any `toml:"claims"` // a pattern each, or a list of them
	Role      string         `toml:"role"`
	Scope     []string       `toml:"scope"`
	Principal string         `toml:"principal"`
}

// ValidAuthName reports whether a name can be part of what principals are known
// by: letters, digits, "-", "_" and ".", at most 64 of them.
func ValidAuthName(name string) bool {
	return name != "" && len(name) <= 64 &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// Patterns are the values a claim may have, of a text or a list of texts.
func (r AuthRule) Patterns(claim string) ([]string, error) {
	switch v := r.Claims[claim].(type) {
	case string:
		return []string{v}, nil
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("a list of texts is wanted")
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, errors.New("a text or a list of texts is wanted; a number or a boolean is written as one")
}

// expandPaths makes the files absolute.
func (a *AppServerAuth) expandPaths(base string) {
	a.CA = expand(a.CA, base)
	for i := range a.Capability {
		a.Capability[i].File = expand(a.Capability[i].File, base)
	}
	for i := range a.JWT {
		j := &a.JWT[i]
		j.SecretFile, j.KeyFile = expand(j.SecretFile, base), expand(j.KeyFile, base)
	}
}

// validate reports what can be told without looking at files. What a rule, a scope
// or an address may be is the listener's to say; it refuses to start.
func (a *AppServerAuth) validate(bad func(key, format string, args ...any)) {
	const table = "app_server.auth."
	role := func(key, v string, scope []string) {
		if v != "" && !slices.Contains([]string{"observer", "approver", "operator", "admin"}, v) {
			bad(key+".role", "%q is none of observer, approver, operator, admin", v)
		}
		if len(scope) > 1 && slices.Contains(scope, "all") {
			bad(key+".scope", `"all" stands alone`)
		}
	}
	name := func(key, v string, seen map[string]bool) {
		switch {
		case !ValidAuthName(v):
			bad(key+".name", `%q is no name; use letters, digits, "-", "_" and ".", at most 64`, v)
		case seen[v]:
			bad(key+".name", "there are two %q", v)
		}
		seen[v] = true
	}
	seen := map[string]bool{}
	for i, c := range a.Capability {
		key := fmt.Sprintf("%scapability[%d]", table, i)
		name(key, c.Name, seen)
		role(key, c.Role, c.Scope)
		if (c.File == "") == (c.SHA256 == "") {
			bad(key, "set one of file and sha256")
		}
		if raw, err := hex.DecodeString(c.SHA256); err != nil || len(raw) != 32 && c.SHA256 != "" {
			bad(key+".sha256", "is no SHA-256 in 64 hexadecimal digits")
		}
	}
	seen = map[string]bool{}
	for i := range a.JWT {
		j, key := &a.JWT[i], fmt.Sprintf("%sjwt[%d]", table, i)
		name(key, j.Name, seen)
		role(key, j.Role, j.Scope)
		j.validate(key, bad)
		for k, r := range j.Rules {
			key := fmt.Sprintf("%s.rules[%d]", key, k)
			role(key, r.Role, r.Scope)
			if len(r.Claims) == 0 {
				bad(key, "has no claims, and would admit anybody the issuer has a word for")
			}
			for _, claim := range slices.Sorted(maps.Keys(r.Claims)) {
				if _, err := r.Patterns(claim); err != nil {
					bad(key+".claims."+quoteKey(claim), "%v", err)
				}
			}
		}
	}
}

func (j *AuthJWT) validate(key string, bad func(key, format string, args ...any)) {
	n := 0
	for _, v := range []string{j.SecretFile, j.KeyFile, j.JWKSURL, j.Issuer} {
		if v != "" {
			n++
		}
	}
	if n != 1 {
		bad(key, "set one of secret_file, key_file, jwks_url and issuer")
	}
	remote := j.JWKSURL != "" || j.Issuer != ""
	if remote && len(j.Audience) == 0 {
		bad(key+".audience", "is missing: tokens that the issuer made for anybody else would count here")
	}
	switch {
	case remote && len(j.Rules) == 0 && !j.AnySubject:
		bad(key+".rules", "are missing: everybody its issuer has a word for would come in; any_subject = true means that")
	case len(j.Rules) > 0 && j.AnySubject:
		bad(key+".any_subject", "does not go with rules")
	case len(j.Rules) > 0 && (j.Role != "" || len(j.Scope) > 0):
		bad(key, "has rules, so role and scope stand in each of them")
	}
	if j.Issuer != "" && len(j.Issuers) > 0 {
		bad(key+".issuers", "does not go with issuer: only its own tokens count")
	}
	if !remote && (len(j.JWKSHosts) > 0 || j.MaxStale != "") {
		bad(key, "jwks_hosts and max_stale are for jwks_url and issuer")
	}
	if d, err := time.ParseDuration(j.Skew); j.Skew != "" && (err != nil || d < 0 || d > maxSkew) {
		bad(key+".skew", `%q is no length of time up to 10m; write it as "30s"`, j.Skew)
	}
	if d, err := time.ParseDuration(j.MaxStale); j.MaxStale != "" && (err != nil || d <= 0) {
		bad(key+".max_stale", `%q is no length of time; write it as "24h"`, j.MaxStale)
	}
}
