package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/theme"
	"towline/config"
)

// healer is a stream whose link can be cut and mended: what is sent meanwhile
// arrives afterwards, as with rpc.Resumable.
type healer struct {
	rpc.Stream
	mu      sync.Mutex // guards what follows
	state   LinkState
	changed chan struct{}
	up      chan struct{} // closed while the link is up
	retries chan struct{}
}

var _ Link = (*healer)(nil)

func heal(s rpc.Stream) *healer {
	h := &healer{Stream: s, state: LinkState{Up: true, Since: time.Now()}, changed: make(chan struct{}), up: make(chan struct{}), retries: make(chan struct{}, 8)}
	close(h.up)
	return h
}

func (h *healer) set(st LinkState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st.Up && !h.state.Up {
		close(h.up)
	} else if !st.Up && h.state.Up {
		h.up = make(chan struct{})
	}
	h.state = st
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *healer) State() LinkState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

func (h *healer) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *healer) Retry() { h.retries <- struct{}{} }

func (h *healer) wait(ctx context.Context) error {
	h.mu.Lock()
	up := h.up
	h.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *healer) Read(ctx context.Context) ([]byte, error) {
	b, err := h.Stream.Read(ctx)
	if err == nil {
		err = h.wait(ctx)
	}
	return b, err
}

func (h *healer) Write(ctx context.Context, msg []byte) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	return h.Stream.Write(ctx, msg)
}

