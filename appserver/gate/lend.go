package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// # Lending
//
// A client may lend the host its account: account/login/start with
// chatgptAuthTokens hands over an access token that lasts minutes, and the engine
// asks for the next with account/chatgptAuthTokens/refresh. Measured with Codex
// 0.169.0, which leaves three things to whoever stands in front of it:
//
//   - It asks every connection, also those that lent nothing, and takes the first
//     answer, an error and another account's token included. Here only the lender
//     is asked, and only its answer for the account it lent is passed on.
//   - It keeps the token after the lender has gone. The gate takes it back
//     (account/logout) when the lender's connection is over; one whose link is cut
//     and who may come back is not gone.
//   - account/logout deletes the host's own login along with the lent one, without
//     revoking it. So nothing is lent to a Codex that has a login of its own.

// Times of taking back.
const (
	takeBackTime  = 15 * time.Second
	takeBackRetry = 200 * time.Millisecond
)

// worthless is what stands in for a lent token that may not be logged out: an
// access token in form, unsigned and expired.
const worthless = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJleHAiOjF9.AA"

// loan is the account somebody lends at the moment. One client at a time does:
// a second one's tokens replace the first's, as in the engine.
type loan struct {
	mu sync.Mutex // innermost; guards what follows
	held
	// before is the loan that the engine has been asked to replace and may keep.
	before held
	// taking: the token of a lender that left is being taken back. Who lends
	// meanwhile waits, or would lose what it lent.
	taking bool
	waits  []func()
}

type held struct {
	lender *client // nil: nobody
	// account is what was lent; answers must be for the same.
	account string
	// over: the host's store held a login that the engine did not look at, so
	// logging out does not touch it.
	over bool
}

func (l *loan) is(c *client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lender == c
}

// begin books a lend that goes to the engine now. From here on c is the lender:
// one that leaves before it has the answer has lent all the same.
func (l *loan) begin(h held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.held = l.held, h
}

// settle books the answer to the lend of account by c.
func (l *loan) settle(c *client, account string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok && l.lender == c && l.account == account {
		l.held = l.before
	}
	l.before = held{}
}

// end notes that the engine works with no account any more.
func (l *loan) end() { l.begin(held{}); l.settle(nil, "", true) }

// leave reports whether c was the lender, and begins the taking back if so. A
// nil c is whoever it is.
func (l *loan) leave(c *client) (h held, was bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c != nil && l.before.lender == c {
		l.before = held{} // what it lent, if it is still there, goes with its successor
	}
	if l.lender == nil || c != nil && l.lender != c {
		return held{}, false
	}
	h = l.held
	l.held, l.before, l.taking = held{}, held{}, true
	return h, true
}

func (l *loan) taken() {
	l.mu.Lock()
	waits := l.waits
	l.taking, l.waits = false, nil
	l.mu.Unlock()
	for _, f := range waits {
		f()
	}
}

