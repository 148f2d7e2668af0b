package bearer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

func tryFrom(a *Authenticator, from, header string) (access.Principal, *access.Refusal) {
	var ip netip.Addr
	if from != "unix" {
		ip = netip.MustParseAddr(from)
	}
	p, err := a.Authenticate(context.Background(), access.Attempt{Authorization: []string{header}, Source: ip, Via: "wss"})
	var ref *access.Refusal
	_ = errors.As(err, &ref)
	return p, ref
}

func guarded(t *testing.T, c *clock, audit Recorder) *Authenticator {
	return open(t, Config{
		Capability: []Capability{{Name: "x", File: write(t, "f", "let me in"), Role: protocol.RoleObserver}},
		JWT:        []JWT{codexMode(t, nil)}, Now: c.now, Audit: audit,
	})
}

const right, wrong = "Bearer let me in", "Bearer open sesame"

func TestLockout(t *testing.T) {
	c, audit := newClock(), &records{}
	a := guarded(t, c, audit)
	const here, other = "192.0.2.7", "192.0.2.8"
	status := func(from, header string) int {
		t.Helper()
		if _, ref := tryFrom(a, from, header); ref != nil {
			return ref.Status
		}
		return 200
	}
	for i := range 11 {
		if got := status(here, wrong); got != 401 {
			t.Fatalf("%d: %d", i, got)
		}
	}
	_, ref := tryFrom(a, here, right)
	if ref == nil || ref.Status != 429 || ref.RetryAfter != time.Second || ref.Body != sayLocked {
		t.Fatalf("a right one from a locked source: %+v", ref)
	}
	if got := status(other, right); got != 200 {
		t.Errorf("from elsewhere: %d", got)
	}
	// Doubled by each further failure, up to five minutes; what comes while it is
	// locked does not make it longer.
	for i := range 12 {
		lock := min(time.Second<<i, 5*time.Minute)
		for range 20 {
			if got := status(here, wrong); got != 429 {
				t.Fatalf("locked: %d", got)
			}
		}
		c.add(lock - time.Millisecond)
		if got := status(here, wrong); got != 429 {
			t.Fatalf("lock %d ended too early", i)
		}
		c.add(time.Millisecond)
		if got := status(here, right); got != 200 {
			t.Fatalf("after lock %d: %d", i, got)
		}
		if got := status(here, wrong); got != 401 {
			t.Fatalf("after lock %d: %d", i, got)
		}
	}
	c.add(16 * time.Minute)
	for i := range 11 {
		if got := status(here, wrong); got != 401 {
			t.Fatalf("it is forgotten, %d: %d", i, got)
		}
	}
	locks := 0
	for _, row := range audit.all() {
		if strings.HasPrefix(row, "auth.lockout") && strings.Contains(row, "192.0.2.7/32") {
			locks++
		}
	}
	if locks != 14 {
		t.Errorf("%d lockouts in the audit: %q", locks, audit.all())
	}
}

// Anybody on this machine can make loopback fail; it must not lock out its owner.
func TestLockoutOnLoopback(t *testing.T) {
	for _, from := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "unix"} {
		c := newClock()
		a := guarded(t, c, nil)
		for range 101 {
			if _, ref := tryFrom(a, from, wrong); ref.Status != 401 {
				t.Fatalf("%s: %+v", from, ref)
			}
		}
		if _, ref := tryFrom(a, from, wrong); ref.Status != 429 || ref.RetryAfter != time.Second {
			t.Errorf("%s: a wrong one: %+v", from, ref)
		}
		if _, ref := tryFrom(a, from, right); ref != nil {
			t.Errorf("%s: a right one: %+v", from, ref)
		}
	}
}

func TestWhatIsNoGuess(t *testing.T) {
	c := newClock()
	a := guarded(t, c, nil)
	for _, header := range []string{"", "Basic dTpw", "Bearer ", "Bearer " + signed(`{"exp":1,"sub":"late"}`)} {
		for range 50 {
			if _, ref := tryFrom(a, "192.0.2.9", header); ref.Status != 401 {
				t.Fatalf("%.30q: %+v", header, ref)
			}
		}
	}
}

func TestSources(t *testing.T) {
	c := newClock()
	a := guarded(t, c, nil)
	for i := range 11 {
		tryFrom(a, fmt.Sprintf("2001:db8:1:2::%x", i), wrong)
	}
	for from, locked := range map[string]bool{"2001:db8:1:2:ffff::1": true, "2001:db8:1:3::1": false, "192.0.2.1": false} {
		if _, ref := tryFrom(a, from, right); (ref != nil) != locked {
			t.Errorf("%s: %+v", from, ref)
		}
	}
	for range 11 {
		tryFrom(a, "::ffff:192.0.2.1", wrong)
	}
	if _, ref := tryFrom(a, "192.0.2.1", right); ref == nil || ref.Status != 429 {
		t.Error("a mapped address is another source than the address")
	}
}

