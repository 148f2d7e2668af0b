//go:build unix

package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// prover is an authenticator that knows tokens by heart.
type prover struct {
	known  map[string]access.Principal
	refuse *access.Refusal // whoever is not known; nil is Codex's
	broken error

	mu       sync.Mutex
	attempts []access.Attempt
}

func (p *prover) Authenticate(_ context.Context, a access.Attempt) (access.Principal, error) {
	p.mu.Lock()
	p.attempts = append(p.attempts, a)
	p.mu.Unlock()
	if p.broken != nil {
		return access.Principal{}, p.broken
	}
	if len(a.Authorization) == 0 {
		return access.Principal{}, &access.Refusal{Status: http.StatusUnauthorized, Body: "missing websocket bearer token"}
	}
	if who, ok := p.known[strings.TrimPrefix(a.Authorization[0], "Bearer ")]; ok {
		return who, nil
	}
	if p.refuse != nil {
		return access.Principal{}, p.refuse
	}
	return access.Principal{}, &access.Refusal{Status: http.StatusUnauthorized, Body: "invalid websocket bearer token"}
}

func (p *prover) seen() []access.Attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.attempts)
}

var ci = access.Principal{Kind: access.KindToken, ID: "ci", Name: "ci", Role: protocol.RoleObserver}

func knows(token string, p access.Principal) *prover {
	return &prover{known: map[string]access.Principal{token: p}}
}

// tally counts what a listener tells.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) Connection(via, outcome string) { c.add(via + " " + outcome) }
func (c *tally) AuthFailure(reason string)      { c.add("auth " + reason) }

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}

func (c *tally) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

// whoIs tells who came, and echoes.
func whoIs(to chan<- access.Principal) AcceptFunc {
	return func(ctx context.Context, s rpc.Stream, p access.Principal, via, remote string) {
		to <- p
		echo(ctx, s, p, via, remote)
	}
}

func bearerHeader(token string) string { return "Authorization: Bearer " + token }

func TestCredentialDecidesWhoComesIn(t *testing.T) {
	self := LocalUser()
	for name, tc := range map[string]struct {
		url     string // "" is a unix socket
		require bool
		header  []string
		status  int
		body    string
		who     access.Principal
		counted string
	}{
		"same user":                      {"ws://127.0.0.1:0", false, nil, 101, "", self, "ws accepted"},
		"same user with a token":         {"ws://127.0.0.1:0", false, []string{bearerHeader("good")}, 101, "", ci, "ws accepted"},
		"same user with a bad token":     {"ws://127.0.0.1:0", false, []string{bearerHeader("bad")}, 401, "invalid websocket bearer token", ci, "auth invalid"},
		"auth is required":               {"ws://127.0.0.1:0", true, nil, 401, "missing websocket bearer token", ci, "auth missing"},
		"required and given":             {"ws://[::1]:0", true, []string{bearerHeader("good")}, 101, "", ci, "ws accepted"},
		"required and bad":               {"ws://[::1]:0", true, []string{bearerHeader("bad")}, 401, "invalid websocket bearer token", ci, "ws unauthorized"},
		"beyond loopback":                {"ws://0.0.0.0:0", true, []string{bearerHeader("good")}, 101, "", ci, "ws accepted"},
		"beyond loopback without":        {"ws://0.0.0.0:0", true, nil, 401, "missing websocket bearer token", ci, "ws unauthorized"},
		"unix, same user":                {"", true, nil, 101, "", self, "unix accepted"},
		"unix with a token":              {"", false, []string{bearerHeader("good")}, 101, "", ci, "unix accepted"},
		"unix with a bad token":          {"", false, []string{bearerHeader("bad")}, 401, "invalid websocket bearer token", ci, "unix unauthorized"},
		"a network with a token":         {"", false, []string{bearerHeader("good"), "Upgrade: " + EgressProtocol}, 403, "a token lends no network", ci, "unix forbidden"},
		"a web page with a token":        {"ws://127.0.0.1:0", true, []string{bearerHeader("good"), "Origin: http://x"}, 403, "", ci, "ws origin"},
		"malformed comes before a token": {"ws://127.0.0.1:0", true, []string{"Sec-WebSocket-Version: 8"}, 400, "`Sec-WebSocket-Version` header did not include '13'", ci, "ws malformed"},
		"so does a strange name":         {"ws://127.0.0.1:0", true, []string{"Host: attacker.example"}, 403, "*", ci, "ws host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := tc.url
			if url == "" {
				url = socketURL(t)
			}
			auth, meter, came := knows("good", ci), new(tally), make(chan access.Principal, 1)
			l := open(t, url, Options{Auth: auth, RequireAuth: tc.require, DangerousPlaintext: true, Meter: meter}, whoIs(came))
			resp, body := answered(t, l.URL(), upgrade("localhost", tc.header...))
			if resp.StatusCode != tc.status || tc.body != "*" && body != tc.body {
				t.Fatalf("%d %q, want %d %q", resp.StatusCode, body, tc.status, tc.body)
			}
			if tc.status == http.StatusSwitchingProtocols {
				if p := <-came; p.Key() != tc.who.Key() || p.Role != tc.who.Role {
					t.Errorf("came as %+v", p)
				}
			}
			if meter.count(tc.counted) != 1 {
				t.Errorf("%q is not counted: %v", tc.counted, meter.n)
			}
			for _, a := range auth.seen() {
				if via, _, _ := strings.Cut(l.URL(), ":"); a.Via != via || a.Source.IsValid() != (via != "unix") {
					t.Errorf("attempt %+v", a)
				}
			}
		})
	}
}