// healing runs a client on a stream that heals.
func healing1(t *testing.T, f *fake, w, h int) (*tty, *healer) {
	t.Helper()
	var mu sync.Mutex
	var lk *healer
	l := newLaunch(f)
	s := start(t, f, w, h, func(c *Config) {
		c.Dial = nil
		c.Connect = func(ctx context.Context, p Connecting) (Opened, error) {
			o, err := l.connect(ctx, p)
			dial := o.Dial
			o.Dial = func(ctx context.Context) (rpc.Stream, error) {
				s, err := dial(ctx)
				if err != nil {
					return nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				lk = heal(s)
				return lk, nil
			}
			return o, err
		}
	})
	s.sees("○ new")
	mu.Lock()
	defer mu.Unlock()
	return s, lk
}

func TestCutLinkIsABannerAndNothingIsLost(t *testing.T) {
	f := remoteFake(t)
	s, lk := healing1(t, f, 80, 24)
	f.started("u-1")
	got := f.ask(protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	s.sees("Run this command?")
	lk.set(LinkState{Attempt: 3, NextTry: time.Now().Add(time.Hour), Since: time.Now(), Err: io.ErrUnexpectedEOF})
	s.sees("⟳ unreachable", "(attempt 3, next in", "ctrl+r retry   ctrl+d detach", "Run this command?")
	s.decides("y")
	s.sees("not sent: dev-server is unreachable; answer when it is back", "Run this command?")
	// What happens meanwhile is there after it.
	f.item(true, "u-1", userItem("i1", "go on"))
	f.item(true, "u-1", agentItem("m1", "said while nobody heard"))
	lk.set(LinkState{Up: true, Since: time.Now()})
	screen := s.sees("back after", "said while nobody heard", "Run this command?")
	if strings.Contains(screen, "reconnecting") {
		t.Errorf("the banner stays:\n%s", screen)
	}
	s.decides("y")
	expect(t, got, `{"decision":"accept"}`)
	if f.dials != 1 {
		t.Errorf("dialled %d times", f.dials)
	}
	for _, m := range f.methods() {
		if m == "thread/resume" {
			t.Error("the thread was read anew")
		}
	}
}

// The banner of a lost link and a question both have an r and a d. Pressed as the
// link returns they do neither.
func TestLettersOfTheBannerDoNotAnswerWhenTheLinkReturns(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	b.open1(opened("t-1", ""))
	gen := b.conn.gen
	b.Update(linkMsg{gen, LinkState{Since: b.clock, Attempt: 1}})
	b.request(1, protocol.ReqCommandApproval, commandAsk("c1", "make deploy"))
	b.draw()
	b.clock = b.clock.Add(time.Minute)
	lines, _, _ := b.draw()
	if s := strings.Join(lines, "\n"); !strings.Contains(s, "ctrl+d detach") || strings.Contains(s, "   d detach") {
		t.Errorf("the banner offers what the question has:\n%s", s)
	}
	b.askQuiet() // it has the keys
	b.Update(linkMsg{gen, LinkState{Up: true, Since: b.clock}})
	b.press("d")
	b.press("r")
	b.draw()
	if len(b.asks.open) != 1 || b.asks.open[0].p.Typing() || b.comp.Text() != "" || b.bannerLetter != "" {
		t.Fatalf("open %d, composer %q, banner %q", len(b.asks.open), b.comp.Text(), b.bannerLetter)
	}
	b.clock = b.clock.Add(2 * readingGrace)
	b.press("r")
	if !b.asks.open[0].p.Typing() {
		t.Error("r means nothing after the pause")
	}
	// What is being written stays the question's across a cut.
	b.Update(linkMsg{gen, LinkState{Since: b.clock, Attempt: 1}})
	b.press("n")
	b.Update(linkMsg{gen, LinkState{Up: true, Since: b.clock}})
	b.press("o")
	lines, _, _ = b.draw()
	if s := strings.Join(lines, "\n"); !strings.Contains(s, "no") || !b.asks.open[0].p.Typing() || b.comp.Text() != "" {
		t.Errorf("the reason is lost; the composer has %q:\n%s", b.comp.Text(), s)
	}
}

func TestTypingGoesOnWhileTheLinkIsCut(t *testing.T) {
	f := remoteFake(t)
	s, lk := healing1(t, f, 80, 24)
	lk.set(LinkState{Attempt: 1, NextTry: time.Now().Add(time.Hour), Since: time.Now()})
	s.sees("(attempt 1")
	s.keys("rewrite it", "<enter>")
	s.sees("dev-server is unreachable: your text is kept", "› rewrite it", "ctrl+r retry   ctrl+d detach")
	s.keys("\x12")
	<-lk.retries
	s.keys("<ctrl+d>")
	s.sees("what you wrote would be lost")
	lk.set(LinkState{Up: true, Since: time.Now()})
	s.sees("back after")
	s.keys("<enter>")
	if got := f.wait("turn/start", 1); !strings.Contains(string(got), "rewrite it") {
		t.Errorf("sent %s", got)
	}
	lk.set(LinkState{Attempt: 2, Since: time.Now()})
	s.sees("(attempt 2, now)")
	s.keys("r")
	<-lk.retries
	s.keys("d")
	r, err := s.ends()
	if err != nil || !strings.Contains(r.Text, "was still working when last heard of") {
		t.Errorf("Run = %+v, %v", r, err)
	}
}

func TestLostSessionIsReadAnewOnce(t *testing.T) {
	f := remoteFake(t)
	s, lk := healing1(t, f, 80, 24)
	f.started("u-1")
	f.item(true, "u-1", userItem("i1", "go on"))
	f.item(true, "u-1", agentItem("m1", "an answer"))
	s.sees("an answer")
	f.reply("thread/resume", opened("t-1", "", turn("u-1", "completed", userItem("i1", "go on"), agentItem("m1", "an answer"), agentItem("m2", "and another"))))
	lk.set(LinkState{Attempt: 9, Since: time.Now()})
	s.sees("(attempt 9")
	lk.set(LinkState{Up: true, Since: time.Now()})
	lk.mu.Lock()
	inner := lk.Stream
	lk.mu.Unlock()
	_ = inner.Close(&rpc.LostError{Why: "more happened than was kept"})
	screen := s.sees("back after", "and another")
	if strings.Count(screen, "an answer") != 1 || strings.Count(screen, "› go on") != 1 {
		t.Errorf("repeated:\n%s", screen)
	}
}

func TestRequestsOutliveACut(t *testing.T) {
	lk := heal(nil)
	l := &link{ctx: t.Context(), lk: lk}
	lk.set(LinkState{Since: time.Now().Add(-time.Hour)})
	ctx, cancel := l.patientFor(t.Context(), time.Millisecond, errors.New("no answer"))
	defer cancel()
	select {
	case <-ctx.Done():
		t.Fatal("a request gave up while the link was down")
	case <-time.After(50 * time.Millisecond): // many times its patience
	}
	lk.set(LinkState{Up: true, Since: time.Now()})
	select {
	case <-ctx.Done():
		if context.Cause(ctx).Error() != "no answer" {
			t.Errorf("ended with %v", context.Cause(ctx))
		}
	case <-time.After(patience):
		t.Fatal("a request waits for ever")
	}
}

func TestWakingUpTriesAgainAtOnce(t *testing.T) {
	f := remoteFake(t)
	f.reply("thread/resume", opened("t-1", "", turn("u-0", "completed", userItem("i0", "before"))))
	l := newLaunch(f)
	wake := make(chan struct{}, 1)
	l.opened.Wake = wake
	s := start(t, f, 80, 24, l.config, func(c *Config) { c.Thread = "t-1" })
	s.sees("› before")
	f.cut(false)
	s.sees("(attempt 4") // the next would be seconds away
	f.mu.Lock()
	f.down = false
	f.mu.Unlock()
	wake <- struct{}{}
	s.sees("back after")
}

func TestLeavingPlainStdioAsksTwiceWhileATurnRuns(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f)
	l.opened.CutEndsTurn, l.opened.Transport = true, "codex stdio"
	s := start(t, f, 80, 24, l.config)
	s.sees("▲ a cut link, or leaving, ends the running turn   x hide", "▲ codex stdio")
	f.started("u-1")
	s.sees("● working")
	s.keys("<ctrl+d>")
	s.sees("leaving ends the running turn")
	s.keys("<ctrl+d>")
	r, err := s.ends()
	if err != nil || strings.Contains(r.Text, "still working") || !strings.Contains(r.Text, "Come back: towline dev-server") {
		t.Errorf("Run = %+v, %v", r, err)
	}
}

func TestCutOfPlainStdioSaysWhatItEnded(t *testing.T) {
	f := remoteFake(t)
	f.reply("thread/resume", opened("t-1", "", turn("u-1", "interrupted", userItem("i1", "go on"))))
	l := newLaunch(f)
	l.opened.CutEndsTurn = true
	s := start(t, f, 100, 24, l.config)
	s.sees("○ new")
	f.started("u-1")
	f.item(true, "u-1", userItem("i1", "go on"))
	s.sees("› go on")
	f.cut(true)
	screen := s.sees("back after", "the turn that was running ended with the link")
	if strings.Count(screen, "› go on") != 1 {
		t.Errorf("repeated:\n%s", screen)
	}
}

func TestSameWordsSentTwiceAreNotTakenForDelivered(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	before := turn("u-0", "completed", userItem("i0", "go on"))
	b.open1(opened("t-1", "", before))
	b.cur.pending = []pending{{id: "x", text: "go on"}}
	b.open(openRequest{id: "t-1", resync: true})
	b.open1(opened("t-1", "", before))
	if b.comp.Text() != "go on" {
		t.Errorf("an unsent message is gone; the composer has %q", b.comp.Text())
	}
}

func TestVersionSkewIsSaidAndCanBlock(t *testing.T) {
	f := remoteFake(t)
	f.reply("thread/list", obj{"data": []any{listed("t-1", "old talk", "idle")}})
	f.reply("thread/resume", opened("t-1", "old talk", turn("u-0", "completed", userItem("i0", "before"))))
	l := newLaunch(f)
	l.opened.Skew = Skew{Notice: "dev-server speaks a newer protocol (5, this is 3)", Blocked: true, Update: func(ctx context.Context, c Updating) (Opened, error) {
		if n, err := c.Choose(ctx, Question{Title: "Update Towline on dev-server?", Choices: []Choice{{"y", "update"}, {"n", "don't"}}}); n != 0 || err != nil {
			return Opened{}, ErrAborted
		}
		c.Step(Step{Stage: "install", Text: "uploaded", Done: true})
		return Opened{Dial: f.dial, Transport: "towline", Project: "/home/ana/src/shop"}, nil
	}}
	s := start(t, f, 100, 24, l.config, func(c *Config) { c.Thread = "t-1" })
	s.sees("▲ sending is blocked: dev-server speaks a newer protocol", "u update", "› before", "reading works")
	s.keys("do it", "<enter>")
	s.sees("not sent: dev-server speaks", "/update", "› do it")
	s.keys("<ctrl+c>", "u")
	s.sees("Update Towline on dev-server?")
	s.decides("n")
	s.sees("› before", "sending is blocked")
	s.keys("/update", "<enter>")
	s.sees("Update Towline on dev-server?")
	s.decides("y")
	s.sees("› before", "connected anew")
	s.not("sending is blocked")
	if l.closed != 1 {
		t.Errorf("the connection before was closed %d times", l.closed)
	}
	s.keys("now do it", "<enter>")
	f.wait("turn/start", 1)
}

func TestUpdateFromAnEmptyListBegins(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f)
	l.opened.Skew = Skew{Notice: "too new", Blocked: true, Update: func(context.Context, Updating) (Opened, error) {
		return Opened{Dial: f.dial, Project: "/home/ana/src/shop"}, nil
	}}
	s := start(t, f, 100, 24, l.config)
	s.sees("no threads yet", "sending is blocked: too new   u update")
	s.keys("u")
	s.sees("○ new", "what should be done?")
}

