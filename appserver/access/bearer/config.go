package bearer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

// FromConfig says what [app_server.auth] means. AccessTokens is for the caller,
// who sets [Config.Tokens]. Of files only the one with certificates is read.
func FromConfig(c config.AppServerAuth) (Config, error) {
	var out Config
	for _, one := range c.Capability {
		role, scope, err := grant(one.Role, one.Scope)
		if err != nil {
			return Config{}, problem(one.Name, err)
		}
		out.Capability = append(out.Capability, Capability{Name: one.Name, File: one.File, SHA256: one.SHA256, Role: role, Scope: scope})
	}
	for _, one := range c.JWT {
		j, err := fromJWT(one)
		if err != nil {
			return Config{}, problem(one.Name, err)
		}
		out.JWT = append(out.JWT, j)
	}
	if c.CA != "" {
		raw, err := os.ReadFile(c.CA)
		if err != nil {
			return Config{}, problem("ca", err)
		}
		if out.CA = x509.NewCertPool(); !out.CA.AppendCertsFromPEM(raw) {
			return Config{}, problem("ca", fmt.Errorf("%s holds no certificate in PEM", c.CA))
		}
	}
	return out, nil
}

func fromJWT(c config.AuthJWT) (JWT, error) {
	j := JWT{
		Name: c.Name, SecretFile: c.SecretFile, KeyFile: c.KeyFile, JWKSURL: c.JWKSURL, Issuer: c.Issuer,
		Issuers: c.Issuers, Audience: c.Audience, Algorithms: c.Algorithms, JWKSHosts: c.JWKSHosts,
		EndAtExpiry: c.EndAtExpiry, NameTemplate: c.Principal, Skew: defaultSkew,
	}
	var err error
	if c.Skew != "" {
		if j.Skew, err = time.ParseDuration(c.Skew); err != nil {
			return j, err
		}
	}
	if c.MaxStale != "" {
		if j.MaxStale, err = time.ParseDuration(c.MaxStale); err != nil {
			return j, err
		}
	}
	if len(c.Rules) == 0 {
		if (j.JWKSURL != "" || j.Issuer != "") && !c.AnySubject {
			return j, errors.New("has no rules, and does not say any_subject = true")
		}
		j.Role, j.Scope, err = grant(c.Role, c.Scope)
		return j, err
	}
	for _, r := range c.Rules {
		rule := Rule{NameTemplate: r.Principal}
		for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
			patterns, err := r.Patterns(name)
			if err != nil {
				return j, fmt.Errorf("claim %s: %w", config.OneLine(name), err)
			}
			rule.Claims = append(rule.Claims, Claim{Name: name, Patterns: patterns})
		}
		if rule.Role, rule.Scope, err = grant(r.Role, r.Scope); err != nil {
			return j, err
		}
		j.Rules = append(j.Rules, rule)
	}
	return j, nil
}

// grant reads a role and its scope with the defaults of access tokens: who is not
// said to be more is an operator who may do what `towline exec` does.
func grant(role string, words []string) (protocol.Role, *access.Scope, error) {
	if role == "" {
		role = protocol.RoleOperator.String()
	}
	r, err := protocol.ParseRole(role)
	if err != nil {
		return r, nil, err
	}
	switch {
	case len(words) == 1 && words[0] == "all":
		return r, nil, nil
	case len(words) == 0 && r == protocol.RoleOperator:
		words = []string{"exec"}
	}
	s, err := access.ParseScope(words)
	return r, s, err
}

// And is what either of the two accepts. The rest is c's where c says something.
func (c Config) And(more Config) Config {
	c.Capability = slices.Concat(c.Capability, more.Capability)
	c.JWT = slices.Concat(c.JWT, more.JWT)
	if c.Tokens == nil {
		c.Tokens = more.Tokens
	}
	if c.CA == nil {
		c.CA = more.CA
	}
	if c.Lockout == (Lockout{}) {
		c.Lockout = more.Lockout
	}
	if c.Now == nil {
		c.Now = more.Now
	}
	if c.Log == nil {
		c.Log = more.Log
	}
	if c.Audit == nil {
		c.Audit = more.Audit
	}
	return c
}
