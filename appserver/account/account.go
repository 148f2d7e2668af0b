// Package account is the one place that logs in, keeps a login alive, and
// hands out what a model request is authorised with.
//
// A [Manager] works on one credential: the one in a secret.Store, which is
// Codex's own place in Codex's own format, so that both programs share a login.
// It logs in through a browser ([Manager.Browser]), a device code
// ([Manager.Device]), an API key or an access token from whoever has one, or
// borrows short-lived tokens from a client ([Manager.Lend]).
//
// Refresh tokens rotate when they are used, so two holders of one destroy the
// login. Everything that uses one therefore happens in refresh.go, under the
// store's lock (Codex's own), after re-reading the store.
//
// A Manager is safe for concurrent use. Its only goroutine is a refresh under
// way, which must not be abandoned once its token may have been used:
// [Manager.Close] waits for it. It prints nothing and reads no environment; see
// [Config.Environ] for the variables Codex knows.
package account

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"towline/config"
	"towline/config/managed"
	"towline/config/secret"
)

// Limits on what comes from outside.
const (
	maxAnswer  = 1 << 20          // an issuer's answer; a token is a few KiB, a key set a few dozen
	maxSecret  = 64 << 10         // a key or token somebody hands in
	askTimeout = 30 * time.Second // one request to an issuer
	lockWait   = 45 * time.Second // for another process that refreshes; longer than it may ask
	// LoginTimeout ends a browser login nobody completes.
	LoginTimeout = 15 * time.Minute
)

// What callers branch on. Each comes wrapped in a *config.Problem.
var (
	// ErrNotLoggedIn: nothing is stored, borrowed or in the environment.
	ErrNotLoggedIn = errors.New("not logged in")
	// ErrLoginExpired: what is stored is no longer accepted; only a person can
	// log in again. Work should wait for [Manager.AwaitLogin].
	ErrLoginExpired = errors.New("the login has expired")
	// ErrRotated: the refresh token was used by another holder. It comes with
	// ErrLoginExpired.
	ErrRotated = errors.New("the refresh token was already used")
	// ErrCancelled: another login took over, or the person gave up.
	ErrCancelled = errors.New("login cancelled")
	// ErrDenied: the person, or the issuer, said no.
	ErrDenied = errors.New("access was denied")
	// ErrUnavailable: the issuer cannot be reached or is failing; the stored login
	// is as good as it was.
	ErrUnavailable = errors.New("the issuer is not available")
	// ErrNotRevoked comes from Logout together with true: the login is removed
	// here, and its issuer could not be told.
	ErrNotRevoked = errors.New("the issuer was not told")
)

// Config is what a Manager works with. Store is required.
type Config struct {
	Store *secret.Store
	// Elsewhere are stores of other kinds on the same home: Logout empties them too.
	Elsewhere []*secret.Store
	Policy    managed.Policy
	Issuer    Issuer       // zero value: OpenAI
	HTTP      *http.Client // nil: a client with timeouts, obeying the proxy variables
	// AuthAPI verifies personal access tokens, AgentKeys (its /agent-identities/jwks)
	// agent identities; empty is Codex's.
	AuthAPI, AgentKeys string
	// RefreshURL and RevokeURL stand for the issuer's own when set.
	RefreshURL, RevokeURL string
	// AccessToken stands before whatever is stored (CODEX_ACCESS_TOKEN).
	AccessToken string
	// CodexHome is told apart in messages about who else uses the login; may be empty.
	CodexHome string
	UserAgent string // empty: towline
	Now       func() time.Time
	Log       *slog.Logger
	// Audit records what happened to the login; facts alternate key and value and
	// hold no secret. nil records nothing.
	Audit func(event string, facts ...any)
}

// Manager keeps one login. See the package doc.
type Manager struct {
	cfg     Config
	flights sync.WaitGroup

	mu         sync.Mutex
	closed     bool
	changed    chan struct{}        // closed and replaced whenever the login changes
	lent       *loan                // nil: nothing is borrowed
	flight     *flight              // the refresh under way, nil when none is
	dead       map[string]error     // fingerprints of logins that ended, and why
	expiry     map[string]time.Time // of opaque access tokens, by fingerprint
	unsaved    *unsaved             // refreshed, and the store would not take it
	lost       lost                 // the refresh whose answer did not arrive
	whoami     map[string]identity  // of access tokens, by token, asked once
	discovered map[Issuer]endpoints // of OIDC issuers
	keys       map[string]*keySet   // by address
}

