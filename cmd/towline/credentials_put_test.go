package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"towline/appserver/account/issuertest"
	"towline/config"
	"towline/config/secret"
	"towline/forward/custody"
)

func (r *twoEnds) put(g given, replace bool) (custody.Stored, error) {
	rw, err := r.direct(context.Background())
	must(r.t, err)
	st, err := custody.Put(r.t.Context(), rw, "host", g.kind, g.value, g.fingerprint, replace)
	r.served.Wait()
	return st, err
}

func TestPutStoresWhereTheHostKeepsCredentials(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	t.Setenv("CODEX_AUTHAPI_BASE_URL", r.issuer.URL)
	const key, pat = "sk-0123456789abcdef-key", "at-0123456789abcdef"
	r.issuer.AddPAT(pat, issuertest.User{Email: "ci@example.com", AccountID: "acct-ci"})

	g, err := checked(custody.KindAPIKey, key, "host")
	must(t, err)
	st, err := r.put(g, false)
	must(t, err)
	if a := r.has(r.host); a.APIKey != key || st.Mode != "apikey" || st.Store != "file" || st.Fingerprint != g.fingerprint {
		t.Errorf("%+v, %v", st, a)
	}
	info, err := os.Stat(st.Path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", st.Path, info.Mode())
	}

	g, err = checked(custody.KindAccessToken, pat, "host")
	must(t, err)
	st, err = r.put(g, false) // in the place of the key
	must(t, err)
	if a := r.has(r.host); a.PersonalAccessToken != pat || st.Mode != string(secret.ModePAT) || st.Account != "ci@example.com" {
		t.Errorf("%+v, %v", st, a)
	}
	g, err = checked(custody.KindAccessToken, "at-unknown", "host")
	must(t, err)
	if _, err := r.put(g, false); err == nil {
		t.Error("a token that nobody knows is stored")
	}
	if a := r.has(r.host); a.PersonalAccessToken != pat {
		t.Error("the one before it is gone")
	}

	g, err = checked(custody.KindTowline, "tow_0123456789", "host")
	must(t, err)
	st, err = r.put(g, false)
	must(t, err)
	raw, err := os.ReadFile(r.host.paths.ClientToken())
	must(t, err)
	if string(raw) != "tow_0123456789" || st.Path != r.host.paths.ClientToken() || st.Fingerprint != g.fingerprint {
		t.Errorf("%+v, %q", st, raw)
	}
	if a := r.has(r.host); a.PersonalAccessToken != pat {
		t.Error("the login is gone")
	}
	count := map[string]int{}
	for _, n := range r.notes {
		count[n]++
	}
	if count["credential.put"] != 3 || count["credential.put.refused"] != 1 {
		t.Errorf("audit: %q", r.notes)
	}
}

func TestPutDoesNotLoseALogin(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	_, err := r.mover(r.direct).Move(t.Context())
	must(t, err)
	g, err := checked(custody.KindAPIKey, "sk-0123456789", "host")
	must(t, err)
	_, err = r.put(g, false)
	if err == nil || !strings.Contains(err.Error(), "a ChatGPT login of grace@example.com") || !strings.Contains(strings.Join(config.Hints(err), " "), "--replace") {
		t.Errorf("%v", err)
	}
	r.settled("host")
	_, err = r.put(g, true)
	must(t, err)
	if r.has(r.host).Mode != secret.ModeAPIKey {
		t.Error("it was not replaced")
	}
}

func TestPutThatPolicyForbids(t *testing.T) {
	r := newTwoEnds(t, issuertest.Options{})
	h := r.receiving()
	defer h.close()
	h.creds.policy.LoginMethods.Set = true
	h.creds.policy.LoginMethods.Value = []string{"api"}
	h.creds.policy.LoginMethods.From = "/etc/towline/requirements.toml"
	err := h.Consider(t.Context(), r.has(r.laptop), false)
	var p *config.Problem
	if !errors.As(err, &p) || p.Stage != "policy" || p.Exit != config.ExitDenied || !strings.Contains(err.Error(), "/etc/towline/requirements.toml") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsClearlySomethingElseIsNotSent(t *testing.T) {
	login := secret.Auth{Mode: secret.ModeChatGPT, Tokens: &secret.Tokens{IDToken: "i", AccessToken: "a", RefreshToken: "rt-canary"}}
	for name, tc := range map[string]struct {
		kind custody.Kind
		text string
		want string
	}{
		"a whole login":      {custody.KindAPIKey, string(login.File()), "a ChatGPT login is not copied"},
		"a login as a token": {custody.KindAccessToken, string(login.Compact()), "a ChatGPT login is not copied"},
		"other JSON":         {custody.KindAPIKey, `{"key":"sk-canary"}`, "more than a key"},
		"two lines":          {custody.KindAPIKey, "sk-canary\nsk-2", "more than a key"},
		"a token as a key":   {custody.KindAPIKey, "at-canary", "use --access-token"},
		"a key as a token":   {custody.KindAccessToken, "sk-canary", "use --api-key"},
	} {
		_, err := checked(tc.kind, tc.text, "dev")
		all := fmt.Sprint(err, config.Hints(err))
		if err == nil || !strings.Contains(all, tc.want) || strings.Contains(all, "canary") {
			t.Errorf("%s: %s", name, all)
		}
	}
	for _, way := range []string{"`towline login dev`", "`towline credentials move dev`", "`towline dev --lend-credentials`"} {
		if !strings.Contains(strings.Join(config.Hints(notCopied("dev")), "\n"), way) {
			t.Errorf("%s is not offered", way)
		}
	}
}

func TestReadCodexState(t *testing.T) {
	key := given{kind: custody.KindAPIKey, value: "sk-key-000000-123456"}
	pat := given{kind: custody.KindAccessToken, value: "at-1"}
	for text, want := range map[string][3]bool{ // ChatGPT, the key, the token
		"Logged in using ChatGPT":                                 {true, false, false},
		"Logged in using an API key - sk-key-0***23456":           {false, true, false},
		"API key configured - sk-key-0***23456":                   {false, true, false},
		"API key configured - sk-other***23456":                   {false, false, false},
		"API key configured - sk-key-0***99999":                   {false, false, false},
		"Logged in using personal access token":                   {false, false, true},
		"Not logged in":                                           {false, false, false},
		"WARNING: proxy\nAPI key configured - sk-key-0***23456\n": {false, true, false},
		"": {false, false, false},
	} {
		st := readCodexState(text)
		if got := [3]bool{st.chatgpt, st.is(key), st.is(pat)}; got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
