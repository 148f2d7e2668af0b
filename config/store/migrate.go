package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sort"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer is returned by Open for a database that a newer Towline has changed:
// going on would lose what that version wrote.
var ErrNewer = errors.New("the database was written by a newer towline")

// migrate applies the files of migrations/ in name order, each in one
// transaction with its entry in the version table. Version n is the n-th file;
// files are never edited once released.
func (s *Store) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	sort.Strings(names)
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS version (n INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT`); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	var have int
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(n), 0) FROM version`).Scan(&have); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if have > len(names) {
		return fmt.Errorf("version %d, this build knows %d: %w", have, len(names), ErrNewer)
	}
	for n := have + 1; n <= len(names); n++ {
		text, err := migrations.ReadFile(names[n-1])
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return fmt.Errorf("migrate %s: %w", names[n-1], err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO version VALUES (?, ?)`, n, s.now().UnixMilli()); err != nil {
			return fmt.Errorf("migrate %s: %w", names[n-1], err)
		}
	}
	return tx.Commit()
}
