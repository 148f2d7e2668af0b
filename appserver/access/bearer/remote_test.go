package bearer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
)

// issuer is an OIDC issuer over https.
type issuer struct {
	*httptest.Server
	ca *x509.CertPool

	mu      sync.Mutex
	fetches int           // of keys
	found   int           // of the discovery document
	keys    string        // the JWKS
	doc     string        // instead of the usual document
	status  int           // instead of 200
	hold    chan struct{} // answers wait for it
}

func newIssuer(t *testing.T, keys string) *issuer {
	t.Helper()
	i := &issuer{keys: keys}
	i.Server = httptest.NewTLSServer(i)
	i.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(i.Close)
	i.ca = x509.NewCertPool()
	i.ca.AddCert(i.Certificate())
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	status, hold, answer := i.status, i.hold, i.keys
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		i.found++
		if answer = i.doc; answer == "" {
			answer = fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, i.URL, i.URL+"/jwks")
		}
	case "/jwks":
		i.fetches++
	default:
		status = http.StatusNotFound
	}
	i.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}
	if status != 0 {
		w.Header().Set("Location", i.URL+"/jwks")
		w.WriteHeader(status)
		return
	}
	_, _ = w.Write([]byte(answer))
}

func (i *issuer) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *issuer) fetched() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

func newKeyPair(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// of is a configuration of i, and a token of it is signed by key.
func (i *issuer) of(c *clock, more func(*JWT)) Config {
	j := JWT{Name: "ci", Issuer: i.URL, Audience: []string{"us"}, Skew: defaultSkew, Role: protocol.RoleOperator}
	if more != nil {
		more(&j)
	}
	return Config{JWT: []JWT{j}, CA: i.ca, Now: c.now, Lockout: Lockout{LoopbackFree: 1 << 20}}
}

func (i *issuer) token(t *testing.T, c *clock, kid string, key crypto.Signer, more map[string]any) string {
	m := map[string]any{"iss": i.URL, "aud": "us", "sub": "repo:octo/app", "exp": c.now().Add(time.Hour).Unix()}
	for k, v := range more {
		m[k] = v
	}
	return "Bearer " + sign(t, "ES256", kid, key, m, nil)
}

func TestIssuerByDiscovery(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(`{"kty":"future","kid":"x"}`, `7`, jwkOf(t, k.Public(), "a", "ES256")))
	a := open(t, i.of(c, nil))
	run(t, a)
	p, err := try(t, a, i.token(t, c, "a", k, nil))
	if err != nil || p.ID != "ci repo:octo/app" || p.Lapsed != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	for want, header := range map[string]string{
		"401 " + sayAudience: i.token(t, c, "a", k, map[string]any{"aud": "them"}),
		"401 " + sayExpired:  i.token(t, c, "a", k, map[string]any{"exp": c.now().Unix() - 60}),
		"401 " + sayJWT:      i.token(t, c, "a", newKeyPair(t), nil),
	} {
		if _, err := try(t, a, header); outcome(err) != want {
			t.Errorf("got %s (%v), want %s", outcome(err), err, want)
		}
	}
	for _, iss := range []string{i.URL + "/", strings.ToUpper(i.URL), "https://evil.example", ""} {
		if _, err := try(t, a, i.token(t, c, "a", k, map[string]any{"iss": iss})); outcome(err) != "401 "+sayJWT {
			t.Errorf("issuer %q: %s", iss, outcome(err))
		}
	}
	if _, err := try(t, a, i.token(t, c, "a", k, map[string]any{"sub": ""})); err == nil || !strings.Contains(err.Error(), "names nobody") {
		t.Errorf("without a subject: %v", err)
	}
	if n := i.fetched(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// A key that is new is found at once; one that is gone does not count, and the
// connections of its tokens go on.
func TestRotation(t *testing.T) {
	old, next, c := newKeyPair(t), newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, old.Public(), "old", "")))
	a := open(t, i.of(c, nil))
	run(t, a)
	before := i.token(t, c, "old", old, nil)
	p, err := try(t, a, before)
	if err != nil {
		t.Fatal(err)
	}
	i.set(func() { i.keys = jwks(jwkOf(t, next.Public(), "new", "")) })
	c.add(refetchEvery)
	if _, err := try(t, a, i.token(t, c, "new", next, nil)); err != nil {
		t.Fatalf("a new key: %v", err)
	}
	if _, err := try(t, a, before); outcome(err) != "401 "+sayJWT {
		t.Errorf("a key that was taken away, and a token that was remembered: %s", outcome(err))
	}
	select {
	case <-p.Lapsed:
		t.Error("an issuer's rotation ended a connection")
	default:
	}
}

