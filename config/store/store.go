// Package store is Towline's small database: what must outlive the process and
// is not a conversation. It knows nothing of the protocol; rows hold strings and
// raw JSON, and whoever reads them knows what they mean.
//
// One file, SQLite in WAL mode, next to its -wal and -shm. The file is 0600 and
// its directory 0700; anything looser is refused, because approvals quote
// commands and file contents. Start at [Open].
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // registers the driver

	"towline/config/osfile"
)

// Limits on what the database keeps.
const (
	// KeepAnswered is how long a closed approval stays: long enough to look up
	// last month's decision, the audit file has the rest.
	KeepAnswered = 30 * 24 * time.Hour
	// MaxAnswered bounds closed approvals whatever their age.
	MaxAnswered = 10_000
	// KeepDeadTokens is how long a token that was revoked or has expired is listed.
	KeepDeadTokens = 90 * 24 * time.Hour
	// maxPrincipals bounds remembered last threads; the least recent go first.
	maxPrincipals = 10_000
	// pruneEvery spreads the cost of pruning over this many writes.
	pruneEvery = 256
	// busyTimeout is how long a write waits for another process on the file.
	busyTimeout = 5 * time.Second
)

// ErrLoose is wrapped by Open when others may read the file or its directory.
var ErrLoose = errors.New("permissions are too open")

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	db     *sql.DB
	token  *sql.Stmt // tokenByID
	now    func() time.Time
	writes atomic.Int64
}

// Open opens the database at path, creating it and its directory when missing,
// brings its tables up to date, and prunes. The caller closes it.
func Open(ctx context.Context, path string) (*Store, error) {
	return open(ctx, path, time.Now)
}

func open(ctx context.Context, path string, now func() time.Time) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("locate database: %w", err)
	}
	if err := secure(path); err != nil {
		return nil, err
	}
	// FULL: an approval counts as recorded only when it survives a power cut.
	// Such writes are as rare as people's decisions.
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "trusted_schema(0)",
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// One connection: SQLite has one writer anyway, and every statement here
	// takes microseconds.
	db.SetMaxOpenConns(1)
	s := &Store{db: db, now: now}
	if err := s.migrate(ctx); err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if err := s.Prune(ctx); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if s.token, err = db.PrepareContext(ctx, tokenByID); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return s, nil
}

// Close flushes and closes the file. It is idempotent.
func (s *Store) Close() error { return errors.Join(s.token.Close(), s.db.Close()) }

// secure makes the directory and the file private, or says why they are not.
// SQLite gives -wal and -shm the mode of the main file.
func secure(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	if err := private(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|osfile.NoFollow, 0o600)
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	_ = f.Close() // nothing was written
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if err := private(p, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func private(path string, want fs.FileMode) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if m := st.Mode().Perm(); m&^want != 0 && osfile.ModesMean {
		return fmt.Errorf("%s has mode %#o, want %#o: %w", path, m, want, ErrLoose)
	}
	if uid, ok := osfile.Owner(st); ok && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: %w", path, uid, ErrLoose)
	}
	return nil
}

// prune is a statement that deletes, with its argument.
type prune struct {
	sql string
	arg any
}

// Prune deletes what the limits no longer allow. Open and every few hundred
// writes do it by themselves.
func (s *Store) Prune(ctx context.Context) error {
	cut := s.now().Add(-KeepAnswered).UnixMilli()
	for _, q := range append(pruneTokens(s.now().UnixMilli()), []prune{
		{`DELETE FROM approvals WHERE state <> 'open' AND closed_at < ?`, cut},
		{`DELETE FROM approvals WHERE rowid IN (SELECT rowid FROM approvals WHERE state <> 'open'
			ORDER BY closed_at DESC, rowid DESC LIMIT -1 OFFSET ?)`, MaxAnswered},
		{`DELETE FROM last_thread WHERE rowid IN (SELECT rowid FROM last_thread
			ORDER BY at DESC LIMIT -1 OFFSET ?)`, maxPrincipals},
	}...) {
		if _, err := s.db.ExecContext(ctx, q.sql, q.arg); err != nil {
			return fmt.Errorf("prune: %w", err)
		}
	}
	return nil
}

func (s *Store) wrote(ctx context.Context) error {
	if s.writes.Add(1)%pruneEvery == 0 {
		return s.Prune(ctx)
	}
	return nil
}
