package lend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// methodRefresh is how Codex asks whoever lent a login for another token.
const methodRefresh = "account/chatgptAuthTokens/refresh"

// What a host may ask of this machine's login.
const (
	// refreshes in a row are answered at once; then one a refreshEvery. A host that
	// asks in a loop must not wear out the login, nor get it locked.
	refreshes    = 4
	refreshEvery = time.Minute
	// fresh is for how long a token that was just refreshed answers whoever asks:
	// several turns find the old one refused at about the same time.
	fresh = 5 * time.Second
	// lookEvery is how often this machine's login is looked at: another program may
	// have logged it out.
	lookEvery = time.Minute
	// retryAfter is how long a token that could not be renewed is left alone.
	retryAfter = 30 * time.Second
)

// ErrNoLogin is what a Source's errors match when there is nothing to lend any
// more and only a person can change that. What the host has is taken back then.
var ErrNoLogin = errors.New("this machine has no login to lend")

// errAnother is a login nobody said could be lent to this host.
var errAnother = fmt.Errorf("another account than the one that was lent is logged in here now: %w", ErrNoLogin)

// desk gives out tokens, for whichever conversation there is: one refresh at a
// time, no more than need be.
type desk struct {
	cfg   Config
	clock func() time.Time

	turn chan struct{} // capacity 1: who may refresh

	mu      sync.Mutex // guards what follows
	account string     // whose login this loan is of, from the first token on
	given   Tokens     // what the host has
	state   State
	later   time.Time // no renewal before that
	left    int       // refreshes that may happen at once
	since   time.Time // when left was last counted
	renewed time.Time // when given came from a refresh
}

func newDesk(cfg Config) *desk {
	return &desk{cfg: cfg, clock: time.Now, turn: make(chan struct{}, 1), left: refreshes, since: time.Now()}
}

func (d *desk) now() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func (d *desk) set(s State) {
	d.mu.Lock()
	d.state = s
	d.mu.Unlock()
	d.cfg.Events(s)
}

// token is what may be lent now, or a Problem.
func (d *desk) token(ctx context.Context) (Tokens, error) {
	t, err := d.cfg.Source.Token(ctx)
	if err == nil && (t.AccessToken == "" || t.AccountID == "") {
		err = fmt.Errorf("%w that a host could work with", ErrNoLogin)
	}
	if err == nil && !d.same(t.AccountID) {
		err = errAnother
	}
	if err != nil {
		return Tokens{}, problem(d.cfg.Host, err)
	}
	return t, nil
}

// same reports whether account is the one that the person said may be lent.
func (d *desk) same(account string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.account == "" {
		d.account = account
	}
	return d.account == account
}

// over reports whether err means that there is nothing to lend any more.
func (d *desk) over(err error) bool { return errors.Is(err, ErrNoLogin) }

// gave notes what the host has now.
func (d *desk) gave(t Tokens) {
	d.mu.Lock()
	d.given, d.later = t, time.Time{}
	d.mu.Unlock()
	d.set(State{Lent: true, Account: t.name()})
}

func (t Tokens) name() string {
	if t.Account != "" {
		return clean(t.Account)
	}
	return clean(t.AccountID)
}

func (d *desk) has(t Tokens) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.Lent && d.given.AccessToken == t.AccessToken && d.given.AccountID == t.AccountID
}

// delay keeps the next renewal from following at once.
func (d *desk) delay() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.later = d.clock().Add(retryAfter)
}

// due is when to look whether the host should get another token, or lose it.
func (d *desk) due() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	at := now.Add(lookEvery)
	switch {
	case !d.state.Lent: // what went wrong is tried again
		at = d.later
	case !d.given.Expires.IsZero() && d.given.Expires.Add(-early).Before(at):
		at = d.given.Expires.Add(-early)
	}
	if at.Before(d.later) {
		at = d.later
	}
	return max(0, at.Sub(now))
}

