package token

import (
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config/managed"
	"towline/config/store"
)

func TestPrincipalOfAToken(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci"})
	if got := c.Secrets; len(got) != 1 || got[0].N != 1 || got[0].State != SecretCurrent {
		t.Errorf("secrets %+v", got)
	}
	if left := time.Until(c.ExpiresAt); c.Role != protocol.RoleOperator || strings.Join(c.Scope, " ") != "exec" || left > DefaultLifetime || left < DefaultLifetime-time.Minute {
		t.Errorf("unless asked for more it is %s, %v, for %s", c.Role, c.Scope, left)
	}
	p := r.verify(c.Secret)
	if p.Kind != access.KindToken || p.ID != c.ID || p.Name != "ci" || p.Role != protocol.RoleOperator || p.Scope == nil || !p.Scope.Exec || p.Lapsed == nil {
		t.Errorf("principal %+v", p)
	}
	other := r.create(CreateParams{Name: "screen", Role: protocol.RoleObserver})
	if p := r.verify(other.Secret); p.Scope != nil || p.Role != protocol.RoleObserver {
		t.Errorf("an observer is %+v", p)
	}
}

func TestWhatARefusedTokenHears(t *testing.T) {
	r := newRig(t)
	ci := r.create(CreateParams{Name: "ci"})
	short := r.create(CreateParams{Name: "short", Lifetime: "1h"})
	bound4 := r.create(CreateParams{Name: "bound", Networks: []string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.7"}})
	gone := r.create(CreateParams{Name: "gone"})
	if _, err := r.m.Revoke(t.Context(), admin, "gone"); err != nil {
		t.Fatal(err)
	}
	old := r.create(CreateParams{Name: "turned"})
	lapped := r.create(CreateParams{Name: "lapped"})
	for name, overlap := range map[string]string{"turned": "", "lapped": "2h"} {
		if _, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: name, Overlap: overlap}); err != nil {
			t.Fatal(err)
		}
	}
	r.verify(lapped.Secret) // both count for a while
	r.pass(90 * time.Minute)
	local := netip.Addr{}
	for name, tc := range map[string]struct {
		text   string
		from   netip.Addr
		status int // 0: it counts
		body   string
	}{
		"right":                   {ci.Secret, here, 0, ""},
		"right, by a unix socket": {ci.Secret, local, 0, ""},
		"nothing":                 {"", here, 401, bodyInvalid},
		"no token":                {"hunter2", here, 401, bodyInvalid},
		"mistyped":                {ci.Secret[:63] + "?", here, 401, bodyInvalid},
		"made up":                 {newText(newID()), here, 401, bodyInvalid},
		"made up for a known id":  {newText(ci.ID), here, 401, bodyInvalid},
		"made up for a dead one":  {newText(gone.ID), here, 401, bodyInvalid},
		"another's secret":        {newText(ci.ID)[:secretAt] + gone.Secret[secretAt:], here, 401, bodyInvalid},
		"revoked":                 {gone.Secret, here, 401, bodyRevoked},
		"expired":                 {short.Secret, here, 401, bodyExpired},
		"rotated out":             {old.Secret, here, 401, bodySuperseded},
		"rotated out, in overlap": {lapped.Secret, here, 0, ""},
		"in its network":          {bound4.Secret, netip.MustParseAddr("10.9.9.9"), 0, ""},
		"the same, mapped":        {bound4.Secret, netip.MustParseAddr("::ffff:10.9.9.9"), 0, ""},
		"in its IPv6 network":     {bound4.Secret, netip.MustParseAddr("2001:db8::1"), 0, ""},
		"its one address":         {bound4.Secret, netip.MustParseAddr("192.0.2.7"), 0, ""},
		"beside its one address":  {bound4.Secret, netip.MustParseAddr("192.0.2.8"), 403, bodyNetwork},
		"from elsewhere":          {bound4.Secret, netip.MustParseAddr("11.0.0.1"), 403, bodyNetwork},
		"this machine is no 10/8": {bound4.Secret, local, 403, bodyNetwork},
		"forged, from elsewhere":  {newText(bound4.ID), netip.MustParseAddr("11.0.0.1"), 401, bodyInvalid},
		"with a zone":             {bound4.Secret, netip.MustParseAddr("fe80::1%eth0"), 403, bodyNetwork},
	} {
		p, err := r.m.Verify(t.Context(), tc.text, tc.from)
		if tc.status == 0 {
			if err != nil || p.Kind != access.KindToken {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
			continue
		}
		var no *access.Refusal
		if !errors.As(err, &no) || no.Status != tc.status || no.Body != tc.body {
			t.Errorf("%s: %v (%+v), want %d %s", name, err, no, tc.status, tc.body)
			continue
		}
		if p.Kind != "" || p.Role != protocol.RoleNone {
			t.Errorf("%s: refused, and is %+v", name, p)
		}
		// Who has no right secret learns nothing of whose it would be.
		if known := no.Who.ID != ""; known != (tc.body != bodyInvalid) {
			t.Errorf("%s: it is said to be of %q", name, no.Who.ID)
		}
		if tc.text != "" && strings.Contains(no.Why+no.Body, tc.text) {
			t.Errorf("%s: the secret is in the refusal", name)
		}
	}
	r.pass(time.Hour) // and the overlap is over
	if _, err := r.m.Verify(t.Context(), lapped.Secret, here); err == nil || err.(*access.Refusal).Body != bodySuperseded {
		t.Errorf("after its overlap an old secret hears %v", err)
	}
	for _, e := range r.audited() {
		for _, c := range []Created{ci, short, bound4, gone, old, lapped} {
			if strings.Contains(e, c.Secret[secretAt:]) {
				t.Errorf("a secret is in the audit: %s", e[:40])
			}
		}
	}
}

// A forged token for an id that exists, and for one that does not, must not be
// told apart, or ids and what became of them could be tried out.
func TestForgedTokensAreAllAlike(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci"})
	_, unknown := r.m.Verify(t.Context(), newText(newID()), here)
	_, forged := r.m.Verify(t.Context(), newText(c.ID), here)
	a, b := unknown.(*access.Refusal), forged.(*access.Refusal)
	if a.Status != b.Status || a.Body != b.Body || a.Why != b.Why || a.RetryAfter != b.RetryAfter || a.Who.Key() != b.Who.Key() || a.Status != http.StatusUnauthorized {
		t.Errorf("%+v, and %+v", a, b)
	}
	if got := r.audited(); len(got) != 1 { // its creation
		t.Errorf("strangers write the audit: %v", got)
	}
}

func TestUseIsNotedAndSurvives(t *testing.T) {
	r := newRig(t)
	c := r.create(CreateParams{Name: "ci"})
	for range 3 {
		r.verify(c.Secret)
	}
	if _, err := r.m.Verify(t.Context(), c.Secret, netip.MustParseAddr("::ffff:192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	_, _ = r.m.Verify(t.Context(), newText(c.ID), here) // no use of it
	list, err := r.m.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Uses != 4 || list[0].LastUsedFrom != "192.0.2.1" || list[0].LastUsedAt.IsZero() || list[0].Secrets[0].Uses != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	// A process that runs writes it down by itself, for others to see.
	m := r.another()
	stop := r.run(m)
	if _, err := m.Verify(t.Context(), c.Secret, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	r.until("the use is noted", func() bool {
		s, err := r.m.Show(t.Context(), ShowParams{ID: "ci"})
		if err != nil {
			t.Fatal(err)
		}
		return s.Uses == 5 && s.LastUsedFrom == "local"
	})
	// And what it has not written yet when it ends.
	if _, err := m.Verify(t.Context(), c.Secret, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	stop()
	if s, err := r.m.Show(t.Context(), ShowParams{ID: "ci"}); err != nil || s.Uses != 6 {
		t.Errorf("%d uses, %v", s.Uses, err)
	}
}

// BenchmarkVerify is what a token adds to a connection.
func BenchmarkVerify(b *testing.B) {
	st, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "state", "towline.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	m, err := New(Config{Store: st, Policy: func() (managed.Policy, error) { return managed.Load(managed.Options{}) }})
	if err != nil {
		b.Fatal(err)
	}
	c, err := m.Create(b.Context(), admin, CreateParams{Name: "ci"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := m.Verify(b.Context(), c.Secret, here); err != nil {
			b.Fatal(err)
		}
	}
}
