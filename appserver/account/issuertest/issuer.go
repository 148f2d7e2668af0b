// Package issuertest is an issuer for tests: who logs people in, scriptable and
// counted. It speaks the endpoints Codex uses and standard OpenID Connect at the
// same address, so a test chooses the kind by how it points its client:
//
//	GET  /oauth/authorize                      a page that asks for consent (or goes on by itself)
//	POST /oauth/consent                        what that page submits: allow or deny
//	POST /oauth/token                          authorization_code, refresh_token, token-exchange, device_code; form or JSON
//	POST /oauth/revoke                         Codex's JSON, or RFC 7009's form
//	POST /api/accounts/deviceauth/usercode     Codex's device flow: a code …
//	POST /api/accounts/deviceauth/token        … and the wait for it (403 until somebody typed it)
//	GET  /codex/device, /device                where the person types it
//	POST /oauth/device                         RFC 8628's device authorisation
//	GET  /.well-known/openid-configuration     discovery; /jwks (and /agent-identities/jwks) the keys
//	GET  /oidc/userinfo                        who a bearer is
//	GET  /v1/user-auth-credential/whoami       who a personal access token is
//	GET  /backend-api/wham/accounts/check      which workspaces a bearer may use
//
// Refresh tokens rotate: each works once. Using one again is counted, refused
// with Codex's error, and revokes the whole login, as a strict issuer does.
//
// [Start] runs one on loopback for the length of a test. [New] gives an
// http.Handler to put behind any listener, TLS or name. [Issuer.Visit] and
// [Issuer.EnterCode] are the person at the browser. All methods may be called
// concurrently.
package issuertest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// User is who logs in.
type User struct {
	Email     string // default: grace@example.com
	Subject   string // default: user-grace; Codex's chatgpt_user_id
	AccountID string // the workspace; default: acct-tow
	Plan      string // default: pro
}

// Options say what kind of issuer to be. The zero value works.
type Options struct {
	// URL is the issuer's name when it is not where it listens; Start fills it.
	URL  string
	User User
	// ClientID, when set, is the only client accepted.
	ClientID string
	// AccessTTL is how long access tokens last: default an hour.
	AccessTTL time.Duration
	// DeviceTTL is how long a device code lasts: default 15 minutes.
	DeviceTTL time.Duration
	// DeviceInterval is how often a client may poll: default 1 second; RFC 8628
	// clients that poll faster are told slow_down when Strict is set.
	DeviceInterval time.Duration
	Strict         bool
	// NoConsent sends the browser straight on, as for somebody who agreed before.
	NoConsent bool
	// Forgiving refuses a used refresh token without ending the login.
	Forgiving bool
	// NoRotation keeps refresh tokens valid after use.
	NoRotation bool
	// Alg signs tokens: ES256 (default), RS256, EdDSA, or HS256 and none, which a
	// client must refuse.
	Alg string
	// Now is the issuer's clock.
	Now func() time.Time
	// Claims, when set, edits an id token's claims before it is signed: another
	// audience, no nonce, a time gone by.
	Claims func(claims map[string]any)
	// Canary, when set, is a part of every token, secret and code made, so that a
	// test can look for it where it must not be.
	Canary string
}

// Request is one that arrived, for assertions.
type Request struct {
	Method, Path string
	Header       http.Header
	Form         url.Values // query and form together
	Body         string
}

// Issuer is one running issuer.
type Issuer struct {
	// URL is its name, and its address when Start made it.
	URL string

	o    Options
	keys keys
	mux  *http.ServeMux

	mu       sync.Mutex
	down     bool
	hold     map[string]chan struct{} // path -> requests wait until it is closed
	failures map[string][]failure
	requests []Request
	codes    map[string]*grant  // authorization codes
	refresh  map[string]*grant  // refresh tokens, used ones too
	access   map[string]*grant  // access tokens
	devices  map[string]*device // by user code and by device code
	pats     map[string]User
	asked    map[string]url.Values // consent pages shown
	reused   int
	rotated  int
	revoked  []string
	apiKey   string
}

// grant is one login and what it gave out.
type grant struct {
	family    *family
	user      User
	client    string
	redirect  string
	challenge string
	nonce     string
	scope     string
	expires   time.Time
	used      bool
}

// family is a login: all tokens that came of one consent.
type family struct{ revoked bool }

type failure struct {
	status int
	body   string
}

