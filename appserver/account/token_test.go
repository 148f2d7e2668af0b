package account

import (
	"errors"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
)

func TestAPIKey(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	st, err := r.SetAPIKey(t.Context(), "  sk-abcdefghijklmnop1234567890\n")
	if err != nil || st.Mode != secret.ModeAPIKey || st.Masked != "sk-abcde***67890" {
		t.Fatalf("%+v, %v", st, err)
	}
	b, err := r.Token(t.Context())
	if err != nil || b.Token != "sk-abcdefghijklmnop1234567890" || b.AccountID != "" {
		t.Errorf("%v, %v", b, err)
	}
	if _, err := r.Rejected(t.Context(), b); !errors.Is(err, ErrLoginExpired) {
		t.Errorf("a key that was refused: %v", err)
	}
	if len(iss.Requests("")) != 0 {
		t.Error("the issuer was asked about a key")
	}
	for _, bad := range []string{"", " \n", "two words", "a\x1b[31m", "a\nb", strings.Repeat("x", maxSecret+1), "bad\xffutf8"} {
		_, err := r.SetAPIKey(t.Context(), bad)
		var p *config.Problem
		if !errors.As(err, &p) || p.Exit != config.ExitUsage || len(bad) > 4 && strings.Contains(err.Error(), bad) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if got := r.stored(t); got.APIKey != "sk-abcdefghijklmnop1234567890" {
		t.Error("a bad key replaced the good one")
	}
}

func TestMask(t *testing.T) {
	for key, want := range map[string]string{"sk-abcdefghijklmnop1234567890": "sk-abcde***67890", "short": "***", "thirteenchars": "***", "": "***"} {
		if got := mask(key); got != want {
			t.Errorf("mask(%q) = %q", key, got)
		}
	}
}

func TestPersonalAccessToken(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	iss.AddPAT("at-good", issuertest.User{Email: "pat@example.com", Subject: "user-pat", AccountID: "acct-pat", Plan: "team"})
	r := newRig(t, iss, t.TempDir())

	_, err := r.SetAccessToken(t.Context(), "at-refused")
	if !errors.Is(err, ErrLoginExpired) || errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "at-refused") {
		t.Errorf("a refused token: %v", err)
	}
	iss.Down(true)
	_, err = r.SetAccessToken(t.Context(), "at-good")
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLoginExpired) || strings.Contains(err.Error(), "at-good") {
		t.Errorf("an outage: %v", err)
	}
	iss.Down(false)
	if !r.stored(t).Empty() {
		t.Fatal("something unverified was stored")
	}
	st, err := r.SetAccessToken(t.Context(), "at-good\n")
	if err != nil || st.Mode != secret.ModePAT || st.Email != "pat@example.com" || st.AccountID != "acct-pat" {
		t.Fatalf("%+v, %v", st, err)
	}
	asked := iss.Count("/v1/user-auth-credential/whoami")
	for range 3 {
		if b, err := r.Token(t.Context()); err != nil || b.Token != "at-good" || b.AccountID != "acct-pat" {
			t.Errorf("%v, %v", b, err)
		}
	}
	if n := iss.Count("/v1/user-auth-credential/whoami"); n != asked {
		t.Errorf("asked %d times whose it is", n-asked)
	}
	if _, err := r.Verify(t.Context()); err != nil || iss.Count("/v1/user-auth-credential/whoami") != asked+1 {
		t.Errorf("verify: %v", err)
	}
}

// TestAccessTokenOfTheEnvironment stands before what is stored.
func TestAccessTokenOfTheEnvironment(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	iss.AddPAT("at-env", issuertest.User{Email: "env@example.com", AccountID: "acct-env"})
	r := newRig(t, iss, t.TempDir(), func(c *Config) {
		c.Environ(func(name string) string { return map[string]string{"CODEX_ACCESS_TOKEN": "at-env"}[name] })
	})
	r.seed(t)
	b, err := r.Token(t.Context())
	if err != nil || b.Token != "at-env" || b.AccountID != "acct-env" {
		t.Errorf("%v, %v", b, err)
	}
	st, err := r.Status(t.Context())
	if err != nil || st.Env != "CODEX_ACCESS_TOKEN" || st.Email != "env@example.com" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := r.Rejected(t.Context(), b); !errors.Is(err, ErrLoginExpired) || !strings.Contains(strings.Join(config.Hints(err), " "), "CODEX_ACCESS_TOKEN") {
		t.Errorf("refused: %v", err)
	}
}

func TestAgentIdentity(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{Alg: "RS256"})
	r := newRig(t, iss, t.TempDir())
	st, err := r.SetAccessToken(t.Context(), iss.AgentIdentity())
	if err != nil || st.Mode != secret.ModeAgent || st.AccountID != "acct-tow" {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := r.Token(t.Context()); err == nil || len(config.Hints(err)) == 0 {
		t.Errorf("a bearer of an agent identity: %v", err)
	}
	tok := iss.Login(issuertest.User{})
	for name, token := range map[string]string{"gibberish": "gibberish", "no agent": tok.Access, "cut off": tok.Access[:len(tok.Access)-8], "not ours": "eyJhbGciOiJub25lIn0.e30."} {
		if _, err := r.SetAccessToken(t.Context(), token); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
