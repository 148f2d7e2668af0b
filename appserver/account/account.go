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
// A Manager is safe for concurrent use. It starts no goroutine that outlives the
// call that needed it. It prints nothing and reads no environment: see
// [Config.Environ] for the variables Codex knows.
package account

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"towline/config/managed"
	"towline/config/secret"
)

// Limits on what comes from outside.
const (
	maxAnswer  = 1 << 20          // an issuer's answer; a token is a few KiB, a key set a few dozen
	maxSecret  = 64 << 10         // a key or token somebody hands in
	askTimeout = 30 * time.Second // one request to an issuer
	// LoginTimeout ends a browser login nobody completes.
	LoginTimeout = 15 * time.Minute
)

// What callers branch on. Each comes wrapped in a *config.Problem.
var (
	// ErrNotLoggedIn: nothing is stored, borrowed or in the environment.
	ErrNotLoggedIn = errors.New("not logged in")
	// ErrLoginExpired: what is stored is no longer accepted; only a person can
	// log in again. Work should wait for [Manager.Changed].
	ErrLoginExpired = errors.New("the login has expired")
	// ErrRotated: the refresh token was used by another holder. It is an
	// ErrLoginExpired too.
	ErrRotated = errors.New("the refresh token was already used")
	// ErrCancelled: another login took over, or the person gave up.
	ErrCancelled = errors.New("login cancelled")
	// ErrDenied: the person, or the issuer, said no.
	ErrDenied = errors.New("access was denied")
	// ErrUnavailable: the issuer cannot be reached or is failing; the stored login
	// is as good as it was.
	ErrUnavailable = errors.New("the issuer is not available")
)

// Config is what a Manager works with. Store is required.
type Config struct {
	Store  *secret.Store
	Policy managed.Policy
	Issuer Issuer       // zero value: OpenAI
	HTTP   *http.Client // nil: a client with timeouts, obeying the proxy variables
	// BaseURL is Codex's chatgpt_base_url; empty is https://chatgpt.com/backend-api.
	BaseURL string
	// AuthAPI verifies personal access tokens; empty is Codex's.
	AuthAPI string
	// RefreshURL and RevokeURL stand for the issuer's own when set.
	RefreshURL, RevokeURL string
	// AccessToken stands before whatever is stored (CODEX_ACCESS_TOKEN).
	AccessToken string
	Now         func() time.Time
	Log         *slog.Logger
	// Audit records what happened to the login; facts alternate key and value and
	// hold no secret. nil records nothing.
	Audit func(event string, facts ...any)
}

// Manager keeps one login. See the package doc.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever the login changes
	lent    *loan
	flight  *flight // the refresh under way, nil when none is
}

// New makes a Manager. It reads nothing yet.
func New(c Config) (*Manager, error) {
	if c.Store == nil {
		return nil, errors.New("account: no store")
	}
	return &Manager{cfg: c, changed: make(chan struct{})}, nil
}

type flight struct{}

// Changed is closed when the login next changes: logged in, out, lent, taken
// back, or refreshed after it had expired. Ask again for the one after.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

var errUnbuilt = errors.New("not built yet")

// Status says how things stand. It asks nobody on the network, except about a
// personal access token when verify is set ([Manager.Verify]).
func (m *Manager) Status(ctx context.Context) (Status, error) { return Status{}, errUnbuilt }

// Token is what to authorise a request with now: borrowed, from the
// environment, or stored. A token about to expire is refreshed first.
func (m *Manager) Token(ctx context.Context) (Bearer, error) { return Bearer{}, errUnbuilt }

// Rejected is called after a request authorised with used was answered 401. It
// gives another bearer (adopted from the store, refreshed, or borrowed anew), or
// ErrLoginExpired when there is none better.
func (m *Manager) Rejected(ctx context.Context, used Bearer) (Bearer, error) {
	return Bearer{}, errUnbuilt
}

// Browser logs in through a browser and returns when that has happened.
func (m *Manager) Browser(ctx context.Context, o BrowserOptions) (Status, error) {
	return Status{}, errUnbuilt
}

// Device logs in with a code the person types elsewhere. show is called once,
// before the waiting begins.
func (m *Manager) Device(ctx context.Context, show func(DeviceCode)) (Status, error) {
	return Status{}, errUnbuilt
}

// SetAPIKey stores an API key. Like Codex it verifies nothing.
func (m *Manager) SetAPIKey(ctx context.Context, key string) (Status, error) {
	return Status{}, errUnbuilt
}

// SetAccessToken verifies and stores a personal access token (at-…) or an agent
// identity.
func (m *Manager) SetAccessToken(ctx context.Context, token string) (Status, error) {
	return Status{}, errUnbuilt
}

// Lend uses tokens of somebody else's from now on, in memory only, until Unlend.
// refresh is called for new ones, with a reason ("expired" or "unauthorized");
// it may be nil.
func (m *Manager) Lend(ctx context.Context, t LentTokens, refresh func(ctx context.Context, reason string) (LentTokens, error)) (Status, error) {
	return Status{}, errUnbuilt
}

// Unlend forgets what was lent; what is stored counts again. It reports whether
// anything was lent.
func (m *Manager) Unlend() bool { return false }

// Logout revokes the login at its issuer, as far as that works, and removes it
// from every place. It reports whether there was one.
func (m *Manager) Logout(ctx context.Context) (bool, error) { return false, errUnbuilt }