// answer gives a host another token in place of the one that was refused. It may
// take a while.
func (d *desk) answer(ctx context.Context, r *rpc.Request) {
	var asked struct {
		PreviousAccountID *string `json:"previousAccountId"`
	}
	_ = json.Unmarshal(r.Params, &asked) // what cannot be read asks for no account
	d.mu.Lock()
	had := d.given
	d.mu.Unlock()
	if asked.PreviousAccountID != nil && had.AccountID != "" && *asked.PreviousAccountID != had.AccountID {
		r.Fail(&protocol.Error{Code: protocol.CodeInvalidRequest, Message: "that account was not lent by this machine"})
		return
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		r.Drop()
		return
	}
	d.mu.Lock()
	now, young := d.given, d.clock().Sub(d.renewed) < fresh
	d.mu.Unlock()
	if now.AccessToken != had.AccessToken || young {
		r.Reply(answerOf(now)) // whoever asked before got it
		return
	}
	if !d.spend() {
		r.Fail(&protocol.Error{Code: protocol.CodeOverloaded, Message: "the machine that lends its login is asked for tokens too often"})
		return
	}
	t, err := d.cfg.Source.Refresh(ctx, had)
	if err == nil && !d.same(t.AccountID) {
		err = errAnother
	}
	if err != nil {
		d.cfg.Log.Info("the host's token could not be refreshed", "err", err)
		r.Fail(&protocol.Error{Code: protocol.CodeInternal, Message: "the machine that lends its login has none to give: " + reason(err)})
		if ctx.Err() == nil {
			d.set(State{Lent: !d.over(err), Account: had.name(), Err: problem(d.cfg.Host, err)})
		}
		return
	}
	d.mu.Lock()
	d.given, d.renewed = t, d.clock()
	d.mu.Unlock()
	r.Reply(answerOf(t))
	d.set(State{Lent: true, Account: t.name()})
}

func answerOf(t Tokens) any {
	out := map[string]any{"accessToken": t.AccessToken, "chatgptAccountId": t.AccountID, "chatgptPlanType": nil}
	if t.Plan != "" {
		out["chatgptPlanType"] = t.Plan
	}
	return out
}

// spend takes one of the refreshes a host may have.
func (d *desk) spend() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	if n := int(now.Sub(d.since) / refreshEvery); n > 0 {
		d.left = min(refreshes, d.left+n)
		d.since = now
	}
	if d.left == 0 {
		return false
	}
	d.left--
	return true
}

// refused is a host that did not want what it was offered.
func (d *desk) refused(err error) error {
	host := d.cfg.Host
	var pe *protocol.Error
	if !errors.As(err, &pe) {
		return problem(host, fmt.Errorf("lend the login: %w", err))
	}
	text := clean(pe.Message)
	p := &config.Problem{Stage: Stage, Err: fmt.Errorf("%s does not take a lent login: %s", host, text), Exit: config.ExitDenied}
	switch {
	case strings.Contains(text, "experimentalApi"), pe.Code == protocol.CodeMethodNotFound:
		p.Hints = []string{"put this version there: `towline connect " + host + " --install`"}
	default:
		p.Hints = []string{
			"log the host in by itself: `towline login " + host + "`",
			"see what it has and what its policy demands: `towline credentials status " + host + "`",
		}
	}
	return p
}

// problem is err for a person, with this package's stage.
func problem(host string, err error, hints ...string) error {
	var p *config.Problem
	if errors.As(err, &p) {
		if p.Stage == Stage {
			return err
		}
		return &config.Problem{Stage: Stage, Err: err, Exit: p.Exit}
	}
	if len(hints) == 0 {
		hints = []string{"see every step: `towline doctor " + host + "`"}
	}
	return &config.Problem{Stage: Stage, Err: err, Hints: hints, Exit: config.ExitUnavailable}
}

// reason is err as another machine may read it: the sentence, not the advice.
func reason(err error) string { return clean(err.Error()) }

// clean is one line of somebody else's text.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r < ' ', r == 0x7f, r >= 0x80 && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
	const most = 300
	if s = strings.TrimSpace(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
