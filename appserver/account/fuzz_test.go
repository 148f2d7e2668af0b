package account

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"towline/appserver/account/issuertest"
)

// FuzzRefusal: what an issuer answers instead of a token is shown to people, so it
// must be printable, short, and hold nothing long enough to be a token.
func FuzzRefusal(f *testing.F) {
	f.Add(400, []byte(`{"error":"invalid_grant","error_description":"no \u001b[2J"}`))
	f.Add(401, []byte(`{"error":{"code":"refresh_token_reused","message":"eyJhbGciOiJSUzI1NiJ9.eyJhbGciOiJSUzI1NiJ9.x"}}`))
	f.Add(500, []byte(`<html>`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		text := refused("https://issuer.example/x", answer{status: status, body: body}).Error()
		if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", text)
		}
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune("eyJhbGciOiR.0123456789", r) }) {
			if len(word) > 48 {
				t.Errorf("a word of %d: %q", len(word), text)
			}
		}
	})
}

// FuzzPasted: what a person pastes is parsed before anything is done with it.
func FuzzPasted(f *testing.F) {
	f.Add("http://127.0.0.1:1455/auth/callback?code=ac_1&state=s&scope=openid")
	f.Add("code=a&state=b#fragment")
	f.Add("error=access_denied&state=b")
	f.Add("\x00?;%zz")
	f.Fuzz(func(t *testing.T, line string) {
		q, err := redirectQuery(line)
		if err == nil && (q.Get("state") == "" || q.Get("code") == "" && q.Get("error") == "") {
			t.Errorf("%q was taken for a redirect", line)
		}
	})
}

// FuzzKeySet: keys from the network are bounded and usable, or passed over.
func FuzzKeySet(f *testing.F) {
	iss := issuertest.New(issuertest.Options{URL: "https://issuer.example", Alg: "RS256"})
	w := httptest.NewRecorder()
	iss.ServeHTTP(w, httptest.NewRequestWithContext(f.Context(), http.MethodGet, "/jwks", nil))
	f.Add(w.Body.Bytes())
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"RSA","n":"AQ","e":"AQ"},{"kty":"OKP","crv":"Ed25519","x":""}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseKeys(raw)
		if err == nil && len(keys) > maxKeys {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range keys {
			if k.key == nil || k.alg == "" {
				t.Errorf("%+v", k)
			}
		}
	})
}

// FuzzCallback: whatever is asked of the port, nothing but this login's own redirect
// moves it.
func FuzzCallback(f *testing.F) {
	f.Add("/auth/callback?code=x&state=y", "127.0.0.1:1455")
	f.Add("/cancel?x", "evil.example")
	f.Add("//auth/callback", "[::1]:1")
	f.Add("/auth/callback?state=%00&;", "localhost")
	iss := issuertest.New(issuertest.Options{URL: "https://issuer.example"})
	r := newRig(f, iss, f.TempDir())
	f.Fuzz(func(t *testing.T, target, host string) {
		c := &callback{m: r.Manager, e: endpoints{issuer: r.cfg.Issuer}, state: random(32), done: make(chan struct{}), left: make(chan struct{})}
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		u, err := req.URL.Parse(target)
		if err != nil || u.Path == "/cancel" {
			return
		}
		req.URL, req.Host = u, host
		w := httptest.NewRecorder()
		c.ServeHTTP(w, req)
		if w.Code < 400 || c.taken {
			t.Errorf("%q of %q: %d", target, host, w.Code)
		}
	})
}