// New makes an issuer to be served by somebody else. o.URL is needed.
func New(o Options) *Issuer {
	def := func(to *string, v string) {
		if *to == "" {
			*to = v
		}
	}
	def(&o.User.Email, "grace@example.com")
	def(&o.User.Subject, "user-grace")
	def(&o.User.AccountID, "acct-tow")
	def(&o.User.Plan, "pro")
	def(&o.Alg, "ES256")
	if o.AccessTTL == 0 {
		o.AccessTTL = time.Hour
	}
	if o.DeviceTTL == 0 {
		o.DeviceTTL = 15 * time.Minute
	}
	if o.DeviceInterval == 0 {
		o.DeviceInterval = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	i := &Issuer{
		URL: strings.TrimSuffix(o.URL, "/"), o: o, keys: newKeys(), mux: http.NewServeMux(),
		hold: map[string]chan struct{}{}, failures: map[string][]failure{},
		codes: map[string]*grant{}, refresh: map[string]*grant{}, access: map[string]*grant{},
		devices: map[string]*device{}, pats: map[string]User{}, asked: map[string]url.Values{},
	}
	i.routes()
	return i
}

// Start runs an issuer on 127.0.0.1 until the test ends.
func Start(t testing.TB, o Options) *Issuer {
	t.Helper()
	i := New(o)
	s := httptest.NewServer(i)
	if o.URL == "" {
		i.URL = s.URL
	}
	t.Cleanup(func() {
		i.Release("")
		s.Close()
	})
	return i
}

// ServeHTTP answers one request, or fails it as scripted.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form := r.URL.Query()
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		if posted, err := url.ParseQuery(string(body)); err == nil {
			for k, v := range posted {
				form[k] = append(form[k], v...)
			}
		}
	}
	i.mu.Lock()
	i.requests = append(i.requests, Request{Method: r.Method, Path: r.URL.Path, Header: r.Header.Clone(), Form: form, Body: string(body)})
	down, held := i.down, i.hold[r.URL.Path]
	var fail *failure
	if q := i.failures[r.URL.Path]; len(q) > 0 {
		fail, i.failures[r.URL.Path] = &q[0], q[1:]
	}
	i.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case down:
		panic(http.ErrAbortHandler) // the connection breaks without an answer
	case fail != nil && fail.status == 0:
		panic(http.ErrAbortHandler)
	case fail != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(fail.status)
		_, _ = io.WriteString(w, fail.body)
	default:
		i.mux.ServeHTTP(w, r)
	}
}

// Fail answers the next n requests to a path with a status and a body instead;
// status 0 breaks the connection.
func (i *Issuer) Fail(path string, n, status int, body string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range n {
		i.failures[path] = append(i.failures[path], failure{status, body})
	}
}

// Down makes every request fail without an answer, until called with false.
func (i *Issuer) Down(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// Hold lets requests to a path arrive but not be answered until Release.
func (i *Issuer) Hold(path string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hold[path] = make(chan struct{})
}

// Release answers what is held for a path; "" is every path.
func (i *Issuer) Release(path string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for p, c := range i.hold {
		if path == "" || p == path {
			close(c)
			delete(i.hold, p)
		}
	}
}

// Count is how many requests a path has had.
func (i *Issuer) Count(path string) int { return len(i.Requests(path)) }

// Requests lists what a path was sent, oldest first; "" is every path.
func (i *Issuer) Requests(path string) []Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []Request
	for _, r := range i.requests {
		if path == "" || r.Path == path {
			out = append(out, r)
		}
	}
	return out
}

// Reused is how often a used refresh token came back.
func (i *Issuer) Reused() int { i.mu.Lock(); defer i.mu.Unlock(); return i.reused }

// Rotated is how often a refresh token was changed for a new one.
func (i *Issuer) Rotated() int { i.mu.Lock(); defer i.mu.Unlock(); return i.rotated }

// Revoked lists the tokens that were revoked by their holders.
func (i *Issuer) Revoked() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.revoked...)
}

// SetUser changes who logs in from now on.
func (i *Issuer) SetUser(u User) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.o.User = u
}

// AddPAT makes a personal access token known to whoami.
func (i *Issuer) AddPAT(token string, u User) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pats[token] = u
}

// SetAPIKey makes the token exchange answer with a key; without one it fails, as
// it does for most accounts.
func (i *Issuer) SetAPIKey(key string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.apiKey = key
}

// ExpireAccess makes every access token given out so far invalid, though its
// claims say otherwise.
func (i *Issuer) ExpireAccess() {
	i.mu.Lock()
	defer i.mu.Unlock()
	clear(i.access)
}

// RevokeAll ends every login there is: no refresh token works any more.
func (i *Issuer) RevokeAll() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, g := range i.refresh {
		g.family.revoked = true
	}
	clear(i.access)
}

// Valid says whether a bearer would be accepted now.
func (i *Issuer) Valid(access string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, pat := i.pats[access]
	g := i.access[access]
	return pat || g != nil && !g.family.revoked && i.o.Now().Before(g.expires)
}

// random is an unguessable word that carries the canary.
func (i *Issuer) random(prefix string) string {
	var b [18]byte
	_, _ = rand.Read(b[:])
	return prefix + i.o.Canary + base64.RawURLEncoding.EncodeToString(b[:])
}
