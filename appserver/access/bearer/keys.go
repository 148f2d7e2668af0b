package bearer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"towline/appserver/protocol"
)

// Limits on keys.
const (
	maxKeys   = 64
	maxKid    = 256  // bytes
	minRSA    = 2048 // bits
	maxRSA    = 8192 // bits; more costs a signer nothing and us a lot
	minSecret = 32   // bytes of a shared secret, as in Codex
)

var (
	errPrivate = errors.New("holds a private key; give the public half, which is all that verifying needs")
	errNoKeys  = errors.New("holds no public key that can verify a token (RSA of 2048 bits or more, P-256, P-384, P-521, Ed25519)")
)

// object reads a JSON object by its exact names. A strict one has no name twice
// anywhere, does not nest deep, and holds no number that overflows.
func object(raw []byte, strict bool) (map[string]json.RawMessage, error) {
	if !json.Valid(raw) {
		return nil, errors.New("no JSON")
	}
	if strict {
		if err := protocol.Strict(raw); err != nil {
			return nil, err
		}
	}
	if raw = bytes.TrimLeft(raw, " \t\r\n"); raw[0] != '{' {
		return nil, errors.New("no JSON object")
	}
	m := make(map[string]json.RawMessage)
	for name, v := range protocol.Members(raw) {
		m[name] = v
	}
	return m, nil
}

// secretKey is a shared secret: the text of a file.
func secretKey(text string) (ring, error) {
	if len(text) < minSecret {
		return nil, fmt.Errorf("must be at least %d bytes", minSecret)
	}
	if _, err := publicKeys([]byte(text)); err == nil || errors.Is(err, errPrivate) {
		// Whoever has a public key could sign with it.
		return nil, errors.New("holds a public or private key, which is no shared secret; use key_file")
	}
	return ring{newKey(kindHMAC, []byte(text), []byte(text))}, nil
}

func newKey(k kind, public any, id []byte) *key {
	return &key{kind: k, public: public, print: sha256.Sum256(id), gone: make(chan struct{})}
}

// publicKeys reads PEM, a JWK or a JWKS.
func publicKeys(raw []byte) (ring, error) {
	if s := bytes.TrimSpace(raw); len(s) > 0 && s[0] == '{' {
		return jsonKeys(s, false)
	}
	var out ring
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		var public any
		var err error
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, errPrivate
		case block.Type == "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case block.Type == "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case block.Type == "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				public = cert.PublicKey
			}
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("holds a %s that cannot be read", strings.ToLower(block.Type))
		}
		k, err := usable(public)
		if err != nil {
			return nil, err
		}
		if out = append(out, k); len(out) > maxKeys {
			return nil, fmt.Errorf("holds more than %d keys", maxKeys)
		}
	}
	if len(out) == 0 {
		return nil, errNoKeys
	}
	return out, nil
}

// jsonKeys reads a JWK or a JWKS (RFC 7517). Keys of other kinds and for other uses
// are passed over, and from an issuer whatever is wrong with one of them as well.
func jsonKeys(raw []byte, lenient bool) (ring, error) {
	doc, err := object(raw, true)
	if err != nil {
		return nil, errors.New("is no JWK or JWKS: " + err.Error())
	}
	list := []json.RawMessage{raw}
	if set, ok := doc["keys"]; ok {
		list = nil
		if err := json.Unmarshal(set, &list); err != nil {
			return nil, errors.New("is no JWKS: its keys are no list")
		}
	} else if lenient {
		return nil, errors.New("is no JWKS: it has no keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("holds %d keys, at most %d are read", len(list), maxKeys)
	}
	var out ring
	for _, one := range list {
		k, err := jwk(one)
		switch {
		case err != nil && !lenient:
			return nil, err
		case err == nil && k != nil:
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errNoKeys
	}
	return out, nil
}

// jwk reads one key; one that is not for verifying tokens is nil.
func jwk(raw []byte) (*key, error) {
	m, err := object(raw, true)
	if err != nil {
		return nil, errors.New("holds a key that is no JSON object")
	}
	field := map[string]string{}
	for _, name := range []string{"kty", "use", "kid", "alg", "crv", "n", "e", "x", "y"} {
		v, ok := m[name]
		if !ok {
			continue
		}
		var s *string
		if json.Unmarshal(v, &s) != nil || s == nil {
			return nil, fmt.Errorf("holds a key whose %s is no text", name)
		}
		field[name] = *s
	}
	if ops, ok := m["key_ops"]; ok {
		var list []string
		if json.Unmarshal(ops, &list) != nil || !slices.Contains(list, "verify") {
			return nil, nil
		}
	}
	switch {
	case m["d"] != nil || m["k"] != nil && field["kty"] == "oct":
		return nil, errPrivate
	case field["use"] != "" && field["use"] != "sig":
		return nil, nil
	case len(field["kid"]) > maxKid:
		return nil, errors.New("holds a key with too long a name")
	}
	var public crypto.PublicKey
	switch crv := field["crv"]; field["kty"] {
	case "RSA":
		public = rsaKey(field["n"], field["e"])
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[crv]
		if curve == nil {
			return nil, nil
		}
		public = ecKey(curve, field["x"], field["y"])
	case "OKP":
		if crv != "Ed25519" {
			return nil, nil
		}
		if x := unbase64(field["x"], ed25519.PublicKeySize); len(x) == ed25519.PublicKeySize {
			public = ed25519.PublicKey(x)
		}
	default:
		return nil, nil
	}
	if public == nil {
		return nil, fmt.Errorf("holds a key of type %.10q whose numbers are wrong or out of bounds", field["kty"])
	}
	k, err := usable(public)
	if err != nil {
		return nil, err
	}
	k.kid = field["kid"]
	if k.alg = field["alg"]; k.alg != "" && !k.fits(k.alg) {
		return nil, nil // for encryption, or for what is not known here
	}
	return k, nil
}

// usable makes a key of what a parser gave.
func usable(public any) (*key, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, errNoKeys
	}
	switch p := public.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fmt.Errorf("holds an RSA key of %d bits; %d to %d are accepted", n, minRSA, maxRSA)
		}
		if p.E < 3 || p.E&1 == 0 {
			return nil, errors.New("holds an RSA key with a bad exponent")
		}
		return newKey(kindRSA, p, der), nil
	case *ecdsa.PublicKey:
		if k, ok := map[elliptic.Curve]kind{elliptic.P256(): kindP256, elliptic.P384(): kindP384, elliptic.P521(): kindP521}[p.Curve]; ok {
			return newKey(k, p, der), nil
		}
	case ed25519.PublicKey:
		return newKey(kindEd25519, p, der), nil
	}
	return nil, errNoKeys
}

// unbase64 decodes at most so many bytes; nil is nothing of the kind.
func unbase64(s string, most int) []byte {
	if s == "" || len(s) > base64.RawURLEncoding.EncodedLen(most)+1 || strings.ContainsAny(s, "\r\n") {
		return nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) > most {
		return nil
	}
	return b
}

// The two give nil, untyped, for what is no key.

func rsaKey(n64, e64 string) crypto.PublicKey {
	n, e := new(big.Int).SetBytes(unbase64(n64, maxRSA/8+1)), new(big.Int).SetBytes(unbase64(e64, 8))
	if n.Sign() == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

func ecKey(curve elliptic.Curve, x64, y64 string) crypto.PublicKey {
	size := (curve.Params().BitSize + 7) / 8
	x, y := unbase64(x64, size), unbase64(y64, size)
	if len(x) != size || len(y) != size {
		return nil
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y)) // checks that it is on the curve
	if err != nil {
		return nil
	}
	return k
}