func TestFailedUpdateThatReleasedItsConnectionConnectsAgain(t *testing.T) {
	f := remoteFake(t)
	f.reply("thread/resume", opened("t-1", "", turn("u-0", "completed", userItem("i0", "before"))))
	l := newLaunch(f)
	l.opened.Skew = Skew{Notice: "too old", Update: func(_ context.Context, c Updating) (Opened, error) {
		c.Release()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed != 1 {
			t.Errorf("closed %d times", l.closed)
		}
		f.cut(true) // as the end of its connection does
		return Opened{}, &config.Problem{Stage: "install", Err: errors.New("the disk is full")}
	}}
	s := start(t, f, 100, 24, l.config, func(c *Config) { c.Thread = "t-1" })
	s.sees("› before", "u update")
	s.keys("u")
	s.sees("✘ not updated", "the disk is full", "esc back")
	s.keys("<esc>")
	s.sees("› before", "too old")
	s.not("⟳")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs != 2 {
		t.Errorf("connected %d times", l.runs)
	}
}

func TestBannerOverTheListOffersItsKeys(t *testing.T) {
	f := remoteFake(t)
	f.reply("thread/list", obj{"data": []any{listed("t-1", "old talk", "idle")}})
	l := newLaunch(f)
	asked := make(chan struct{})
	l.opened.Skew = Skew{Notice: "too new", Blocked: true, Update: func(ctx context.Context, _ Updating) (Opened, error) {
		close(asked)
		return Opened{}, ErrAborted
	}}
	s := start(t, f, 100, 24, l.config)
	s.sees("old talk", "sending is blocked: too new   u update")
	s.keys("u")
	<-asked
	s.sees("old talk")
}

