package token

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
	"towline/config/managed"
	"towline/config/store"
)

// What a new token is limited to, and what it gets when nobody says.
const (
	// DefaultLifetime is a month: long enough for a job that somebody looks after.
	DefaultLifetime = 30 * 24 * time.Hour
	// MaxOverlap is how long a secret may count beside its successor.
	MaxOverlap = 30 * 24 * time.Hour
	// maxNetworks bounds the networks one token is bound to.
	maxNetworks = 64
	// maxScopeBytes bounds the text of a scope: lists of tokens travel in one message.
	maxScopeBytes = 4 << 10
	// Never is the lifetime of a token that does not expire.
	Never = "never"
	// ScopeAll is the scope of a token that may do all that its role allows.
	ScopeAll = "all"
)

// nameForm is what a token may be called: a word that needs no quotes in a shell.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$`)

const stage = "token"

// problem is a refusal for people; hints say what to type.
func problem(exit int, err error, hints ...string) error {
	return &config.Problem{Stage: stage, Err: err, Hints: hints, Exit: exit}
}

// Create makes a token and returns it with its secret, which is stored nowhere.
// Errors for people are *config.Problem.
func (m *Manager) Create(ctx context.Context, by access.Principal, c CreateParams) (Created, error) {
	row, err := m.draft(ctx, by, c)
	if err != nil {
		return Created{}, m.denied(by, "create", c.Name, err)
	}
	text := newText(row.ID)
	h := Hash(text)
	row.Secrets = []store.TokenSecret{{N: 1, Hash: h[:], CreatedAt: row.CreatedAt}}
	switch err := m.cfg.Store.CreateToken(ctx, row); {
	case errors.Is(err, store.ErrTokenName):
		return Created{}, problem(config.ExitFailure, fmt.Errorf("there is a token named %s already", row.Name),
			"give that one a new secret: `towline token rotate "+row.Name+"`", "end it: `towline token revoke "+row.Name+"`, or choose another name")
	case errors.Is(err, store.ErrTokenLimit):
		return Created{}, problem(config.ExitFailure, store.ErrTokenLimit, "see which are not used: `towline token list`", "end one: `towline token revoke NAME`")
	case err != nil:
		return Created{}, err
	}
	t := m.view(row)
	m.cfg.Audit("token.create", by, about(t)...)
	return Created{Token: t, Secret: text}, nil
}

// draft is the row of a token that by may create.
func (m *Manager) draft(ctx context.Context, by access.Principal, c CreateParams) (store.Token, error) {
	now := m.cfg.Now()
	row := store.Token{ID: newID(), Name: c.Name, CreatedAt: now.UnixMilli(), IssuedAt: now.UnixMilli()}
	if !nameForm.MatchString(c.Name) || strings.HasPrefix(c.Name, prefix) {
		return row, problem(config.ExitUsage, fmt.Errorf("%q is no name for a token", config.OneLine(c.Name)),
			"use up to 64 letters, digits and . _ @ + -, like `ci` or `deploy@web-1`")
	}
	role := cmp.Or(c.Role, protocol.RoleOperator)
	if role > by.Role {
		return row, problem(config.ExitDenied, fmt.Errorf("%s has the role %q and cannot give the role %q", by.Name, by.Role, role), "name a lesser one with `--role`")
	}
	row.Role = role.String()
	var err error
	if row.Scope, err = scopeWords(role, c.Scope); err != nil {
		return row, problem(config.ExitUsage, err, "see `towline token create --help`")
	}
	networks, err := networksOf(c.Networks)
	if err != nil {
		return row, problem(config.ExitUsage, err, "write an address or a network: `--from 10.0.0.0/8`")
	}
	for _, n := range networks {
		row.Networks = append(row.Networks, n.String())
	}
	policy, err := m.mayManage(by)
	if err != nil {
		return row, err
	}
	parent, err := m.parent(ctx, by)
	if err != nil {
		return row, err
	}
	if len(row.Networks) == 0 {
		row.Networks = parent.Networks
	} else if err := within(by, parent, row.Networks); err != nil {
		return row, err
	}
	facts, err := factsOf(row)
	if err != nil {
		return row, err
	}
	if err := cmp.Or(policy.CheckToken(facts), policy.CheckTokenNetworks(networks)); err != nil {
		return row, err
	}
	if row.ExpiresAt, err = expiry(by, parent, policy, c.Lifetime, now); err != nil {
		return row, err
	}
	row.CreatedBy, err = json.Marshal(actorOf(by))
	return row, err
}

