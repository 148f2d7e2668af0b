package token

import (
	"context"
	"errors"
	"maps"
	"time"

	"towline/config/managed"
	"towline/config/store"
)

// Run ends what was granted on tokens that stopped to count, and writes down what
// was used, until ctx ends. While no token is in use it does nothing.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var w watch
	nextFlush := time.Now().Add(flushEvery)
	for {
		m.mu.Lock()
		idle := len(m.live) == 0 && len(m.used) == 0
		m.mu.Unlock()
		if idle {
			tick.Stop()
			select {
			case <-m.wake:
				tick.Reset(pollEvery)
			case <-ctx.Done():
			}
		} else {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return m.Close()
		}
		m.check(ctx, &w)
		if time.Now().After(nextFlush) {
			if err := m.flush(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("the use of tokens could not be noted", "err", err)
			}
			nextFlush = time.Now().Add(flushEvery)
		}
	}
}

// watch is what check remembers from one call to the next.
type watch struct {
	version int64     // of the database
	policy  time.Time // when the policy is due
	failing bool      // the database could not be read
}

// check ends the grants that do not stand any more.
func (m *Manager) check(ctx context.Context, w *watch) {
	now := m.cfg.Now()
	m.mu.Lock()
	recheck := m.recheck
	m.recheck = false
	for key, g := range m.live { // whatever the database says
		if !g.until.IsZero() && !now.Before(g.until) {
			m.lapseLocked(key, g)
		}
	}
	grants := maps.Clone(m.live)
	m.mu.Unlock()
	if len(grants) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	version, err := m.cfg.Store.Version(ctx)
	if err == nil && version == w.version && !recheck && now.Before(w.policy) {
		w.failing = false
		return
	}
	if err == nil {
		err = m.recheckAll(ctx, grants, now)
	}
	switch {
	case err == nil:
		w.version, w.policy, w.failing = version, now.Add(policyEvery), false
	case ctx.Err() != nil && context.Cause(ctx) == context.Canceled: //nolint:errorlint // a cause of ours
	default:
		m.mu.Lock()
		m.recheck = true
		m.mu.Unlock()
		if !w.failing {
			w.failing = true
			m.cfg.Log.Error("whether tokens in use still count is not known", "err", err)
		}
	}
}

// recheckAll judges the tokens of grants anew.
func (m *Manager) recheckAll(ctx context.Context, grants map[proof]*grant, now time.Time) error {
	rows := make(map[string]store.Token)
	policy, broken := m.cfg.Policy()
	for key, g := range grants {
		row, known := rows[key.id]
		if !known {
			var err error
			if row, err = m.cfg.Store.Token(ctx, key.id); err != nil && !errors.Is(err, store.ErrNoToken) {
				return err
			}
			rows[key.id] = row
		}
		until, ok := stands(row, key.n, now, policy, broken)
		m.mu.Lock()
		warn := ok && now.Sub(g.warned) >= warnEvery
		if m.live[key] == g {
			if g.until = until; !ok {
				m.lapseLocked(key, g)
			}
		}
		m.mu.Unlock()
		if warn {
			m.warn(key, g, row, now)
		}
	}
	return nil
}

// warn tells the host's log what will soon stop a token that is in use.
func (m *Manager) warn(key proof, g *grant, row store.Token, now time.Time) {
	warnings := m.view(row).Warnings
	if len(warnings) == 0 {
		return
	}
	m.mu.Lock()
	g.warned = now
	m.mu.Unlock()
	for _, w := range warnings {
		m.cfg.Log.Warn("a token in use needs somebody to look after it", "token", key.id, "name", row.Name, "what", w)
	}
}

// stands says whether connections made with a secret may stay. While the policy
// cannot be read it counts as it would without one: somebody is just writing it, and
// nobody new gets in.
func stands(row store.Token, n int, now time.Time, policy managed.Policy, broken error) (until time.Time, ok bool) {
	if broken != nil {
		policy = managed.Policy{}
	}
	for _, sec := range row.Secrets {
		if sec.N == n {
			until, no := judge(row, sec, now, policy, nil)
			return until, no == nil
		}
	}
	return until, false
}

// lapseLocked ends a grant. m.mu is held.
func (m *Manager) lapseLocked(key proof, g *grant) {
	delete(m.live, key)
	close(g.lapsed)
	m.cfg.Log.Info("a token in use has lapsed", "token", key.id, "secret", key.n)
}

// ended has what was just changed about a token count at once.
func (m *Manager) ended(row store.Token) {
	now := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recheck = true
	for key, g := range m.live {
		if key.id != row.ID {
			continue
		}
		counts := row.Counts(now.UnixMilli())
		for _, sec := range row.Secrets {
			if sec.N == key.n && sec.EndsAt != 0 && sec.EndsAt <= now.UnixMilli() {
				counts = false
			}
		}
		if !counts {
			m.lapseLocked(key, g)
		}
	}
}

// flush writes what was used since the last time.
func (m *Manager) flush(ctx context.Context) error {
	m.mu.Lock()
	used := m.used
	m.used = make(map[proof]*store.TokenUse)
	m.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	uses := make([]store.TokenUse, 0, len(used))
	for _, u := range used {
		uses = append(uses, *u)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	err := m.cfg.Store.NoteTokenUses(ctx, uses)
	if err == nil {
		return nil
	}
	m.mu.Lock() // it is tried again
	defer m.mu.Unlock()
	for key, u := range used {
		if now := m.used[key]; now != nil {
			now.Count += u.Count
		} else {
			m.used[key] = u
		}
	}
	return err
}