func TestSkewNoticeCanBeSentAway(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f)
	l.opened.Skew.Notice = "dev-server runs towline 0.4.1, this is 0.4.2"
	s := start(t, f, 100, 24, l.config)
	s.sees("▲ dev-server runs towline 0.4.1, this is 0.4.2   x hide")
	s.keys("x")
	s.not("0.4.1")
	s.keys("x marks", "<enter>") // a letter again
	if got := f.wait("turn/start", 1); !strings.Contains(string(got), "x marks") {
		t.Errorf("sent %s", got)
	}
}

// Nothing may move, and no timer may run, when nothing changes.
func TestIdleConnectionsDoNotTick(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	b.boot = &boot{cancel: func(error) {}, opened: &Opened{}}
	b.open1(opened("t-1", ""))
	b.list.loaded = true
	idle := func(what string) {
		t.Helper()
		b.ticking, b.boot.ticking, b.asks.ticking = false, false, false
		if _, cmd := b.Update(applyMsg(func(*model) tea.Cmd { return nil })); cmd != nil {
			t.Errorf("%s: something moves", what)
		}
	}
	idle("the UI")
	b.boot.phase = bootFailed
	b.boot.log.fail("dial", "dev-server", errors.New("refused"), b.clock)
	idle("a failure")
	b.boot.phase = bootRunning
	q := secretQuery(SecretQuestion{Hop: "dev-server"})
	b.boot.queries = []*query{q}
	b.draw()
	idle("a password")
	q = choiceQuery(Question{Title: "well?", Choices: []Choice{{"y", "yes"}}})
	b.boot.queries = []*query{q}
	b.draw()
	b.clock = b.clock.Add(readingGrace)
	idle("a question that was read")
	b.boot.queries = nil
	if _, cmd := b.Update(applyMsg(func(*model) tea.Cmd { return nil })); cmd == nil {
		t.Error("connecting does not move")
	}
}

func TestRefusedReturnSaysWhy(t *testing.T) {
	f := remoteFake(t)
	s, lk := healing1(t, f, 120, 24)
	lk.set(LinkState{Attempt: 2, NextTry: time.Now().Add(time.Hour), Since: time.Now(), Err: fmt.Errorf("%w: %w", rpc.ErrRefused, &config.Problem{
		Stage: "host key", Err: errors.New("the host key of dev-server changed"),
	})})
	s.sees("▲ dev-server does not let us back: the host key of dev-server changed   r retry   d detach")
	s.keys("r")
	<-lk.retries
	lk.set(LinkState{Up: true, Since: time.Now()})
	s.not("does not let us back")
}

func TestReturnSaysWhatItWas(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	since := b.clock.Add(-31 * time.Second)
	for want, why := range map[string]error{
		"back after 31 s": io.EOF,
		"back after 31 s: the server forgot us, so the thread was read anew": fmt.Errorf("read: %w", &rpc.LostError{Why: "the server forgot us"}),
		"this terminal could not keep up, so the thread was read anew":       rpc.ErrSlow,
		"connected anew": errReplaced,
	} {
		if got := b.backAfter(since, why); got != want {
			t.Errorf("after %v: %q, want %q", why, got, want)
		}
	}
}