// Strangers can make it ask once in a while, however many keys they make up; and
// not at all with a token that could not be good.
func TestUnknownKeysDoNotMakeItFetch(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	a := open(t, i.of(c, nil))
	run(t, a)
	if _, err := try(t, a, i.token(t, c, "a", k, nil)); err != nil {
		t.Fatal(err)
	}
	ask := func(more map[string]any) {
		var wg sync.WaitGroup
		for n := range 40 {
			text := i.token(t, c, fmt.Sprint("made up ", n), k, more)
			wg.Go(func() {
				if _, err := try(t, a, text); outcome(err) != "401 "+sayJWT && outcome(err) != "401 "+sayExpired && outcome(err) != "401 "+sayAudience {
					t.Errorf("%s (%v)", outcome(err), err)
				}
			})
		}
		wg.Wait()
	}
	ask(nil)
	if n := i.fetched(); n != 1 {
		t.Errorf("%d fetches, right after the first", n)
	}
	c.add(refetchEvery)
	for _, bad := range []map[string]any{{"exp": 1}, {"aud": "them"}, {"iss": "https://evil.example"}, {"nbf": c.now().Unix() + 3600}} {
		ask(bad)
	}
	if n := i.fetched(); n != 1 {
		t.Errorf("%d fetches for tokens that could not be good", n)
	}
	ask(nil)
	if n := i.fetched(); n != 2 {
		t.Errorf("%d fetches after a while, want one more", n)
	}
}

