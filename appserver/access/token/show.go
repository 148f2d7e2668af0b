package token

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config"
	"towline/config/store"
)

// minRef is the least of an id that stands for it.
const minRef = 3

// List is every token there is and, for a while, was; the latest first.
func (m *Manager) List(ctx context.Context) ([]Token, error) {
	rows, err := m.rows(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Token, 0, len(rows))
	for _, row := range rows {
		out = append(out, m.view(row))
	}
	return out, nil
}

// rows are all tokens with what has been used until now.
func (m *Manager) rows(ctx context.Context) ([]store.Token, error) {
	if err := m.flush(ctx); err != nil {
		m.cfg.Log.Warn("the use of tokens could not be noted", "err", err)
	}
	return m.cfg.Store.Tokens(ctx)
}

// Show is one token by its id, its name, or the beginning of its id; and whether a
// secret counts, where that is asked.
func (m *Manager) Show(ctx context.Context, s ShowParams) (Shown, error) {
	row, err := m.byRef(ctx, s.ID)
	if err != nil {
		return Shown{}, err
	}
	out := Shown{Token: m.view(row)}
	if s.Hash == "" {
		return out, nil
	}
	var h hash
	raw, err := hex.DecodeString(s.Hash)
	if err != nil || copy(h[:], raw) != len(raw) || len(raw) != len(h) {
		return Shown{}, problem(config.ExitUsage, errors.New("the hash of a token is 64 digits of hex"))
	}
	src := netip.Addr{}
	if s.Source != "" {
		if src, err = netip.ParseAddr(s.Source); err != nil {
			return Shown{}, problem(config.ExitUsage, fmt.Errorf("%q is no address", config.OneLine(s.Source)), "write it like 10.1.2.3")
		}
	}
	out.Verdict = m.verdict(row, h, src, s.Source != "")
	return out, nil
}

func (m *Manager) verdict(row store.Token, h hash, src netip.Addr, asked bool) *Verdict {
	sec, ok := match(row, h)
	if !ok {
		return &Verdict{Why: "its secret is none of this token's: it is forged, or an old one that was forgotten"}
	}
	policy, broken := m.cfg.Policy()
	until, no := judge(row, sec, m.cfg.Now(), policy, broken)
	if no == nil && asked {
		no = judgeSource(row, src, policy)
	}
	if no != nil {
		return &Verdict{Secret: sec.N, Why: no.Why}
	}
	return &Verdict{Counts: true, Secret: sec.N, Until: until}
}

// byRef finds a token as people name it: by id, by the name of one that counts, by
// the beginning of an id, by the name of the one that had it last.
func (m *Manager) byRef(ctx context.Context, ref string) (store.Token, error) {
	rows, err := m.rows(ctx)
	if err != nil {
		return store.Token{}, err
	}
	now := m.cfg.Now().UnixMilli()
	for _, row := range rows {
		if row.ID == ref || strings.HasPrefix(ref, prefix) && row.ID == strings.TrimPrefix(ref, prefix) {
			return row, nil
		}
	}
	var begin, named []store.Token
	for _, row := range rows {
		switch {
		case row.Name == ref && row.Counts(now):
			return row, nil
		case row.Name == ref:
			named = append(named, row)
		case len(ref) >= minRef && strings.HasPrefix(row.ID, ref):
			begin = append(begin, row)
		}
	}
	switch {
	case len(begin) == 1:
		return begin[0], nil
	case len(begin) > 1:
		return store.Token{}, problem(config.ExitFailure, fmt.Errorf("%d tokens have an id that begins with %s", len(begin), config.OneLine(ref)), "write more of it; see `towline token list`")
	case len(named) > 0:
		return named[0], nil
	}
	shown := config.OneLine(ref)
	if MayBeSecret(ref) {
		shown = "that" // a secret belongs in no message
	}
	return store.Token{}, problem(config.ExitFailure, fmt.Errorf("there is no token %s", shown), "see which there are: `towline token list`")
}

