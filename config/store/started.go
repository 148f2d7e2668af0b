package store

import (
	"context"
	"fmt"
)

// Limits on remembered threads.
const (
	// MaxStarted bounds the threads remembered of one principal, the newest kept:
	// a pipeline that runs every few minutes for a month stays below it.
	MaxStarted = 20_000
	// maxStartedAll bounds those of all principals.
	maxStartedAll = 200_000
)

// AddStarted remembers that a principal started a thread. It is on disk when
// AddStarted returns.
func (s *Store) AddStarted(ctx context.Context, principal, threadID string) error {
	_, err := s.db.ExecContext(ctx, `INSERT OR REPLACE INTO started (principal, thread_id, at) VALUES (?, ?, ?)`,
		principal, threadID, s.now().UnixMilli())
	if err != nil {
		return fmt.Errorf("store started thread: %w", err)
	}
	if s.writes.Add(1)%pruneEvery == 0 {
		return s.pruneStarted(ctx)
	}
	return nil
}

// Started lists the threads a principal has started, the newest first and at
// most MaxStarted.
func (s *Store) Started(ctx context.Context, principal string) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT thread_id FROM started WHERE principal = ? ORDER BY at DESC LIMIT ?`, principal, MaxStarted)
	if err != nil {
		return nil, fmt.Errorf("read started threads: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	var out []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("read started threads: %w", err)
		}
		out = append(out, id)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read started threads: %w", err)
	}
	return out, nil
}

// ForgetStarted clears a thread that was deleted from everyone's.
func (s *Store) ForgetStarted(ctx context.Context, threadID string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM started WHERE thread_id = ?`, threadID); err != nil {
		return fmt.Errorf("forget started thread: %w", err)
	}
	return nil
}

// pruneStarted lets the oldest of all go when there are too many.
func (s *Store) pruneStarted(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM started WHERE (principal, thread_id) IN (
		SELECT principal, thread_id FROM started ORDER BY at DESC LIMIT -1 OFFSET ?)`, maxStartedAll)
	if err != nil {
		return fmt.Errorf("prune started threads: %w", err)
	}
	return nil
}
