package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

// StateOpen is the state of an approval nobody has answered; every other state is
// closed and subject to pruning.
const StateOpen = "open"

// Approval is one question to a person, as a row. Times are Unix milliseconds.
type Approval struct {
	ID        string
	Identity  string // equal for two deliveries of the same question
	ThreadID  string
	TurnID    string
	ItemID    string
	RequestID json.RawMessage
	Method    string
	Params    json.RawMessage
	Item      json.RawMessage // nil when unknown
	State     string
	OpenedAt  int64
	ClosedAt  int64           // 0 while open
	By        json.RawMessage // nil when nobody answered through us
	Result    json.RawMessage // nil until answered
}

// PutApproval inserts the row, or replaces the one with the same ID. When it
// returns nil the row survives a crash of the machine.
func (s *Store) PutApproval(ctx context.Context, a Approval) error {
	_, err := s.db.ExecContext(ctx, `INSERT OR REPLACE INTO approvals
		(id, identity, thread_id, turn_id, item_id, request_id, method, params, item, state, opened_at, closed_at, answered_by, result)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		a.ID, a.Identity, a.ThreadID, a.TurnID, a.ItemID, string(a.RequestID), a.Method, string(a.Params), nullable(a.Item),
		a.State, a.OpenedAt, a.ClosedAt, nullable(a.By), nullable(a.Result))
	if err != nil {
		return fmt.Errorf("store approval: %w", err)
	}
	return s.wrote(ctx)
}

// ApprovalFilter selects approvals; zero members select everything.
type ApprovalFilter struct {
	ThreadID string
	State    string
	Limit    int // 0: 1000
}

// Approvals lists approvals, open ones first, then the latest.
func (s *Store) Approvals(ctx context.Context, f ApprovalFilter) ([]Approval, error) {
	if f.Limit <= 0 {
		f.Limit = 1000
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id, identity, thread_id, turn_id, item_id, request_id, method, params, item, state,
			opened_at, closed_at, answered_by, result FROM approvals
		WHERE (?1 = '' OR thread_id = ?1) AND (?2 = '' OR state = ?2)
		ORDER BY state <> 'open', opened_at DESC, rowid DESC LIMIT ?3`, f.ThreadID, f.State, f.Limit)
	if err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err below tells what went wrong
	var out []Approval
	for rows.Next() {
		var a Approval
		var reqID, params string
		var item, by, result sql.NullString
		if err := rows.Scan(&a.ID, &a.Identity, &a.ThreadID, &a.TurnID, &a.ItemID, &reqID, &a.Method, &params, &item, &a.State,
			&a.OpenedAt, &a.ClosedAt, &by, &result); err != nil {
			return nil, fmt.Errorf("list approvals: %w", err)
		}
		a.RequestID, a.Params = json.RawMessage(reqID), json.RawMessage(params)
		a.Item, a.By, a.Result = raw(item), raw(by), raw(result)
		out = append(out, a)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	return out, nil
}

func nullable(b json.RawMessage) any {
	if b == nil {
		return nil
	}
	return string(b)
}

func raw(s sql.NullString) json.RawMessage {
	if !s.Valid {
		return nil
	}
	return json.RawMessage(s.String)
}
