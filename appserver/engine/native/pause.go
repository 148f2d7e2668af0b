package native

import (
	"context"
	"fmt"
	"time"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

// While a turn waits for a login, the store is looked at this often for one that
// another program made, and the request is tried anyway now and then.
const (
	lookAgain            = 2 * time.Second
	tryAgain, tryAgainAt = 30 * time.Second, 30 * time.Minute // first, at most
)

// pauseNote is one notification of a pause.
type pauseNote struct {
	method string
	params any
}

// pauseNotes say to a client that the turn waits, in two ways stock clients know:
// a line that stays, and what their status line shows while a request is retried.
func (l *live) pauseNotes(p agent.Pause) []pauseNote {
	text := "Waiting for a login: " + p.Message + ". Nothing is lost: the turn goes on once somebody has logged in, from any client or with `towline login` on the host"
	type note struct {
		Error     *protocol.TurnError `json:"error"`
		WillRetry bool                `json:"willRetry"`
		ThreadID  protocol.ThreadID   `json:"threadId"`
		TurnID    string              `json:"turnId"`
	}
	detail := p.Message
	return []pauseNote{
		{"warning", map[string]any{"threadId": l.id, "message": text}},
		{"error", note{
			Error:     &protocol.TurnError{Message: "Waiting for a login", CodexErrorInfo: p.Info, AdditionalDetails: &detail},
			WillRetry: true, ThreadID: l.id, TurnID: p.TurnID,
		}},
	}
}

// awaitLogin keeps a turn until the login has changed, however that happened. Who
// comes meanwhile is told as well (replay).
func (l *live) awaitLogin(ctx context.Context, p agent.Pause, changed <-chan struct{}) error {
	e := l.e
	e.log.Warn("a turn waits for a login", "thread", l.id, "turn", p.TurnID, "why", p.Message)
	l.setPause(&p)
	defer l.setPause(nil)
	e.tellAccount(false) // the login is over: clients offer another

	late := fmt.Errorf("nobody logged in within %s", e.cfg.LoginWait)
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.LoginWait, late)
	defer cancel()
	was, _ := e.cfg.Accounts.Status(ctx) // what cannot be read now may be readable soon
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	wait := tryAgain
	try := time.NewTimer(wait)
	defer try.Stop()
	for {
		select {
		case <-changed:
			if s, err := e.cfg.Accounts.Status(ctx); err == nil && usable(s) {
				return nil
			}
			changed = e.cfg.Accounts.Changed() // logged out: that is no login
			if s, err := e.cfg.Accounts.Status(ctx); err == nil && usable(s) {
				return nil
			}
		case <-look.C:
			if s, err := e.cfg.Accounts.Status(ctx); err == nil && usable(s) && s.Fingerprint != was.Fingerprint {
				e.tellAccount(false)
				return nil
			}
		case <-try.C:
			if s, err := e.cfg.Accounts.Status(ctx); err == nil && usable(s) {
				return nil
			}
			wait = min(wait*2, tryAgainAt)
			try.Reset(wait)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// setPause tells the thread's clients that its turn waits, or that it does no more.
func (l *live) setPause(p *agent.Pause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pause = p
	if p == nil {
		return
	}
	for _, n := range l.pauseNotes(*p) {
		l.tell(n.method, n.params)
	}
}
