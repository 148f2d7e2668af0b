package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func aToken(id, name string, at, expires int64) Token {
	return Token{
		ID: id, Name: name, Role: "operator", Scope: []string{"exec"}, Networks: []string{"10.0.0.0/8"},
		CreatedAt: at, IssuedAt: at, ExpiresAt: expires, CreatedBy: json.RawMessage(`{"name":"ana"}`),
		Secrets: []TokenSecret{{N: 1, Hash: []byte("hash of " + id), CreatedAt: at}},
	}
}

func TestTokensSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "towline.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().UnixMilli()
	want := aToken("a", "ci", at, at+10_000_000)
	if err := s.CreateToken(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if err := s.NoteTokenUses(t.Context(), []TokenUse{{"a", 1, at + 5, "10.0.0.1", 3}, {"a", 1, at + 2, "10.0.0.2", 1}, {"gone", 1, at, "x", 1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path, time.Now)
	want.UsedAt, want.UsedFrom, want.Uses = at+5, "10.0.0.1", 4
	want.Secrets[0].UsedAt, want.Secrets[0].Uses = at+5, 4
	if got, err := s.Token(t.Context(), "a"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v; wrote %+v", got, err, want)
	}
	if _, err := s.Token(t.Context(), "b"); !errors.Is(err, ErrNoToken) {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestTokenNamesAreUniqueWhileTheyCount(t *testing.T) {
	now := time.Now()
	s := openTest(t, filepath.Join(t.TempDir(), "state", "towline.db"), time.Now)
	at := now.UnixMilli()
	for _, step := range []struct {
		what string
		tok  Token
		want error
	}{
		{"the first", aToken("a", "ci", at, at+1000), nil},
		{"one with its name", aToken("b", "ci", at+999, 0), ErrTokenName},
		{"one with another name", aToken("c", "CI", at, 0), nil},
		{"one with its name when it has expired", aToken("d", "ci", at+1000, 0), nil},
		{"and again", aToken("e", "ci", at+1000, 0), ErrTokenName},
	} {
		if err := s.CreateToken(t.Context(), step.tok); !errors.Is(err, step.want) {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	if _, err := s.RevokeToken(t.Context(), "d", at+1001, json.RawMessage(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateToken(t.Context(), aToken("f", "ci", at+1002, 0)); err != nil {
		t.Errorf("one with the name of one that was revoked: %v", err)
	}
	// A refused one leaves nothing behind.
	if _, err := s.Token(t.Context(), "b"); !errors.Is(err, ErrNoToken) {
		t.Errorf("it is there: %v", err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	now := time.Now()
	s := openTest(t, filepath.Join(t.TempDir(), "state", "towline.db"), func() time.Time { return now })
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(id string, at, expires, revoked int64) {
		t.Helper()
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO tokens VALUES (?, ?, 'operator', '[]', '[]', ?, '{}', ?, ?, ?, '', 0, '', 0)`,
			id, id, at, at, expires, revoked); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO token_secrets VALUES (?, 1, x'00', 0, 0, 0, 0)`, id); err != nil {
			t.Fatal(err)
		}
	}
	ms := func(d time.Duration) int64 { return now.Add(d).UnixMilli() }
	put("live", 1, 0, 0)
	put("long expired", 1, ms(-KeepDeadTokens-time.Hour), 0)
	put("long revoked", 1, 0, ms(-KeepDeadTokens-time.Hour))
	put("expired", 2, ms(-KeepDeadTokens+time.Hour), 0)
	put("revoked", 2, ms(time.Hour), ms(-KeepDeadTokens+time.Hour))
	for i := range maxDeadTokens - 1 {
		put(fmt.Sprint("n", i), 3, ms(-time.Hour), 0)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all, secrets, gone int
	row := s.db.QueryRowContext(t.Context(), `SELECT count(*), (SELECT count(*) FROM token_secrets), sum(id IN ('long expired', 'long revoked')) FROM tokens`)
	if err := row.Scan(&all, &secrets, &gone); err != nil || all != maxDeadTokens+1 || secrets != all || gone != 0 {
		t.Errorf("%d tokens with %d secrets, %d that should be gone, %v", all, secrets, gone, err)
	}
	if _, err := s.Token(t.Context(), "live"); err != nil {
		t.Errorf("the one that counts: %v", err)
	}

	for i := range MaxTokens - 1 {
		if _, err := s.db.ExecContext(t.Context(), `INSERT INTO tokens VALUES (?1, ?1, 'operator', '[]', '[]', 1, '{}', 1, 0, 0, '', 0, '', 0)`, fmt.Sprint("l", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateToken(t.Context(), aToken("more", "more", ms(0), 0)); !errors.Is(err, ErrTokenLimit) {
		t.Errorf("one too many: %v", err)
	}
	for range 3 * maxTokenSecrets {
		if _, err := s.RotateToken(t.Context(), Rotation{ID: "live", At: ms(0), Hash: []byte("h"), OldEnd: ms(0)}); err != nil {
			t.Fatal(err)
		}
	}
	if tok, err := s.Token(t.Context(), "live"); err != nil || len(tok.Secrets) != maxTokenSecrets || tok.Secrets[0].N != 3*maxTokenSecrets+1 || tok.Secrets[0].EndsAt != 0 || tok.Secrets[1].EndsAt == 0 {
		t.Errorf("%+v, %v", tok.Secrets, err)
	}
}

// A rotation never lets an old secret count for longer than it would have.
func TestRotationOnlyShortens(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "state", "towline.db"), time.Now)
	if err := s.CreateToken(t.Context(), aToken("a", "ci", 1000, 0)); err != nil {
		t.Fatal(err)
	}
	for _, end := range []int64{5000, 9000, 4000} {
		if _, err := s.RotateToken(t.Context(), Rotation{ID: "a", At: 2000, Hash: []byte("h"), OldEnd: end}); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := s.Token(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	got := []int64{}
	for _, sec := range tok.Secrets {
		got = append(got, sec.EndsAt)
	}
	if want := []int64{0, 4000, 4000, 4000}; !reflect.DeepEqual(got, want) {
		t.Errorf("ends %v, want %v", got, want)
	}
	if _, err := s.RotateToken(t.Context(), Rotation{ID: "b", At: 1, Hash: []byte("h")}); !errors.Is(err, ErrNoToken) {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := s.RevokeToken(t.Context(), "b", 1, nil); !errors.Is(err, ErrNoToken) {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestVersionShowsWhatOthersChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "towline.db")
	mine, other := openTest(t, path, time.Now), openTest(t, path, time.Now)
	version := func() int64 {
		t.Helper()
		v, err := mine.Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	was := version()
	if err := mine.CreateToken(t.Context(), aToken("a", "ci", 1, 0)); err != nil {
		t.Fatal(err)
	}
	if now := version(); now != was {
		t.Error("a change of one's own counts as another's")
	}
	if _, err := other.RevokeToken(t.Context(), "a", 5, json.RawMessage(`{}`)); err != nil {
		t.Fatal(err)
	}
	if now := version(); now == was {
		t.Error("another's change is not seen")
	}
	if tok, err := mine.Token(t.Context(), "a"); err != nil || tok.RevokedAt != 5 {
		t.Errorf("%+v, %v", tok, err)
	}
}