func TestSourcesAreBounded(t *testing.T) {
	l := lockout{Lockout: Lockout{}.withDefaults(), sources: map[netip.Prefix]*failures{}}
	c := newClock()
	p := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	for i := range maxSources * 2 {
		c.add(time.Millisecond)
		l.failed(p(i), false, c.now())
	}
	early := 0
	for i := range maxSources {
		if l.sources[p(i)] != nil {
			early++
		}
	}
	if len(l.sources) != maxSources || early > maxSources/4 || l.sources[p(maxSources*2-1)] == nil {
		t.Errorf("%d sources, %d of them early ones", len(l.sources), early)
	}
	c.add(time.Hour)
	l.failed(p(0), false, c.now())
	l.forget(c.now())
	if len(l.sources) != 1 {
		t.Errorf("%d sources after an hour", len(l.sources))
	}
}

func TestRefusalsAreRecordedWithinBounds(t *testing.T) {
	c, audit := newClock(), &records{}
	a := guarded(t, c, audit)
	for range 1000 {
		tryFrom(a, "127.0.0.1", "Basic x")
	}
	if n := len(audit.all()); n != 30 {
		t.Fatalf("%d records at once", n)
	}
	c.add(4 * time.Second)
	for range 10 {
		tryFrom(a, "127.0.0.1", "Basic x")
	}
	rows := audit.all()
	if len(rows) != 32 || !strings.Contains(rows[30], "unsaid=970") || strings.Contains(rows[31], "unsaid") {
		t.Errorf("%d records, %q", len(rows), rows[30:])
	}
}

// book is a TokenVerifier.
type book map[string]access.Principal

func (b book) Verify(_ context.Context, text string, src netip.Addr) (access.Principal, error) {
	p, ok := b[text]
	if !ok {
		return p, refuse(sayToken, "no such token")
	}
	if src == elsewhere {
		return access.Principal{}, &access.Refusal{Status: 403, Body: "not from there", Why: "not from there", Who: p}
	}
	return p, nil
}

func TestAccessTokens(t *testing.T) {
	who := access.Principal{Kind: access.KindToken, ID: "abc", Name: "ci", Role: protocol.RoleOperator}
	a := open(t, Config{Tokens: book{"twl_good": who, "other": who}, JWT: []JWT{codexMode(t, nil)}, Capability: []Capability{{Name: "x", File: write(t, "f", "twl_like one"), Role: protocol.RoleObserver}}})
	for header, want := range map[string]string{
		"Bearer twl_good":     "ok",
		"Bearer twl_bad":      "401 " + sayToken,
		"Bearer other":        "401 " + sayToken, // not asked about
		"Bearer twl_like one": "ok",
		"Bearer a.b.c":        "401 " + sayJWT,
	} {
		if _, err := try(t, a, header); outcome(err) != want {
			t.Errorf("%s: got %s, want %s", header, outcome(err), want)
		}
	}
	for range 50 { // who is known and in the wrong place does not guess
		if _, ref := tryFrom(a, elsewhere.String(), "Bearer twl_good"); ref == nil || ref.Status != 403 || ref.Who.ID != "abc" {
			t.Fatalf("%+v", ref)
		}
	}
	both := open(t, Config{Tokens: book{}, JWT: []JWT{codexMode(t, nil)}})
	if _, err := try(t, both, "Bearer x"); outcome(err) != "401 "+sayJWT {
		t.Error(outcome(err))
	}
	only := open(t, Config{Tokens: book{}})
	if _, err := try(t, only, "Bearer a.b.c"); outcome(err) != "401 "+sayToken {
		t.Error(outcome(err))
	}
}

// An access token has more bits than anybody guesses: who has a right one is let in
// from an address that somebody else behind it had locked out, and a wrong one is
// no way to find out whether the lock is over.
func TestARightAccessTokenPassesALockedSource(t *testing.T) {
	c := newClock()
	who := access.Principal{Kind: access.KindToken, ID: "x", Name: "ci", Role: protocol.RoleOperator}
	a := open(t, Config{
		Tokens: book{"twl_good": who}, Now: c.now,
		Capability: []Capability{{Name: "x", File: write(t, "f", "let me in"), Role: protocol.RoleObserver}},
	})
	const here = "192.0.2.70"
	for range 30 {
		_, _ = tryFrom(a, here, wrong)
	}
	if _, ref := tryFrom(a, here, right); ref == nil || ref.Status != 429 {
		t.Fatalf("not locked: %+v", ref)
	}
	if p, ref := tryFrom(a, here, "Bearer twl_good"); ref != nil || p.ID != "x" {
		t.Errorf("a right access token: %+v", ref)
	}
	if _, ref := tryFrom(a, here, "Bearer twl_bad"); ref == nil || ref.Status != 429 {
		t.Errorf("a wrong one: %+v", ref)
	}
}