// mayManage is the policy when by may create and rotate tokens.
func (m *Manager) mayManage(by access.Principal) (managed.Policy, error) {
	if by.Scope != nil {
		return managed.Policy{}, problem(config.ExitDenied, fmt.Errorf("%s has a scope (%s), which tokens are not in", by.Name, by.Scope), "ask an administrator of the host")
	}
	p, err := m.cfg.Policy()
	if err != nil {
		return p, err
	}
	return p, cmp.Or(p.CheckTokens(), p.CheckTokenCreator(managed.TokenCreator{Kind: string(by.Kind), ID: by.ID, Name: by.Name, Role: by.Role.String()}))
}

// parent is the token that by is, the zero one for anybody else. What a token
// issues is no wider than it is itself: it must not outlast it, nor count elsewhere.
func (m *Manager) parent(ctx context.Context, by access.Principal) (store.Token, error) {
	if by.Kind != access.KindToken {
		return store.Token{}, nil
	}
	row, err := m.cfg.Store.Token(ctx, by.ID)
	if errors.Is(err, store.ErrNoToken) { // a capability token, which has neither
		return store.Token{}, nil
	}
	return row, err
}

// within refuses networks beyond those of the parent.
func within(by access.Principal, parent store.Token, networks []string) error {
	if len(parent.Networks) == 0 {
		return nil
	}
	beyond := func(s string) bool {
		n, err := netip.ParsePrefix(s)
		return err != nil || !slices.ContainsFunc(parent.Networks, func(s string) bool {
			in, err := netip.ParsePrefix(s)
			return err == nil && in.Bits() <= n.Bits() && in.Contains(n.Addr())
		})
	}
	if len(networks) > 0 && !slices.ContainsFunc(networks, beyond) {
		return nil
	}
	list := strings.Join(parent.Networks, ", ")
	return problem(config.ExitDenied, fmt.Errorf("%s is a token itself and counts from %s only: what it issues cannot count elsewhere", by.Name, list),
		"name networks within these with `--from`", "or ask an administrator of the host")
}

// outlasts refuses an end, 0 for none, after that of the parent.
func outlasts(by access.Principal, parent store.Token, at int64, hints ...string) error {
	if parent.ExpiresAt == 0 || at != 0 && at <= parent.ExpiresAt {
		return nil
	}
	return problem(config.ExitDenied, fmt.Errorf("%s is a token itself and expires at %s: what it issues cannot outlast it", by.Name, stamp(parent.ExpiresAt)), hints...)
}

// expiry is when a token expires that by issues now, 0 for never.
func expiry(by access.Principal, parent store.Token, policy managed.Policy, lifetime string, now time.Time) (int64, error) {
	life := DefaultLifetime
	if most := policy.TokenLifetime(); most > 0 && most < life {
		life = most
	}
	left := timeOf(parent.ExpiresAt).Sub(now)
	if parent.ExpiresAt != 0 && left < life {
		life = left
	}
	var err error
	switch lifetime {
	case "":
	case Never:
		life = 0
	default:
		if life, err = config.ParseSpan(lifetime); err != nil {
			return 0, problem(config.ExitUsage, err, "say when it expires: `--expires 30d`")
		}
	}
	if err := policy.CheckTokenLifetime(life); err != nil {
		return 0, err
	}
	at := int64(0)
	if life != 0 {
		at = now.Add(life).UnixMilli()
	}
	return at, outlasts(by, parent, at, "ask for less: `--expires "+config.Span(left.Truncate(time.Minute))+"`")
}

// scopeWords is the scope to store for what was asked: nothing for all.
func scopeWords(role protocol.Role, asked []string) ([]string, error) {
	if len(asked) == 0 {
		if role == protocol.RoleOperator {
			return []string{"exec"}, nil
		}
		return nil, nil
	}
	if slices.Contains(asked, ScopeAll) {
		if len(asked) > 1 {
			return nil, errors.New(`the scope "all" stands alone: it is not narrowed by another`)
		}
		return nil, nil
	}
	s, err := access.ParseScope(asked)
	if err != nil {
		return nil, err
	}
	words := s.Words()
	if len(strings.Join(words, " ")) > maxScopeBytes {
		return nil, fmt.Errorf("a scope has %d bytes at most", maxScopeBytes)
	}
	return words, nil
}

