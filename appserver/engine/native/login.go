package native

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"towline/appserver/account"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
	"towline/config/secret"
)

// # Logging in
//
// What Codex 0.169.0 does, measured, and this engine with it; the test
// TestAccountsAreCodexs compares the two:
//
//	account/login/start apiKey             {type}; then to everybody login/completed {loginId:null} and account/updated
//	                    chatgpt            {type, loginId, authUrl}; waits on port 1455 of the host, else 1457
//	                    chatgptDeviceCode  {type, loginId, verificationUrl, userCode}
//	                    chatgptAuthTokens  {type}; needs experimentalApi; while lent, the other three are refused
//	account/login/cancel                   canceled or notFound; an id that is no UUID is an error
//	account/logout                         {}; then account/updated with nulls, also when nobody was logged in
//
// A second login of a person replaces the first, which ends as failed. How a login
// ends is told to every connection, whoever began it; the address and the code are
// in the answer alone. A login goes on when its client leaves. account/read names
// no account once the login is known to be over, and requiresOpenaiAuth is about
// the endpoint, not about whether somebody is logged in.
//
// Different on purpose: see accountLogout and askTokens.

// loginStartTime bounds the wait for a URL or a code: longer than one request to
// an issuer may take.
const loginStartTime = 60 * time.Second

// tokenTime is how long a lender may take to give a new token, as in Codex.
const tokenTime = 10 * time.Second

// loginEnd is how a login ended, in Codex's words, which stock clients show.
type loginEnd string

func (e loginEnd) Error() string { return string(e) }

// Why a login ended that nobody completed.
const (
	errLoginCancelled loginEnd = "Login was not completed"
	errLoginReplaced  loginEnd = "Login cancelled"
)

// logins is what the engine knows of logins under way.
type logins struct {
	mu      sync.Mutex // guards what follows
	now     *login
	lender  *conn
	holders int
	told    protocol.AccountChange
	ever    bool // something was told
}

// login is one account/login/start that waits for a person.
type login struct {
	id     string
	kind   string
	cancel context.CancelCauseFunc
	told   chan struct{} // closed when the request was answered
	done   chan struct{} // closed when everybody was told how it ended
}

// hold says that the login is being changed by a request that tells everybody
// itself. The result ends that.
func (l *logins) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.holders--
	}
}

func (l *logins) held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holders > 0
}

// news notes what is told and reports whether it differs from what was.
func (l *logins) news(c protocol.AccountChange) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := l.ever && str(l.told.AuthMode) == str(c.AuthMode) && str(l.told.Plan) == str(c.Plan)
	l.told, l.ever = c, true
	return !same
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// accountLoginStart begins a login, or takes a key or lent tokens.
func (c *conn) accountLoginStart(r *rpc.Request) (any, error) {
	var p protocol.LoginStart
	if err := decode(r, &p, "type"); err != nil {
		return nil, err
	}
	if c.e.cfg.Accounts == nil || !c.e.cfg.NeedsLogin {
		return nil, protocol.Errorf("there is nothing to log in to: this engine takes its key from the environment variable named by api_key_env in the host's config.toml")
	}
	if p.Type != protocol.LoginLend && c.e.lent() {
		return nil, protocol.Errorf("External auth is active. Use account/login/start (chatgptAuthTokens) to update it or account/logout to clear it.")
	}
	switch p.Type {
	case protocol.LoginAPIKey:
		return c.loginKey(r, p)
	case protocol.LoginLend:
		return c.loginLent(r, p)
	case protocol.LoginBrowser, protocol.LoginDevice:
		return nil, c.loginPerson(r, p.Type)
	case "amazonBedrock", "amazonBedrockAccessKeys":
		return nil, protocol.Errorf("Amazon Bedrock is not supported by this engine")
	}
	return nil, protocol.Errorf("Invalid request: unknown variant `%s`, expected one of `apiKey`, `chatgpt`, `chatgptDeviceCode`, `chatgptAuthTokens`, `amazonBedrock`, `amazonBedrockAccessKeys`", p.Type)
}

// loginKey stores an API key, unverified as in Codex.
func (c *conn) loginKey(r *rpc.Request, p protocol.LoginStart) (any, error) {
	if err := needs(r.Params, "apiKey"); err != nil {
		return nil, err
	}
	defer c.e.logins.hold()()
	c.e.endLogin(errLoginReplaced)
	ctx, cancel := context.WithTimeout(c.ctx, accountTime)
	defer cancel()
	if _, err := c.e.cfg.Accounts.SetAPIKey(ctx, p.APIKey); err != nil {
		return nil, refusedLogin(err)
	}
	r.Reply(protocol.LoginStarted{Type: p.Type})
	c.e.completed(nil, nil)
	return nil, nil
}

