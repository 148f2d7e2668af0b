package lend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// talk is one conversation with a host's app-server.
type talk struct {
	desk  *desk
	peer  *rpc.Peer
	over  chan struct{} // closed when the conversation is
	ended chan ended    // capacity 1: how a login ended
	given bool          // the host may have something of ours; one goroutine at a time

	mu       sync.Mutex // guards the next two
	giving   bool       // a login of ours is under way
	replaced bool       // the host has somebody else's login by now

	wg sync.WaitGroup // answers being sought
}

type ended struct {
	Success bool    `json:"success"`
	Error   *string `json:"error"`
}

func newTalk(d *desk, s rpc.Stream) *talk {
	t := &talk{desk: d, over: make(chan struct{}), ended: make(chan ended, 1)}
	t.peer = rpc.NewPeer(s, t)
	return t
}

// serve runs until the conversation is over, and waits for the answers it began.
func (t *talk) serve(ctx context.Context) {
	err := t.peer.Serve(ctx)
	t.desk.cfg.Log.Debug("the lending connection ended", "err", err)
	t.wg.Wait()
	close(t.over)
}

// Request answers what only a lender can; other questions are for other clients.
func (t *talk) Request(ctx context.Context, r *rpc.Request) {
	if r.Method != methodRefresh {
		r.Drop()
		return
	}
	// It takes as long as an issuer takes; the conversation goes on meanwhile. ctx
	// is the conversation's.
	t.wg.Go(func() { t.desk.answer(ctx, r) })
}

// Notification hears how a login ended.
func (t *talk) Notification(_ context.Context, method string, params json.RawMessage) {
	if method != "account/login/completed" {
		return
	}
	var e ended
	if json.Unmarshal(params, &e) != nil {
		return
	}
	t.mu.Lock()
	ours := t.giving
	t.giving = false
	t.replaced = t.replaced || !ours && e.Success
	t.mu.Unlock()
	if ours {
		t.ended <- e // nobody else has written since giving was set
		return
	}
	if e.Success {
		t.desk.set(State{Err: problem(t.desk.cfg.Host, errors.New("somebody else's login took the place of the one that was lent"))})
	}
}

// begun notes that the next end of a login is ours, or is not.
func (t *talk) begun(giving bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giving = giving
}

// gone reports whether what was lent is not there any more because somebody else
// logged the host in: it is not ours to renew or to take back.
func (t *talk) gone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.replaced
}

// hello is the protocol's, for a connection of the lender's own.
func (t *talk) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := t.peer.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo:   protocol.ClientInfo{Name: "towline-lender", Version: orDev(t.desk.cfg.Version)},
		Capabilities: &protocol.Capabilities{ExperimentalAPI: true, OptOutNotificationMethods: unwanted},
	}, nil)
	if err == nil {
		err = t.peer.Notify("initialized", nil)
	}
	if err != nil {
		return problem(t.desk.cfg.Host, fmt.Errorf("open a connection for lending: %w", err))
	}
	return nil
}

// unwanted is what an app-server tells everybody and a lender does not need.
var unwanted = []string{
	"thread/started", "thread/status/changed", "thread/name/updated", "thread/archived", "thread/unarchived",
	"thread/deleted", "thread/closed", "configWarning", "remoteControl/status/changed", "account/rateLimits/updated",
}

// lend gives tokens to a host that can use them.
func (t *talk) lend(ctx context.Context, tokens Tokens) error {
	if err := t.wanted(ctx); err != nil {
		return err
	}
	return t.give(ctx, tokens)
}

// give makes the host work with tokens.
func (t *talk) give(ctx context.Context, tokens Tokens) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loginTimeout, fmt.Errorf("no answer within %v", loginTimeout))
	defer cancel()
	select {
	case <-t.ended: // of one that was given up
	default:
	}
	t.begun(true)
	host := t.desk.cfg.Host
	params := map[string]any{"type": "chatgptAuthTokens", "accessToken": tokens.AccessToken, "chatgptAccountId": tokens.AccountID}
	if tokens.Plan != "" {
		params["chatgptPlanType"] = tokens.Plan
	}
	t.given = true
	if err := t.peer.Call(ctx, "account/login/start", params, nil); err != nil {
		var pe *protocol.Error
		t.given = !errors.As(err, &pe)
		t.begun(false)
		return t.desk.refused(err)
	}
	select {
	case e := <-t.ended:
		if e.Success {
			t.desk.gave(tokens)
			return nil
		}
		why := "no reason given"
		if e.Error != nil {
			why = *e.Error
		}
		return problem(host, fmt.Errorf("%s does not take the login: %s", host, clean(why)),
			"see what the host says: `towline credentials status "+host+"`")
	case <-t.over:
		return problem(host, errors.New("the connection ended while the host was being lent a login"))
	case <-ctx.Done():
		return problem(host, fmt.Errorf("lend the login: %w", context.Cause(ctx)))
	}
}

// wanted refuses a host whose model would not use a login: it need not have one.
// Whether a login of the host's own stands in the way is the host's to say, which
// knows what would become of it.
func (t *talk) wanted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var acc struct {
		Requires *bool `json:"requiresOpenaiAuth"`
	}
	host := t.desk.cfg.Host
	if err := t.peer.Call(ctx, "account/read", struct{}{}, &acc); err != nil {
		// A host whose login is broken cannot say; whether it can be lent one shows.
		t.desk.cfg.Log.Debug("the host does not say what its model needs", "err", err)
		return nil
	}
	if acc.Requires == nil || *acc.Requires {
		return nil
	}
	return &config.Problem{
		Stage: Stage, Err: fmt.Errorf("the model that %s is set up for needs no ChatGPT login, so it is lent none", host),
		Hints: []string{"connect without it: `towline " + host + "`"}, Exit: config.ExitUsage,
	}
}

// takeBack makes the host forget what it was lent.
func (t *talk) takeBack() {
	if !t.given || t.gone() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTime)
	defer cancel()
	if err := t.peer.Call(ctx, "account/logout", nil, nil); err != nil {
		t.desk.cfg.Log.Info("the host could not be told that the loan is over", "err", err)
	}
	t.given = false
	t.desk.set(State{})
}

// leave ends the conversation, and the loan with it.
func (t *talk) leave() {
	t.takeBack()
	t.peer.Close(nil)
}

// keep gives the host the next token before one ends, and none any more when this
// machine has none. It returns when the conversation is over.
func (t *talk) keep(ctx context.Context) {
	for {
		changed := t.desk.cfg.Source.Changed()
		if !t.gone() {
			t.renew(ctx) // what changed before is not told
		}
		var due <-chan time.Time
		var timer *time.Timer
		if !t.gone() {
			timer = time.NewTimer(t.desk.due())
			due = timer.C
		}
		select {
		case <-t.over:
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
		select {
		case <-t.over:
			return
		case <-ctx.Done():
			return
		default:
		}
	}
}

// renew brings what the host has up to what there is here.
func (t *talk) renew(ctx context.Context) {
	tokens, err := t.desk.token(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		t.desk.delay()
		if t.desk.over(err) {
			t.takeBack()
		}
		t.desk.set(State{Account: t.desk.now().Account, Lent: !t.desk.over(err), Err: err})
		return
	}
	if t.desk.has(tokens) {
		t.desk.delay()
		return
	}
	if err := t.give(ctx, tokens); err != nil && ctx.Err() == nil {
		t.desk.delay()
		t.desk.set(State{Account: t.desk.now().Account, Err: err})
	}
}

func orDev(v string) string {
	if v == "" {
		return "0.0.0"
	}
	return v
}
