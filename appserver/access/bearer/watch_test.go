package bearer

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

func lapsed(p access.Principal) bool {
	select {
	case <-p.Lapsed:
		return true
	default:
		return false
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	phone, shared := write(t, "phone", "first"), write(t, "shared", secret)
	a := open(t, Config{
		Capability: []Capability{
			{Name: "phone", File: phone, Role: protocol.RoleOperator, Scope: &access.Scope{Exec: true}},
			{Name: "tv", File: write(t, "tv", "other"), Role: protocol.RoleObserver},
		},
		JWT: []JWT{{Name: "s", SecretFile: shared, Codex: true, Role: protocol.RoleOperator}},
	})
	text := body(map[string]any{"exp": noon.Unix() + 60})
	good := func(header string) access.Principal {
		t.Helper()
		p, err := try(t, a, "Bearer "+header)
		if err != nil || lapsed(p) {
			t.Fatalf("%v", err)
		}
		return p
	}
	bad := func(header string) {
		t.Helper()
		if _, err := try(t, a, "Bearer "+header); err == nil {
			t.Fatalf("%q was let in", header)
		}
	}
	before, tv, jwt := good("first"), good("other"), good(signed(text))
	if before.ID != "capability phone" || before.Kind != access.KindToken || before.Name != "phone" || !before.Scope.Exec || tv.Role != protocol.RoleObserver {
		t.Errorf("%+v, %+v", before, tv)
	}
	a.look()
	if lapsed(before) {
		t.Fatal("nothing changed")
	}
	write(t, phone, " first\n\n") // the same secret, written in another way
	a.look()
	if good("first"); lapsed(before) {
		t.Fatal("the secret is the same")
	}
	write(t, phone, "second")
	a.look()
	if bad("first"); !lapsed(before) || lapsed(tv) || lapsed(jwt) {
		t.Fatal("a new secret ends who came by the old one, and nobody else")
	}
	after := good("second")

	// A writer that has emptied it and not yet filled it.
	write(t, phone, "")
	a.look()
	if good("second"); lapsed(after) {
		t.Fatal("it was empty for one look")
	}
	write(t, phone, "second")
	a.look()
	write(t, phone, "")
	a.look()
	if good("second"); lapsed(after) {
		t.Fatal("it was empty for one look, twice")
	}
	a.look()
	if bad("second"); !lapsed(after) {
		t.Fatal("it stays empty")
	}
	write(t, phone, "second")
	a.look()
	good("second")

	// Taken away, and brought back; and a token that is remembered.
	if err := os.Remove(shared); err != nil {
		t.Fatal(err)
	}
	a.look()
	a.look()
	if bad(signed(text)); !lapsed(jwt) || lapsed(tv) {
		t.Fatal("a secret that was taken away")
	}
	write(t, shared, "too short")
	a.look()
	bad(signed(text))
	write(t, shared, secret)
	a.look()
	good(signed(text))
}

// A file that is a link into a folder that is exchanged, as Kubernetes mounts secrets.
func TestLinkedFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "token"), name)
	}
	link := filepath.Join(dir, "data")
	if err := os.Symlink("one", link); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	a := open(t, Config{Capability: []Capability{{Name: "k", File: filepath.Join(link, "token"), Role: protocol.RoleObserver}}})
	if _, err := try(t, a, "Bearer one"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("two", link+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"2", link); err != nil {
		t.Fatal(err)
	}
	a.look()
	if _, err := try(t, a, "Bearer two"); err != nil {
		t.Fatal(err)
	}
}

// A key that stays keeps its principals when another one goes.
func TestKeySetInAFile(t *testing.T) {
	k := testKeys()
	one, two := jwkOf(t, k[kindP256].Public(), "one", ""), jwkOf(t, k[kindEd25519].Public(), "two", "")
	cfg := keyFile(t, jwks(one, two), nil)
	a := open(t, cfg)
	first, err := try(t, a, "Bearer "+sign(t, "ES256", "one", k[kindP256], fresh(nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	second, err := try(t, a, "Bearer "+sign(t, "EdDSA", "two", k[kindEd25519], fresh(nil), nil))
	if err != nil {
		t.Fatal(err)
	}
	write(t, cfg.JWT[0].KeyFile, jwks(two))
	a.look()
	if !lapsed(first) || lapsed(second) {
		t.Error("the key that went is one, and the one that stays is two")
	}
}

// Run does the looking.
func TestRunEndsWhoseSecretWentAway(t *testing.T) {
	file := write(t, "f", "let me in")
	a := open(t, Config{Capability: []Capability{{Name: "x", File: file, Role: protocol.RoleObserver}}})
	run(t, a)
	p, err := try(t, a, "Bearer let me in")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Lapsed:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

func TestEndAtExpiry(t *testing.T) {
	k, c := testKeys()[kindP256], newClock()
	cfg := keyFile(t, pemOf(t, k.Public()), func(j *JWT) { j.EndAtExpiry = true })
	cfg.Now = c.now
	a := open(t, cfg)
	text := "Bearer " + sign(t, "ES256", "", k, fresh(map[string]any{"exp": noon.Unix() + 10}), nil)
	long := "Bearer " + sign(t, "ES256", "", k, fresh(nil), nil)
	p, err := try(t, a, text)
	q, err2 := try(t, a, text)
	l, err3 := try(t, a, long)
	if err != nil || err2 != nil || err3 != nil || p.Lapsed != q.Lapsed {
		t.Fatal(err, err2, err3)
	}
	c.add(40 * time.Second) // as long as a new connection would be let in
	a.look()
	if _, err := try(t, a, text); err != nil || lapsed(p) {
		t.Fatal("it ended too early", err)
	}
	c.add(time.Second)
	a.look()
	if _, err := try(t, a, text); outcome(err) != "401 "+sayExpired || !lapsed(p) || lapsed(l) {
		t.Fatalf("%s, lapsed: %v, the other: %v", outcome(err), lapsed(p), lapsed(l))
	}
	a.tidy()
	if n, m := len(a.proven.m), len(a.leases.m); n != 1 || m != 1 {
		t.Errorf("%d tokens and %d leases are remembered, want the one that goes on", n, m)
	}
	write(t, cfg.JWT[0].KeyFile, pemOf(t, testKeys()[kindP384].Public()))
	a.look()
	if !lapsed(l) {
		t.Error("its key was taken away")
	}
}

func TestLeasesAndTokensAreBounded(t *testing.T) {
	l := leases{m: map[sum]*lease{}}
	for i := range maxLeases {
		if _, err := l.take(sum{byte(i), byte(i >> 8)}, 10, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.take(sum{1, 2, 3}, 10, nil); err == nil {
		t.Error("one too many")
	}
	if _, err := l.take(sum{1}, 10, nil); err != nil {
		t.Error("one that is there:", err)
	}
	if l.sweep(11); len(l.m) != 0 {
		t.Errorf("%d are left", len(l.m))
	}
	c := cache{m: map[sum]*proven{}}
	k := newKey(kindEd25519, nil, nil)
	for i := range maxProven * 2 {
		c.put(sum{byte(i), byte(i >> 8)}, &proven{key: k})
	}
	if len(c.m) != maxProven || c.get(sum{255, 7}) == nil {
		t.Errorf("%d tokens are remembered", len(c.m))
	}
}
