// Package token issues access tokens: credentials with a name, a role, a scope, an
// end and networks they may come from, which an administrator of the host can list,
// rotate and revoke. It says who a token is when one is shown to a listener; reading
// the header it comes in is package bearer's business.
//
// A token is an identity and outlives its secrets: what it started stays its own
// when it is rotated. What the owner of the machine mandates ([managed.Policy]) is
// read anew at every decision, and holds for tokens that were there before.
//
// Begin with [New]. [Manager.Verify] and the commands work by themselves; Run ends
// connections whose token stopped to count, and writes down what was used.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"towline/appserver/access"
	"towline/config/managed"
	"towline/config/store"
)

// Limits and times.
const (
	// pollEvery is how long a change by another process may go unseen. It is a
	// fraction of the second within which a revoked token's connections must end.
	pollEvery = 250 * time.Millisecond
	// policyEvery is how often the policy is held against connections that are open.
	policyEvery = 5 * time.Second
	// flushEvery is how long what was used may be lost by a crash.
	flushEvery = time.Second
	// storeTimeout bounds one look at the database where nobody waits for it.
	storeTimeout = 5 * time.Second
	// warnEvery is how often the log is told that the end of a token in use is near.
	warnEvery = 24 * time.Hour
)

// Store keeps tokens; *store.Store is one.
type Store interface {
	CreateToken(ctx context.Context, t store.Token) error
	RotateToken(ctx context.Context, r store.Rotation) (store.Token, error)
	RevokeToken(ctx context.Context, id string, at int64, by json.RawMessage) (store.Token, error)
	Token(ctx context.Context, id string) (store.Token, error)
	Tokens(ctx context.Context) ([]store.Token, error)
	NoteTokenUses(ctx context.Context, uses []store.TokenUse) error
	// Version changes when another process has changed something.
	Version(ctx context.Context) (int64, error)
}

var _ Store = (*store.Store)(nil)

// Config is what a Manager is made of. Store is required.
type Config struct {
	Store Store
	// Policy reads what the owner of the machine mandates; nil: nothing.
	Policy func() (managed.Policy, error)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger
	// Audit records what is done to tokens; nil: nothing is. Events: token.create,
	// token.rotate, token.revoke, and token.denied for a command that the role or a
	// policy forbade.
	Audit func(event string, who access.Principal, attrs ...slog.Attr)
}

// Manager issues tokens and says whether they count. Its methods may be called
// concurrently.
type Manager struct {
	cfg  Config
	wake chan struct{} // capacity 1: Run has something to do

	mu      sync.Mutex // guards what follows; nothing waits under it
	live    map[proof]*grant
	recheck bool // something may have changed since live was last checked
	used    map[proof]*store.TokenUse
}

// proof names one secret of a token.
type proof struct {
	id string
	n  int
}

// grant is what the connections made with one proof have in common.
type grant struct {
	lapsed chan struct{}
	until  time.Time // zero: as long as nobody ends it
	warned time.Time // when the log was told that its end is near
}

// New makes a Manager. It does no I/O and starts nothing.
func New(c Config) (*Manager, error) {
	if c.Store == nil {
		return nil, errors.New("tokens need a store")
	}
	if c.Policy == nil {
		c.Policy = func() (managed.Policy, error) { return managed.Policy{}, nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Audit == nil {
		c.Audit = func(string, access.Principal, ...slog.Attr) {}
	}
	return &Manager{
		cfg: c, wake: make(chan struct{}, 1),
		live: make(map[proof]*grant), used: make(map[proof]*store.TokenUse),
	}, nil
}

// Close writes what was used; Run, which does so too, must not be running.
func (m *Manager) Close() error { return m.flush(context.Background()) }

func (m *Manager) stir() {
	select {
	case m.wake <- struct{}{}:
	default: // it has been told
	}
}
