package token

import (
	"slices"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

// Whoever has an administrator's token for a day, or in one network, must not get
// one for ever, or for everywhere, out of it.
func TestSecurityTokensOfTokensAreNoWiderThanThese(t *testing.T) {
	r := newRig(t)
	make := func(by access.Principal, p CreateParams) (Created, error) { return r.m.Create(t.Context(), by, p) }
	must := func(c Created, err error) Created {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	denied := func(what string, err error, says string) {
		t.Helper()
		if config.ExitCode(err) != config.ExitDenied || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	office := must(make(admin, CreateParams{Name: "office", Role: protocol.RoleAdmin, Lifetime: "1d", Networks: []string{"10.1.0.0/16", "fd00::/64"}}))
	root := must(make(admin, CreateParams{Name: "root", Role: protocol.RoleAdmin, Lifetime: Never}))
	lan := must(make(admin, CreateParams{Name: "lan", Role: protocol.RoleAdmin, Lifetime: "1h", Networks: []string{"10.0.0.0/8"}}))
	by := access.Principal{Kind: access.KindToken, ID: office.ID, Name: office.Name, Role: protocol.RoleAdmin}

	for name, networks := range map[string][]string{"everywhere": {"0.0.0.0/0", "::/0"}, "a wider one": {"10.0.0.0/8"}, "one of two": {"10.1.2.0/24", "10.2.0.0/24"}} {
		_, err := make(by, CreateParams{Name: "wide", Networks: networks})
		denied(name, err, "10.1.0.0/16")
	}
	if c := must(make(by, CreateParams{Name: "inside", Networks: []string{"10.1.2.3"}})); !slices.Equal(c.Networks, []string{"10.1.2.3/32"}) {
		t.Error(c.Networks)
	}
	// Who says nothing gets the same.
	if c := must(make(by, CreateParams{Name: "same"})); !slices.Equal(c.Networks, office.Networks) || c.ExpiresAt.After(office.ExpiresAt) {
		t.Error(c.Networks, c.ExpiresAt, office.ExpiresAt)
	}
	_, err := r.m.Rotate(t.Context(), by, RotateParams{ID: root.ID})
	denied("the secret of one that lasts longer", err, "outlast")
	_, err = r.m.Rotate(t.Context(), by, RotateParams{ID: lan.ID})
	denied("the secret of one that may come from elsewhere", err, "10.1.0.0/16")
	if _, err := r.m.Rotate(t.Context(), by, RotateParams{ID: "inside"}); err != nil {
		t.Error("one that is narrower:", err)
	}
	if _, err := r.m.Rotate(t.Context(), by, RotateParams{ID: office.ID, Overlap: "1h"}); err != nil {
		t.Error("itself:", err)
	}
	_, err = r.m.Rotate(t.Context(), by, RotateParams{ID: office.ID, Lifetime: "30d"})
	denied("itself for longer", err, "outlast")
	r.pass(2 * time.Hour)
	if _, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: root.ID}); err != nil {
		t.Error("a person:", err)
	}
}

// Whatever is sent for the hash of a token, the host stays.
func TestSecurityHashesOfAnyLength(t *testing.T) {
	r := newRig(t)
	c, err := r.m.Create(t.Context(), admin, CreateParams{Name: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 62, 63, 65, 66, 128, 1 << 16} {
		if _, err := r.m.Show(t.Context(), ShowParams{ID: c.ID, Hash: strings.Repeat("a", n)}); config.ExitCode(err) != config.ExitUsage {
			t.Errorf("%d digits: %v", n, err)
		}
	}
}