func TestRefusalsAreAnsweredAsTheAuthenticatorSays(t *testing.T) {
	for name, tc := range map[string]struct {
		refuse  *access.Refusal
		broken  error
		status  int
		body    string
		retry   string
		counted []string
	}{
		"locked out": {
			refuse: &access.Refusal{Status: 429, Body: "too many failures", RetryAfter: 1500 * time.Millisecond},
			status: 429, body: "too many failures", retry: "2", counted: []string{"auth locked_out", "ws locked_out"},
		},
		"from elsewhere": {refuse: &access.Refusal{Status: 403, Body: "not from there", Why: "secret reason"}, status: 403, body: "not from there", counted: []string{"auth forbidden", "ws forbidden"}},
		"expired":        {refuse: &access.Refusal{Status: 401, Body: "expired websocket jwt"}, status: 401, body: "expired websocket jwt", counted: []string{"auth expired", "ws unauthorized"}},
		"unheard of":     {refuse: &access.Refusal{Status: 401, Body: "a\nlabel\""}, status: 401, body: "a\nlabel\"", counted: []string{"auth other"}},
		"broken":         {broken: errors.New("disk on fire"), status: 503, body: "authentication is not available", counted: []string{"auth host", "ws auth_failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			meter := new(tally)
			l := open(t, "ws://127.0.0.1:0", Options{Auth: &prover{refuse: tc.refuse, broken: tc.broken}, RequireAuth: true, Meter: meter}, echo)
			resp, body := answered(t, l.URL(), upgrade("localhost", bearerHeader("x")))
			if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Retry-After") != tc.retry {
				t.Errorf("%d %q %q", resp.StatusCode, body, resp.Header)
			}
			for _, want := range tc.counted {
				if meter.count(want) != 1 {
					t.Errorf("%q is not counted: %v", want, meter.n)
				}
			}
		})
	}
}

// Somebody else's process on this machine comes in with a token, and not without.
func TestOtherUsersComeInWithAToken(t *testing.T) {
	l := open(t, "ws://127.0.0.1:0", Options{Auth: knows("good", ci)}, echo)
	l.uid++ // whoever calls is now somebody else
	if resp, _ := answered(t, l.URL(), upgrade("localhost")); resp.StatusCode != http.StatusForbidden {
		t.Errorf("without: %d", resp.StatusCode)
	}
	if resp, body := answered(t, l.URL(), upgrade("localhost", bearerHeader("good"))); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("with: %d %s", resp.StatusCode, body)
	}
}

func TestListenersBeyondLoopbackNeedAuthAndTLS(t *testing.T) {
	auth := knows("good", ci)
	for name, tc := range map[string]struct {
		o    Options
		want string // "" opens
	}{
		"nothing":                 {Options{}, "without auth"},
		"plaintext is no auth":    {Options{DangerousPlaintext: true}, "without auth"},
		"auth that is optional":   {Options{DangerousPlaintext: true, Auth: auth}, "without auth"},
		"required of nobody":      {Options{DangerousPlaintext: true, RequireAuth: true}, "without auth"},
		"auth in clear":           {Options{Auth: auth, RequireAuth: true}, "refusing to start plain websocket listener 0.0.0.0:0"},
		"auth in clear, as asked": {Options{Auth: auth, RequireAuth: true, DangerousPlaintext: true}, ""},
	} {
		l, err := Listen(t.Context(), "ws://0.0.0.0:0", tc.o)
		if err == nil {
			_ = l.Close()
		}
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || len(config.Hints(err)) != 2) {
			t.Errorf("%s: %v (%q)", name, err, config.Hints(err))
		}
	}
}

