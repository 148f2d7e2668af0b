package account

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"towline/appserver/account/issuertest"
)

func TestLogout(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	if ok, err := r.Logout(t.Context()); ok || err != nil {
		t.Errorf("nobody: %v %v", ok, err)
	}
	a := r.seed(t)
	if ok, err := r.Logout(t.Context()); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if got := iss.Revoked(); len(got) != 1 || got[0] != a.Tokens.RefreshToken {
		t.Errorf("revoked %d tokens", len(got))
	}
	if _, err := os.Stat(filepath.Join(r.home, "auth.json")); err == nil {
		t.Error("auth.json is still there")
	}
	if st, err := r.Status(t.Context()); err != nil || st.LoggedIn {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestLogoutWithoutAnIssuer(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	r.seed(t)
	iss.Down(true)
	if ok, err := r.Logout(t.Context()); !ok || !errors.Is(err, ErrNotRevoked) {
		t.Errorf("%v %v", ok, err)
	}
	if !r.stored(t).Empty() {
		t.Error("the login is still there")
	}
}

func TestLogoutOfWhatCannotBeRead(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	r := newRig(t, iss, t.TempDir())
	if err := os.WriteFile(filepath.Join(r.home, "auth.json"), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := r.Logout(t.Context()); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if st, err := r.Status(t.Context()); err != nil || st.LoggedIn {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestLogoutLeavesNothingElsewhere: the setting was changed after a login.
func TestLogoutLeavesNothingElsewhere(t *testing.T) {
	iss := issuertest.Start(t, issuertest.Options{})
	old := newRig(t, iss, t.TempDir())
	a := old.seed(t)
	r := newRig(t, iss, t.TempDir(), func(c *Config) { c.Elsewhere = append(c.Elsewhere, old.cfg.Store) })
	b := r.seed(t)
	if ok, err := r.Logout(t.Context()); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if !old.stored(t).Empty() || !r.stored(t).Empty() {
		t.Error("a login stays")
	}
	if got := iss.Revoked(); len(got) != 2 || got[0] != b.Tokens.RefreshToken || got[1] != a.Tokens.RefreshToken {
		t.Errorf("revoked %d tokens", len(got))
	}
	// And when only the older one is left, it counts as a login that was there.
	old.seed(t)
	if ok, err := r.Logout(t.Context()); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}
