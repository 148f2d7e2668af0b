package account

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"towline/config"
	"towline/config/secret"
)

// When a token is refreshed before it expires.
const (
	// An access token this close to its end is refreshed first. Codex does so at
	// five minutes, and locks the store only while it writes, not while it asks:
	// being well before it, a Codex with the same login finds nothing to do.
	early    = 10 * time.Minute
	staleAge = 8 * 24 * time.Hour // and one that does not say when it ends, after this (Codex's rule)
	// flightLimit bounds one refresh: waiting for the lock, asking, storing.
	flightLimit = lockWait + askTimeout + 15*time.Second
)

// Why a refresh happens, in the words Codex sends.
const (
	reasonScheduled = "scheduled"
	reasonRejected  = "unauthorized_recovery"
	reasonForced    = "forced"
)

// flight is a refresh under way; callers that need one join it.
type flight struct {
	done   chan struct{}
	bearer Bearer
	err    error
}

// join refreshes a, or waits for the refresh that is under way. The refresh itself
// does not end with ctx: its token may be spent already.
func (m *Manager) join(ctx context.Context, a secret.Auth, reason string) (Bearer, error) {
	m.mu.Lock()
	f := m.flight
	if f == nil {
		if m.closed {
			m.mu.Unlock()
			return Bearer{}, problem(stageRefresh, ErrCancelled)
		}
		f = &flight{done: make(chan struct{})}
		m.flight = f
		m.flights.Go(func() {
			own, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightLimit)
			defer cancel()
			f.bearer, f.err = m.refresh(own, a, reason)
			m.mu.Lock()
			m.flight = nil
			m.mu.Unlock()
			close(f.done)
		})
	}
	m.mu.Unlock()
	select {
	case <-f.done:
		return f.bearer, f.err
	case <-ctx.Done():
		return Bearer{}, context.Cause(ctx)
	}
}

// refresh changes the refresh token of what the store holds for new tokens, once
// among all Towlines on this host: under the lock, after re-reading. found is what the
// caller saw need it; if the store has moved on since, nothing is asked.
//
// A Codex on the same home takes no lock while it asks. It refreshes when a token has
// expired and this happens some minutes earlier, so Codex finds the new one; when both
// ask at once all the same, whoever is late adopts what the other stored.
func (m *Manager) refresh(ctx context.Context, found secret.Auth, reason string) (Bearer, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return Bearer{}, err
	}
	defer unlock()
	a, _, err := m.load(ctx)
	if err != nil {
		return Bearer{}, err
	}
	if a.Mode != secret.ModeChatGPT {
		return m.fixed(ctx, a) // somebody logged in with a key meanwhile
	}
	b := m.bearer(a)
	if a.Fingerprint() != found.Fingerprint() && b.Token != "" && !m.due(a, b) {
		m.cfg.Log.Info("took over a refresh another process made", "account", b.AccountID)
		return b, nil
	}
	if a.Tokens == nil || a.Tokens.RefreshToken == "" {
		return Bearer{}, m.over(a, fmt.Errorf("%w, and it came without a refresh token", ErrLoginExpired))
	}
	now, err := m.askRefresh(ctx, a, reason)
	if err != nil {
		if b, ok := m.adopt(ctx, a, err); ok {
			return b, nil
		}
		return Bearer{}, m.refreshFailed(ctx, a, err)
	}
	if now, err = m.keep(ctx, a, now); err != nil {
		return Bearer{}, err
	}
	if now.Mode != secret.ModeChatGPT {
		return m.fixed(ctx, now)
	}
	m.cfg.Log.Info("refreshed the login", "account", now.Tokens.AccountID, "reason", reason)
	m.cfg.Audit("credential.refresh", "account", now.Tokens.AccountID, "fingerprint", now.Fingerprint(), "reason", reason)
	return m.bearer(now), nil
}

// lock takes Codex's refresh lock.
func (m *Manager) lock(ctx context.Context) (func(), error) {
	waiting, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err := m.cfg.Store.Lock(waiting)
	switch {
	case err == nil:
		return unlock, nil
	case errors.Is(err, secret.ErrBusy) && ctx.Err() == nil:
		err := fmt.Errorf("%w%s", err, byWhom(m.holders()))
		return nil, &config.Problem{
			Stage: stageRefresh, Err: fmt.Errorf("%w: %w", err, ErrUnavailable),
			Hints: []string{"wait for it, or end it if it hangs, then try again"},
		}
	case ctx.Err() != nil:
		return nil, problem(stageRefresh, context.Cause(ctx))
	}
	return nil, storeProblem(err)
}