// New makes a Manager. It reads nothing yet.
func New(c Config) (*Manager, error) {
	if c.Store == nil {
		return nil, errors.New("account: no store")
	}
	c.Issuer = c.Issuer.withDefaults()
	if c.Issuer.ClientID == "" {
		return nil, &config.Problem{
			Stage: "config", Err: errors.New("the issuer " + host(c.Issuer.URL) + " needs a client_id"),
			Hints: []string{"set client_id under [auth] in config.toml"}, Exit: config.ExitConfig,
		}
	}
	if err := safeURL(c.Issuer.URL); err != nil {
		return nil, &config.Problem{
			Stage: "config", Err: err, Exit: config.ExitConfig,
			Hints: []string{"set issuer under [auth] in config.toml, or CODEX_APP_SERVER_LOGIN_ISSUER, to an https URL"},
		}
	}
	c.AuthAPI = cmp.Or(c.AuthAPI, defaultAuth)
	c.AgentKeys = cmp.Or(c.AgentKeys, defaultJWKS)
	c.UserAgent = cmp.Or(c.UserAgent, "towline")
	if c.HTTP == nil {
		c.HTTP = defaultHTTP()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Audit == nil {
		c.Audit = func(string, ...any) {}
	}
	return &Manager{
		cfg: c, changed: make(chan struct{}), dead: map[string]error{}, expiry: map[string]time.Time{},
		whoami: map[string]identity{}, discovered: map[Issuer]endpoints{}, keys: map[string]*keySet{},
	}, nil
}

// Close waits for a refresh under way, and forgets what was lent.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.Unlend()
	m.flights.Wait()
	m.cfg.HTTP.CloseIdleConnections()
}

// Changed is closed when the login next changes here: logged in, out, lent, taken
// back. Ask again for the one after. Of what other programs do to the store,
// [Manager.AwaitLogin] hears.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// announce wakes who waits for a change.
func (m *Manager) announce() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// awaitPoll is how often AwaitLogin looks whether another program logged in.
const awaitPoll = 2 * time.Second

// AwaitLogin waits until there is a login worth trying: something borrowed, or
// something stored that is not known to have ended. Another process may be the
// one that logs in.
func (m *Manager) AwaitLogin(ctx context.Context) error {
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	for {
		changed := m.Changed()
		if m.usable(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-tick.C:
		}
	}
}

func (m *Manager) usable(ctx context.Context) bool {
	m.mu.Lock()
	lent := m.lent
	m.mu.Unlock()
	if lent != nil {
		return !lent.dead.Load()
	}
	if m.cfg.AccessToken != "" {
		return true
	}
	a, _, err := m.cfg.Store.Load(ctx)
	return err == nil && a.Mode != secret.ModeNone && m.ended(a) == nil
}

// ended is why a login is known to have ended, or nil.
func (m *Manager) ended(a secret.Auth) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead[a.Fingerprint()]
}

// load reads the store, and what could not be saved stands before it. Errors are
// Problems.
func (m *Manager) load(ctx context.Context) (secret.Auth, secret.Where, error) {
	a, w, err := m.cfg.Store.Load(ctx)
	switch {
	case errors.Is(err, secret.ErrNone):
		return a, w, notLoggedIn()
	case err != nil:
		return a, w, storeProblem(err)
	case a.Mode == secret.ModeNone:
		return a, w, notLoggedIn()
	}
	// A login that came before a mandate does not outlive it; Codex ignores it too.
	if err := m.cfg.Policy.CheckStored(a); err != nil {
		return a, w, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.unsaved; u != nil {
		if u.was.Fingerprint() == a.Fingerprint() {
			return u.now, w, nil
		}
		m.unsaved = nil // somebody logged in or refreshed since
	}
	return a, w, nil
}

// lost is a refresh token that was sent, without an answer.
type lost struct {
	of string // fingerprint
	at time.Time
}

// unsaved is a refreshed login that the store would not take: memory is the last
// place that has it.
type unsaved struct {
	was secret.Auth // what the store still holds
	now secret.Auth
}
