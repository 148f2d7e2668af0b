package issuertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"sync"
	"time"
)

// keys sign tokens. Signing is done by hand here, so that it shares no code with
// what verifies it.
type keys struct {
	ec *ecdsa.PrivateKey
	ed ed25519.PrivateKey
}

// rsaKey is made once a process: it takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newKeys() keys {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return keys{ec: ec, ed: ed}
}

// RotateKeys makes new signing keys, as an issuer does now and then.
func (i *Issuer) RotateKeys() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = newKeys()
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a JWT. The caller holds mu.
func (i *Issuer) sign(claims map[string]any) string {
	head, _ := json.Marshal(map[string]string{"alg": i.o.Alg, "typ": "JWT", "kid": "test-" + i.o.Alg + "-" + i.keys.id()})
	body, _ := json.Marshal(claims)
	text := b64(head) + "." + b64(body)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch i.o.Alg {
	case "ES256":
		r, s, e := ecdsa.Sign(rand.Reader, i.keys.ec, sum[:])
		if err = e; err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case "EdDSA":
		sig = ed25519.Sign(i.keys.ed, []byte(text))
	case "RS256":
		sig, err = rsa.SignPKCS1v15(rand.Reader, rsaKey(), crypto.SHA256, sum[:])
	case "HS256": // the attack: the public key as a shared secret
		mac := hmac.New(sha256.New, i.keys.ec.X.Bytes())
		mac.Write([]byte(text))
		sig = mac.Sum(nil)
	}
	if err != nil {
		panic(err)
	}
	return text + "." + b64(sig)
}

// id tells one generation of keys from the next.
func (k keys) id() string {
	sum := sha256.Sum256(k.ed.Public().(ed25519.PublicKey))
	return b64(sum[:6])
}

// jwks publishes the keys.
func (i *Issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	type m = map[string]string
	list := []m{
		{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "test-ES256-" + i.keys.id(),
			"x": b64(i.keys.ec.X.FillBytes(make([]byte, 32))), "y": b64(i.keys.ec.Y.FillBytes(make([]byte, 32))),
		},
		{
			"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "test-EdDSA-" + i.keys.id(),
			"x": b64(i.keys.ed.Public().(ed25519.PublicKey)),
		},
	}
	if i.o.Alg == "RS256" {
		list = append(list, m{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "test-RS256-" + i.keys.id(),
			"n": b64(rsaKey().N.Bytes()), "e": b64(big.NewInt(int64(rsaKey().E)).Bytes()),
		})
	}
	reply(w, http.StatusOK, map[string]any{"keys": list})
}

// Tokens are what a login gives.
type Tokens struct {
	ID, Access, Refresh string
	AccountID           string
	Expires             time.Time
}

// Login gives out tokens as if somebody had just logged in as u (zero: the
// issuer's user), for a test that begins there.
func (i *Issuer) Login(u User) Tokens {
	i.mu.Lock()
	defer i.mu.Unlock()
	if u == (User{}) {
		u = i.o.User
	}
	return i.issue(&grant{family: &family{}, user: u, client: i.o.ClientID})
}

// AgentIdentity makes the token an agent logs in with.
func (i *Issuer) AgentIdentity() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.o.Now()
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		panic(err)
	}
	return i.sign(map[string]any{
		"iss": "https://chatgpt.com/codex-backend/agent-identity", "aud": "codex-app-server", "sub": i.o.User.Subject, "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
		"agent_runtime_id": "agent-tow", "agent_private_key": base64.StdEncoding.EncodeToString(der), "account_id": i.o.User.AccountID,
		"chatgpt_user_id": i.o.User.Subject, "email": i.o.User.Email, "plan_type": i.o.User.Plan, "chatgpt_account_is_fedramp": false,
	})
}

// issue makes a set of tokens for a login. The caller holds mu.
func (i *Issuer) issue(g *grant) Tokens {
	now := i.o.Now()
	client := g.client
	if client == "" {
		client = "app_EMoamEEZ73f0CkXaXp7hrann"
	}
	auth := map[string]any{
		"chatgpt_account_id": g.user.AccountID, "chatgpt_user_id": g.user.Subject, "user_id": g.user.Subject,
		"chatgpt_plan_type": g.user.Plan, "localhost": true,
		"organizations": []any{map[string]any{"id": "org-" + g.user.AccountID, "is_default": true, "role": "owner", "title": "Personal"}},
	}
	id := map[string]any{
		"iss": i.URL, "aud": client, "sub": g.user.Subject, "email": g.user.Email, "email_verified": true,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "https://api.openai.com/auth": auth,
	}
	if g.nonce != "" {
		id["nonce"] = g.nonce
	}
	if i.o.Claims != nil {
		i.o.Claims(id)
	}
	t := Tokens{ID: i.sign(id), Refresh: i.random("rt_"), AccountID: g.user.AccountID, Expires: now.Add(i.o.AccessTTL)}
	t.Access = i.sign(map[string]any{
		"iss": i.URL, "aud": "https://api.openai.com/v1", "sub": g.user.Subject, "client_id": client,
		"iat": now.Unix(), "exp": t.Expires.Unix(), "jti": i.random(""), "https://api.openai.com/auth": auth,
		"https://api.openai.com/profile": map[string]any{"email": g.user.Email},
	})
	live := func() *grant { c := *g; c.used = false; c.expires = t.Expires; return &c }
	i.access[t.Access], i.refresh[t.Refresh] = live(), live()
	return t
}
