// Package access says who a connection is. How that was proved is the business
// of the door it came through (sshd, transport); what it may do is decided by
// its role against the protocol's method table.
package access

import (
	"strings"

	"towline/appserver/protocol"
)

// Kind is how a principal proved itself.
type Kind string

// The kinds of principals.
const (
	KindLocal  Kind = "local"  // same user, by peer credentials or the kernel's socket table
	KindKey    Kind = "key"    // SSH public key
	KindToken  Kind = "token"  // access token or capability token
	KindJWT    Kind = "jwt"    // signed bearer token: the ID is the issuer's word and the subject
	KindDevice Kind = "device" // paired device
)

// Principal is who acts. It is made from the finished handshake, never from
// what a callback saw on the way, and does not change while the connection lives.
type Principal struct {
	Kind Kind
	// ID is stable across connections and unique per Kind: a key's SHA256
	// fingerprint, a token's id, "uid:1000".
	ID string
	// Name is for people: a key's comment, a token's name, a user name.
	Name string
	Role protocol.Role
	// Scope narrows the role; nil does not.
	Scope *Scope
	// Lapsed, where not nil, is closed when the credential stops to count: it was
	// revoked, has expired, or lost its role. The gate then ends the connection.
	Lapsed <-chan struct{}
}

// Key identifies the principal across connections; what a person left behind
// (last thread, drafts) is stored under it.
func (p Principal) Key() string { return string(p.Kind) + ":" + p.ID }

// Denied is the error a request gets when its principal lacks the role. It
// names what was wanted, so that the person can ask for it.
func (p Principal) Denied(method string, wants protocol.Role) *protocol.Error {
	const longest = 100 // of a name any client may make up
	if len(method) > longest {
		method = strings.ToValidUTF8(method[:longest], "") + "…"
	}
	return protocol.Errorf("%s needs the role %q; %s has %q", method, wants, p.Name, p.Role)
}

// May reports whether the principal may send method.
func (p Principal) May(method string) bool { return p.Role >= protocol.LeastRole(method) }
