package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// SetLastThread remembers where a principal is.
func (s *Store) SetLastThread(ctx context.Context, principal, threadID string) error {
	_, err := s.db.ExecContext(ctx, `INSERT OR REPLACE INTO last_thread (principal, thread_id, at) VALUES (?, ?, ?)`,
		principal, threadID, s.now().UnixMilli())
	if err != nil {
		return fmt.Errorf("store last thread: %w", err)
	}
	return s.wrote(ctx)
}

// LastThread says where a principal was; "" when nowhere.
func (s *Store) LastThread(ctx context.Context, principal string) (string, error) {
	var id string
	err := s.db.QueryRowContext(ctx, `SELECT thread_id FROM last_thread WHERE principal = ?`, principal).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read last thread: %w", err)
	}
	return id, nil
}

// ForgetThread clears a thread that is archived or deleted from everyone's
// last thread.
func (s *Store) ForgetThread(ctx context.Context, threadID string) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM last_thread WHERE thread_id = ?`, threadID); err != nil {
		return fmt.Errorf("forget thread: %w", err)
	}
	return nil
}
