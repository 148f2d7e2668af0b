package run

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// turn is one run, from the first connection to the result. One goroutine works on
// it: the one that called Run or Wait.
type turn struct {
	cfg      Config
	req      Request
	watching bool // a turn that is there: Wait
	ctx      context.Context
	began    time.Time
	own      sync.WaitGroup // what a call of ours still waits for

	link   *link // nil while there is none
	met    bool  // there was one
	lost   time.Time
	tries  int
	told   bool // that the connection is lost
	breaks int  // how often a connection was lost after the turn had begun

	thread    protocol.ThreadID
	opened    protocol.ThreadOpened
	mark      string // clientUserMessageId: by it our turn is found again
	sent      bool   // turn/start was, perhaps in vain
	id        string // of the turn, "" while it is not known
	announced bool   // TurnStarted was told

	lines  *lines
	asks   asks
	files  map[string]int     // path -> place in res.Files
	works  map[string]Command // item -> a command that has not ended
	base   *protocol.TokenUsage
	total  *Usage
	spent  *Usage
	failed string // the last error the server told
	res    Result

	why  string // StatusTimeout, StatusInterrupted or StatusApproval: why we gave the turn up
	give time.Time
}

func newTurn(cfg Config, req Request) *turn {
	return &turn{
		cfg: cfg, req: req, began: time.Now(), mark: "towline-exec-" + rand.Text(), lines: newLines(), files: make(map[string]int), works: make(map[string]Command),
		res: Result{Type: ResultType, Files: []File{}, Commands: []Command{}, Approvals: []Approval{}},
	}
}

// verdict is how a run ended: a status, and for people why.
type verdict struct {
	status string
	err    *config.Problem // nil when it ended well
}

// errGone says that the connection is lost and may be had again.
var errGone = errors.New("the connection was lost")

// run goes through the steps until there is a verdict. Each step knows what is done
// already, so after a loss they are gone through again.
func (t *turn) run(ctx context.Context) verdict {
	cancel := func() {}
	if t.req.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, t.req.Timeout, ErrTimeout)
	}
	defer cancel()
	t.ctx = ctx
	defer t.own.Wait()
	defer func() {
		if t.link != nil {
			t.link.close()
		}
	}()
	for {
		v, err := t.step(ctx)
		if err == nil {
			return v
		}
		if v, over := t.mend(ctx, err); over {
			return v
		}
	}
}

// step is one connection's worth of the run. Its error is that of a connection.
func (t *turn) step(ctx context.Context) (verdict, error) {
	l, err := t.connect(ctx)
	if err != nil {
		return verdict{}, err
	}
	t.link = l
	if t.thread == "" {
		err = t.open(ctx)
	} else {
		err = t.reopen(ctx)
	}
	if err != nil {
		return verdict{}, err
	}
	first := !t.met
	t.met = true
	if t.told {
		t.told = false
		t.res.Reconnects++
		t.note(Note{Kind: NoteBack})
	}
	if t.watching || t.sent {
		v, over, err := t.catchUp(ctx, !first)
		if err != nil || over {
			return v, err
		}
	}
	if t.id == "" && !t.watching {
		if err := t.start(ctx); err != nil {
			return verdict{}, err
		}
	}
	t.lost, t.tries = time.Time{}, 0
	if t.req.Detach {
		return verdict{status: StatusStarted}, nil
	}
	return t.follow(ctx)
}

