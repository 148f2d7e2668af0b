package account

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// Limits on a key set.
const (
	maxKeys    = 64
	minRSA     = 2048
	maxRSA     = 8192 // bits; verifying with more costs an attacker nothing and us a lot
	keysFresh  = 10 * time.Second
	maxKeyName = 256
)

var (
	errNoKey  = errors.New("its issuer publishes no such key")
	errKeySet = errors.New("its issuer's keys cannot be read")
)

// keySet is what an issuer publishes (RFC 7517), as far as it can be used here.
type keySet struct {
	got  time.Time
	keys []publicKey
}

type publicKey struct {
	kid, alg string
	key      crypto.PublicKey
}

// find gives the key a token names; a token that names none fits if one key does.
func (s *keySet) find(kid, alg string) (crypto.PublicKey, bool) {
	var found crypto.PublicKey
	n := 0
	for _, k := range s.keys {
		if k.alg == alg && (kid == "" || k.kid == kid) {
			found = k.key
			n++
		}
	}
	return found, n == 1 || n > 1 && kid != ""
}

// publicKey finds a key at an address. An unknown name makes it look again, because
// issuers change keys, but not all the time.
func (m *Manager) publicKey(ctx context.Context, at, kid, alg string) (crypto.PublicKey, error) {
	m.mu.Lock()
	set := m.keys[at]
	m.mu.Unlock()
	if set != nil {
		if k, ok := set.find(kid, alg); ok {
			return k, nil
		}
		if age := m.cfg.Now().Sub(set.got); age >= 0 && age < keysFresh {
			return nil, errNoKey
		}
	}
	a, err := m.ask(ctx, http.MethodGet, at, "", nil, "")
	if err != nil {
		return nil, err
	}
	if !a.ok() {
		return nil, fmt.Errorf("%w: %w", errKeySet, refused(at, a))
	}
	keys, err := parseKeys(a.body)
	if err != nil {
		return nil, err
	}
	set = &keySet{got: m.cfg.Now(), keys: keys}
	m.mu.Lock()
	m.keys[at] = set
	m.mu.Unlock()
	if k, ok := set.find(kid, alg); ok {
		return k, nil
	}
	return nil, errNoKey
}

// parseKeys reads a key set. Keys of other kinds, for other uses or out of bounds
// are passed over.
func parseKeys(raw []byte) ([]publicKey, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if len(raw) > maxAnswer || json.Unmarshal(raw, &doc) != nil {
		return nil, errKeySet
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: there are %d, at most %d are read", errKeySet, len(doc.Keys), maxKeys)
	}
	var out []publicKey
	for _, one := range doc.Keys {
		var k struct {
			Kty, Use, Kid, Alg, Crv string
			N, E, X, Y              string
		}
		if json.Unmarshal(one, &k) != nil || k.Use != "" && k.Use != "sig" || len(k.Kid) > maxKeyName {
			continue
		}
		var key crypto.PublicKey
		var alg string
		switch {
		case k.Kty == "RSA":
			key, alg = rsaKey(k.N, k.E), "RS256"
		case k.Kty == "EC" && k.Crv == "P-256":
			key, alg = ecKey(k.X, k.Y), "ES256"
		case k.Kty == "OKP" && k.Crv == "Ed25519":
			key, alg = edKey(k.X), "EdDSA"
		}
		if key != nil && (k.Alg == "" || k.Alg == alg) {
			out = append(out, publicKey{kid: k.Kid, alg: alg, key: key})
		}
	}
	return out, nil
}

func b64bytes(s string, most int) []byte {
	if len(s) > most*2 {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}

// The three give nil, untyped, for what is no key.

func rsaKey(n64, e64 string) crypto.PublicKey {
	n := new(big.Int).SetBytes(b64bytes(n64, maxRSA/8))
	e := new(big.Int).SetBytes(b64bytes(e64, 8))
	if n.BitLen() < minRSA || n.BitLen() > maxRSA || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

func ecKey(x64, y64 string) crypto.PublicKey {
	x, y := b64bytes(x64, 32), b64bytes(y64, 32)
	if len(x) != 32 || len(y) != 32 {
		return nil
	}
	point := append(append([]byte{4}, x...), y...)
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point) // checks that it is on the curve
	if err != nil {
		return nil
	}
	return k
}

func edKey(x64 string) crypto.PublicKey {
	x := b64bytes(x64, ed25519.PublicKeySize)
	if len(x) != ed25519.PublicKeySize {
		return nil
	}
	return ed25519.PublicKey(x)
}
