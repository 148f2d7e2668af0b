package account

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"towline/config"
	"towline/config/managed"
)

// The ports Codex's issuer sends browsers back to.
const (
	Port         = 1455
	FallbackPort = 1457
)

// Browser logs in through a browser: it waits on a loopback port, gives o.Ready
// the URL to open, and returns when the browser came back with a code that was
// good. Nothing listens any more when it returns.
func (m *Manager) Browser(ctx context.Context, o BrowserOptions) (Status, error) {
	if err := m.mayChatGPT(); err != nil {
		return Status{}, err
	}
	o = o.withDefaults()
	e, err := m.endpoints(ctx, m.cfg.Issuer)
	if err != nil {
		return Status{}, problem(stageLogin, err, "check issuer under [auth] in config.toml")
	}
	ls, port, err := m.listen(ctx, o)
	if err != nil {
		return Status{}, err
	}
	redirectPort := port
	if port == 0 {
		redirectPort = o.Ports[0]
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("nobody logged in within %s", o.Timeout))
	defer cancel()
	c := &callback{
		m: m, e: e, o: o, state: random(32), verifier: random(64), nonce: random(16), done: make(chan struct{}), left: make(chan struct{}),
		redirect: "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(redirectPort)) + "/auth/callback",
	}
	g, gctx := errgroup.WithContext(ctx)
	srv := c.server(gctx)
	for _, l := range ls {
		g.Go(func() error {
			if err := srv.Serve(bounded(l)); !errors.Is(err, http.ErrServerClosed) {
				return problem(stageCallback, err)
			}
			return nil
		})
	}
	if o.Paste != nil {
		g.Go(func() error { c.pasted(gctx); return nil })
	}
	g.Go(func() error {
		select {
		case <-c.done:
			// The browser is on its way to the success page: let it arrive.
			select {
			case <-c.left:
			case <-time.After(2 * time.Second):
			case <-gctx.Done():
			}
		case <-gctx.Done():
			if c.take() {
				return srv.Close()
			}
			<-c.done // a code is spent: what it gave is stored first
		}
		closing, stop := context.WithTimeout(context.WithoutCancel(gctx), time.Second)
		defer stop()
		_ = srv.Shutdown(closing)
		return srv.Close()
	})
	if o.Ready != nil {
		o.Ready(c.authorizeURL(m.cfg.Policy), port)
	}
	err = g.Wait()
	if s, cerr, ok := c.outcome(); ok {
		return s, cerr
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	return Status{}, problem(stageCallback, err, "start the login again", hintDevice)
}

func (o BrowserOptions) withDefaults() BrowserOptions {
	if len(o.Ports) == 0 {
		o.Ports = []int{Port, FallbackPort}
	}
	if o.Timeout == 0 {
		o.Timeout = LoginTimeout
	}
	o.Originator = first(o.Originator, codexName)
	if o.Step == nil {
		o.Step = func(string) {}
	}
	return o
}

// callback is one login waiting for its browser.
type callback struct {
	m        *Manager
	e        endpoints
	o        BrowserOptions
	redirect string
	state    string
	verifier string
	nonce    string

	done chan struct{} // closed when the login has an outcome
	left chan struct{} // closed when the browser has seen it

	mu     sync.Mutex
	taken  bool // a code arrived: there is no second
	status Status
	err    error
	leave  sync.Once
}

func (c *callback) authorizeURL(p managed.Policy) string {
	sum := sha256.Sum256([]byte(c.verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	q := [][2]string{
		{"response_type", "code"},
		{"client_id", c.e.issuer.ClientID},
		{"redirect_uri", c.redirect},
		{"code_challenge", challenge},
		{"code_challenge_method", "S256"},
		{"state", c.state},
	}
	if c.e.issuer.Kind == KindOIDC {
		// Without consent asked for there is no refresh token (OpenID Connect Core,
		// section 11).
		q = append(q, [][2]string{{"scope", oidcScope}, {"nonce", c.nonce}, {"prompt", "consent"}}...)
	} else {
		q = append(q, [][2]string{
			{"scope", openAIScope}, {"id_token_add_organizations", "true"}, {"codex_cli_simplified_flow", "true"}, {"originator", c.o.Originator},
		}...)
		if w := p.Workspaces; w.Set {
			q = append(q, [2]string{"allowed_workspace_id", strings.Join(w.Value, ",")})
		}
	}
	parts := make([]string, len(q))
	for i, kv := range q {
		parts[i] = kv[0] + "=" + url.QueryEscape(kv[1])
	}
	sep := "?"
	if strings.Contains(c.e.authorize, "?") {
		sep = "&"
	}
	return c.e.authorize + sep + strings.Join(parts, "&")
}

// take claims the login for one redirect. Only the first gets it.
func (c *callback) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.taken
	c.taken = true
	return !was
}

func (c *callback) finish(s Status, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.err = s, err
	close(c.done)
}

// seen says that the browser got its last page.
func (c *callback) seen() { c.leave.Do(func() { close(c.left) }) }

func (c *callback) outcome() (Status, error, bool) { //nolint:revive // the error is a result here
	select {
	case <-c.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.status, c.err, true
	default:
		return Status{}, nil, false
	}
}

// errState is a redirect that belongs to another login.
var errState = errors.New("state mismatch")

// check looks at a redirect's parameters before anything is done with them.
func (c *callback) check(q url.Values) error {
	if !sameSecret(q.Get("state"), c.state) {
		return errState
	}
	if iss := q.Get("iss"); iss != "" && c.e.issuer.Kind == KindOIDC && iss != c.e.issuer.URL { // RFC 9207
		return errState
	}
	return nil
}

// complete finishes the login a checked redirect belongs to. The caller has taken
// it.
func (c *callback) complete(ctx context.Context, q url.Values) (Status, error) {
	s, err := c.completed(ctx, q)
	c.finish(s, err)
	return s, err
}

func (c *callback) completed(ctx context.Context, q url.Values) (Status, error) {
	if code := q.Get("error"); code != "" {
		return Status{}, deniedBy(host(c.e.authorize), code, q.Get("error_description"))
	}
	code := q.Get("code")
	if code == "" {
		return Status{}, problem(stageCallback, errors.New("the browser came back without a code"), "start the login again")
	}
	// A code is spent by being sent: from here on a person's Ctrl-C waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*askTimeout+lockWait)
	defer cancel()
	g, err := c.m.exchange(ctx, c.e, code, c.redirect, c.verifier)
	if err != nil {
		return Status{}, err
	}
	key := ""
	if c.e.issuer.Kind == KindOIDC {
		if err := c.m.checkIDToken(ctx, c.e, g.ID, c.nonce); err != nil {
			return Status{}, problem(stageExchange, err, "check issuer and client_id under [auth] in config.toml, and this machine's clock")
		}
	} else {
		key = c.m.apiKey(ctx, c.e, g.ID)
	}
	return c.m.settle(ctx, c.e, g, key)
}

// deniedBy is what an issuer sent instead of a code.
func deniedBy(who, code, text string) error {
	text = safeText(text)
	if !errorCode.MatchString(code) {
		code = "an error"
	}
	err := fmt.Errorf("%s says %s", who, code)
	if text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	hints := []string{"start the login again and allow access: `towline login`"}
	if code == "access_denied" {
		err = fmt.Errorf("%w: %w", ErrDenied, err)
		if strings.Contains(text, "missing_codex_entitlement") {
			hints = []string{"ask the administrator of the workspace for access to Codex, or choose another workspace"}
		}
	}
	return &config.Problem{Stage: stageCallback, Err: err, Hints: hints}
}

// pasted completes a login from redirect URLs a person copied.
func (c *callback) pasted(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.done:
			return
		case line, ok := <-c.o.Paste:
			if !ok {
				return
			}
			q, err := redirectQuery(line)
			if err == nil {
				err = c.check(q)
			}
			switch {
			case errors.Is(err, errState):
				c.o.Step("this address belongs to another login (its state does not match); copy the one this login ended at")
			case err != nil:
				c.o.Step(err.Error())
			case !c.take():
				c.o.Step("the login is being completed already")
			default:
				c.seen()
				_, _ = c.complete(ctx, q) // the outcome says it
				return
			}
		}
	}
}

// redirectQuery finds the parameters in what a person pasted: the whole address, or
// what follows its question mark.
func redirectQuery(line string) (url.Values, error) {
	line = strings.TrimSpace(line)
	if len(line) > maxSecret {
		return nil, errors.New("this is too long for the address of a page")
	}
	if _, after, ok := strings.Cut(line, "?"); ok {
		line = after
	}
	line, _, _ = strings.Cut(line, "#")
	q, err := url.ParseQuery(line)
	if err != nil || q.Get("state") == "" || q.Get("code") == "" && q.Get("error") == "" {
		return nil, errors.New("this is not the address a login ends at; it begins with http://127.0.0.1 and contains code= and state=")
	}
	return q, nil
}
