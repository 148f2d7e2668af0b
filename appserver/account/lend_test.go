package account

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/account/issuertest"
	"towline/config/managed"
)

func lent(iss *issuertest.Issuer) LentTokens {
	t := iss.Login(issuertest.User{})
	return LentTokens{AccessToken: t.Access, AccountID: t.AccountID, Plan: "pro"}
}

func TestLentTokensAreUsedAndForgotten(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	home := t.TempDir()
	r := newRig(t, iss, home)
	l := lent(iss)
	st, err := r.Lend(t.Context(), l, nil)
	if err != nil || !st.Lent || st.AccountID != "acct-tow" || st.Email != "grace@example.com" {
		t.Fatalf("%+v, %v", st, err)
	}
	if b, err := r.Token(t.Context()); err != nil || b.Token != l.AccessToken {
		t.Errorf("%v, %v", b, err)
	}
	if files, err := os.ReadDir(home); err != nil || len(files) != 0 {
		t.Errorf("a loan left files: %v %v", files, err)
	}
	if !r.Unlend() || r.Unlend() {
		t.Error("it was not taken back once")
	}
	if _, err := r.Token(t.Context()); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("after it was taken back: %v", err)
	}
}

func TestLenderIsAskedOnce(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	var asked atomic.Int32
	first := lent(iss)
	if _, err := r.Lend(t.Context(), first, func(_ context.Context, reason string) (LentTokens, error) {
		if reason != "unauthorized" {
			t.Errorf("reason %q", reason)
		}
		asked.Add(1)
		return lent(iss), nil
	}); err != nil {
		t.Fatal(err)
	}
	used, err := r.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if b, err := r.Rejected(t.Context(), used); err != nil || b.Token == used.Token {
				t.Errorf("%v, %v", b, err)
			}
		})
	}
	wg.Wait()
	if asked.Load() != 1 || iss.Rotated() != 0 {
		t.Errorf("the lender was asked %d times, the issuer %d", asked.Load(), iss.Rotated())
	}
}

func TestLoanIsRenewedBeforeItExpires(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	now := time.Now()
	r := newRig(t, iss, t.TempDir(), func(c *Config) { c.Now = func() time.Time { return now } })
	away := errors.New("the laptop sleeps")
	fail := true
	if _, err := r.Lend(t.Context(), lent(iss), func(_ context.Context, reason string) (LentTokens, error) {
		if fail {
			return LentTokens{}, away
		}
		if reason != "expired" {
			t.Errorf("reason %q", reason)
		}
		return lent(iss), nil
	}); err != nil {
		t.Fatal(err)
	}
	old, _ := r.Token(t.Context())
	now = now.Add(59*time.Minute + 30*time.Second)
	if b, err := r.Token(t.Context()); err != nil || b.Token != old.Token {
		t.Errorf("a token that still lasts: %v, %v", b, err)
	}
	now = now.Add(time.Minute)
	if _, err := r.Token(t.Context()); !errors.Is(err, ErrLoginExpired) || !errors.Is(err, away) {
		t.Errorf("an expired one: %v", err)
	}
	fail = false
	if b, err := r.Token(t.Context()); err != nil || b.Token == old.Token {
		t.Errorf("when the lender is back: %v, %v", b, err)
	}
}

func TestLoanKeepsItsAccount(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	if _, err := r.Lend(t.Context(), lent(iss), func(context.Context, string) (LentTokens, error) {
		other := lent(iss)
		other.AccountID = "acct-of-somebody-else"
		return other, nil
	}); err != nil {
		t.Fatal(err)
	}
	b, _ := r.Token(t.Context())
	if _, err := r.Rejected(t.Context(), b); err == nil {
		t.Error("the account changed under way")
	}
}

func TestLendingMayBeForbidden(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir(), withPolicy(managed.Policy{LendCredentials: managed.Mandate[bool]{Set: true, From: "/etc/towline/requirements.toml"}}))
	if _, err := r.Lend(t.Context(), lent(iss), nil); err == nil {
		t.Error("it was lent")
	}
}

// TestUnlendWhileAsking: a loan that is taken back while its lender is asked does not
// come back.
func TestUnlendWhileAsking(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	asking, goOn := make(chan struct{}), make(chan struct{})
	if _, err := r.Lend(t.Context(), lent(iss), func(context.Context, string) (LentTokens, error) {
		close(asking)
		<-goOn
		return lent(iss), nil
	}); err != nil {
		t.Fatal(err)
	}
	b, _ := r.Token(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _, _ = r.Rejected(t.Context(), b) }()
	<-asking
	r.Unlend()
	close(goOn)
	<-done
	if _, err := r.Token(t.Context()); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("after it was taken back: %v", err)
	}
}
