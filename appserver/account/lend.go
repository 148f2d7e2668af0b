package account

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"towline/config"
	"towline/config/secret"
)

// Why a lender is asked for new tokens.
const (
	lendExpired  = "expired"
	lendRejected = "unauthorized"
)

// lenderTimeout is how long a lender may take: a person may have to log in again
// there, but a request waits.
const lenderTimeout = 2 * askTimeout

// loan is what somebody lends. It is in memory only.
type loan struct {
	renew func(ctx context.Context, reason string) (LentTokens, error)
	dead  atomic.Bool // it could not be renewed

	asking sync.Mutex // held while the lender is asked; mu may be taken under it
	mu     sync.Mutex
	tokens LentTokens
}

func (l *loan) current() LentTokens {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tokens
}

func (l *loan) status() Status {
	t := l.current()
	c, _ := secret.Claims(t.AccessToken)
	return Status{
		LoggedIn: true, Lent: true, Mode: secret.ModeChatGPT, Email: c.Email, UserID: c.UserID, Issuer: c.Issuer,
		AccountID: first(t.AccountID, c.AccountID), Plan: first(t.Plan, c.Plan), Expires: c.Expires,
	}
}

func (l *loan) bearer() Bearer {
	t := l.current()
	c, _ := secret.Claims(t.AccessToken)
	return Bearer{Token: t.AccessToken, AccountID: first(t.AccountID, c.AccountID), Mode: secret.ModeChatGPT, Expires: c.Expires}
}

// Lend uses tokens of somebody else's from now on, in memory only, until Unlend.
// refresh is called for new ones, with a reason ("expired" or "unauthorized"); it
// may be nil. A later Lend replaces an earlier one.
func (m *Manager) Lend(_ context.Context, t LentTokens, refresh func(ctx context.Context, reason string) (LentTokens, error)) (Status, error) {
	if err := m.mayChatGPT(); err != nil {
		return Status{}, err
	}
	if err := m.cfg.Policy.CheckLendCredentials(); err != nil {
		return Status{}, err
	}
	if err := checkLent(t); err != nil {
		return Status{}, err
	}
	if err := m.cfg.Policy.CheckWorkspace(t.AccountID); err != nil {
		return Status{}, err
	}
	l := &loan{tokens: t, renew: refresh}
	m.mu.Lock()
	m.lent = l
	m.mu.Unlock()
	s := l.status()
	m.cfg.Log.Info("uses a lent login", "account", s.AccountID)
	m.cfg.Audit("credential.lend", "account", s.AccountID)
	m.announce()
	return s, nil
}

func checkLent(t LentTokens) error {
	if _, err := handed("the lent token", t.AccessToken); err != nil {
		return err
	}
	if t.AccountID == "" || len(t.AccountID) > 256 || config.OneLine(t.AccountID) != t.AccountID {
		return &config.Problem{Stage: stageLend, Err: errors.New("the lent token names no account"), Exit: config.ExitUsage}
	}
	return nil
}

// Unlend forgets what was lent; what is stored counts again. It reports whether
// anything was lent.
func (m *Manager) Unlend() bool {
	m.mu.Lock()
	l := m.lent
	m.lent = nil
	m.mu.Unlock()
	if l == nil {
		return false
	}
	l.dead.Store(true)
	l.mu.Lock()
	account := l.tokens.AccountID
	l.tokens = LentTokens{}
	l.mu.Unlock()
	m.cfg.Log.Info("the lent login is gone", "account", account)
	m.cfg.Audit("credential.unlend", "account", account)
	m.announce()
	return true
}

// borrowed is the bearer of a loan, renewed when it is about to expire or was
// rejected.
func (m *Manager) borrowed(ctx context.Context, l *loan, rejected string) (Bearer, error) {
	fits := func(b Bearer) bool {
		return b.Token != rejected && (b.Expires.IsZero() || m.cfg.Now().Before(b.Expires.Add(-time.Minute)))
	}
	if b := l.bearer(); fits(b) {
		return b, nil
	}
	l.asking.Lock()
	defer l.asking.Unlock()
	b := l.bearer()
	if fits(b) {
		return b, nil // whoever asked before us got it
	}
	reason := lendExpired
	if rejected != "" {
		reason = lendRejected
	}
	fresh, err := m.renew(ctx, l, reason)
	if err == nil {
		l.mu.Lock()
		l.tokens = fresh
		l.mu.Unlock()
		l.dead.Store(false)
		return l.bearer(), nil
	}
	if rejected == "" && m.cfg.Now().Before(b.Expires) {
		return b, nil // it lasts a little
	}
	if ctx.Err() != nil {
		return Bearer{}, context.Cause(ctx)
	}
	l.dead.Store(true)
	return Bearer{}, &config.Problem{
		Stage: stageLend, Err: fmt.Errorf("%w: its lender gives no new token: %w", ErrLoginExpired, err),
		Hints: []string{"connect again from the machine that lends: `towline HOST --lend-credentials`", "or log in on this host: `towline login HOST`"},
	}
}

func (m *Manager) renew(ctx context.Context, l *loan, reason string) (LentTokens, error) {
	if l.renew == nil {
		return LentTokens{}, errors.New("it cannot be asked")
	}
	ctx, cancel := context.WithTimeout(ctx, lenderTimeout)
	defer cancel()
	fresh, err := l.renew(ctx, reason)
	if err != nil {
		return LentTokens{}, err
	}
	if err := checkLent(fresh); err != nil {
		return LentTokens{}, err
	}
	if fresh.AccountID != l.current().AccountID {
		return LentTokens{}, errors.New("it changed to another account")
	}
	return fresh, nil
}
