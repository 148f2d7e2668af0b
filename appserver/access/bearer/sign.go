package bearer

import (
	"crypto/sha256"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// kind is what sort of key something is. A key verifies the algorithms of its own
// kind and no others: that is what keeps a public key from being taken for the
// secret of an HMAC.
type kind string

const (
	kindHMAC       kind = "a shared secret"
	kindRSA        kind = "an RSA key"
	kindP256       kind = "a P-256 key"
	kindP384       kind = "a P-384 key"
	kindP521       kind = "a P-521 key"
	kindEd25519    kind = "an Ed25519 key"
	kindCapability kind = "a capability token" // verifies nothing; it is compared
)

type algorithm struct {
	kind   kind
	method jwt.SigningMethod
}

// algorithms are all there are. "none" is not one.
var algorithms = map[string]algorithm{
	"HS256": {kindHMAC, jwt.SigningMethodHS256},
	"HS384": {kindHMAC, jwt.SigningMethodHS384},
	"HS512": {kindHMAC, jwt.SigningMethodHS512},
	"RS256": {kindRSA, jwt.SigningMethodRS256},
	"RS384": {kindRSA, jwt.SigningMethodRS384},
	"RS512": {kindRSA, jwt.SigningMethodRS512},
	"PS256": {kindRSA, jwt.SigningMethodPS256},
	"PS384": {kindRSA, jwt.SigningMethodPS384},
	"PS512": {kindRSA, jwt.SigningMethodPS512},
	"ES256": {kindP256, jwt.SigningMethodES256},
	"ES384": {kindP384, jwt.SigningMethodES384},
	"ES512": {kindP521, jwt.SigningMethodES512},
	"EdDSA": {kindEd25519, jwt.SigningMethodEdDSA}, // RFC 8037
	// The name RFC 9864 gives the same thing.
	"Ed25519": {kindEd25519, jwt.SigningMethodEdDSA},
}

// key is one key or secret in use.
type key struct {
	kid  string
	alg  string // the only algorithm it may be used with; empty: all of its kind
	kind kind
	// public is what the algorithm's method wants: *rsa.PublicKey,
	// *ecdsa.PublicKey, ed25519.PublicKey or the bytes of a secret.
	public any
	// print tells whether two are the same. Of a capability token it is the SHA-256.
	print [sha256.Size]byte
	// gone is closed when the key does not count any more.
	gone chan struct{}
}

func (k *key) fits(alg string) bool {
	a, ok := algorithms[alg]
	return ok && a.kind == k.kind && (k.alg == "" || k.alg == alg)
}

// verifies reports whether sig is this key's over signed, by an algorithm that fits.
func (k *key) verifies(alg, signed string, sig []byte) bool {
	return k.fits(alg) && algorithms[alg].method.Verify(signed, sig, k.public) == nil
}

func (k *key) isGone() bool {
	select {
	case <-k.gone:
		return true
	default:
		return false
	}
}

func (k *key) same(o *key) bool {
	return k.kind == o.kind && k.kid == o.kid && k.alg == o.alg && k.print == o.print
}

// ring is a set of keys. It does not change; a new one takes its place.
type ring []*key

// maxTries bounds how many keys are tried on a token that names none.
const maxTries = 8

// find gives the keys a token with that kid and alg may be signed by. A name is
// compared and nothing else: it is never a path, an address or a query.
func (r ring) find(kid, alg string) []*key {
	var named, unnamed []*key
	for _, k := range r {
		switch {
		case !k.fits(alg):
		case kid == "" || k.kid == "":
			unnamed = append(unnamed, k)
		case k.kid == kid:
			named = append(named, k)
		}
	}
	if len(named) > 0 {
		return named
	}
	return unnamed
}

// replace gives next with the keys of r that are still in it, and ends the others.
func (r ring) replace(next ring) ring {
	out := make(ring, len(next))
	for i, k := range next {
		out[i] = k
		if at := slices.IndexFunc(r, k.same); at >= 0 {
			out[i] = r[at]
		}
	}
	for _, k := range r {
		if !slices.Contains(out, k) {
			close(k.gone)
		}
	}
	return out
}
