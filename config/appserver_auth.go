package config

// AppServerAuth is which bearer credentials the listeners accept, besides what
// flags say.
type AppServerAuth struct {
	// AccessTokens accepts tokens of `towline token` beyond loopback too.
	AccessTokens bool `toml:"access_tokens"`
	// CA is a file with the certificates that issuers and key sets are trusted by,
	// instead of the system's.
	CA         string           `toml:"ca"`
	Capability []AuthCapability `toml:"capability"`
	JWT        []AuthJWT        `toml:"jwt"`
}

// AuthCapability is a secret that is a credential in itself.
type AuthCapability struct {
	Name   string   `toml:"name"`
	File   string   `toml:"file"`
	SHA256 string   `toml:"sha256"`
	Role   string   `toml:"role"`  // empty: operator
	Scope  []string `toml:"scope"` // empty: exec for operators; "all" is no scope
}

// AuthJWT is a source of signed bearer tokens: one of the first four.
type AuthJWT struct {
	Name        string     `toml:"name"`
	SecretFile  string     `toml:"secret_file"`
	KeyFile     string     `toml:"key_file"`
	JWKSURL     string     `toml:"jwks_url"`
	Issuer      string     `toml:"issuer"`  // found by OIDC discovery
	Issuers     []string   `toml:"issuers"` // what iss may be, without discovery
	Audience    []string   `toml:"audience"`
	Algorithms  []string   `toml:"algorithms"`
	Skew        string     `toml:"skew"`
	JWKSHosts   []string   `toml:"jwks_hosts"`
	MaxStale    string     `toml:"max_stale"`
	EndAtExpiry bool       `toml:"end_at_expiry"`
	AnySubject  bool       `toml:"any_subject"`
	Role        string     `toml:"role"`
	Scope       []string   `toml:"scope"`
	Principal   string     `toml:"principal"`
	Rules       []AuthRule `toml:"rules"`
}

// AuthRule gives a role to tokens whose claims all match.
type AuthRule struct {
	Claims    map[string]any `toml:"claims"` // a pattern, or a list of them
	Role      string         `toml:"role"`
	Scope     []string       `toml:"scope"`
	Principal string         `toml:"principal"`
}