// One source cannot take every place of a listener that other machines reach, and
// one that says nothing is cut off.
func TestSecurityOneSourceHasItsPlaces(t *testing.T) {
	meter := new(tally)
	l := open(t, "ws://0.0.0.0:0", Options{
		Auth: knows("good", ci), RequireAuth: true, DangerousPlaintext: true, Meter: meter,
		Limits: Limits{PerSource: 5, PendingPerSource: 2, Handshake: time.Minute},
	}, echo)
	url := strings.Replace(l.URL(), "0.0.0.0", "127.0.0.1", 1)
	in := func() int {
		resp, _ := answered(t, url, upgrade("localhost", bearerHeader("good")))
		return resp.StatusCode
	}
	silent := []net.Conn{rawDial(t, url), rawDial(t, url)}
	_, _ = io.WriteString(silent[0], "GET / HTTP/1.1\r\n")
	if got := in(); got != http.StatusServiceUnavailable {
		t.Errorf("a third that waits: %d", got)
	}
	for _, c := range silent {
		_ = c.Close()
	}
	eventually(t, "places come back", func() bool { return in() == http.StatusSwitchingProtocols })
	for range 4 { // rawDial keeps them open
		in()
	}
	if got := in(); got != http.StatusServiceUnavailable {
		t.Errorf("a sixth: %d", got)
	}
	if meter.count("ws crowded") < 2 {
		t.Errorf("%v", meter.n)
	}
}

func TestOnePrincipalHasItsPlaces(t *testing.T) {
	crowd := NewCrowd()
	o := Options{Auth: knows("good", ci), Limits: Limits{PerPrincipal: 2}, Crowd: crowd}
	a, b := open(t, "ws://127.0.0.1:0", o, echo), open(t, socketURL(t), o, echo)
	in := func(l *Listener) (net.Conn, int) {
		c := rawDial(t, l.URL())
		_, _ = io.WriteString(c, upgrade("localhost", bearerHeader("good")))
		return c, statusOf(t, c)
	}
	first, status := in(a)
	if _, s := in(b); s != 101 || status != 101 {
		t.Fatalf("%d, %d", status, s)
	}
	if _, s := in(a); s != http.StatusTooManyRequests {
		t.Errorf("a third: %d", s)
	}
	if got := roundTrip(t, dial(t, a.URL()), "1"); got != "1" { // the user of this machine is not the token
		t.Errorf("%q", got)
	}
	_ = first.Close()
	eventually(t, "a place comes back", func() bool { _, s := in(b); return s == 101 })
}

func TestSourcesOfIPv6AreNetworks(t *testing.T) {
	for a, want := range map[string]string{
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "::ffff:192.0.2.7": "192.0.2.7/32", "fe80::1%eth0": "fe80::/64", "192.0.2.7": "192.0.2.7/32",
	} {
		if got := sourceOf(addr(t, a)).String(); got != want {
			t.Errorf("%s is %s, want %s", a, got, want)
		}
	}
}

// A credential that stops to count takes the session along, with a link and
// without one.
func TestSessionEndsWithItsCredential(t *testing.T) {
	for _, away := range []bool{false, true} {
		lapsed := make(chan struct{})
		who := ci
		who.Lapsed = lapsed
		ended, began := make(chan struct{}), make(chan struct{})
		all := sessions(t, rpc.SessionsConfig{})
		l := open(t, "ws://127.0.0.1:0", Options{Auth: knows("good", who), RequireAuth: true, Sessions: all}, func(ctx context.Context, s rpc.Stream, p access.Principal, _, _ string) {
			defer close(ended)
			close(began)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() { // the gate ends its client
				select {
				case <-p.Lapsed:
					cancel()
				case <-ctx.Done():
				}
			}()
			for {
				if _, err := s.Read(ctx); err != nil {
					return
				}
			}
		})
		links, off := make(chan net.Conn, 100), make(chan struct{})
		r := rpc.NewResumable(rpc.ResumeOptions{Dial: func(ctx context.Context) (rpc.Stream, error) {
			select {
			case <-off:
				return nil, rpc.ErrRefused
			default:
			}
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(l.URL(), "ws://"))
			if err != nil {
				return nil, err
			}
			links <- c
			return rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Resume: true, Header: http.Header{"Authorization": {"Bearer good"}}})
		}})
		t.Cleanup(func() { _ = r.Close(nil) })
		if err := r.Write(t.Context(), []byte("1")); err != nil {
			t.Fatal(err)
		}
		wait(t, began)
		if away {
			close(off)
			_ = (<-links).Close()
		}
		close(lapsed)
		wait(t, ended)
		eventually(t, "the session is gone", func() bool { return all.Count() == 0 })
	}
}
