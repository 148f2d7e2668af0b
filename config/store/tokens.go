package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Limits on tokens.
const (
	// MaxTokens bounds those that count; a home that has more has a leak.
	MaxTokens = 1000
	// maxDeadTokens bounds the others, whatever their age; the oldest go first.
	maxDeadTokens = 2000
	// maxTokenSecrets bounds the secrets kept of one token; the oldest go first.
	maxTokenSecrets = 16
)

// What CreateToken, RotateToken and RevokeToken refuse.
var (
	ErrTokenName  = errors.New("another token that counts has this name")
	ErrTokenLimit = fmt.Errorf("there are %d tokens that count, and no more may be", MaxTokens)
	ErrTokenDead  = errors.New("the token does not count any more")
	ErrNoToken    = errors.New("there is no such token")
)

// Token is an access token, as a row. Times are Unix milliseconds, 0 for none.
type Token struct {
	ID        string
	Name      string
	Role      string
	Scope     []string // none: all that the role allows
	Networks  []string // none: any
	CreatedAt int64
	CreatedBy json.RawMessage
	IssuedAt  int64 // when ExpiresAt was decided
	ExpiresAt int64 // 0: never
	RevokedAt int64 // 0: not
	RevokedBy json.RawMessage
	UsedAt    int64
	UsedFrom  string
	Uses      int64
	Secrets   []TokenSecret // the current one first
}

// Counts reports whether the token does at the time at.
func (t Token) Counts(at int64) bool {
	return t.RevokedAt == 0 && (t.ExpiresAt == 0 || at < t.ExpiresAt)
}

// TokenSecret is what proves a token, as its hash.
type TokenSecret struct {
	N         int // 1 and up
	Hash      []byte
	CreatedAt int64
	EndsAt    int64 // 0: with the token
	UsedAt    int64
	Uses      int64
}

// TokenUse adds to what is known of the use of a secret.
type TokenUse struct {
	ID    string
	N     int
	At    int64 // the latest
	From  string
	Count int64
}

// liveToken is Token.Counts in SQL; its argument is the time.
const liveToken = `revoked_at = 0 AND (expires_at = 0 OR expires_at > ?)`

// CreateToken inserts a token with its secrets, unless one that counts has its name
// (ErrTokenName) or there are too many (ErrTokenLimit). When it returns nil the token
// survives a crash of the machine.
func (s *Store) CreateToken(ctx context.Context, t Token) error {
	scope, networks, err := lists(t)
	if err != nil {
		return err
	}
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		var named, live int
		row := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(name = ?), 0) FROM tokens WHERE `+liveToken, t.Name, t.CreatedAt)
		if err := row.Scan(&live, &named); err != nil {
			return err
		}
		switch {
		case named > 0:
			return ErrTokenName
		case live >= MaxTokens:
			return ErrTokenLimit
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', 0, '', 0)`,
			t.ID, t.Name, t.Role, scope, networks, t.CreatedAt, string(t.CreatedBy), t.IssuedAt, t.ExpiresAt); err != nil {
			return err
		}
		for _, sec := range t.Secrets {
			if err := putSecret(ctx, tx, t.ID, sec); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store token: %w", err)
	}
	return s.wrote(ctx)
}

func lists(t Token) (scope, networks string, err error) {
	marshal := func(list []string) string {
		b, e := json.Marshal(append([]string{}, list...))
		err = errors.Join(err, e)
		return string(b)
	}
	return marshal(t.Scope), marshal(t.Networks), err
}

func putSecret(ctx context.Context, tx *sql.Tx, id string, sec TokenSecret) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO token_secrets VALUES (?, ?, ?, ?, ?, 0, 0)`, id, sec.N, sec.Hash, sec.CreatedAt, sec.EndsAt)
	return err
}

// Rotation is a new secret for a token.
type Rotation struct {
	ID     string
	At     int64
	Hash   []byte
	OldEnd int64 // when the secrets until now stop to count, at the latest
	// Renew, when true, has the token expire at ExpiresAt from now on.
	Renew     bool
	ExpiresAt int64
}

// RotateToken gives a token that counts a new secret (else ErrNoToken, ErrTokenDead)
// and returns its row.
func (s *Store) RotateToken(ctx context.Context, r Rotation) (t Token, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if t, err = oneToken(ctx, tx, r.ID); err != nil {
			return err
		}
		if !t.Counts(r.At) {
			return ErrTokenDead
		}
		if _, err := tx.ExecContext(ctx, `UPDATE token_secrets SET ends_at = ?2 WHERE token_id = ?1 AND (ends_at = 0 OR ends_at > ?2)`, r.ID, r.OldEnd); err != nil {
			return err
		}
		n := 1
		if len(t.Secrets) > 0 {
			n = t.Secrets[0].N + 1
		}
		if err := putSecret(ctx, tx, r.ID, TokenSecret{N: n, Hash: r.Hash, CreatedAt: r.At}); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM token_secrets WHERE token_id = ? AND n <= ?`, r.ID, n-maxTokenSecrets); err != nil {
			return err
		}
		if r.Renew {
			if _, err := tx.ExecContext(ctx, `UPDATE tokens SET issued_at = ?, expires_at = ? WHERE id = ?`, r.At, r.ExpiresAt, r.ID); err != nil {
				return err
			}
		}
		t, err = oneToken(ctx, tx, r.ID)
		return err
	})
	if err != nil {
		return Token{}, fmt.Errorf("rotate token: %w", err)
	}
	return t, s.wrote(ctx)
}