func TestOutageKeepsKeysForAWhile(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	a := open(t, i.of(c, func(j *JWT) { j.MaxStale = time.Hour }))
	run(t, a)
	good := i.token(t, c, "a", k, map[string]any{"exp": c.now().Add(10 * time.Hour).Unix()})
	if _, err := try(t, a, good); err != nil {
		t.Fatal(err)
	}
	i.set(func() { i.status = http.StatusBadGateway })
	c.add(59 * time.Minute)
	unknown := i.token(t, c, "b", k, nil)
	if _, err := try(t, a, unknown); outcome(err) != "401 "+sayJWT {
		t.Errorf("an unknown key in an outage: %s", outcome(err))
	}
	if _, err := try(t, a, good); err != nil {
		t.Errorf("during the outage: %v", err)
	}
	c.add(2 * time.Minute)
	if _, err := try(t, a, good); err == nil || !strings.HasPrefix(outcome(err), "host: ") {
		t.Errorf("keys that are too old: %s", outcome(err))
	}
	i.set(func() { i.status = 0 })
	c.add(refetchEvery)
	if _, err := try(t, a, good); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

// An issuer that is away when a host starts does not keep it from starting, nor
// other credentials from counting.
func TestStartsWithoutTheIssuer(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	i.set(func() { i.status = http.StatusServiceUnavailable })
	cfg := i.of(c, nil)
	cfg.Capability = []Capability{{Name: "phone", File: write(t, "f", "let me in"), Role: protocol.RoleObserver}}
	a := open(t, cfg)
	run(t, a)
	if _, err := try(t, a, i.token(t, c, "a", k, nil)); outcome(err) != "host: ci: "+errNoKeysYet.Error() {
		t.Errorf("without keys: %s", outcome(err))
	}
	if _, err := try(t, a, "Bearer let me in"); err != nil {
		t.Error(err)
	}
	i.set(func() { i.status = 0 })
	c.add(refetchEvery)
	if _, err := try(t, a, i.token(t, c, "a", k, nil)); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// One that never answers holds only so many, and nobody when they hang up.
func TestSilentIssuer(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	hold := make(chan struct{})
	i.set(func() { i.hold = hold })
	a := open(t, i.of(c, nil))
	run(t, a)
	r := a.sources[0].remote
	text := i.token(t, c, "a", k, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := a.Authenticate(ctx, access.Attempt{Authorization: []string{text}})
		ended <- err
	}()
	hangUp()
	if err := <-ended; !strings.HasPrefix(outcome(err), "host: ") {
		t.Errorf("who hung up: %s", outcome(err))
	}
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = maxWaiting
	if r.ask() {
		t.Error("one too many may wait")
	}
	r.waiting = waiting
	r.mu.Unlock()
	close(hold)
	if _, err := try(t, a, text); err != nil {
		t.Errorf("when it answers: %v", err)
	}
}

func TestWhatAnIssuerMayAnswer(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	good := jwks(jwkOf(t, k.Public(), "a", ""))
	for name, tc := range map[string]struct {
		change func(*issuer)
		hosts  []string
		want   string // in the error; empty: it is accepted
	}{
		"as it should be":           {func(*issuer) {}, nil, ""},
		"a redirect":                {func(i *issuer) { i.status = http.StatusFound }, nil, "sends elsewhere"},
		"a document of another":     {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":"%s/","jwks_uri":"%s/jwks"}`, i.URL, i.URL) }, nil, "of another issuer"},
		"a document without issuer": {func(i *issuer) { i.doc = fmt.Sprintf(`{"jwks_uri":"%s/jwks"}`, i.URL) }, nil, "of another issuer"},
		"an issuer twice":           {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":"x","issuer":%q,"jwks_uri":"%s/jwks"}`, i.URL, i.URL) }, nil, "repeats"},
		"an issuer in capitals":     {func(i *issuer) { i.doc = fmt.Sprintf(`{"Issuer":%q,"jwks_uri":"%s/jwks"}`, i.URL, i.URL) }, nil, "of another issuer"},
		"keys elsewhere":            {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"https://keys.example/jwks"}`, i.URL) }, nil, "not among the jwks_hosts"},
		"keys at another name of it": {func(i *issuer) {
			i.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, i.URL, strings.Replace(i.URL, "127.0.0.1", "example.com", 1)+"/jwks")
		}, []string{"127.0.0.1"}, "not among"},
		"keys over http": {func(i *issuer) {
			i.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, i.URL, strings.Replace(i.URL, "https", "http", 1)+"/jwks")
		}, nil, "not https"},
		"keys in a file":          {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, i.URL) }, nil, "no URL"},
		"keys with a password":    {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":"https://u:p@keys.example/"}`, i.URL) }, nil, "holds credentials"},
		"a document without keys": {func(i *issuer) { i.doc = fmt.Sprintf(`{"issuer":%q}`, i.URL) }, nil, "no jwks_uri"},
		"no JSON":                 {func(i *issuer) { i.doc = "<html>" }, nil, "discovery document"},
		"more than is read":       {func(i *issuer) { i.keys = strings.Repeat(" ", maxAnswer) + good }, nil, "more than"},
		"no keys":                 {func(i *issuer) { i.keys = jwks() }, nil, "no public key"},
		"only secrets":            {func(i *issuer) { i.keys = jwks(`{"kty":"oct","k":"` + b64([]byte(secret)) + `","kid":"a"}`) }, nil, "no public key"},
		"an error":                {func(i *issuer) { i.status = http.StatusInternalServerError }, nil, "HTTP 500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t, good)
			tc.change(i)
			a := open(t, i.of(c, func(j *JWT) { j.JWKSHosts = tc.hosts }))
			err := a.sources[0].remote.fetch(t.Context())
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("keys at a host of the list", func(t *testing.T) {
		keys, front := newIssuer(t, good), newIssuer(t, good)
		u, _ := url.Parse(keys.URL)
		front.URL = "https://example.com" // which its certificate is for, and its client dials as itself
		front.doc = fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, front.URL, keys.URL+"/jwks")
		for _, hosts := range [][]string{nil, {"keys.example"}, {"127.0.0.1"}, {u.Host}} {
			front.ca.AddCert(keys.Certificate())
			a := open(t, front.of(c, func(j *JWT) { j.JWKSHosts = hosts }))
			r := a.sources[0].remote
			r.client.Transport.(*http.Transport).DialContext = front.Client().Transport.(*http.Transport).DialContext
			err := r.fetch(t.Context())
			if listed := len(hosts) > 0 && hosts[0] != "keys.example"; listed != (err == nil) {
				t.Errorf("%v: %v", hosts, err)
			}
		}
	})
}

func TestCertificatesOfIssuers(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	cfg := i.of(c, nil)
	cfg.CA = nil
	a := open(t, cfg)
	if err := a.sources[0].remote.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
}

func TestAddressesOfKeys(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://a.example":                     true,
		"https://a.example:8443/x?y=z":          true,
		"http://127.0.0.1:1/":                   true,
		"http://[::1]:1/":                       true,
		"http://localhost/":                     true,
		"http://a.example":                      false,
		"http://127.0.0.1.example":              false,
		"http://localhost.example":              false,
		"ftp://127.0.0.1":                       false,
		"https://":                              false,
		"https:a.example":                       false,
		"//a.example":                           false,
		"https://u@a.example":                   false,
		"https://a.example#x":                   false,
		"":                                      false,
		"https://a.example/\x7f":                false,
		"https://a/" + strings.Repeat("x", 3e3): false,
	} {
		j := JWT{Name: "x", JWKSURL: text, Audience: []string{"us"}, Role: protocol.RoleOperator}
		_, err := New(Config{JWT: []JWT{j}})
		if (err == nil) != ok && text != "" {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}

// A key set at a fixed address, with the issuers said.
func TestKeySetAtAnAddress(t *testing.T) {
	k, c := newKeyPair(t), newClock()
	i := newIssuer(t, jwks(jwkOf(t, k.Public(), "a", "")))
	a := open(t, i.of(c, func(j *JWT) { j.JWKSURL, j.Issuer, j.Issuers = i.URL+"/jwks", "", []string{"me"} }))
	run(t, a)
	if _, err := try(t, a, i.token(t, c, "a", k, map[string]any{"iss": "me"})); err != nil {
		t.Error(err)
	}
	if _, err := try(t, a, i.token(t, c, "a", k, nil)); outcome(err) != "401 "+sayJWT {
		t.Errorf("of another issuer: %s", outcome(err))
	}
	if i.found != 0 {
		t.Error("it was looked for")
	}
}
