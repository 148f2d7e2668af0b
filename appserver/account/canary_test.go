package account

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
)

const canary = "CaNaRy"

// watch collects everything a person, a log or another program gets to see.
type watch struct {
	t    *testing.T
	seen []string
}

func (w *watch) saw(where string, v ...any) {
	for _, x := range v {
		raw, _ := json.Marshal(x) // what cannot be marshalled is printed below
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", x)
		w.seen = append(w.seen, fmt.Sprintf("%s: %v %+v %#v %s %s", where, x, x, x, raw, log.String()))
		if err, ok := x.(error); ok {
			w.seen = append(w.seen, where+": "+config.Explain(err))
		}
	}
}

// check looks for the canary, and for tokens as such: they begin with eyJ.
func (w *watch) check() {
	w.t.Helper()
	for _, s := range w.seen {
		if strings.Contains(s, canary) || strings.Contains(s, "eyJ") {
			w.t.Errorf("a secret is to be seen: %.400s", s)
		}
	}
}

// TestNoSecretIsSeen goes every way in, through and out with secrets that carry a
// canary, and looks for it in every text, log, URL and file but the two the login
// belongs in.
func TestNoSecretIsSeen(t *testing.T) {
	eachKind(t, func(t *testing.T, kind IssuerKind) {
		iss := issuertest.Start(t, issuertest.Options{Canary: canary, Alg: "RS256"})
		iss.AddPAT("at-"+canary, issuertest.User{Email: "pat@example.com", AccountID: "acct-pat"})
		iss.SetAPIKey("sk-" + canary + "-exchanged")
		r := newRig(t, iss, t.TempDir(), withKind(kind))
		w := &watch{t: t}
		note := func(v any, err error) { t.Helper(); w.saw("result", v); w.saw("error", err) }

		// A browser login, with strangers and a failed one before.
		login := func(allow bool) {
			a := r.begin(t, t.Context(), BrowserOptions{Ports: freePorts(t, 1)})
			u, _ := url.Parse(a.url)
			w.saw("authorize URL", u.Host, u.Path, u.Query().Get("client_id"))
			if strings.Contains(a.url, canary) {
				t.Errorf("the URL to open holds a secret of the issuer's")
			}
			_, body, _ := get(t, "http://127.0.0.1:"+itoa(a.port)+"/auth/callback?code="+canary+"&state=x", "")
			w.saw("page", body)
			p, err := iss.Visit(t.Context(), a.url, allow)
			if err != nil {
				t.Fatal(err)
			}
			w.saw("last page", p.Body, p.URL.RawQuery)
			st, err := a.wait(t)
			note(st, err)
			w.saw("steps", a.steps.String())
		}
		login(false)
		iss.Fail("/oauth/token", 1, 400, `{"error":"invalid_grant","error_description":"no such code ac_`+canary+`aaaaaaaaaaaaaaaaaaaaaaaa","refresh_token":"`+canary+`"}`)
		login(true)
		iss.Fail("/oauth/token", 1, 200, `{"access_token":"`+canary+`",`)
		login(true)
		login(true)

		// Its tokens: used, rejected, refreshed, refused, lost.
		b, err := r.Token(t.Context())
		note(b, err)
		w.saw("bearer", b, &b, []Bearer{b}, map[string]Bearer{"b": b})
		b, err = r.Rejected(t.Context(), b)
		note(b, err)
		iss.Fail("/oauth/token", 1, 0, "")
		_, err = r.Refresh(t.Context())
		note(nil, err)
		iss.Fail("/oauth/token", 1, 503, canary)
		_, err = r.Refresh(t.Context())
		note(nil, err)
		_, err = r.Refresh(t.Context())
		note(nil, err)
		iss.RevokeAll()
		_, err = r.Refresh(t.Context())
		note(nil, err)

		// Keys and tokens that are handed in.
		note(r.SetAccessToken(t.Context(), "at-"+canary))
		note(r.Verify(t.Context()))
		note(r.SetAccessToken(t.Context(), "at-"+canary+"-refused"))
		note(r.SetAccessToken(t.Context(), canary+".not.one"))
		note(r.SetAccessToken(t.Context(), iss.Login(issuertest.User{}).Access))
		note(r.SetAPIKey(t.Context(), canary+" and a blank"))
		note(r.SetAPIKey(t.Context(), "sk-123456"+canary+"1234567"))

		// A loan.
		lentTokens := LentTokens{AccessToken: iss.Login(issuertest.User{}).Access, AccountID: "acct-tow"}
		w.saw("loan", lentTokens)
		note(r.Lend(t.Context(), lentTokens, func(context.Context, string) (LentTokens, error) {
			return LentTokens{}, errors.New("the lender is away")
		}))
		b, err = r.Token(t.Context())
		note(b, err)
		_, err = r.Rejected(t.Context(), b)
		note(nil, err)
		r.Unlend()

		// Out.
		_, err = r.Logout(t.Context())
		note(nil, err)

		w.saw("log", r.log.String())
		w.saw("audit", r.audited())
		w.check()
		for _, q := range iss.Requests("") {
			secrets := strings.Contains(fmt.Sprint(q.Header["Referer"], q.Header["Cookie"]), canary)
			if q.Method == "GET" && strings.Contains(q.Form.Encode(), canary) || secrets {
				t.Errorf("a secret is in a URL: %s %s", q.Method, q.Path)
			}
		}
		_ = filepath.WalkDir(r.home, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(raw), canary) {
				t.Errorf("%s still holds a secret after the logout", path)
			}
			return err
		})
	})
}

// TestStoredFilesArePrivate looks at what a login leaves while it lasts.
func TestStoredFilesArePrivate(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{Canary: canary})
	r := newRig(t, iss, t.TempDir())
	r.seed(t)
	if _, err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := r.stored(t).Tokens.RefreshToken
	found := 0
	_ = filepath.WalkDir(r.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(raw), token) {
			found++
			info, _ := d.Info()
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %#o", path, info.Mode().Perm())
			}
		}
		return err
	})
	if found != 1 {
		t.Errorf("the token lies in %d files", found)
	}
}

// TestDebuggersSeeNoSecret: the types that carry one hide it however printed.
func TestDebuggersSeeNoSecret(t *testing.T) {
	w := &watch{t: t}
	w.saw("types", Bearer{Token: canary}, &Bearer{Token: canary}, LentTokens{AccessToken: canary}, struct{ B Bearer }{Bearer{Token: canary}},
		secret.Auth{Mode: secret.ModePAT, PersonalAccessToken: canary})
	w.check()
}
