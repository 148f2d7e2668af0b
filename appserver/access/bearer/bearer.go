// Package bearer proves who sends an Authorization header: somebody with a
// capability token, with a signed bearer token (a JWT), or with an access token.
//
// It speaks for doors that HTTP comes through (ws, wss, the unix socket) and
// answers as Codex's listener does, body for body; what Codex does not have is
// added beside it: several tokens at once, asymmetric keys from files and key
// sets, OIDC issuers whose claims decide role and scope, files read again when
// they change, and a lockout for sources that guess.
//
// Begin with [FromFlags] or [FromConfig], put the two together with
// [Config.And], hand the result to [New], and run [Authenticator.Run] beside
// whatever listens.
package bearer

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// Bounds on what strangers send and on what is configured.
const (
	maxToken      = 16 << 10 // bytes of one token; identity tokens of CI systems have about 2 KiB
	maxCredential = 64       // capability tokens, and likewise JWT sources, of one listener
	maxRules      = 256      // of one JWT source
	maxSecretFile = 64 << 10 // bytes of a file with a secret or a key set
)

// Config is which credentials count. The zero value accepts none.
type Config struct {
	Capability []Capability
	JWT        []JWT
	// Tokens verifies access tokens; nil accepts none.
	Tokens TokenVerifier
	// Lockout is for sources that guess; zero members have defaults.
	Lockout Lockout
	// CA is trusted for issuers and key sets instead of the system's roots.
	CA *x509.CertPool

	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: slog.Default()
	Audit Recorder         // nil: nothing is recorded
}

// TokenVerifier knows access tokens.
type TokenVerifier interface {
	// Verify says whose token text is. A *access.Refusal is the token's fault.
	Verify(ctx context.Context, text string, src netip.Addr) (access.Principal, error)
}

// Recorder takes audit events: "auth.refused", of which there are only so many a
// minute, and "auth.lockout".
type Recorder interface {
	Record(event string, p access.Principal, attrs ...slog.Attr)
}

// Capability is a secret that is a credential in itself. Either File or SHA256 is
// set.
type Capability struct {
	Name   string // for people, and the principal's ID; unique
	File   string // what it holds, trimmed, is the token; read again when it changes
	SHA256 string // 64 hexadecimal digits
	Role   protocol.Role
	Scope  *access.Scope // nil: all that the role allows
}

// JWT is a source of signed bearer tokens. Exactly one of SecretFile, KeyFile,
// JWKSURL and Issuer is set.
type JWT struct {
	Name string // for people, and part of the principal's ID; unique

	SecretFile string // a shared secret of 32 bytes or more: HS256
	KeyFile    string // public keys: PEM, a JWK or a JWKS
	JWKSURL    string // a JWKS at an https address
	Issuer     string // an OIDC issuer, found by discovery; a token's iss must be equal to it

	// Codex accepts and refuses exactly as Codex does: for SecretFile only.
	Codex bool
	// Issuers and Audience: a token's must be one of them; none is not looked at.
	Issuers  []string
	Audience []string
	// Algorithms narrows what the keys can do; empty is all that fits a key.
	Algorithms []string
	// Skew is by how much clocks may differ.
	Skew time.Duration
	// JWKSHosts are further hosts an issuer's keys may be at.
	JWKSHosts []string
	// MaxStale is how long keys count that could not be fetched again; zero is a day.
	MaxStale time.Duration
	// EndAtExpiry ends connections when the token they came with expires.
	EndAtExpiry bool

	// Without Rules every token gets Role and Scope. With them the first that
	// holds decides, and a token for which none does is refused.
	Role         protocol.Role
	Scope        *access.Scope
	NameTemplate string // "{repository}@{ref}"; empty: the name and the subject
	Rules        []Rule
}

// Rule gives a role to tokens with certain claims. All of them must hold.
type Rule struct {
	Name   string // for the log
	Claims []Claim
	Role   protocol.Role
	Scope  *access.Scope
	// NameTemplate names the principal; empty is that of the JWT.
	NameTemplate string
}

// Claim is a condition: the claim has a value that matches one of the patterns.
type Claim struct {
	// Name is a member's name, or with a leading slash a JSON pointer (RFC 6901).
	Name string
	// Patterns: "*" stands for any text without "/" and ":", "**" for any text, "?"
	// for one character; "\" takes the meaning of the next character away.
	Patterns []string
}

// Lockout bounds guessing from one source: an IPv4 address or an IPv6 /64.
type Lockout struct {
	Free         int           // failures that cost nothing; zero is 10
	LoopbackFree int           // the same for this machine; zero is 100
	Base         time.Duration // the first lock, doubled by each further failure; zero is a second
	Max          time.Duration // the longest lock; zero is five minutes
	Forget       time.Duration // without failures; zero is 15 minutes
}

// Empty reports whether c accepts nothing at all.
func (c Config) Empty() bool { return len(c.Capability) == 0 && len(c.JWT) == 0 && c.Tokens == nil }