// keep stores what an issuer just gave for was, journaled first. A Codex does not
// take our lock, so the store may have moved on meanwhile: then what is there counts,
// and is given back. What cannot be stored is kept in memory, because nobody else has
// it: the old token is spent. It can be used; the next refresh stores it, or the next
// start adopts the journal.
func (m *Manager) keep(ctx context.Context, was, now secret.Auth) (secret.Auth, error) {
	m.mu.Lock()
	if u := m.unsaved; u != nil && u.now.Fingerprint() == was.Fingerprint() {
		was = u.was // that is what the store holds
	}
	m.mu.Unlock()
	w, err := m.cfg.Store.Replace(ctx, was, now)
	if errors.Is(err, secret.ErrChanged) {
		m.cfg.Log.Info("another program changed the login meanwhile; its login is used")
		a, _, err := m.load(ctx)
		return a, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsaved = nil
	if err != nil && w.Kind == "" {
		m.unsaved = &unsaved{was: was, now: now}
		m.cfg.Log.Error("the refreshed login could not be stored; it is in memory, and in the journal if that could be written", "err", err)
	}
	return now, nil
}

// granted is what a token endpoint gives.
type granted struct {
	ID        string `json:"id_token"`
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int64  `json:"expires_in"`
}

// issuerOf is who a login is to be refreshed and revoked at: the issuer it came
// from, which it names itself.
func (m *Manager) issuerOf(t secret.Tokens) Issuer {
	i := Issuer{URL: t.Issuer, ClientID: t.ClientID}
	if i.URL == "" || i.URL == m.cfg.Issuer.URL || strings.TrimSuffix(i.URL, "/") == m.cfg.Issuer.URL {
		i.URL, i.Kind = m.cfg.Issuer.URL, m.cfg.Issuer.Kind
		if i.ClientID == "" {
			i.ClientID = m.cfg.Issuer.ClientID
		}
	}
	return i.withDefaults()
}

// askRefresh is the one request that spends a refresh token.
func (m *Manager) askRefresh(ctx context.Context, a secret.Auth, reason string) (secret.Auth, error) {
	t := *a.Tokens
	iss := m.issuerOf(t)
	to := m.cfg.RefreshURL
	var e endpoints
	if to == "" || iss.Kind == KindOIDC {
		var err error
		if e, err = m.endpoints(ctx, iss); err != nil {
			return a, err
		}
		to = first(to, e.token)
	}
	var got answer
	var err error
	if iss.Kind == KindOIDC {
		got, err = m.postForm(ctx, to, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {t.RefreshToken}, "client_id": {iss.ClientID}})
	} else {
		got, err = m.postJSON(ctx, to, map[string]string{
			"client_id": iss.ClientID, "grant_type": "refresh_token", "refresh_reason": reason, "refresh_token": t.RefreshToken,
		})
	}
	if err != nil {
		return a, err
	}
	if !got.ok() {
		return a, refused(to, got)
	}
	var g granted
	if err := got.into(&g); err != nil {
		return a, fmt.Errorf("%s: %w: %w", host(to), err, ErrUnavailable)
	}
	if g.Access == "" {
		return a, fmt.Errorf("%s gave no access token: %w", host(to), ErrUnavailable)
	}
	if iss.Kind == KindOIDC {
		if g.ID, err = m.refreshedID(ctx, e, t.IDToken, g.ID); err != nil {
			return a, err
		}
	}
	t.AccessToken = g.Access
	t.IDToken = first(g.ID, t.IDToken)
	t.RefreshToken = first(g.Refresh, t.RefreshToken)
	now := a
	now.Tokens = &t
	now.LastRefresh = m.cfg.Now().UTC()
	m.noteExpiry(now, g.ExpiresIn)
	return now, nil
}

// How long another program may take to store what it got for the token we were late
// with.
const (
	adoptWait = 5 * time.Second
	adoptPoll = 20 * time.Millisecond
)

// adopt looks, after a refresh token was refused as used, whether the program that
// used it has stored what it got: Codex holds no lock while it asks, so both may have
// asked at once.
func (m *Manager) adopt(ctx context.Context, a secret.Auth, err error) (Bearer, bool) {
	var r *refusal
	if !errors.As(err, &r) || r.code != "refresh_token_reused" && r.code != "invalid_grant" {
		return Bearer{}, false
	}
	for end := m.cfg.Now().Add(adoptWait); m.cfg.Now().Before(end); {
		got, _, err := m.load(ctx)
		if err == nil && got.Mode == secret.ModeChatGPT && got.Fingerprint() != a.Fingerprint() {
			if b := m.bearer(got); b.Token != "" && !m.due(got, b) {
				m.cfg.Log.Info("took over a refresh another program made at the same time", "account", b.AccountID)
				return b, true
			}
		}
		t := time.NewTimer(adoptPoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return Bearer{}, false
		case <-t.C:
		}
	}
	return Bearer{}, false
}

// noteExpiry remembers when an opaque access token ends.
func (m *Manager) noteExpiry(a secret.Auth, in int64) {
	if in <= 0 || in > 1<<31 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.expiry) // one login at a time
	m.expiry[a.Fingerprint()] = m.cfg.Now().Add(time.Duration(in) * time.Second)
}