// RevokeToken ends a token and returns its row. One that is revoked already stays
// as it was; one that has expired can be revoked.
func (s *Store) RevokeToken(ctx context.Context, id string, at int64, by json.RawMessage) (t Token, err error) {
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE tokens SET revoked_at = ?, revoked_by = ? WHERE id = ? AND revoked_at = 0`, at, string(by), id); err != nil {
			return err
		}
		t, err = oneToken(ctx, tx, id)
		return err
	})
	if err != nil {
		return Token{}, fmt.Errorf("revoke token: %w", err)
	}
	return t, s.wrote(ctx)
}

// Token reads one token; ErrNoToken when there is none.
func (s *Store) Token(ctx context.Context, id string) (Token, error) {
	rows, err := s.token.QueryContext(ctx, id)
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	t, err := theToken(scanTokens(rows))
	if err != nil {
		return Token{}, fmt.Errorf("read token: %w", err)
	}
	return t, nil
}

// Tokens lists all tokens, those revoked or expired as well, the latest first.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, err := s.db.QueryContext(ctx, allTokens)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	out, err := scanTokens(rows)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return out, nil
}

// NoteTokenUses adds what is known of uses. Tokens that are gone are passed over.
func (s *Store) NoteTokenUses(ctx context.Context, uses []TokenUse) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, u := range uses {
			if _, err := tx.ExecContext(ctx, `UPDATE tokens SET uses = uses + ?2, used_from = iif(?3 >= used_at, ?4, used_from), used_at = max(used_at, ?3) WHERE id = ?1`,
				u.ID, u.Count, u.At, u.From); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE token_secrets SET uses = uses + ?3, used_at = max(used_at, ?4) WHERE token_id = ?1 AND n = ?2`,
				u.ID, u.N, u.Count, u.At); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store token uses: %w", err)
	}
	return nil
}

// Version changes when another process has changed the database.
func (s *Store) Version(ctx context.Context) (v int64, err error) {
	if err := s.db.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&v); err != nil {
		return 0, fmt.Errorf("read the database's version: %w", err)
	}
	return v, nil
}

// inTx runs f in a transaction that no other process writes beside.
func (s *Store) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Tokens are read with their secrets in one statement, so that what it says was true
// at one moment. tokenByID is prepared: each connection that shows a token asks it.
const (
	tokenRows = `SELECT t.id, t.name, t.role, t.scope, t.networks, t.created_at, t.created_by, t.issued_at, t.expires_at,
			t.revoked_at, t.revoked_by, t.used_at, t.used_from, t.uses,
			coalesce(s.n, 0), s.hash, coalesce(s.created_at, 0), coalesce(s.ends_at, 0), coalesce(s.used_at, 0), coalesce(s.uses, 0)
		FROM tokens t LEFT JOIN token_secrets s ON s.token_id = t.id`
	allTokens  = tokenRows + tokenOrder
	tokenByID  = tokenRows + ` WHERE t.id = ?` + tokenOrder
	tokenOrder = ` ORDER BY t.created_at DESC, t.rowid DESC, s.n DESC`
)

func oneToken(ctx context.Context, tx *sql.Tx, id string) (Token, error) {
	rows, err := tx.QueryContext(ctx, tokenByID, id)
	if err != nil {
		return Token{}, err
	}
	return theToken(scanTokens(rows))
}

func theToken(all []Token, err error) (Token, error) {
	if err == nil && len(all) == 0 {
		err = ErrNoToken
	}
	if err != nil {
		return Token{}, err
	}
	return all[0], nil
}

// scanTokens reads rows and closes them.
func scanTokens(rows *sql.Rows) ([]Token, error) {
	defer func() { _ = rows.Close() }() // Err below tells what went wrong
	var out []Token
	for rows.Next() {
		var t Token
		var sec TokenSecret
		var scope, networks, createdBy, revokedBy string
		if err := rows.Scan(&t.ID, &t.Name, &t.Role, &scope, &networks, &t.CreatedAt, &createdBy, &t.IssuedAt, &t.ExpiresAt,
			&t.RevokedAt, &revokedBy, &t.UsedAt, &t.UsedFrom, &t.Uses,
			&sec.N, &sec.Hash, &sec.CreatedAt, &sec.EndsAt, &sec.UsedAt, &sec.Uses); err != nil {
			return nil, err
		}
		if len(out) == 0 || out[len(out)-1].ID != t.ID {
			if err := errors.Join(json.Unmarshal([]byte(scope), &t.Scope), json.Unmarshal([]byte(networks), &t.Networks)); err != nil {
				return nil, fmt.Errorf("token %s: %w", t.ID, err)
			}
			t.CreatedBy = json.RawMessage(createdBy)
			if revokedBy != "" {
				t.RevokedBy = json.RawMessage(revokedBy)
			}
			out = append(out, t)
		}
		if sec.N > 0 {
			last := &out[len(out)-1]
			last.Secrets = append(last.Secrets, sec)
		}
	}
	return out, rows.Err()
}

// pruneTokens is the part of Prune that is about tokens; its argument is the time.
func pruneTokens(at int64) []prune {
	return []prune{
		{`DELETE FROM tokens WHERE max(revoked_at, iif(expires_at > 0 AND expires_at <= ?1, expires_at, 0)) BETWEEN 1 AND ?1 - ` +
			fmt.Sprint(KeepDeadTokens.Milliseconds()), at},
		{`DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE NOT (` + strings.Replace(liveToken, "?", "?1", 1) + `)
			ORDER BY created_at DESC LIMIT -1 OFFSET ` + fmt.Sprint(maxDeadTokens) + `)`, at},
	}
}
