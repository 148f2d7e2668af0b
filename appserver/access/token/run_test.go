package token

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/config/store"
)

// Whatever ends a token ends its connections, and no other's.
func TestConnectionsEndWithTheirToken(t *testing.T) {
	r := newRig(t)
	elsewhere := r.another() // another process: what it does is seen in the database only
	r.run(r.m)
	rotate := func(m *Manager, overlap string) func(Created) {
		return func(c Created) {
			if _, err := m.Rotate(t.Context(), admin, RotateParams{ID: c.ID, Overlap: overlap}); err != nil {
				t.Error(err)
			}
		}
	}
	revoke := func(m *Manager) func(Created) {
		return func(c Created) {
			if _, err := m.Revoke(t.Context(), admin, c.ID); err != nil {
				t.Error(err)
			}
		}
	}
	bystander := r.verify(r.create(CreateParams{Name: "bystander"}).Secret)
	for _, tc := range []struct {
		name string
		end  func(Created)
	}{
		{"revoked here", revoke(r.m)},
		{"revoked by another process", revoke(elsewhere)},
		{"rotated here", rotate(r.m, "")},
		{"rotated by another process", rotate(elsewhere, "")},
		{"rotated, and the overlap is over", func(c Created) { rotate(elsewhere, "1h")(c); r.pass(time.Hour) }},
		{"expired", func(Created) { r.pass(5 * time.Hour) }},
	} {
		c := r.create(CreateParams{Name: "one", Lifetime: "5h"})
		p, q := r.verify(c.Secret), r.verify(c.Secret)
		r.stands("before it is "+tc.name, p)
		tc.end(c)
		r.lapses(tc.name, p)
		r.lapses(tc.name+", of its second connection", q)
		if _, err := r.m.Verify(t.Context(), c.Secret, here); err == nil {
			t.Errorf("%s: it counts", tc.name)
		}
		if _, err := r.m.Revoke(t.Context(), admin, c.ID); err != nil {
			t.Fatal(err)
		}
	}
	r.stands("of another token", bystander)

	// During an overlap those with the old secret stay.
	c := r.create(CreateParams{Name: "two"})
	old := r.verify(c.Secret)
	next, err := r.m.Rotate(t.Context(), admin, RotateParams{ID: "two", Overlap: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	now := r.verify(next.Secret)
	r.stands("in the overlap", old)
	r.pass(time.Hour)
	r.lapses("after the overlap", old)
	r.stands("with the new secret", now)
	if now.Key() != old.Key() {
		t.Errorf("a rotation made %s of %s", now.Key(), old.Key())
	}
}

func TestAPolicyBitesWhoIsConnected(t *testing.T) {
	r := newRig(t)
	r.run(r.m)
	p := r.verify(r.create(CreateParams{Name: "ci"}).Secret)
	admins := r.verify(r.create(CreateParams{Name: "root", Role: admin.Role}).Secret)
	r.policy("[tokens]\nallowed_roles = [\"operator\"]\n")
	r.pass(policyEvery)
	r.lapses("its role is not allowed any more", admins)
	r.policy("[tokens]\nallow = ")
	r.pass(policyEvery)
	if _, err := r.m.Verify(t.Context(), newText(p.ID), here); err == nil {
		t.Error("a forged token counts")
	}
	r.policy("[tokens]\nallow = false")
	r.pass(policyEvery)
	r.lapses("no tokens are allowed any more", p)
}

// A revocation must end also those who were just being let in.
func TestRevocationsRaceWithConnections(t *testing.T) {
	r := newRig(t)
	r.run(r.m)
	elsewhere := r.another()
	for i := range 10 {
		c := r.create(CreateParams{Name: "ci"})
		var wg sync.WaitGroup
		var mu sync.Mutex
		var in []access.Principal
		for range 8 {
			wg.Go(func() {
				for {
					p, err := r.m.Verify(t.Context(), c.Secret, here)
					if err != nil {
						var no *access.Refusal
						if !errors.As(err, &no) || no.Body != bodyRevoked {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					in = append(in, p)
					mu.Unlock()
				}
			})
		}
		by := []*Manager{r.m, elsewhere}[i%2]
		if _, err := by.Revoke(t.Context(), admin, c.ID); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for _, p := range in {
			r.lapses("revoked", p)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	r.run(r.m)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprint("t", i)
			c, err := r.m.Create(t.Context(), admin, CreateParams{Name: name})
			if err != nil {
				t.Error(err)
				return
			}
			for range 5 {
				if _, err := r.m.Verify(t.Context(), c.Secret, here); err != nil {
					t.Error(err)
				}
				if _, err := r.m.List(t.Context()); err != nil {
					t.Error(err)
				}
				if c, err = r.m.Rotate(t.Context(), admin, RotateParams{ID: name}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// One name, many who want it: one gets it.
	var mu sync.Mutex
	got := 0
	for range 8 {
		wg.Go(func() {
			if _, err := r.m.Create(t.Context(), admin, CreateParams{Name: "wanted"}); err == nil {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got != 1 {
		t.Errorf("%d tokens have one name", got)
	}
	list, err := r.m.List(t.Context())
	if err != nil || len(list) != 9 {
		t.Fatalf("%d tokens, %v", len(list), err)
	}
	for _, tok := range list {
		if tok.Name != "wanted" && (tok.Uses != 5 || len(tok.Secrets) != 6) {
			t.Errorf("%s was used %d times, has %d secrets", tok.Name, tok.Uses, len(tok.Secrets))
		}
	}
}

// changeTokensUntilKilled is another process: it creates, rotates and revokes, and
// says of each what it was told was done.
func changeTokensUntilKilled(path string) int {
	ctx := context.Background()
	st, err := store.Open(ctx, path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m, err := New(Config{Store: st})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := 0; ; i++ {
		c, err := m.Create(ctx, admin, CreateParams{Name: fmt.Sprint("k", i)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("created", c.Secret)
		switch i % 3 {
		case 1:
			next, err := m.Rotate(ctx, admin, RotateParams{ID: c.ID})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			fmt.Println("ended", c.Secret)
			fmt.Println("created", next.Secret)
		case 2:
			if _, err := m.Revoke(ctx, admin, c.ID); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			fmt.Println("ended", c.Secret)
		}
	}
}

// What a process was told is done holds after kill -9, whatever it was just doing.
func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	r := newRig(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ended, after := map[string]bool{}, map[string]int{}
	for n := range 4 {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), "TOWLINE_TEST_TOKENS_OF="+r.path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for in := bufio.NewScanner(out); in.Scan(); {
			what, secret, ok := strings.Cut(in.Text(), " ")
			if !ok || !Looks(secret) {
				continue // cut by the kill
			}
			ended[secret] = what == "ended"
			after[secret] = n
			if seen++; seen == 5+7*n {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if seen < 5+7*n {
			t.Fatalf("the other process ended by itself after %d", seen)
		}
		for secret, over := range ended {
			if after[secret] != n {
				continue
			}
			row, err := r.m.cfg.Store.Token(t.Context(), secret[len(prefix):secretAt-1])
			if err != nil {
				t.Fatalf("a token that was created is gone: %v", err)
			}
			sec, ok := match(row, Hash(secret))
			if !ok {
				t.Errorf("the secret of %s is not known any more", row.Name)
			}
			if over && row.RevokedAt == 0 && sec.EndsAt == 0 {
				t.Errorf("%s was ended, and is not", row.Name)
			}
		}
		for _, tok := range mustList(t, r.m) { // names are free again for the next
			if tok.State == StateLive {
				if _, err := r.m.Revoke(t.Context(), admin, tok.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func mustList(t *testing.T, m *Manager) []Token {
	t.Helper()
	list, err := m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}
