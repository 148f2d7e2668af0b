package account

import (
	"errors"
	"strings"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
	"towline/config"
)

// loggedInBy goes through a browser login at an OpenID issuer.
func loggedInBy(t *testing.T, o issuertest.Options, opts ...rigOption) (*rig, Status, error) {
	t.Helper()
	o.NoConsent = true
	iss := issuertest.Start(t, o)
	r := newRig(t, iss, t.TempDir(), append(opts, withKind(KindOIDC))...)
	a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
	q := mustQuery(t, a.url)
	if q.Get("nonce") == "" || q.Get("prompt") != "consent" || q.Get("scope") != "openid profile email offline_access" || q.Has("codex_cli_simplified_flow") {
		t.Errorf("authorize URL %s", a.url)
	}
	if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
		t.Fatal(err)
	}
	st, err := a.wait(t)
	return r, st, err
}

func TestOpenIDLogin(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			r, st, err := loggedInBy(t, issuertest.Options{Alg: alg})
			if err != nil || st.Email != "grace@example.com" {
				t.Fatalf("%+v, %v", st, err)
			}
			if n := r.iss.Count("/oauth/token"); n != 1 {
				t.Errorf("%d token requests: an API key is Codex's issuer's only", n)
			}
			was := r.stored(t).Tokens.RefreshToken
			if _, err := r.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if now := r.stored(t).Tokens.RefreshToken; now == was || r.iss.Rotated() != 1 {
				t.Error("the refresh token was not changed")
			}
			if ok, err := r.Logout(t.Context()); !ok || err != nil || len(r.iss.Revoked()) != 1 {
				t.Errorf("logout: %v %v", ok, err)
			}
		})
	}
}

// TestIDTokenIsChecked changes one thing about the id token at a time.
func TestIDTokenIsChecked(t *testing.T) {
	set := func(k string, v any) func(map[string]any) { return func(c map[string]any) { c[k] = v } }
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for name, tc := range map[string]struct {
		o    issuertest.Options
		want string // "" is accepted
	}{
		"another nonce":             {issuertest.Options{Claims: set("nonce", "other")}, "nonce"},
		"no nonce":                  {issuertest.Options{Claims: func(c map[string]any) { delete(c, "nonce") }}, "nonce"},
		"another issuer":            {issuertest.Options{Claims: set("iss", "https://evil.example")}, "another issuer"},
		"another audience":          {issuertest.Options{Claims: set("aud", "other")}, "another client"},
		"several audiences, no azp": {issuertest.Options{Claims: set("aud", []string{"client-tow", "other"})}, "another client"},
		"another azp":               {issuertest.Options{Claims: set("azp", "other")}, "another client"},
		"several audiences, ours":   {issuertest.Options{Claims: func(c map[string]any) { c["aud"], c["azp"] = []string{"client-tow", "other"}, "client-tow" }}, ""},
		"expired":                   {issuertest.Options{Claims: set("exp", ago(2*time.Minute))}, "clock"},
		"expired within the leeway": {issuertest.Options{Claims: set("exp", ago(30*time.Second))}, ""},
		"from the future":           {issuertest.Options{Claims: set("iat", ago(-2*time.Minute))}, "clock"},
		"from the near future":      {issuertest.Options{Claims: set("iat", ago(-30*time.Second))}, ""},
		"not valid yet":             {issuertest.Options{Claims: set("nbf", ago(-2*time.Minute))}, "clock"},
		"valid in a moment":         {issuertest.Options{Claims: set("nbf", ago(-30*time.Second))}, ""},
		"no expiry":                 {issuertest.Options{Claims: func(c map[string]any) { delete(c, "exp") }}, "does not say when"},
		"no issue time":             {issuertest.Options{Claims: func(c map[string]any) { delete(c, "iat") }}, "does not say when"},
		"nobody":                    {issuertest.Options{Claims: set("sub", "")}, "names nobody"},
		"no signature":              {issuertest.Options{Alg: "none"}, "signature"},
		"signed with a secret":      {issuertest.Options{Alg: "HS256"}, "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.o.ClientID = "client-tow"
			r, _, err := loggedInBy(t, tc.o)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want one about %q", err, tc.want)
			case tc.want != "" && !r.stored(t).Empty():
				t.Error("stored all the same")
			}
		})
	}
}

