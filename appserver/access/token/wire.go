package token

import (
	"time"

	"towline/appserver/protocol"
)

// Token is what there is to know of an access token, as the protocol and --json show
// it. Its secrets are not among it. Times are in UTC, absent when there is none.
type Token struct {
	ID   string        `json:"id"`
	Name string        `json:"name"`
	Role protocol.Role `json:"role"`
	// Scope is access.Scope.Words, or ["all"].
	Scope []string `json:"scope"`
	// Networks are where it may be used from, as prefixes; none: anywhere.
	Networks  []string  `json:"networks"`
	State     string    `json:"state"` // a State constant
	CreatedAt time.Time `json:"createdAt"`
	CreatedBy Actor     `json:"createdBy"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"` // absent: never
	RevokedAt time.Time `json:"revokedAt,omitzero"`
	RevokedBy *Actor    `json:"revokedBy,omitempty"`
	// The use of all of its secrets; it is noted within a second or two.
	LastUsedAt   time.Time `json:"lastUsedAt,omitzero"`
	LastUsedFrom string    `json:"lastUsedFrom,omitempty"` // an address, or "local"
	Uses         int64     `json:"uses"`
	// Secrets are those that prove it or have done so, the current one first.
	Secrets []Secret `json:"secrets"`
	// RotateBy is when a policy stops the current secret.
	RotateBy time.Time `json:"rotateBy,omitzero"`
	// Refused says why a policy does not let it count now.
	Refused string `json:"refused,omitempty"`
	// Warnings are sentences about what will stop it soon.
	Warnings []string `json:"warnings,omitempty"`
}

// States of a token.
const (
	StateLive    = "live"
	StateExpired = "expired"
	StateRevoked = "revoked"
	StateRefused = "refused" // by a policy
)

// Actor is who created or revoked a token.
type Actor struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Secret is one secret of a token, without itself.
type Secret struct {
	N          int       `json:"n"` // 1 and up; a rotation adds one
	State      string    `json:"state"`
	CreatedAt  time.Time `json:"createdAt"`
	EndsAt     time.Time `json:"endsAt,omitzero"` // of one that was rotated out
	LastUsedAt time.Time `json:"lastUsedAt,omitzero"`
	Uses       int64     `json:"uses"`
}

// States of a secret.
const (
	SecretCurrent = "current"
	SecretOverlap = "overlap" // rotated out, and counts for a while
	SecretEnded   = "ended"
)

// CreateParams is what to create. Params of protocol.ExtTokenCreate -> [Created].
type CreateParams struct {
	Name string `json:"name"`
	// Role is operator when it is none.
	Role protocol.Role `json:"role,omitempty"`
	// Scope is access.ParseScope's, or ["all"]. None: exec for an operator, else all.
	Scope []string `json:"scope,omitempty"`
	// Lifetime is how long it counts, like "30d"; empty: 30 days, or less where a
	// policy says so; "never".
	Lifetime string `json:"lifetime,omitempty"`
	// Networks are addresses and prefixes it may be used from; none: anywhere.
	Networks []string `json:"networks,omitempty"`
}

// Created is a token and its new secret, which is told this once.
type Created struct {
	Token
	Secret string `json:"secret"`
}

// RotateParams say how to rotate. Params of protocol.ExtTokenRotate -> [Created].
type RotateParams struct {
	ID string `json:"id"` // or a name, or the beginning of an id
	// Overlap is how long the secret until now still counts, like "1h"; empty: not.
	Overlap string `json:"overlap,omitempty"`
	// Lifetime, when not empty, is how long the token counts from now on.
	Lifetime string `json:"lifetime,omitempty"`
}

// IDParams name a token. Params of protocol.ExtTokenRevoke -> [Token].
type IDParams struct {
	ID string `json:"id"` // or a name, or the beginning of an id
}

// ShowParams ask for a token. Params of protocol.ExtTokenShow -> [Shown].
type ShowParams struct {
	ID string `json:"id"` // or a name, or the beginning of an id
	// Hash, when not empty, is [Hash] of a text in hex: whether that counts is told.
	Hash string `json:"hash,omitempty"`
	// Source is where it would come from; empty: nothing is said about that.
	Source string `json:"source,omitempty"`
}

// Shown is a token, and what was asked about it.
type Shown struct {
	Token
	Verdict *Verdict `json:"verdict,omitempty"`
}

// Verdict is whether a secret counts.
type Verdict struct {
	Counts bool `json:"counts"`
	// Secret is which it is, 0 when it is none of this token's.
	Secret int       `json:"secret,omitempty"`
	Until  time.Time `json:"until,omitzero"` // absent: always
	Why    string    `json:"why,omitempty"`  // when it does not count
}

// List answers protocol.ExtTokenList, whose params are {}.
type List struct {
	Data []Token `json:"data"`
}