// networksOf reads networks, each once.
func networksOf(asked []string) ([]netip.Prefix, error) {
	if len(asked) > maxNetworks {
		return nil, fmt.Errorf("a token is bound to %d networks at most", maxNetworks)
	}
	var out []netip.Prefix
	for _, s := range asked {
		n, err := managed.ParseNetwork(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// Rotate gives a token a new secret. Those until now count for the overlap, if any,
// and then not.
func (m *Manager) Rotate(ctx context.Context, by access.Principal, r RotateParams) (Created, error) {
	row, err := m.byRef(ctx, r.ID)
	if err != nil {
		return Created{}, err
	}
	now := m.cfg.Now()
	change, err := m.rotation(ctx, by, row, r, now)
	if err != nil {
		return Created{}, m.denied(by, "rotate", row.Name, err)
	}
	text := newText(row.ID)
	h := Hash(text)
	change.Hash = h[:]
	row, err = m.cfg.Store.RotateToken(ctx, change)
	switch {
	case errors.Is(err, store.ErrTokenDead), errors.Is(err, store.ErrNoToken):
		return Created{}, problem(config.ExitFailure, fmt.Errorf("%s does not count any more and cannot be rotated", r.ID), "make a new one: `towline token create --name NAME`")
	case err != nil:
		return Created{}, err
	}
	m.ended(row)
	t := m.view(row)
	m.cfg.Audit("token.rotate", by, append(about(t), slog.Int("secret", row.Secrets[0].N), slog.String("oldUntil", stamp(change.OldEnd)))...)
	return Created{Token: t, Secret: text}, nil
}

func (m *Manager) rotation(ctx context.Context, by access.Principal, row store.Token, r RotateParams, now time.Time) (store.Rotation, error) {
	change := store.Rotation{ID: row.ID, At: now.UnixMilli(), OldEnd: now.UnixMilli()}
	policy, err := m.mayManage(by)
	if err != nil {
		return change, err
	}
	facts, err := factsOf(row)
	if err != nil {
		return change, err
	}
	if err := policy.CheckToken(facts); err != nil {
		return change, err
	}
	if role, err := protocol.ParseRole(row.Role); err != nil || role > by.Role {
		return change, problem(config.ExitDenied, fmt.Errorf("%s has the role %q and cannot get a secret of a token with the role %q", by.Name, by.Role, row.Role))
	}
	parent, err := m.parent(ctx, by)
	if err != nil {
		return change, err
	}
	if row.ID != by.ID { // its own it has already
		if err := cmp.Or(outlasts(by, parent, row.ExpiresAt, "ask an administrator of the host"), within(by, parent, row.Networks)); err != nil {
			return change, err
		}
	}
	if r.Overlap != "" {
		d, err := config.ParseSpan(r.Overlap)
		if err == nil && d > MaxOverlap {
			err = fmt.Errorf("%s is too long: two secrets count beside each other for %s at most", config.Span(d), config.Span(MaxOverlap))
		}
		if err != nil {
			return change, problem(config.ExitUsage, err, "say how long the old secret still counts: `--overlap 1h`")
		}
		change.OldEnd = now.Add(d).UnixMilli()
	}
	if r.Lifetime != "" {
		change.Renew = true
		change.ExpiresAt, err = expiry(by, parent, policy, r.Lifetime, now)
		return change, err
	}
	// A token that a rule about its age ends would get a secret that does not count.
	_, err = policy.TokenUntil(timeOf(row.IssuedAt), now, now)
	return change, err
}

// Revoke ends a token and all that is connected with it. To revoke one that is
// revoked is no error.
func (m *Manager) Revoke(ctx context.Context, by access.Principal, ref string) (Token, error) {
	row, err := m.byRef(ctx, ref)
	if err != nil {
		return Token{}, err
	}
	if by.Scope != nil {
		_, err := m.mayManage(by)
		return Token{}, m.denied(by, "revoke", row.Name, err)
	}
	actor, err := json.Marshal(actorOf(by))
	if err != nil {
		return Token{}, err
	}
	was := row.RevokedAt
	if row, err = m.cfg.Store.RevokeToken(ctx, row.ID, m.cfg.Now().UnixMilli(), actor); err != nil {
		return Token{}, err
	}
	m.ended(row)
	t := m.view(row)
	if was == 0 {
		m.cfg.Audit("token.revoke", by, about(t)...)
	}
	return t, nil
}

// denied records that somebody wanted what they may not, and passes the error on.
func (m *Manager) denied(by access.Principal, command, name string, err error) error {
	if config.ExitCode(err) == config.ExitDenied {
		m.cfg.Audit("token.denied", by, slog.String("command", command), slog.String("name", config.OneLine(name)), slog.String("why", err.Error()))
	}
	return err
}

// about is what the audit says of a token.
func about(t Token) []slog.Attr {
	expires := Never
	if !t.ExpiresAt.IsZero() {
		expires = t.ExpiresAt.Format(time.RFC3339)
	}
	return []slog.Attr{
		slog.String("token", t.ID), slog.String("name", t.Name), slog.String("role", t.Role.String()),
		slog.String("scope", strings.Join(t.Scope, " ")), slog.String("networks", strings.Join(t.Networks, " ")), slog.String("expires", expires),
	}
}

func actorOf(p access.Principal) Actor {
	return Actor{Kind: string(p.Kind), ID: p.ID, Name: config.OneLine(p.Name)}
}
