package account

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
)

func TestTokenIsUsedWhileItLasts(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	if _, err := r.Token(t.Context()); !errors.Is(err, ErrNotLoggedIn) || len(config.Hints(err)) == 0 {
		t.Errorf("before any login: %v", err)
	}
	a := r.seed(t)
	b, err := r.Token(t.Context())
	if err != nil || b.Token != a.Tokens.AccessToken || b.AccountID != "acct-tow" || b.Mode != secret.ModeChatGPT || b.Expires.IsZero() {
		t.Errorf("%v, %v", b, err)
	}
	if iss.Rotated() != 0 {
		t.Error("it was refreshed for nothing")
	}
}

// TestRefreshIsCodexsOwn: the request, and what is stored after it.
func TestRefreshIsCodexsOwn(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{AccessTTL: time.Hour})
	now := time.Now()
	r := newRig(t, iss, t.TempDir(), func(c *Config) { c.Now = func() time.Time { return now } })
	a := r.seed(t)
	now = now.Add(56 * time.Minute) // closer to its end than five minutes
	b, err := r.Token(t.Context())
	if err != nil || b.Token == a.Tokens.AccessToken || !iss.Valid(b.Token) {
		t.Fatalf("%v, %v", b, err)
	}
	req := iss.Requests("/oauth/token")
	want := fmt.Sprintf(`{"client_id":"client-tow","grant_type":"refresh_token","refresh_reason":"scheduled","refresh_token":%q}`, a.Tokens.RefreshToken)
	if len(req) != 1 || req[0].Body != want || req[0].Header.Get("Content-Type") != "application/json" {
		t.Errorf("asked %d times, with another body than Codex's", len(req))
	}
	got := r.stored(t)
	if got.Tokens.AccessToken != b.Token || got.Tokens.RefreshToken == a.Tokens.RefreshToken || got.Tokens.LoginOwnerID != "owner-of-this-login" ||
		got.Tokens.AccountID != "acct-tow" || !got.LastRefresh.Equal(now.UTC()) {
		t.Errorf("stored %v", got)
	}
	if !strings.Contains(r.audited(), "credential.refresh") {
		t.Errorf("audited %q", r.audited())
	}
}

func TestRefreshURLOverride(t *testing.T) {
	iss, other := issuertest.Start(t, issuertest.Options{}), issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir(), func(c *Config) {
		c.Environ(func(name string) string {
			return map[string]string{
				"CODEX_REFRESH_TOKEN_URL_OVERRIDE": other.URL + "/oauth/token", "CODEX_REVOKE_TOKEN_URL_OVERRIDE": other.URL + "/oauth/revoke",
			}[name]
		})
	})
	r.seed(t)
	if _, err := r.Refresh(t.Context()); err == nil || other.Count("/oauth/token") != 1 || iss.Count("/oauth/token") != 0 {
		t.Errorf("asked the issuer %d times, the override %d: %v", iss.Count("/oauth/token"), other.Count("/oauth/token"), err)
	}
	if ok, err := r.Logout(t.Context()); !ok || err != nil || len(other.Revoked()) != 1 {
		t.Errorf("logout: %v %v, revoked at the override: %d", ok, err, len(other.Revoked()))
	}
}