// refusedLogin is the error of a login that never began.
func refusedLogin(err error) error {
	var p *config.Problem
	if errors.As(err, &p) && (p.Stage == "policy" || p.Exit == config.ExitUsage) {
		return protocol.Errorf("%s", plain(err))
	}
	return protocol.Internalf("%s", plain(err))
}

// completed tells everybody how a login ended, and then who the host works as.
func (e *Engine) completed(id *string, err error) {
	done := protocol.LoginCompleted{LoginID: id, Success: err == nil}
	if err != nil {
		text := plain(err)
		done.Error = &text
	}
	e.broadcast(protocol.AccountCompleted, done)
	if err == nil {
		e.tellAccount(true)
	}
}

// loginPerson begins a login a person completes elsewhere, in place of one that
// is under way.
func (c *conn) loginPerson(r *rpc.Request, kind string) error {
	e := c.e
	e.endLogin(errLoginReplaced)
	ctx, cancel := context.WithCancelCause(e.life)
	l := &login{id: uuid.NewString(), kind: kind, cancel: cancel, told: make(chan struct{}), done: make(chan struct{})}
	e.logins.mu.Lock()
	if e.logins.now != nil {
		e.logins.mu.Unlock()
		cancel(nil)
		return protocol.Errorf("another login began in this moment; try again")
	}
	e.logins.now = l
	e.logins.mu.Unlock()

	shown := make(chan protocol.LoginStarted, 1)
	failed := make(chan error, 1)
	if !e.spawn(func() { e.login(ctx, l, shown, failed) }) {
		cancel(errStopping)
		return draining()
	}
	defer close(l.told)
	t := time.NewTimer(loginStartTime)
	defer t.Stop()
	select {
	case s := <-shown:
		r.Reply(s)
		return errLater
	case err := <-failed:
		return refusedLogin(err)
	case <-t.C:
		cancel(errLoginCancelled)
		return protocol.Internalf("the issuer did not answer in time")
	case <-c.ctx.Done():
		return errLater // who asked is gone; the login waits for another, as in Codex
	}
}

// login is a login at work. It shows what the person needs, once, and tells
// everybody how it ended unless it never began.
func (e *Engine) login(ctx context.Context, l *login, shown chan<- protocol.LoginStarted, failed chan<- error) {
	defer close(l.done)
	defer e.logins.hold()()
	defer l.cancel(nil)
	began := false
	show := func(s protocol.LoginStarted) {
		s.Type, s.LoginID, began = l.kind, l.id, true
		shown <- s
	}
	var err error
	if l.kind == protocol.LoginDevice {
		_, err = e.cfg.Accounts.Device(ctx, func(d account.DeviceCode) {
			show(protocol.LoginStarted{VerificationURL: d.URL, UserCode: d.Code})
		})
	} else {
		_, err = e.cfg.Accounts.Browser(ctx, account.BrowserOptions{
			Ready: func(url string, _ int) { show(protocol.LoginStarted{AuthURL: url}) },
			Ports: e.cfg.LoginPorts,
			Step:  func(text string) { e.log.Info("login", "step", text) },
		})
	}
	if cause := context.Cause(ctx); err != nil && ctx.Err() != nil && cause != nil {
		err = cause
	}
	e.logins.mu.Lock()
	if e.logins.now == l {
		e.logins.now = nil
	}
	e.logins.mu.Unlock()
	if !began {
		failed <- err
		return
	}
	<-l.told // the answer comes before what follows from it
	if errors.Is(err, errLoginReplaced) && l.kind == protocol.LoginDevice {
		err = errLoginCancelled // Codex tells the two apart for browsers only
	}
	if err != nil && l.kind == protocol.LoginBrowser {
		err = loginEnd("Login server error: " + loginWords(err))
	}
	e.completed(&l.id, err)
}

// loginWords are Codex's for a login the person or the issuer refused.
func loginWords(err error) string {
	if errors.Is(err, account.ErrDenied) {
		return "Sign-in failed: " + plain(err)
	}
	return plain(err)
}

// endLogin ends the login under way, if any, and waits until its port is free.
func (e *Engine) endLogin(why error) {
	e.logins.mu.Lock()
	l := e.logins.now
	e.logins.mu.Unlock()
	if l == nil {
		return
	}
	l.cancel(why)
	<-l.done
}

// accountLoginCancel ends a login that is under way.
func (c *conn) accountLoginCancel(r *rpc.Request) (any, error) {
	var p struct {
		ID string `json:"loginId"`
	}
	if err := decode(r, &p, "loginId"); err != nil {
		return nil, err
	}
	if _, err := uuid.Parse(p.ID); err != nil {
		return nil, protocol.Errorf("invalid login id: %s", p.ID)
	}
	e := c.e
	e.logins.mu.Lock()
	l := e.logins.now
	e.logins.mu.Unlock()
	if l == nil || !strings.EqualFold(l.id, p.ID) {
		return map[string]string{"status": "notFound"}, nil
	}
	l.cancel(errLoginCancelled)
	return map[string]string{"status": "canceled"}, nil
}