// MayBeSecret reports whether ref may be the text of a token rather than its name.
func MayBeSecret(ref string) bool {
	f, _ := FormOf(ref)
	return f != Foreign && len(ref) > secretAt
}

// view is a token for showing.
func (m *Manager) view(row store.Token) Token {
	now := m.cfg.Now()
	t := Token{
		ID: row.ID, Name: row.Name, Scope: row.Scope, Networks: append([]string{}, row.Networks...),
		State: StateLive, CreatedAt: timeOf(row.CreatedAt), ExpiresAt: timeOf(row.ExpiresAt), RevokedAt: timeOf(row.RevokedAt),
		LastUsedAt: timeOf(row.UsedAt), LastUsedFrom: row.UsedFrom, Uses: row.Uses, Secrets: make([]Secret, 0, len(row.Secrets)),
	}
	_ = json.Unmarshal(row.CreatedBy, &t.CreatedBy) // what cannot be read is shown as nobody
	if row.RevokedBy != nil {
		t.RevokedBy = &Actor{}
		_ = json.Unmarshal(row.RevokedBy, t.RevokedBy)
	}
	t.Role, _ = protocol.ParseRole(row.Role) // none, when it cannot be read: it lets nobody in
	if len(t.Scope) == 0 {
		t.Scope = []string{ScopeAll}
	}
	for i, sec := range row.Secrets {
		s := Secret{N: sec.N, State: SecretCurrent, CreatedAt: timeOf(sec.CreatedAt), EndsAt: timeOf(sec.EndsAt), LastUsedAt: timeOf(sec.UsedAt), Uses: sec.Uses}
		switch {
		case sec.EndsAt != 0 && now.UnixMilli() >= sec.EndsAt:
			s.State = SecretEnded
		case i > 0:
			s.State = SecretOverlap
		}
		t.Secrets = append(t.Secrets, s)
	}
	switch {
	case row.RevokedAt != 0:
		t.State = StateRevoked
		return t
	case !row.Counts(now.UnixMilli()):
		t.State = StateExpired
		return t
	}
	m.outlook(&t, row, now)
	return t
}

// outlook says what a policy has against a token that counts otherwise, and what
// will end it soon.
func (m *Manager) outlook(t *Token, row store.Token, now time.Time) {
	if len(row.Secrets) == 0 {
		return
	}
	current := row.Secrets[0]
	policy, broken := m.cfg.Policy()
	until, no := judge(row, current, now, policy, broken)
	if no != nil {
		t.State, t.Refused = StateRefused, no.Why
		return
	}
	if every := policy.TokenRotation(); every > 0 {
		t.RotateBy = timeOf(current.CreatedAt).Add(every)
		if soon(timeOf(current.CreatedAt), t.RotateBy, now) {
			t.Warnings = append(t.Warnings, fmt.Sprintf("a policy ends its secret in %s: rotate it before", left(t.RotateBy, now)))
		}
	}
	if !until.IsZero() && soon(timeOf(row.IssuedAt), until, now) && !until.Equal(t.RotateBy) {
		t.Warnings = append(t.Warnings, fmt.Sprintf("it stops to count in %s", left(until, now)))
	}
	for _, sec := range row.Secrets[1:] {
		if sec.EndsAt > now.UnixMilli() && sec.UsedAt > current.CreatedAt {
			t.Warnings = append(t.Warnings, fmt.Sprintf("its old secret was used at %s and ends in %s", stamp(sec.UsedAt), left(timeOf(sec.EndsAt), now)))
		}
	}
}

// soon says whether the last fifth of a time, a fortnight at most, has begun.
func soon(from, to, now time.Time) bool {
	const fortnight = 14 * 24 * time.Hour
	return to.Sub(now) < min(to.Sub(from)/5, fortnight)
}

// left is the time until end, in one or two units.
func left(end, now time.Time) string {
	d := end.Sub(now)
	switch {
	case d >= 48*time.Hour:
		d = d.Truncate(24 * time.Hour)
	case d >= time.Hour:
		d = d.Truncate(time.Hour)
	case d >= time.Minute:
		d = d.Truncate(time.Minute)
	}
	return config.Span(d)
}