// TestManyAskAtOnce: one request, whoever asks.
func TestManyAskAtOnce(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	home := t.TempDir()
	one, two := newRig(t, iss, home), newRig(t, iss, home) // as two daemons on one home
	a := one.seed(t)
	used := one.bearer(a)
	iss.ExpireAccess()
	var wg sync.WaitGroup
	got := make([]Bearer, 20)
	for i := range got {
		wg.Go(func() {
			r := one
			if i%2 == 0 {
				r = two
			}
			var err error
			if got[i], err = r.Rejected(t.Context(), used); err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i, b := range got {
		if b.Token != got[0].Token || !iss.Valid(b.Token) {
			t.Errorf("caller %d got another token", i)
		}
	}
	if iss.Rotated() != 1 || iss.Reused() != 0 {
		t.Errorf("the refresh token was used %d times, reused %d", iss.Rotated(), iss.Reused())
	}
}

// TestTwoProcessesRefreshOnce: real processes, and an issuer that ends the login when
// a refresh token comes twice.
func TestTwoProcessesRefreshOnce(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	home := t.TempDir()
	r := newRig(t, iss, home)
	r.seed(t)
	for round := range 3 {
		iss.ExpireAccess()
		var hs []*helper
		for range 4 {
			hs = append(hs, startHelper(t, "rejected", home, iss.URL))
		}
		for _, h := range hs {
			fmt.Fprintln(h.in, "go")
		}
		tokens := map[string]bool{}
		for _, h := range hs {
			word, token, _ := strings.Cut(h.line(t), " ")
			if word != "got" || !iss.Valid(token) {
				t.Fatalf("round %d: %s %s", round, word, strings.ReplaceAll(token, "eyJ", "…"))
			}
			tokens[token] = true
		}
		if len(tokens) != 1 || iss.Rotated() != round+1 || iss.Reused() != 0 {
			t.Errorf("round %d: %d tokens, rotated %d times, reused %d", round, len(tokens), iss.Rotated(), iss.Reused())
		}
	}
	if _, err := r.Token(t.Context()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestKilledBetweenReceivingAndStoring: the login goes on with what was received.
func TestKilledBetweenReceivingAndStoring(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	home := t.TempDir()
	r := newRig(t, iss, home)
	old := r.seed(t)
	c := helperCommand(t, "killed", home, iss.URL)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("it was not killed: %v %s", err, out)
	}
	if iss.Rotated() != 1 {
		t.Fatalf("rotated %d times", iss.Rotated())
	}
	b, err := r.Token(t.Context())
	if err != nil || b.Token == old.Tokens.AccessToken || !iss.Valid(b.Token) {
		t.Fatalf("%v, %v", b, err)
	}
	if _, err := r.Refresh(t.Context()); err != nil || iss.Reused() != 0 || iss.Rotated() != 2 {
		t.Errorf("the next refresh: %v; reused %d", err, iss.Reused())
	}
}

// TestStoreThatWillNotTakeIt: the token is spent, so memory keeps what replaced it.
func TestStoreThatWillNotTakeIt(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	was := r.seed(t)
	good := r.cfg.Store
	noFolder := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(noFolder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.cfg.Store = openStore(t, noFolder)
	now, err := r.askRefresh(t.Context(), was, reasonForced)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.keep(t.Context(), was, now); err != nil {
		t.Fatal(err)
	}
	r.cfg.Store = good
	if got := r.stored(t); got.Tokens.RefreshToken != was.Tokens.RefreshToken {
		t.Fatal("it was stored after all")
	}
	if b, err := r.Token(t.Context()); err != nil || b.Token != now.Tokens.AccessToken {
		t.Errorf("the new token is lost: %v", err)
	}
	if _, err := r.Refresh(t.Context()); err != nil || iss.Reused() != 0 {
		t.Errorf("the next refresh: %v", err)
	}
	if got := r.stored(t); got.Tokens.RefreshToken == was.Tokens.RefreshToken {
		t.Error("the next refresh did not store")
	}
}

func TestOutageKeepsTheLogin(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	now := time.Now()
	r := newRig(t, iss, t.TempDir(), func(c *Config) { c.Now = func() time.Time { return now } })
	a := r.seed(t)
	now = now.Add(57 * time.Minute)
	iss.Fail("/oauth/token", 1, 503, `{"error":"busy"}`)
	if b, err := r.Token(t.Context()); err != nil || b.Token != a.Tokens.AccessToken {
		t.Errorf("a token that still lasts: %v, %v", b, err)
	}
	iss.Down(true)
	now = now.Add(10 * time.Minute)
	_, err := r.Token(t.Context())
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLoginExpired) || len(config.Hints(err)) == 0 {
		t.Errorf("an expired one: %v", err)
	}
	iss.Down(false)
	if b, err := r.Token(t.Context()); err != nil || b.Token == a.Tokens.AccessToken {
		t.Errorf("after the outage: %v, %v", b, err)
	}
}

// TestUsedRefreshToken is what a copied auth.json leads to: who may have rotated it
// is named, and what to do.
func TestUsedRefreshToken(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	here, copied := t.TempDir(), t.TempDir()
	r := newRig(t, iss, here)
	r.seed(t)
	raw, err := os.ReadFile(filepath.Join(here, "auth.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "auth.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newRig(t, iss, copied).Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = r.Refresh(t.Context())
	if !errors.Is(err, ErrLoginExpired) || !errors.Is(err, ErrRotated) {
		t.Fatalf("error %v", err)
	}
	text := err.Error() + strings.Join(config.Hints(err), " ")
	for _, want := range []string{"already used", "another holder", "last refresh at", "login owner-of", "towline login"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not say %q", text, want)
		}
	}
	asked := iss.Count("/oauth/token")
	if _, err := r.Token(t.Context()); !errors.Is(err, ErrRotated) || iss.Count("/oauth/token") != asked {
		t.Errorf("asked again about a login that is over: %v", err)
	}
	if st, err := r.Status(t.Context()); err != nil || st.Ended == nil {
		t.Errorf("status: %+v, %v", st, err)
	}
	// A login from anywhere ends that: here another process stores one.
	waited := make(chan error, 1)
	go func() { waited <- r.AwaitLogin(t.Context()) }()
	newRig(t, iss, here).seed(t)
	select {
	case err := <-waited:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the new login was not seen")
	}
	if _, err := r.Token(t.Context()); err != nil {
		t.Errorf("after the new login: %v", err)
	}
}

func TestRevokedAndExpiredLogins(t *testing.T) {
	for name, tc := range map[string]struct{ answer, want string }{
		"ended":         {`{"error":{"code":"refresh_token_invalidated"}}`, "ended at"},
		"too old":       {`{"error":{"code":"refresh_token_expired"}}`, "too long"},
		"plain OAuth":   {`{"error":"invalid_grant","error_description":"no"}`, "invalid_grant"},
		"nothing known": {`<html>`, "401"},
	} {
		t.Run(name, func(t *testing.T) {
			synced(t, KindOpenAI, issuertest.Options{}, func(t *testing.T, r *rig) {
				r.seed(t)
				r.iss.Fail("/oauth/token", 1, 401, tc.answer)
				if _, err := r.Refresh(t.Context()); !errors.Is(err, ErrLoginExpired) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// TestLostAnswer: the issuer rotated, and the answer broke off. The next attempt says
// what happened instead of accusing somebody.
func TestLostAnswer(t *testing.T) {
	synced(t, KindOpenAI, issuertest.Options{}, func(t *testing.T, r *rig) {
		r.seed(t)
		r.iss.Fail("/oauth/token", 1, 0, "")
		if _, err := r.Refresh(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("error %v", err)
		}
		r.iss.Fail("/oauth/token", 1, 401, `{"error":{"code":"refresh_token_reused"}}`)
		if _, err := r.Refresh(t.Context()); !errors.Is(err, ErrRotated) || !strings.Contains(err.Error(), "never arrived") {
			t.Errorf("error %v", err)
		}
	})
}

// TestLockIsHeldElsewhere: somebody else refreshes and hangs.
func TestLockIsHeldElsewhere(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	home := t.TempDir()
	r := newRig(t, iss, home)
	r.seed(t)
	startHelper(t, "locked", home, iss.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := r.lock(ctx)
	if err == nil {
		t.Fatal("two hold the lock")
	}
	if iss.Count("/oauth/token") != 0 {
		t.Error("it was refreshed without the lock")
	}
}

func TestNoRefreshToken(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	a := r.seed(t)
	tokens := *a.Tokens
	tokens.RefreshToken = ""
	a.Tokens = &tokens
	if _, err := r.cfg.Store.Save(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if st, err := r.Status(t.Context()); err != nil || st.Renews {
		t.Errorf("status %+v, %v", st, err)
	}
	if _, err := r.Rejected(t.Context(), r.bearer(a)); !errors.Is(err, ErrLoginExpired) || !strings.Contains(err.Error(), "without a refresh token") {
		t.Errorf("error %v", err)
	}
}