// backoff is how long to wait before a try; the last one repeats.
var backoff = []time.Duration{0, 250 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// mend decides what becomes of a run whose connection failed: another try, after a
// while, or the verdict.
func (t *turn) mend(ctx context.Context, err error) (verdict, bool) {
	was := t.link != nil
	if was {
		t.link.close()
		t.link = nil
	}
	if ctx.Err() != nil {
		return t.leave(ctx), true
	}
	if t.final(err) || !t.met && t.hopeless(err) {
		return t.refused(err), true
	}
	if t.lost.IsZero() {
		t.lost = time.Now()
		t.asks.unsure()
		if t.sent || t.watching {
			t.breaks++
		}
	}
	if !t.told && t.met {
		t.told = true
		n := Note{Kind: NoteLost}
		if err != errGone { //nolint:errorlint // that alone says nothing more
			n.Text = config.OneLine(err.Error())
		}
		t.note(n)
	}
	wait := backoff[min(t.tries, len(backoff)-1)]
	t.tries++
	if time.Since(t.lost)+wait > t.cfg.Patience {
		return t.gone(err), true
	}
	select {
	case <-time.After(wait):
		return verdict{}, false
	case <-ctx.Done():
		return t.leave(ctx), true
	}
}

// atFirst is how often a first connection is tried: one may meet a server that is
// about to end.
const atFirst = 3

// hopeless reports whether a first connection is not worth another try.
func (t *turn) hopeless(err error) bool {
	var p *config.Problem
	var pe *protocol.Error
	return errors.As(err, &p) || errors.As(err, &pe) || t.tries >= atFirst
}

// final reports whether trying again will not mend err.
func (t *turn) final(err error) bool {
	var p *config.Problem
	var pe *protocol.Error
	switch {
	case errors.Is(err, rpc.ErrRefused):
		return true
	case errors.As(err, &p):
		return p.Exit != config.ExitUnavailable && p.Exit != config.ExitLost && p.Exit != 0
	case errors.As(err, &pe):
		return !passing(pe)
	}
	return false
}

// passing reports whether a refusal is about this moment: the server has no engine
// now, or is about to end.
func passing(pe *protocol.Error) bool {
	return pe.Code == protocol.CodeOverloaded || protocol.Field(pe.Data, "engine") != nil || protocol.StringField(pe.Data, "reason") == "serverShuttingDown"
}

// open starts the thread, or takes one up.
func (t *turn) open(ctx context.Context) error {
	p := map[string]any{}
	set := func(name, value string) {
		if value != "" {
			p[name] = value
		}
	}
	if !t.watching {
		set("cwd", t.req.Cwd)
		set("model", t.req.Model)
		set("sandbox", t.req.Sandbox)
		set("approvalPolicy", t.req.Approval)
		if len(t.req.Settings) > 0 {
			p["config"] = t.req.Settings
		}
		if t.req.Ephemeral {
			p["ephemeral"] = true
		}
	}
	method := "thread/start"
	if t.req.Resume != "" || t.req.Last {
		id, err := t.find(ctx)
		if err != nil {
			return err
		}
		p["threadId"], p["excludeTurns"] = id, true
		delete(p, "ephemeral")
		if method = "thread/resume"; t.req.Fork {
			method = "thread/fork"
		}
	} else {
		set("threadSource", t.req.ThreadSource)
	}
	if err := t.link.call(ctx, method, p, &t.opened); err != nil {
		return err
	}
	if !isName(t.opened.Thread.ID) {
		return &config.Problem{
			Stage: "server", Err: errors.New("it calls the thread something that is no name"), Exit: config.ExitFailure,
			Hints: []string{"check that it is an app-server you trust"},
		}
	}
	t.take(t.opened)
	if !t.watching && method == "thread/resume" && t.opened.Thread.Status.Type == protocol.StatusActive {
		return &config.Problem{
			Stage: "thread", Err: errors.New("the thread is at work already"), Exit: config.ExitUnavailable,
			Hints: []string{"wait for it: `" + t.command("wait") + "`", "or work on a copy: `towline exec fork " + string(t.thread) + "`"},
		}
	}
	t.event(Event{Type: ThreadStarted, ThreadID: string(t.thread)})
	t.note(Note{Kind: NoteBegan, Opened: &t.opened})
	return nil
}

// maxName bounds the id of a thread, in bytes; that of a UUID is 36.
const maxName = 128

// isName reports whether an id is one that can be printed, handed to a script and
// put into a command to type, whoever made it up.
func isName(id protocol.ThreadID) bool {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	return id != "" && len(id) <= maxName && id[0] != '-' && strings.IndexFunc(string(id), func(r rune) bool { return !plain(r) }) < 0
}

func (t *turn) take(o protocol.ThreadOpened) {
	t.thread = o.Thread.ID
	t.res.ThreadID, t.res.Model, t.res.Cwd = string(o.Thread.ID), o.Model, o.Cwd
	t.res.Sandbox = sandboxName(o.Sandbox.Type)
}

// sandboxName is a sandbox as the command line spells it.
func sandboxName(typ string) string {
	switch typ {
	case protocol.PolicyReadOnly:
		return protocol.SandboxReadOnly
	case protocol.PolicyWorkspaceWrite:
		return protocol.SandboxWorkspaceWrite
	case protocol.PolicyFullAccess:
		return protocol.SandboxFullAccess
	}
	return typ
}

// reopen subscribes to the thread again, after a loss. An ephemeral one has no list
// of turns: they come with it.
func (t *turn) reopen(ctx context.Context) error {
	var o protocol.ThreadOpened
	err := t.link.call(ctx, "thread/resume", map[string]any{"threadId": t.thread, "excludeTurns": !t.opened.Thread.Ephemeral}, &o)
	if err == nil {
		t.opened = o
	}
	return err
}

// start begins the turn.
func (t *turn) start(ctx context.Context) error {
	p := map[string]any{"threadId": t.thread, "input": t.req.Input, "clientUserMessageId": t.mark}
	if len(t.req.OutputSchema) > 0 {
		p["outputSchema"] = t.req.OutputSchema
	}
	var out struct {
		Turn protocol.Turn `json:"turn"`
	}
	t.sent = true
	// One that is interrupted here has begun nevertheless: it must be known what.
	ctx, cancel := lagging(ctx)
	defer cancel()
	err := t.link.call(ctx, "turn/start", p, &out)
	var pe *protocol.Error
	if errors.As(err, &pe) {
		t.sent = false // it said no
	}
	if err == nil {
		t.id, t.res.TurnID = out.Turn.ID, out.Turn.ID
	}
	return err
}

// lagging is a context that ends a moment after ctx.
func lagging(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var mu sync.Mutex
	var timer *time.Timer
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		timer = time.AfterFunc(goodbye, func() { cancel(context.Cause(ctx)) })
	})
	return out, func() {
		stop()
		mu.Lock()
		if timer != nil {
			timer.Stop()
		}
		mu.Unlock()
		cancel(nil)
	}
}

