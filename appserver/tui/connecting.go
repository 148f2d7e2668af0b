package tui

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	tea "charm.land/bubbletea/v2"

	"towline/config"
)

// connector is the Connecting handed to Connect: it turns calls from any
// goroutine into messages for the program, and waits for what comes back.
type connector struct {
	ctx  context.Context // the life of Run: nobody answers after it
	send func(tea.Msg)
	// How much of an upload is done. Uploads tell this for every packet; the
	// screen looks when it draws.
	sent, size atomic.Int64
	release    func()
}

var _ Updating = (*connector)(nil)

// The messages of a connector.
type (
	stepMsg   Step
	noticeMsg struct{ hop, text string }
	askMsg    struct{ q *query }
	unaskMsg  struct{ q *query } // nobody waits for the answer any more
	// connectedMsg is how run number run of Connect, or of Update, ended.
	connectedMsg struct {
		run    int
		opened Opened
		err    error
	}
	// reopenedMsg: Connect was run again, because its connection was released.
	reopenedMsg struct{ opened Opened }
	wakeMsg     struct{} // now is a good moment to try again
)

// Step implements Connecting.
func (c *connector) Step(s Step) {
	if !s.Detail {
		c.size.Store(0) // what was uploaded belongs to the step before
	}
	c.send(stepMsg(s))
}

// Progress implements Connecting.
func (c *connector) Progress(done, total int64) {
	c.sent.Store(done)
	c.size.Store(total)
}

// Notice implements Asker.
func (c *connector) Notice(hop, s string) { c.send(noticeMsg{hop, s}) }

// Release implements Updating.
func (c *connector) Release() { c.release() }

// HostKey implements Asker.
func (c *connector) HostKey(ctx context.Context, q HostKeyQuestion) (Decision, error) {
	a, err := c.ask(ctx, hostKeyQuery(q))
	if err != nil {
		return Refuse, err
	}
	return Decision(a.choice), nil
}

// Secret implements Asker.
func (c *connector) Secret(ctx context.Context, q SecretQuestion) (string, error) {
	a, err := c.ask(ctx, secretQuery(q))
	return a.text, err
}

// Choose implements Asker.
func (c *connector) Choose(ctx context.Context, q Question) (int, error) {
	if len(q.Choices) == 0 {
		return 0, errors.New("a question without choices")
	}
	a, err := c.ask(ctx, choiceQuery(q))
	return a.choice, err
}

// ask shows q and waits for the person.
func (c *connector) ask(ctx context.Context, q *query) (reply, error) {
	c.send(askMsg{q})
	select {
	case r := <-q.answer:
		return r, r.err
	case <-ctx.Done():
		c.send(unaskMsg{q})
		return reply{}, context.Cause(ctx)
	case <-c.ctx.Done():
		return reply{}, ErrAborted
	}
}

// runConnect runs f, which is Connect or an Update, as run number run.
func (l *link) runConnect(ctx context.Context, run int, f func(context.Context, Connecting) (Opened, error)) tea.Cmd {
	return l.task(func(context.Context) (msg tea.Msg) {
		l.connecting.Store(true)
		defer l.connecting.Store(false)
		defer func() {
			if r := recover(); r != nil {
				msg = connectedMsg{run: run, err: fmt.Errorf("connecting failed: %v", r)}
			}
		}()
		o, err := f(ctx, l.person)
		if err == nil && o.Dial == nil {
			err = errors.New("the connection cannot be used")
		}
		if err == nil && ctx.Err() != nil { // nobody wants it any more
			err = context.Cause(ctx)
			closeOpened(o)
		}
		if err == nil {
			l.use(o)
		}
		return connectedMsg{run: run, opened: o, err: err}
	})
}

func closeOpened(o Opened) {
	if o.Close != nil {
		_ = o.Close() // it is over either way
	}
}

// use makes o the connection to dial with and closes the one before. It is done
// here, not in Update, so that none is forgotten when the program ends between.
func (l *link) use(o Opened) {
	l.mu.Lock()
	old := l.opened
	l.opened = &o
	l.mu.Unlock()
	if old != nil {
		closeOpened(*old)
	}
}

// release closes the connection in use; none is, then.
func (l *link) release() {
	l.mu.Lock()
	old := l.opened
	l.opened = nil
	l.mu.Unlock()
	if old != nil {
		closeOpened(*old)
	}
}

// errBusy is why nothing is dialled while a connection is being made.
var errBusy = errors.New("another connection is being made")

// reconnect runs Connect again, for a connection that was released in vain.
func (l *link) reconnect(ctx context.Context) (Opened, error) {
	if l.connecting.Load() {
		return Opened{}, errBusy
	}
	o, err := l.cfg.Connect(ctx, l.person)
	if err == nil && o.Dial == nil {
		err = errors.New("the connection cannot be used")
	}
	if err != nil {
		return Opened{}, err
	}
	l.use(o)
	l.person.send(reopenedMsg{o})
	return o, nil
}

// aborted is Run's error when the person leaves while connecting.
func aborted(stage, hint string) error {
	p := &config.Problem{Stage: stage, Err: ErrAborted, Exit: config.ExitInterrupted}
	if hint != "" {
		p.Hints = []string{"run `" + hint + "` to try again"}
	}
	return p
}