// TestIssuerClockIsWrong: the whole issuer is ahead, by less than the leeway and by
// more.
func TestIssuerClockIsWrong(t *testing.T) {
	for ahead, ok := range map[time.Duration]bool{45 * time.Second: true, -45 * time.Second: true, 5 * time.Minute: false} {
		now := func() time.Time { return time.Now().Add(ahead) }
		_, _, err := loggedInBy(t, issuertest.Options{Now: now})
		if ok != (err == nil) {
			t.Errorf("ahead by %s: %v", ahead, err)
		}
		if !ok && !strings.Contains(strings.Join(config.Hints(err), " "), "clock") {
			t.Errorf("hints %q", config.Hints(err))
		}
	}
}

// TestRefreshOutlivesItsIDToken: the tokens that came along are the only ones there
// are, so an id token that cannot be checked does not cost the login; one that names
// somebody else does.
func TestRefreshOutlivesItsIDToken(t *testing.T) {
	var change func(map[string]any)
	r, _, err := loggedInBy(t, issuertest.Options{Claims: func(c map[string]any) {
		if change != nil {
			change(c)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	was := r.stored(t).Tokens
	change = func(c map[string]any) { c["exp"] = 1 }
	if _, err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.stored(t).Tokens; now.RefreshToken == was.RefreshToken || now.IDToken != was.IDToken {
		t.Error("the new tokens were not stored beside the old id token")
	}
	change = func(c map[string]any) { c["sub"] = "somebody-else" }
	if _, err := r.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("error %v", err)
	}
}

func TestKeysAreLookedUpAgain(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{NoConsent: true})
	now := time.Now()
	r := newRig(t, iss, t.TempDir(), withKind(KindOIDC), func(c *Config) { c.Now = func() time.Time { return now } })
	login := func() error {
		a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
		if _, err := iss.Visit(t.Context(), a.url, true); err != nil {
			t.Fatal(err)
		}
		_, err := a.wait(t)
		return err
	}
	if err := login(); err != nil {
		t.Fatal(err)
	}
	if err := login(); err != nil || iss.Count("/jwks") != 1 {
		t.Errorf("%v; asked %d times", err, iss.Count("/jwks"))
	}
	iss.RotateKeys()
	if err := login(); err == nil || iss.Count("/jwks") != 1 {
		t.Errorf("at once: %v; asked %d times", err, iss.Count("/jwks"))
	}
	now = now.Add(2 * keysFresh)
	if err := login(); err != nil || iss.Count("/jwks") != 2 {
		t.Errorf("later: %v; asked %d times", err, iss.Count("/jwks"))
	}
}

func TestDiscoveryIsChecked(t *testing.T) {
	for name, body := range map[string]string{
		"another issuer":    `{"issuer":"https://evil.example","authorization_endpoint":"https://a","token_endpoint":"https://a","jwks_uri":"https://a"}`,
		"endpoint in clear": `{"issuer":"ISS","authorization_endpoint":"https://a","token_endpoint":"http://a.example","jwks_uri":"https://a"}`,
		"nothing":           `{"issuer":"ISS"}`,
		"no JSON":           `<html>`,
		"endless":           strings.Repeat(" ", maxAnswer+1) + `{}`,
	} {
		t.Run(name, func(t *testing.T) {
			iss := issuertest.Start(t, issuertest.Options{})
			r := newRig(t, iss, t.TempDir(), withKind(KindOIDC))
			iss.Fail(discoveryPath, 1, 200, strings.ReplaceAll(body, "ISS", iss.URL))
			_, err := r.Browser(t.Context(), BrowserOptions{Ports: freePorts(t, 1), Timeout: patience})
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != "login" || len(p.Hints) == 0 {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestPlainHTTPIsForThisMachine(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://issuer.example": true, "http://127.0.0.1:1": true, "http://[::1]:1": true, "http://localhost:1": true,
		"http://issuer.example": false, "http://127.0.0.1.example": false, "ftp://127.0.0.1": false, "": false, "http://10.0.0.1": false,
	} {
		if err := safeURL(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}