// loginLent takes tokens a client lends. They last as long as its connection.
func (c *conn) loginLent(r *rpc.Request, p protocol.LoginStart) (any, error) {
	c.mu.Lock()
	trial := c.trial
	c.mu.Unlock()
	if !trial {
		return nil, protocol.Errorf("account/login/start.chatgptAuthTokens requires experimentalApi capability")
	}
	if err := needs(r.Params, "accessToken", "chatgptAccountId"); err != nil {
		return nil, err
	}
	if _, err := secret.Claims(p.AccessToken); err != nil {
		return nil, protocol.Internalf("failed to set external auth: invalid ID token format")
	}
	e := c.e
	defer e.logins.hold()()
	e.endLogin(errLoginReplaced)
	ctx, cancel := context.WithTimeout(c.ctx, accountTime)
	defer cancel()
	t := account.LentTokens{AccessToken: p.AccessToken, AccountID: p.AccountID, Plan: str(p.Plan)}
	renew := func(ctx context.Context, _ string) (account.LentTokens, error) { return c.askTokens(ctx, p.AccountID) }
	if _, err := e.cfg.Accounts.Lend(ctx, t, renew); err != nil {
		return nil, refusedLogin(err)
	}
	e.logins.mu.Lock()
	e.logins.lender = c
	e.logins.mu.Unlock()
	r.Reply(protocol.LoginStarted{Type: p.Type})
	e.completed(nil, nil)
	if c.ctx.Err() != nil { // it left in this moment, maybe unseen by its own end
		e.lenderLeft(c)
	}
	return nil, nil
}

func (e *Engine) lent() bool {
	e.logins.mu.Lock()
	defer e.logins.mu.Unlock()
	return e.logins.lender != nil
}

// unlend takes back what c lent; nil is whoever did. It reports whether anything
// was lent.
func (e *Engine) unlend(c *conn) bool {
	e.logins.mu.Lock()
	was := e.logins.lender != nil && (c == nil || e.logins.lender == c)
	if was {
		e.logins.lender = nil
	}
	e.logins.mu.Unlock()
	if was {
		e.cfg.Accounts.Unlend()
	}
	return was
}

// lenderLeft is called when a connection is over.
func (e *Engine) lenderLeft(c *conn) {
	if e.cfg.Accounts != nil && e.unlend(c) {
		e.tellAccount(false)
	}
}

// tokenAsk is an account/chatgptAuthTokens/refresh that waits for its lender.
type tokenAsk struct {
	c      *conn
	answer chan tokenAnswer // capacity 1
}

type tokenAnswer struct {
	result []byte
	err    *protocol.Error
}

// askTokens asks the lender for a new token. Codex asks everybody; the engine
// knows who lent.
func (c *conn) askTokens(ctx context.Context, previous string) (account.LentTokens, error) {
	e := c.e
	t := &tokenAsk{c: c, answer: make(chan tokenAnswer, 1)}
	e.wire.Lock()
	id := e.nextAsk
	e.nextAsk++
	e.tokenAsks[id] = t
	e.wire.Unlock()
	defer func() {
		e.wire.Lock()
		defer e.wire.Unlock()
		delete(e.tokenAsks, id)
	}()
	msg, err := protocol.NewRequest(protocol.IntID(id), protocol.ReqTokensRefresh,
		protocol.TokensRefresh{Reason: "unauthorized", PreviousAccount: &previous})
	if err != nil {
		return account.LentTokens{}, err
	}
	if err := c.peer.Send(msg); err != nil {
		return account.LentTokens{}, errors.New("the lender is gone")
	}
	timer := time.NewTimer(tokenTime)
	defer timer.Stop()
	select {
	case a := <-t.answer:
		return a.tokens(previous)
	case <-timer.C:
		return account.LentTokens{}, fmt.Errorf("auth refresh request timed out after %s", tokenTime)
	case <-c.ctx.Done():
		return account.LentTokens{}, errors.New("the lender is gone")
	case <-ctx.Done():
		return account.LentTokens{}, context.Cause(ctx)
	}
}

// tokens reads a lender's answer. Nothing of it gets into an error: it may hold a
// token in a place of its own.
func (a tokenAnswer) tokens(lent string) (account.LentTokens, error) {
	if a.err != nil {
		return account.LentTokens{}, fmt.Errorf("auth refresh request failed: code=%d", a.err.Code)
	}
	token, id := protocol.StringField(a.result, "accessToken"), protocol.StringField(a.result, "chatgptAccountId")
	switch _, err := secret.Claims(token); {
	case err != nil:
		return account.LentTokens{}, errors.New("the lender's answer holds no token")
	case id != lent:
		return account.LentTokens{}, errors.New("the lender answered for another account than it lent")
	}
	return account.LentTokens{AccessToken: token, AccountID: id, Plan: protocol.StringField(a.result, "chatgptPlanType")}, nil
}
