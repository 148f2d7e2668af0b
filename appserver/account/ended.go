package account

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"towline/config"
	"towline/config/secret"
)

// refreshFailed decides whether a login is over.
func (m *Manager) refreshFailed(ctx context.Context, a secret.Auth, err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		m.mu.Lock()
		m.lost = lost{of: a.Fingerprint(), at: m.cfg.Now()}
		m.mu.Unlock()
		if ctx.Err() == nil && !errors.Is(err, ErrUnavailable) {
			return problem(stageRefresh, err, hintLogin)
		}
		return problem(stageRefresh, err)
	}
	switch {
	case r.code == "refresh_token_reused":
		return m.over(a, m.rotated(a))
	case r.code == "refresh_token_expired":
		return m.over(a, fmt.Errorf("%w: %s has not seen it for too long", ErrLoginExpired, r.host))
	case r.code == "refresh_token_invalidated":
		return m.over(a, fmt.Errorf("%w: it was ended at %s", ErrLoginExpired, r.host))
	case r.status == http.StatusUnauthorized, r.code == "invalid_grant":
		return m.over(a, fmt.Errorf("%w: %w", ErrLoginExpired, r))
	}
	return problem(stageRefresh, fmt.Errorf("refresh the login: %w", r), "try again, or log in anew: `towline login`")
}

// over remembers that a login has ended, so that nobody asks for it again.
func (m *Manager) over(a secret.Auth, why error) error {
	p := &config.Problem{Stage: stageRefresh, Err: why, Hints: []string{hintLogin, "on a host without a browser, from where one is: `towline login HOST`"}}
	m.mu.Lock()
	clear(m.dead)
	m.dead[a.Fingerprint()] = p
	m.mu.Unlock()
	m.cfg.Log.Warn("the login has ended", "err", why)
	m.cfg.Audit("credential.expired", "account", accountOf(a), "fingerprint", a.Fingerprint())
	return p
}

func accountOf(a secret.Auth) string {
	if a.Tokens == nil {
		return ""
	}
	return a.Tokens.AccountID
}

// rotated says as much as can be known about who used a refresh token first.
func (m *Manager) rotated(a secret.Auth) error {
	m.mu.Lock()
	l := m.lost
	m.mu.Unlock()
	if l.of == a.Fingerprint() {
		return fmt.Errorf("%w: %w: the issuer took it at %s, and its answer never arrived here",
			ErrLoginExpired, ErrRotated, l.at.Local().Format("2006-01-02 15:04:05"))
	}
	text := "another holder of this login used it"
	if !a.LastRefresh.IsZero() {
		text += fmt.Sprintf(", after this machine's last refresh at %s", a.LastRefresh.Local().Format("2006-01-02 15:04:05"))
	}
	if id := a.Tokens.LoginOwnerID; id != "" {
		text += fmt.Sprintf(" (login %s)", config.OneLine(id[:min(len(id), 8)]))
	}
	if who := m.holders(); len(who) > 0 {
		text += "; also using it here: " + strings.Join(who, ", ")
	} else {
		text += "; no other program on this machine has it open, so look for a copied auth.json elsewhere"
	}
	return fmt.Errorf("%w: %w: %s", ErrLoginExpired, ErrRotated, text)
}

func byWhom(who []string) string {
	if len(who) == 0 {
		return ""
	}
	return " (" + strings.Join(who, ", ") + ")"
}

func nounOf(mode secret.Mode) string {
	switch mode {
	case secret.ModeAPIKey:
		return "API key"
	case secret.ModePAT:
		return "personal access token"
	case secret.ModeAgent:
		return "an agent identity"
	}
	return config.OneLine(string(mode))
}
