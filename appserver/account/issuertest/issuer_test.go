package issuertest

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
)

// client is an OAuth client that has nothing to do with ours.
func client(i *Issuer) *oauth2.Config {
	return &oauth2.Config{
		ClientID: "independent", RedirectURL: "http://127.0.0.1:9/cb", Scopes: []string{"openid", "offline_access"},
		Endpoint: oauth2.Endpoint{
			AuthURL: i.URL + "/oauth/authorize", TokenURL: i.URL + "/oauth/token", DeviceAuthURL: i.URL + "/oauth/device",
			AuthStyle: oauth2.AuthStyleInParams,
		},
	}
}

func TestAnIndependentClientLogsIn(t *testing.T) {
	i := Start(t, Options{ClientID: "independent"})
	c := client(i)
	verifier := oauth2.GenerateVerifier()
	code := func() string {
		t.Helper()
		back, err := i.Decide(t.Context(), c.AuthCodeURL("state-1", oauth2.S256ChallengeOption(verifier)), true)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(back, "http://127.0.0.1:9/cb?") || !strings.Contains(back, "state=state-1") {
			t.Fatalf("sent back to %s", back)
		}
		_, after, _ := strings.Cut(back, "code=")
		word, _, _ := strings.Cut(after, "&")
		return word
	}
	if _, err := c.Exchange(t.Context(), code(), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("another verifier was accepted")
	}
	one := code()
	tok, err := c.Exchange(t.Context(), one, oauth2.VerifierOption(verifier))
	if err != nil || !i.Valid(tok.AccessToken) || tok.Extra("id_token") == nil {
		t.Fatalf("exchange: %v", err)
	}
	if _, err := c.Exchange(t.Context(), one, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was accepted twice")
	}

	other, err := c.Exchange(t.Context(), code(), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	other.Expiry = time.Now().Add(-time.Minute)
	fresh, err := c.TokenSource(t.Context(), other).Token()
	if err != nil || fresh.RefreshToken == other.RefreshToken || i.Rotated() != 1 {
		t.Fatalf("refresh: %v", err)
	}
	var refused *oauth2.RetrieveError
	if _, err := c.TokenSource(t.Context(), other).Token(); !errors.As(err, &refused) || i.Reused() != 1 {
		t.Errorf("a used refresh token: %v", err)
	}
	fresh.Expiry = time.Now().Add(-time.Minute)
	if _, err := c.TokenSource(t.Context(), fresh).Token(); err == nil {
		t.Error("the login outlived the reuse")
	}
}

func TestAnIndependentDeviceLogsIn(t *testing.T) {
	i := Start(t, Options{DeviceInterval: time.Second})
	c := client(i)
	d, err := c.DeviceAuth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !i.EnterCode(d.UserCode, true) || i.EnterCode(d.UserCode, true) {
		t.Error("a code is typed once")
	}
	tok, err := c.DeviceAccessToken(t.Context(), d)
	if err != nil || !i.Valid(tok.AccessToken) {
		t.Errorf("%v", err)
	}
}

func TestConsentMayBeDenied(t *testing.T) {
	i := Start(t, Options{})
	back, err := i.Decide(t.Context(), client(i).AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())), false)
	if err != nil || !strings.Contains(back, "error=access_denied") {
		t.Errorf("%s %v", back, err)
	}
}

func TestFailures(t *testing.T) {
	i := Start(t, Options{})
	ask := func() (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.URL+"/jwks", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	i.Fail("/jwks", 1, 503, "")
	if s, err := ask(); s != 503 || err != nil {
		t.Errorf("%d %v", s, err)
	}
	i.Down(true)
	if _, err := ask(); err == nil {
		t.Error("it answered")
	}
	i.Down(false)
	if s, err := ask(); s != 200 || err != nil || i.Count("/jwks") != 3 {
		t.Errorf("%d %v, counted %d", s, err, i.Count("/jwks"))
	}
}
