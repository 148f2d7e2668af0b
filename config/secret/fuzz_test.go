package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
)

func FuzzParse(f *testing.F) {
	for _, text := range written {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"tokens":{"id_token":null,"x":{"a":[1e400]}},"tokens2":"\ud800","last_refresh":"2026-01-01T00:00:00+02:00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsafe) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, again := range [][]byte{a.File(), a.Compact()} {
			if !json.Valid(again) {
				t.Fatalf("written as no JSON: %q", again)
			}
			if len(again) > maxStored {
				continue // indented, it may be larger than it was
			}
			c, err := Parse(again)
			if err != nil || c.id() != a.id() || c.Mode != a.Mode || !c.LastRefresh.Equal(a.LastRefresh) {
				t.Fatalf("%q is read back as %v, %v", again, c, err)
			}
			if !bytes.Equal(c.Compact(), a.Compact()) {
				t.Fatalf("not stable: %q and %q", c.Compact(), a.Compact())
			}
		}
	})
}

func FuzzClaims(f *testing.F) {
	f.Add("a.eyJlbWFpbCI6ImEiLCJleHAiOjFlOX0.c")
	f.Add(jwt(time.Unix(1900000000, 0)))
	f.Fuzz(func(t *testing.T, token string) {
		c, err := Claims(token)
		if err != nil {
			return
		}
		for _, s := range []string{c.Email, c.Subject, c.Issuer, c.AccountID, c.UserID, c.Plan, c.Workspace, c.WorkspaceID} {
			if strings.ContainsFunc(s, unicode.IsControl) || len([]rune(s)) > maxShown+1 {
				t.Fatalf("not fit to be shown: %q", s)
			}
		}
	})
}

func FuzzSealed(f *testing.F) {
	key := bytes.Repeat([]byte{1}, keySize)
	h := testHeader()
	whole, err := seal(h, key, []byte("content"))
	if err != nil {
		f.Fatal(err)
	}
	h.Argon = &argonCost{Time: 1, MemoryKiB: 8 << 10, Threads: 1}
	argon, err := seal(h, key, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(argon)
	f.Add([]byte(sealMagic + "{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := unseal(b, key, forCredential, h.Home)
		switch {
		case err == nil && string(plain) != "content" && len(plain) > 0: // the tests' own, sealed anew in every process
			t.Fatalf("opened what nobody closed: %q", plain)
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrWrongKey):
			t.Fatalf("an error of no kind: %v", err)
		}
		rest, ok := bytes.CutPrefix(b, []byte(journalMagic))
		if ok {
			_, _ = openPlainJournal(rest)
		}
		if _, now, err := parseEntry(b); err == nil && now.Empty() {
			t.Fatal("a journal of nothing")
		}
	})
}