// after runs f when nothing is being taken back: now, as a rule.
func (l *loan) after(f func()) {
	l.mu.Lock()
	if l.taking {
		l.waits = append(l.waits, f)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	f()
}

// shown is the loan as others may know of it, nil when there is none.
func (l *loan) shown() *protocol.Lent {
	l.mu.Lock()
	h := l.held
	l.mu.Unlock()
	if h.lender == nil {
		return nil
	}
	return &protocol.Lent{Account: h.account, By: h.lender.presence()}
}

// isLend reports whether a request lends an account.
func isLend(env protocol.Envelope) bool {
	return env.Method == protocol.AccountStart && protocol.StringField(env.Params, "type") == protocol.LoginLend
}

// lend passes a lend on once it is known that nothing of the host's is lost by
// it. What the engine answers is booked by lent.
func (c *client) lend(env protocol.Envelope, msg []byte) {
	k := call{method: env.Method, lends: protocol.StringField(env.Params, "chatgptAccountId")}
	if k.lends == "" {
		c.put(protocol.NewError(env.ID, protocol.Errorf("Invalid request: missing field `chatgptAccountId`")))
		return
	}
	if !c.sent(idKey(env.ID), k) {
		c.put(protocol.NewError(env.ID, protocol.ErrOverloaded))
		return
	}
	// The reader owns the message; the answer we wait for comes on another goroutine.
	id, msg := clone(env.ID), clone(msg)
	refuse := func(why *protocol.Error) {
		c.answered(idKey(id))
		c.denied(env.Method, why)
		c.put(protocol.NewError(id, why))
	}
	pass := func() {
		c.g.audit(protocol.EventLend, c, slog.String("account", printable(k.lends, 100)))
		c.g.loan.begin(held{lender: c, account: k.lends, over: c.g.hostLogin()})
		c.u.send(msg)
	}
	c.g.loan.after(func() {
		if c.g.cfg.Engine.State().Kind != config.EngineCodex {
			pass() // the native engine lays the loan over its own login
			return
		}
		c.u.call(protocol.AuthStatus, struct{}{}, func(env protocol.Envelope) {
			if err := errOf(env); err != nil {
				refuse(protocol.Internalf("the engine does not say which login it has, so nothing is lent to it: %v", err))
				return
			}
			own := protocol.StringField(env.Result, "authMethod")
			switch {
			case !requiresAccount(env.Result):
				// It would keep the token and not even say that it has one.
				refuse(protocol.Errorf("this host's model provider works with no account: there is nothing to lend to"))
			case own == "" || own == protocol.AuthModeLent:
				pass()
			default:
				refuse(protocol.Errorf("this host has a login of its own (%s): taking a lent one back would delete it. Use that login, or log out there first", printable(own, 40)))
			}
		})
	})
}

// requiresAccount reads an answer to getAuthStatus. Codex names no login at all
// while its model provider has no use for one.
func requiresAccount(status json.RawMessage) bool {
	return string(protocol.Field(status, "requiresOpenaiAuth")) != "false"
}

// lent books the engine's answer to a lend, or to a logout.
func (c *client) lent(k call, ok bool) {
	switch {
	case k.lends != "":
		c.g.loan.settle(c, k.lends, ok)
	case ok && k.method == protocol.AccountLogout:
		c.g.loan.end()
	}
}

func (g *Gate) hostLogin() bool { return g.cfg.HostLogin != nil && g.cfg.HostLogin() }

// vet is the lender's answer as it may reach the engine: a token for the account
// that was lent, and nothing beside it. Codex would take any other over and from
// then on fail every turn.
func (l *loan) vet(env protocol.Envelope) []byte {
	l.mu.Lock()
	account := l.account
	l.mu.Unlock()
	if env.Kind == protocol.KindError {
		return protocol.NewError(env.ID, protocol.Internalf("the lender has no token"))
	}
	var t protocol.RefreshedTokens
	if json.Unmarshal(env.Result, &t) != nil || t.AccessToken == "" {
		return protocol.NewError(env.ID, protocol.Internalf("the lender's answer holds no token"))
	}
	if t.AccountID != account {
		return protocol.NewError(env.ID, protocol.Internalf("the lender answered for another account than it lent"))
	}
	msg, err := protocol.NewResponse(env.ID, t)
	if err != nil {
		return protocol.NewError(env.ID, protocol.Internalf("the lender's answer cannot be passed on"))
	}
	return msg
}

// TakeBack ends the loan there is, if any: the host stops. Clients may still be
// there.
func (g *Gate) TakeBack(ctx context.Context) { g.takeBack(ctx, nil) }

// takeBack ends the loan of a client that is gone. It waits for the engine, which
// may be restarting, but not for ever.
func (g *Gate) takeBack(ctx context.Context, c *client) {
	h, was := g.loan.leave(c)
	if !was {
		return
	}
	defer g.loan.taken()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
	defer cancel()
	keep := !h.over && g.hostLogin()
	for {
		err := g.takeBackOnce(ctx, h.account, keep)
		if err == nil {
			g.audit(protocol.EventLend, c, slog.String("account", printable(h.account, 100)), slog.Bool("ended", true))
			return
		}
		t := time.NewTimer(takeBackRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			// An engine that is gone has no token any more; one that lives and was not
			// reached keeps it until it expires.
			g.log.Error("a lent login was not taken back", "account", printable(h.account, 100), "err", err)
			g.audit(protocol.EventLend, c, slog.String("account", printable(h.account, 100)), slog.Bool("ended", false))
			return
		}
	}
}

// takeBackOnce logs the lent account out on a connection of its own: the lender's
// may be broken. keep is set when logging out would delete a login that somebody
// has stored on the host meanwhile; the token is then replaced by a worthless one.
func (g *Gate) takeBackOnce(ctx context.Context, account string, keep bool) error {
	s, err := g.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = s.Close(rpc.ErrClosed) }() // nothing is under way
	a := asker{g: g, s: s}
	_, err = a.ask(ctx, "initialize", map[string]any{
		"clientInfo":   map[string]string{"name": "towline-gate", "title": "Towline", "version": g.cfg.Version},
		"capabilities": map[string]bool{"experimentalApi": true},
	})
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	status, err := a.ask(ctx, protocol.AuthStatus, struct{}{})
	if err != nil {
		return err
	}
	switch {
	case requiresAccount(status) && protocol.StringField(status, "authMethod") != protocol.AuthModeLent:
		return nil // somebody was faster; what is there now is not ours to end
	case keep && g.cfg.Engine.State().Kind == config.EngineCodex:
		g.log.Warn("the engine keeps a worthless token in place of the lent one until it is restarted: a login was stored on the host meanwhile")
		_, err = a.ask(ctx, protocol.AccountStart, protocol.LoginStart{Type: protocol.LoginLend, AccessToken: worthless, AccountID: account})
	default:
		_, err = a.ask(ctx, protocol.AccountLogout, nil)
	}
	return err
}

// asker puts requests of the gate's on an engine connection, one at a time, and
// answers nothing.
type asker struct {
	g *Gate
	s rpc.Stream
}

func (a asker) ask(ctx context.Context, method string, params any) (json.RawMessage, error) {
	id := protocol.StringID(a.g.nextID(a.g.secret))
	msg, err := protocol.NewRequest(id, method, params)
	if err != nil {
		return nil, err
	}
	if err := a.s.Write(ctx, msg); err != nil {
		return nil, err
	}
	for {
		msg, err := a.s.Read(ctx)
		if err != nil {
			return nil, err
		}
		env, err := protocol.PeekTrusted(msg)
		if err != nil || idKey(env.ID) != idKey(id) || env.Kind == protocol.KindRequest {
			continue
		}
		if err := errOf(env); err != nil {
			var pe *protocol.Error
			if errors.As(err, &pe) {
				return nil, fmt.Errorf("%s: refused with code %d", method, pe.Code)
			}
			return nil, err
		}
		return env.Result, nil
	}
}
