package gate

import (
	"context"
	"sync"

	"towline/config/store"
)

// A daemon that is succeeded keeps its gate before the engine whose turns end in
// it: only the gate knows what runs there now, and tells the successor, which is a
// client like any other. What is remembered and recorded is the successor's to do.
type quiet struct {
	mu     sync.Mutex // guards what follows
	held   chan struct{}
	silent bool
}

// Hold keeps what is to be stored waiting until GoAhead or Silence.
func (g *Gate) Hold() {
	g.quiet.mu.Lock()
	defer g.quiet.mu.Unlock()
	if g.quiet.held == nil {
		g.quiet.held = make(chan struct{})
	}
}

// GoAhead undoes Hold.
func (g *Gate) GoAhead() { g.quiet.decide(false) }

// Silence stores and records nothing any more: a successor does.
func (g *Gate) Silence() { g.quiet.decide(true) }

func (q *quiet) decide(silent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.silent = silent
	if q.held != nil {
		close(q.held)
		q.held = nil
	}
}

// pass waits while the gate is held, and reports whether it may store.
func (q *quiet) pass(ctx context.Context) (bool, error) {
	for {
		q.mu.Lock()
		held, silent := q.held, q.silent
		q.mu.Unlock()
		if held == nil {
			return !silent, nil
		}
		select {
		case <-held:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// isHeld: everybody leaves at once, and what they saw last is still to be told.
func (q *quiet) isHeld() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held != nil
}

func (q *quiet) isSilent() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.silent
}

// quietStore is a Store as the gate has it.
type quietStore struct {
	Store
	q *quiet
}

func (s quietStore) PutApproval(ctx context.Context, a store.Approval) error {
	if ok, err := s.q.pass(ctx); !ok {
		return err
	}
	return s.Store.PutApproval(ctx, a)
}

func (s quietStore) SetLastThread(ctx context.Context, principal, threadID string) error {
	if ok, err := s.q.pass(ctx); !ok {
		return err
	}
	return s.Store.SetLastThread(ctx, principal, threadID)
}

func (s quietStore) ForgetThread(ctx context.Context, threadID string) error {
	if ok, err := s.q.pass(ctx); !ok {
		return err
	}
	return s.Store.ForgetThread(ctx, threadID)
}

func (s quietStore) AddStarted(ctx context.Context, principal, threadID string) error {
	if ok, err := s.q.pass(ctx); !ok {
		return err
	}
	return s.Store.AddStarted(ctx, principal, threadID)
}
