package token

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config/managed"
	"towline/config/store"
)

// What a refused token's bearer hears. The first is Codex's, and all that anybody
// hears who does not have a right secret; the others tell the one who does.
const (
	bodyInvalid    = "invalid websocket bearer token"
	bodyRevoked    = "revoked websocket bearer token"
	bodyExpired    = "expired websocket bearer token"
	bodySuperseded = "superseded websocket bearer token"
	bodyNetwork    = "websocket bearer token may not be used from this address"
	bodyPolicy     = "websocket bearer token is not allowed by this host's policy"
)

// Verify says who shows the token text and comes from src, which is invalid for a
// connection of this machine that has no address; for a token's networks it comes
// from the loopback, then. A *access.Refusal says what to answer: to everybody who
// has no right secret the same, and who it is otherwise. To record it is for the
// caller, who knows how many there are. Any other error is the host's own failure.
//
// The principal's Lapsed is closed when the token does not count any more, within a
// second of whatever ended it, while Run runs.
func (m *Manager) Verify(ctx context.Context, text string, src netip.Addr) (access.Principal, error) {
	row, sec, err := m.find(ctx, text)
	if err != nil {
		return access.Principal{}, err
	}
	p, err := principalOf(row)
	if err != nil {
		return access.Principal{}, err
	}
	now := m.cfg.Now()
	policy, broken := m.cfg.Policy()
	until, no := judge(row, sec, now, policy, broken)
	if no == nil {
		no = judgeSource(row, src, policy)
	}
	if no != nil {
		no.Who = p
		return access.Principal{}, no
	}
	key := proof{row.ID, sec.N}
	m.mu.Lock()
	g := m.live[key]
	if g == nil {
		// What was read above may be history by now: it is looked at again with this
		// grant in the list of those that a change ends.
		g = &grant{lapsed: make(chan struct{}), until: until}
		m.live[key], m.recheck = g, true
	}
	u := m.used[key]
	if u == nil {
		u = &store.TokenUse{ID: row.ID, N: sec.N}
		m.used[key] = u
	}
	u.At, u.From, u.Count = now.UnixMilli(), sourceName(src), u.Count+1
	m.mu.Unlock()
	m.stir()
	p.Lapsed = g.lapsed
	return p, nil
}

// find is the token and the secret that text is. All that is wrong with a text ends
// in the same refusal, after the same work as far as the database allows.
func (m *Manager) find(ctx context.Context, text string) (store.Token, store.TokenSecret, error) {
	form, id := FormOf(text)
	if form != WellMade {
		return store.Token{}, store.TokenSecret{}, invalid("it has not the form of a token, or is damaged")
	}
	row, err := m.cfg.Store.Token(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNoToken) {
		return store.Token{}, store.TokenSecret{}, err
	}
	if sec, ok := match(row, Hash(text)); ok {
		return row, sec, nil
	}
	return store.Token{}, store.TokenSecret{}, invalid("its secret is none of a token of this host")
}

// match looks through all secrets of a token whether one is found or not, and at
// one where there is none.
func match(row store.Token, h hash) (found store.TokenSecret, ok bool) {
	secrets := row.Secrets
	if len(secrets) == 0 {
		secrets = []store.TokenSecret{{Hash: make([]byte, len(h))}}
	}
	for _, sec := range secrets {
		if subtle.ConstantTimeCompare(sec.Hash, h[:]) == 1 && sec.N > 0 {
			found, ok = sec, true
		}
	}
	return found, ok
}

func invalid(why string) *access.Refusal {
	return &access.Refusal{Status: http.StatusUnauthorized, Body: bodyInvalid, Why: why}
}

// principalOf is who a token is.
func principalOf(row store.Token) (access.Principal, error) {
	role, err := protocol.ParseRole(row.Role)
	if err != nil {
		return access.Principal{}, fmt.Errorf("token %s: %w", row.ID, err)
	}
	scope, err := access.ParseScope(row.Scope)
	if err != nil {
		return access.Principal{}, fmt.Errorf("token %s: %w", row.ID, err)
	}
	return access.Principal{Kind: access.KindToken, ID: row.ID, Name: row.Name, Role: role, Scope: scope}, nil
}

// judge says until when a secret of a token counts, or why it does not, wherever it
// comes from. A zero time is for ever; broken is why there is no policy.
func judge(row store.Token, sec store.TokenSecret, now time.Time, p managed.Policy, broken error) (until time.Time, no *access.Refusal) {
	at := now.UnixMilli()
	switch {
	case row.RevokedAt != 0:
		return until, &access.Refusal{Status: http.StatusUnauthorized, Body: bodyRevoked, Why: "it was revoked at " + stamp(row.RevokedAt)}
	case row.ExpiresAt != 0 && at >= row.ExpiresAt:
		return until, &access.Refusal{Status: http.StatusUnauthorized, Body: bodyExpired, Why: "it expired at " + stamp(row.ExpiresAt)}
	case sec.EndsAt != 0 && at >= sec.EndsAt:
		return until, &access.Refusal{Status: http.StatusUnauthorized, Body: bodySuperseded, Why: "its secret was replaced, and ended at " + stamp(sec.EndsAt)}
	}
	until = earliest(timeOf(row.ExpiresAt), timeOf(sec.EndsAt))
	if broken != nil {
		return until, forbidden(broken)
	}
	facts, err := factsOf(row)
	if err != nil {
		return until, forbidden(err)
	}
	if err := cmp.Or(p.CheckTokens(), p.CheckToken(facts)); err != nil {
		return until, forbidden(err)
	}
	limit, err := p.TokenUntil(timeOf(row.IssuedAt), timeOf(sec.CreatedAt), now)
	if err != nil {
		return until, forbidden(err)
	}
	return earliest(until, limit), nil
}

// judgeSource says whether a token may come from src.
func judgeSource(row store.Token, src netip.Addr, p managed.Policy) *access.Refusal {
	src = sourceAddr(src)
	if len(row.Networks) > 0 {
		within := false
		for _, s := range row.Networks {
			n, err := netip.ParsePrefix(s)
			within = within || err == nil && n.Contains(src)
		}
		if !within {
			return &access.Refusal{Status: http.StatusForbidden, Body: bodyNetwork, Why: fmt.Sprintf("it may not be used from %s", src)}
		}
	}
	if err := p.CheckTokenSource(src); err != nil {
		return forbidden(err)
	}
	return nil
}

// forbidden is a refusal by a policy: whoever has a right secret may hear of it.
func forbidden(err error) *access.Refusal {
	return &access.Refusal{Status: http.StatusForbidden, Body: bodyPolicy + ": " + err.Error(), Why: err.Error()}
}

// sourceAddr is what a source is for rules about networks.
func sourceAddr(src netip.Addr) netip.Addr {
	if !src.IsValid() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return src.Unmap().WithZone("")
}

// sourceName is what is noted of a source.
func sourceName(src netip.Addr) string {
	if !src.IsValid() {
		return "local"
	}
	return src.Unmap().WithZone("").String()
}

// factsOf is what a policy looks at.
func factsOf(row store.Token) (managed.TokenFacts, error) {
	s, err := access.ParseScope(row.Scope)
	if err != nil || s == nil {
		return managed.TokenFacts{Role: row.Role, All: s == nil}, err
	}
	return managed.TokenFacts{Role: row.Role, Exec: s.Exec, Threads: len(s.Threads) > 0, Projects: s.Projects}, nil
}

// timeOf is a column's time, zero for none.
func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func stamp(ms int64) string { return timeOf(ms).Format(time.RFC3339) }

// earliest is the first of two ends; zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