// catchUp reads from the history what was missed. Our turn may not be in it, when
// the connection was lost before the server heard of it.
func (t *turn) catchUp(ctx context.Context, again bool) (verdict, bool, error) {
	ours, err := t.history(ctx)
	if err != nil {
		return verdict{}, false, err
	}
	if ours == nil {
		switch {
		case t.watching:
			return verdict{StatusNotStarted, &config.Problem{
				Stage: "wait", Err: fmt.Errorf("nothing was ever asked in the thread %s", t.thread), Exit: config.ExitFailure,
				Hints: []string{"ask something: `towline exec --resume " + string(t.thread) + t.target() + " PROMPT`"},
			}}, true, nil
		case t.id != "":
			return verdict{StatusLost, t.problem("link", errors.New("the server came back without the turn"), config.ExitLost)}, true, nil
		}
		return verdict{}, false, nil // it is started again
	}
	t.id, t.res.TurnID = ours.ID, ours.ID
	if t.watching && ours.StartedAt != nil {
		t.began = time.Unix(*ours.StartedAt, 0)
	}
	t.begin()
	for _, it := range ours.Items {
		if running(it) && ours.Status == protocol.TurnInProgress {
			t.itemStarted(it)
		} else {
			t.itemCompleted(it, true)
		}
	}
	if ours.Status != protocol.TurnInProgress {
		for h, ok := t.link.box.take(); ok; h, ok = t.link.box.take() {
			if h.method == "thread/tokenUsage/updated" { // it came along with the thread
				t.hear(h)
			}
		}
		return t.over(*ours, again), true, nil
	}
	return verdict{}, false, nil
}

// pages is how far back a history is looked through for our turn.
const pages = 10

// history finds our turn in the thread's history: by its id, by the mark of its
// prompt, or, when watching, the newest. Nil when there is none.
func (t *turn) history(ctx context.Context) (*protocol.Turn, error) {
	if t.opened.Thread.Ephemeral {
		for i := range t.opened.Thread.Turns {
			if tn := &t.opened.Thread.Turns[len(t.opened.Thread.Turns)-1-i]; t.ours(tn) {
				return tn, nil
			}
		}
		return nil, nil
	}
	p := map[string]any{"threadId": t.thread, "limit": 5, "sortDirection": "desc", "itemsView": protocol.ViewFull}
	if t.watching && t.id == "" {
		p["limit"] = 1
	}
	for range pages {
		var page protocol.TurnsPage
		if err := t.link.call(ctx, "thread/turns/list", p, &page); err != nil {
			return nil, err
		}
		for i := range page.Data {
			if t.ours(&page.Data[i]) {
				if page.NextCursor == nil && i == len(page.Data)-1 {
					t.base = new(protocol.TokenUsage) // it is the thread's first
				}
				return &page.Data[i], nil
			}
		}
		if page.NextCursor == nil || t.watching && t.id == "" {
			break
		}
		p["cursor"] = *page.NextCursor
	}
	return nil, nil
}

func (t *turn) ours(tn *protocol.Turn) bool {
	if t.id != "" {
		return tn.ID == t.id
	}
	if t.watching {
		return true
	}
	for _, it := range tn.Items {
		if m, ok := it.Body.(*protocol.UserMessage); ok && m.ClientID != nil && *m.ClientID == t.mark {
			return true
		}
	}
	return false
}

func (t *turn) event(e Event) { t.cfg.Event(t.ctx, e) }

func (t *turn) note(n Note) {
	n.Thread = t.thread
	t.cfg.Note(t.ctx, n)
}

// orderly reports whether the connection ended without an error.
func orderly(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, rpc.ErrClosed)
}
