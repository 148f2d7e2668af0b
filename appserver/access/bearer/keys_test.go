package bearer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"towline/appserver/protocol"
)

// testKeys are one of each kind, made once.
var testKeys = sync.OnceValue(func() map[kind]crypto.Signer {
	must := func(s crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return s
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	out := map[kind]crypto.Signer{kindRSA: must(rsaKey, err)}
	for k, c := range map[kind]elliptic.Curve{kindP256: elliptic.P256(), kindP384: elliptic.P384(), kindP521: elliptic.P521()} {
		one, err := ecdsa.GenerateKey(c, rand.Reader)
		out[k] = must(one, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	out[kindEd25519] = must(ed, err)
	return out
})

// sign is another implementation's: go-jose's.
func sign(t testing.TB, alg, kid string, priv any, claims map[string]any, head map[string]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT")
	for k, v := range head {
		opts.WithHeader(jose.HeaderKey(k), v)
	}
	name := alg
	if name == "Ed25519" { // a newer name it does not have
		name = "EdDSA"
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(name), Key: jose.JSONWebKey{Key: priv, KeyID: kid}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign([]byte(body(claims)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func pemOf(t testing.TB, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// jwkOf is a public key as go-jose writes it.
func jwkOf(t testing.TB, public any, kid, alg string) string {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKey{Key: public, KeyID: kid, Algorithm: alg, Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func keyFile(t testing.TB, text string, more func(*JWT)) Config {
	j := JWT{Name: "ci", KeyFile: write(t, "keys", text), Skew: defaultSkew, Role: protocol.RoleOperator}
	if more != nil {
		more(&j)
	}
	return Config{JWT: []JWT{j}}
}

func fresh(more map[string]any) map[string]any {
	m := map[string]any{"exp": noon.Add(time.Hour).Unix(), "sub": "robot", "iss": "https://issuer.example"}
	maps.Copy(m, more)
	return m
}

// Every algorithm with the key it is for, in every form a file may have; and with
// every other key.
func TestAlgorithmsAndKeyForms(t *testing.T) {
	keys := testKeys()
	for alg, a := range algorithms {
		if a.kind == kindHMAC || alg == "Ed25519" {
			continue
		}
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			for k, signer := range keys {
				pub := signer.Public()
				for form, text := range map[string]string{
					"PEM": pemOf(t, pub), "JWK": jwkOf(t, pub, "k1", ""), "JWKS": jwks(jwkOf(t, pub, "k1", "")),
				} {
					auth := open(t, keyFile(t, text, nil))
					_, err := try(t, auth, "Bearer "+sign(t, alg, "k1", keys[a.kind], fresh(nil), nil))
					if want := map[bool]string{true: "ok", false: "401 " + sayJWT}[k == a.kind]; outcome(err) != want {
						t.Errorf("%s, %s: got %s (%v), want %s", k, form, outcome(err), err, want)
					}
				}
			}
			other := jwkOf(t, keys[a.kind].Public(), "k1", "RS256")
			if alg != "RS256" && a.kind == kindRSA {
				auth := open(t, keyFile(t, other, nil))
				if _, err := try(t, auth, "Bearer "+sign(t, alg, "k1", keys[a.kind], fresh(nil), nil)); outcome(err) != "401 "+sayJWT {
					t.Errorf("a key for RS256 verified %s: %s", alg, outcome(err))
				}
			}
		})
	}
}

func TestPrincipalOfAKeyFile(t *testing.T) {
	k := testKeys()[kindEd25519]
	a := open(t, keyFile(t, pemOf(t, k.Public()), func(j *JWT) {
		j.Issuers = []string{"https://issuer.example", "https://b.example"}
		j.Audience = []string{"us"}
	}))
	p, err := try(t, a, "Bearer "+sign(t, "EdDSA", "", k, fresh(map[string]any{"aud": []string{"x", "us"}}), nil))
	if err != nil || p.Kind != "jwt" || p.ID != "ci https://issuer.example robot" || p.Name != "ci: robot" || p.Role != protocol.RoleOperator || p.Lapsed == nil {
		t.Errorf("%+v, %v", p, err)
	}
	for want, more := range map[string]map[string]any{
		"401 " + sayIssuer:   {"iss": "https://issuer.example/", "aud": "us"},
		"401 " + sayAudience: {"aud": "us2"},
		"401 " + sayExpired:  {"exp": noon.Unix() - 31, "aud": "us"},
		"401 " + sayNotYet:   {"nbf": noon.Unix() + 31, "aud": "us"},
	} {
		if _, err := try(t, a, "Bearer "+sign(t, "EdDSA", "", k, fresh(more), nil)); outcome(err) != want {
			t.Errorf("%v: got %s, want %s", more, outcome(err), want)
		}
	}
}

// A public key is everybody's: it must not be what an HMAC is verified with.
func TestPublicKeyIsNoSharedSecret(t *testing.T) {
	pub := testKeys()[kindRSA].Public()
	for name, text := range map[string]string{"PEM": pemOf(t, pub), "JWK": jwkOf(t, pub, "k1", ""), "JWKS": jwks(jwkOf(t, pub, "k1", ""))} {
		a := open(t, keyFile(t, text, nil))
		for _, secret := range []string{text, strings.TrimSpace(text)} {
			for _, head := range []string{`{"alg":"HS256"}`, `{"alg":"HS256","kid":"k1"}`} {
				if _, err := try(t, a, "Bearer "+hs256(secret, head, body(fresh(nil)))); outcome(err) != "401 "+sayJWT {
					t.Errorf("%s: a token signed with the public key: %s", name, outcome(err))
				}
			}
		}
		for _, codex := range []bool{true, false} {
			j := codexMode(t, func(j *JWT) { j.SecretFile, j.Codex = write(t, "secret", text), codex })
			if _, err := New(Config{JWT: []JWT{j}}); err == nil || !strings.Contains(err.Error(), "no shared secret") {
				t.Errorf("%s as a secret: %v", name, err)
			}
		}
	}
	if _, err := New(keyFile(t, secret, nil)); err == nil {
		t.Error("a secret was taken for a public key")
	}
	if _, err := New(keyFile(t, "x", func(j *JWT) { j.Algorithms = []string{"HS256"} })); err == nil || !strings.Contains(err.Error(), "algorithms") {
		t.Errorf("HS256 with a key file: %v", err)
	}
}

func TestUnusableKeyFiles(t *testing.T) {
	keys := testKeys()
	der, err := x509.MarshalPKCS8PrivateKey(keys[kindEd25519])
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, err := json.Marshal(jose.JSONWebKey{Key: keys[kindP256], KeyID: "k"})
	if err != nil {
		t.Fatal(err)
	}
	p256 := jwkOf(t, keys[kindP256].Public(), "k1", "")
	var point struct{ X, Y string }
	if err := json.Unmarshal([]byte(p256), &point); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"a private key":         {string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "private key"},
		"a private JWK":         {string(private), "private key"},
		"a secret JWK":          {`{"kty":"oct","k":"AAAA"}`, "private key"},
		"a small key":           {pemOf(t, small.Public()), "1024 bits"},
		"a small key as JWK":    {jwkOf(t, small.Public(), "", ""), "1024 bits"},
		"no key":                {"hello", "no public key"},
		"an empty set":          {jwks(), "no public key"},
		"a set that is no list": {`{"keys":{}}`, "no list"},
		"a key for encryption":  {strings.Replace(p256, `"sig"`, `"enc"`, 1), "no public key"},
		"a point off the curve": {strings.Replace(p256, point.X, point.Y, 1), "numbers are wrong"},
		"another curve":         {strings.Replace(p256, "P-256", "P-384", 1), "numbers are wrong"},
		"members twice":         {`{"kty":"OKP","kty":"OKP","crv":"Ed25519","x":"AAAA"}`, "repeats"},
		"a number for a text":   {`{"kty":1}`, "kty is no text"},
		"too many":              {jwks(slices.Repeat([]string{p256}, maxKeys+1)...), "at most 64"},
		"very deep":             {strings.Repeat(`{"keys":[`, 2000), "no JWK"},
		"an exponent of one":    {`{"kty":"RSA","n":"` + b64(small.N.Bytes()) + `","e":"AQ"}`, "numbers are wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(keyFile(t, tc.text, nil)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A kid chooses among keys that are there. It is nothing else.
func TestKid(t *testing.T) {
	keys := testKeys()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := jwks(jwkOf(t, keys[kindEd25519].Public(), "one", ""), jwkOf(t, ed.Public(), "two", ""), jwkOf(t, keys[kindP256].Public(), "one", ""))
	a := open(t, keyFile(t, set, nil))
	for _, tc := range []struct {
		kid  string
		key  crypto.Signer
		want string
	}{
		{"one", keys[kindEd25519], "ok"},
		{"two", ed, "ok"},
		{"", ed, "ok"}, // few enough to try
		{"two", keys[kindEd25519], "401 " + sayJWT},
		{"One", keys[kindEd25519], "401 " + sayJWT},
		{"../../../dev/null", ed, "401 " + sayJWT},
		{"/proc/self/environ", ed, "401 " + sayJWT},
		{"http://127.0.0.1:1/keys", ed, "401 " + sayJWT},
		{"x' OR '1'='1", ed, "401 " + sayJWT},
		{"one\x00", keys[kindEd25519], "401 " + sayJWT},
		{strings.Repeat("k", maxKid+1), ed, "401 " + sayJWT},
	} {
		if _, err := try(t, a, "Bearer "+sign(t, "EdDSA", tc.kid, tc.key, fresh(nil), nil)); outcome(err) != tc.want {
			t.Errorf("%.40q: got %s (%v), want %s", tc.kid, outcome(err), err, tc.want)
		}
	}
	var many []string
	for i := range maxTries + 1 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, jwkOf(t, pub, fmt.Sprint(i), ""))
	}
	a = open(t, keyFile(t, jwks(append(many, jwkOf(t, ed.Public(), "two", ""))...), nil))
	if _, err := try(t, a, "Bearer "+sign(t, "EdDSA", "", ed, fresh(nil), nil)); err == nil || !strings.Contains(err.Error(), "which of many keys") {
		t.Errorf("a token without a kid was tried on many keys: %v", err)
	}
	if _, err := try(t, a, "Bearer "+sign(t, "EdDSA", "two", ed, fresh(nil), nil)); err != nil {
		t.Error(err)
	}
}

// What a strict source refuses that Codex lets pass, and more.
func TestStrictTokens(t *testing.T) {
	key := write(t, "secret", secret)
	a := open(t, Config{JWT: []JWT{{Name: "s", SecretFile: key, Skew: defaultSkew, Role: protocol.RoleOperator}}})
	exp := fmt.Sprintf(`"exp":%d`, noon.Unix()+60)
	head := func(h string) string { return hs256(secret, h, "{"+exp+"}") }
	ok := signed("{" + exp + "}")
	parts := strings.Split(ok, ".")
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for want, tokens := range map[string][]string{
		"ok": {
			ok, head(`{"alg":"HS256"}`), head(`{"alg":"HS256","typ":"at+JWT"}`), head(`{"alg":"HS256","typ":"application/jwt","jku":"https://evil.example","jwk":{"kty":"oct"},"x5u":"file:///etc/passwd"}`),
			signed(fmt.Sprintf(`{"exp":%d.75}`, noon.Unix()-30)), signed(fmt.Sprintf(`{"exp":%d.0e0,"nbf":%d.5}`, noon.Unix()+9, noon.Unix()+29)),
			signed(`{` + exp + `,"x":` + deep(90) + `}`),
		},
		"401 " + sayExpired: {signed(fmt.Sprintf(`{"exp":%d.99}`, noon.Unix()-31)), signed(`{"exp":-1}`), signed(`{"exp":-1e3}`)},
		"401 " + sayNotYet:  {signed(fmt.Sprintf(`{%s,"nbf":%d.5}`, exp, noon.Unix()+30))},
		"401 " + sayJWT: {
			head(`{"alg":"HS256","crit":["b64"],"b64":false}`), head(`{"alg":"HS256","crit":[]}`), head(`{"alg":"HS256","b64":true}`), head(`{"alg":"HS256","zip":"DEF"}`),
			head(`{"alg":"HS256","typ":"logout+jwt"}`), head(`{"alg":"HS256","typ":"dpop+jwt"}`), head(`{"alg":"HS256","typ":null}`), head(`{"alg":"HS256","kid":7}`),
			head(`{"alg":"none"}`), head(`{"alg":"None"}`), head(`{"alg":"hs256"}`), head(`{"alg":["HS256"]}`), head(`{"alg":"HS256","x":1,"x":2}`), head(`{"ALG":"HS256"}`), head(`{}`), head(`[]`), head(``),
			parts[0] + "." + parts[1] + ".", b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", b64([]byte(`{"alg":"NONE"}`)) + "." + parts[1] + "." + parts[2],
			hs512(`{"alg":"HS512"}`, "{"+exp+"}"), hs512(plainHead, "{"+exp+"}"), hs256(secret+" ", plainHead, "{"+exp+"}"),
			signed(`{}`), signed(`{"exp":"` + fmt.Sprint(noon.Unix()+60) + `"}`), signed(`{"exp":null}`), signed(`{"exp":1e300}`), signed(`{"exp":1e400}`), signed(`{"exp":` + strings.Repeat("9", 400) + `}`), signed(`{"exp":[1]}`), signed(`{"Exp":9e9}`),
			signed(`{` + exp + `,` + exp + `}`), signed(`{` + exp + `,"a":{"b":1,"b":2}}`), signed(`{` + exp + `,"sub":"a","sub":"b"}`), signed(`{` + exp + `,"sub":7}`), signed(`{` + exp + `,"iss":null}`), signed(`{` + exp + `,"aud":7}`), signed(`{` + exp + `,"aud":[null]}`),
			signed(`{` + exp + `,"nbf":"1"}`), signed(`{` + exp + `,"iat":"1"}`), signed(`{` + exp + `,"x":` + deep(200) + `}`), signed(`{` + exp + `,"x":"` + "\xff" + `"}`), signed(`{` + exp + `,"x":"\ud800"}`), signed(`{` + exp + `} {}`),
			ok + "=", ok + "A", ok + ".", ok + ".a.b", parts[0] + "\n." + parts[1] + "." + parts[2], parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-1] + "B",
		},
	} {
		for i, text := range tokens {
			if _, err := try(t, a, "Bearer "+text); outcome(err) != want && !(want == "401 "+sayJWT && outcome(err) == "401 "+sayHeader && strings.Contains(text, "\n")) {
				t.Errorf("%d: %.200q: got %s (%v), want %s", i, text, outcome(err), err, want)
			}
		}
	}
}

// A token that is too long is not decoded.
func TestHugeTokens(t *testing.T) {
	a := open(t, Config{JWT: []JWT{codexMode(t, nil)}})
	fit := func(n int) string {
		return signed(fmt.Sprintf(`{"exp":%d,"x":%q}`, noon.Unix()+60, strings.Repeat("x", n)))
	}
	if p, err := try(t, a, "Bearer "+fit(12_000)); err != nil {
		t.Error(p, err)
	}
	for _, text := range []string{fit(12_400), strings.Repeat("a", 1<<20), strings.Repeat(".", 1<<20)} {
		if _, err := try(t, a, "Bearer "+text); outcome(err) != "401 "+sayJWT || !strings.Contains(err.Error(), "bytes") {
			t.Errorf("%d bytes: %s (%v)", len(text), outcome(err), err)
		}
	}
}

// The other PEM blocks that a public key comes in, several of them in a file, and
// the newer name of EdDSA.
func TestPEMForms(t *testing.T) {
	keys := testKeys()
	rsaKey := keys[kindRSA].(*rsa.PrivateKey)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: noon}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, keys[kindP384].Public(), keys[kindP384])
	if err != nil {
		t.Fatal(err)
	}
	text := "a comment\n" + string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6}})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + pemOf(t, keys[kindEd25519].Public())
	a := open(t, keyFile(t, text, nil))
	for alg, k := range map[string]kind{"RS256": kindRSA, "ES384": kindP384, "EdDSA": kindEd25519} {
		if _, err := try(t, a, "Bearer "+sign(t, alg, "any", keys[k], fresh(nil), nil)); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	signed := b64([]byte(`{"alg":"Ed25519"}`)) + "." + b64([]byte(body(fresh(nil))))
	if _, err := try(t, a, "Bearer "+signed+"."+b64(ed25519.Sign(keys[kindEd25519].(ed25519.PrivateKey), []byte(signed)))); err != nil {
		t.Error(err)
	}
	for name, tc := range map[string][2]string{
		"a block of rubbish": {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "cannot be read"},
		"too many blocks":    {strings.Repeat(pemOf(t, keys[kindP256].Public()), maxKeys+1), "more than 64"},
	} {
		if _, err := New(keyFile(t, tc[0], nil)); err == nil || !strings.Contains(err.Error(), tc[1]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(keyFile(t, pemOf(t, keys[kindP256].Public()), func(j *JWT) { j.Algorithms = []string{"RS256"} })); err == nil || !strings.Contains(err.Error(), "no key for the algorithms") {
		t.Errorf("a key that nothing allowed is for: %v", err)
	}
}
