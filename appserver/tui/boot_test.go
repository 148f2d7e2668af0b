package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
	"towline/config"
)

// launch is a scripted launcher: what Connect does, in order, on a fake host.
type launch struct {
	f      *fake
	mu     sync.Mutex // guards what follows
	script []func(ctx context.Context, c Connecting) error
	runs   int
	closed int
	person Connecting
	opened Opened // what Connect returns, but for Dial and Close
	ended  chan struct{}
}

func newLaunch(f *fake, script ...func(ctx context.Context, c Connecting) error) *launch {
	return &launch{f: f, script: script, ended: make(chan struct{}, 16), opened: Opened{Transport: "towline", Home: "/home/ana", Project: "/home/ana/src/shop"}}
}

// connect runs the script of this run; the last one is used again.
func (l *launch) connect(ctx context.Context, c Connecting) (Opened, error) {
	l.mu.Lock()
	l.person = c
	run := min(l.runs, len(l.script)-1)
	l.runs++
	o := l.opened
	l.mu.Unlock()
	defer func() { l.ended <- struct{}{} }()
	if run >= 0 {
		if err := l.script[run](ctx, c); err != nil {
			return Opened{}, err
		}
	}
	o.Dial = l.f.dial
	o.Close = func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed++
		return nil
	}
	return o, nil
}

// update is connect as an Update.
func (l *launch) update(ctx context.Context, c Updating) (Opened, error) { return l.connect(ctx, c) }

func (l *launch) config(c *Config) {
	c.Dial, c.Connect = nil, l.connect
}

// remoteFake is a host with a project folder.
func remoteFake(t *testing.T) *fake {
	f := newFake(t).session(protocol.Session{Host: "ip-10-0-1-42"})
	f.reply("fs/readDirectory", obj{"entries": []any{}})
	return f
}

// steps tells of a whole connection through a bastion.
func steps(_ context.Context, c Connecting) error {
	for _, s := range []Step{
		{Stage: "resolve", Text: "deploy@10.0.1.42:22 via bastion", Done: true, Took: 3 * time.Millisecond},
		{Stage: "dial", Hop: "bastion"},
		{Stage: "dial", Hop: "bastion", Done: true, Took: 20 * time.Millisecond},
		{Stage: "host key", Hop: "bastion", Text: "host key known", Done: true, Took: time.Millisecond},
		{Stage: "authenticate", Hop: "bastion", Text: "agent key SHA256:abc offered", Detail: true},
		{Stage: "authenticate", Hop: "bastion", Text: "agent key accepted", Done: true, Took: 190 * time.Millisecond},
		{Stage: "dial"},
		{Stage: "dial", Done: true, Took: 30 * time.Millisecond},
		{Stage: "host key", Text: "host key known", Done: true, Took: time.Millisecond},
		{Stage: "authenticate", Text: "~/.ssh/id_ed25519", Done: true, Took: 160 * time.Millisecond},
		{Stage: "shell", Text: "zsh", Done: true, Took: 1400 * time.Millisecond},
		{Stage: "find", Text: "towline 0.4.2, running", Done: true, Took: time.Millisecond},
		{Stage: "ready", Done: true, Took: 1900 * time.Millisecond},
	} {
		c.Step(s)
	}
	return nil
}

func TestConnectShowsItsStepsAndThenTheUI(t *testing.T) {
	f := remoteFake(t)
	hold := make(chan struct{})
	l := newLaunch(f, func(ctx context.Context, c Connecting) error {
		if err := steps(ctx, c); err != nil {
			return err
		}
		c.Step(Step{Stage: "start", Text: "starting the daemon"})
		<-hold
		return nil
	})
	s := start(t, f, 80, 24, l.config)
	s.sees("dev-server", "○ connecting", "✔ resolve", "via bastion", "✔ bastion", "host key known · agent key accepted", "0.21 s",
		"✔ dev-server", "~/.ssh/id_ed25519", "✔ login shell", "zsh", "1.40 s", "starting the daemon", "so far", "d details   c copy   esc stop")
	s.not("agent key SHA256:abc offered")
	s.keys("d")
	s.sees("agent key SHA256:abc offered", "authenticate")
	s.keys("d", "c")
	s.sees("copied, if this terminal allows it")
	close(hold)
	s.sees("○ new", "dev-server", "towline   you")
	// The connect screen went as the thread came: nothing between them was drawn.
	s.keys("<ctrl+d>")
	r, err := s.ends()
	if err != nil || !strings.Contains(r.Text, "detached from dev-server. Come back: towline dev-server") {
		t.Errorf("Run = %+v, %v", r, err)
	}
	if l.closed != 1 {
		t.Errorf("the connection was closed %d times", l.closed)
	}
	if p := f.wait("thread/start", 1); field(p, "cwd") != "/home/ana/src/shop" {
		t.Errorf("thread/start %s", p)
	}
}

func TestUnknownHostKeyIsAnsweredByAKeyOnly(t *testing.T) {
	for key, want := range map[string]Decision{"a": AcceptSave, "o": AcceptOnce, "n": Refuse} {
		t.Run(key, func(t *testing.T) {
			f := remoteFake(t)
			got := make(chan Decision, 1)
			l := newLaunch(f, func(ctx context.Context, c Connecting) error {
				c.Step(Step{Stage: "host key"})
				d, err := c.HostKey(ctx, HostKeyQuestion{
					Hop: "dev-server", Address: "10.0.1.42:22", Type: "ssh-ed25519",
					Fingerprint: "SHA256:2kW0p7lXqJm3m1oPq8w5qC0m0Qz3n9d6b4y2x1v0u9s", File: "~/.ssh/known_hosts",
				})
				got <- d
				if d == Refuse && err == nil {
					err = &config.Problem{Stage: "host key", Err: errors.New("the host key was not accepted"), Hints: []string{"ask who runs the host"}}
				}
				return err
			})
			s := start(t, f, 80, 24, l.config)
			s.sees("Is this the right host?", "10.0.1.42:22", "ssh-ed25519", "SHA256:2kW0p7lXqJm3m1oPq8w5qC0m0Qz3n9d6b4y2x1v0u9s", "known_hosts", "▲ waiting for you")
			s.keys(key, "<enter>", "<space>") // too soon to have been read, and no default
			s.decides("<enter>", key)
			if d := <-got; d != want {
				t.Errorf("answered %v, want %v", d, want)
			}
			if want != Refuse {
				s.sees("○ new")
				return
			}
			s.sees("✘ not connected", "host key", "the host key was not accepted", "ask who runs the host")
		})
	}
}

func TestSecretsAreMaskedAndLabelledByHop(t *testing.T) {
	f := remoteFake(t)
	const secret = "pass\u00a0wörd \tx"
	got := make(chan string, 3)
	l := newLaunch(f, func(ctx context.Context, c Connecting) error {
		c.Notice("bastion", "Authorised use only.\n\x1b[31mEverything is recorded.")
		for i, q := range []SecretQuestion{
			{Hop: "bastion", Kind: Password, Subject: "ana@bastion", Attempt: 1},
			{Hop: "bastion", Kind: Password, Subject: "ana@bastion", Attempt: 2},
			{Hop: "dev-server", Kind: Challenge, Prompt: "Token code:", Subject: "ana@dev-server", Echo: true},
		} {
			s, err := c.Secret(ctx, q)
			if err != nil {
				return fmt.Errorf("question %d: %w", i, err)
			}
			got <- s
		}
		return nil
	})
	s := start(t, f, 80, 24, l.config)
	s.sees("Password", "bastion", "ana@bastion", "Authorised use only.", "Everything is recorded.")
	s.keys("q", "<bs>", "wrong", "<enter>")
	if w := <-got; w != "wrong" {
		t.Errorf("got %q", w)
	}
	s.sees("that was not right")
	s.paste(secret + "\n")
	s.sees("password: •••••••••")
	s.keys("<enter>")
	if w := <-got; w != strings.ReplaceAll(secret, "\t", "") { // a tab is no part of a line
		t.Errorf("got %q, want %q", w, secret)
	}
	s.sees("dev-server asks", "Token code:")
	s.keys("123456")
	s.sees("answer: 123456")
	s.keys("<enter>")
	<-got
	s.sees("○ new")
	s.mu.Lock()
	defer s.mu.Unlock()
	if raw := s.raw.String(); strings.Contains(raw, "wörd") || strings.Contains(raw, "wrong") {
		t.Error("a secret was written to the terminal")
	}
}

func TestInstallOfferAndUpload(t *testing.T) {
	f := remoteFake(t)
	more, put := make(chan struct{}), make(chan struct{})
	l := newLaunch(f, func(ctx context.Context, c Connecting) error {
		c.Step(Step{Stage: "find", Text: "nothing usable"})
		n, err := c.Choose(ctx, InstallOffer{
			Host: "dev-server", Why: "neither towline nor codex was found in the login shell's PATH", Source: "this program, towline 0.4.2 for linux/arm64",
			Dir: "~/.local/share/towline", Bytes: 25 << 20,
		}.Question())
		if err != nil || n != 0 {
			return fmt.Errorf("not installed (%d): %w", n, err)
		}
		c.Step(Step{Stage: "install", Text: "uploading"})
		c.Progress(10<<20, 25<<20)
		<-more
		c.Progress(25<<20, 25<<20)
		<-put
		c.Step(Step{Stage: "install", Text: "uploaded and checked", Done: true})
		return nil
	})
	s := start(t, f, 80, 24, l.config)
	s.sees("Install Towline on dev-server?", "neither towline nor codex", "towline 0.4.2 for linux/arm64", "~/.local/share/towline", "25.0 MB", "no sudo")
	s.decides("y")
	s.sees("uploading", "40 %  10.0 MB of 25.0 MB", "━")
	close(more)
	s.sees("100 %")
	close(put)
	s.sees("○ new")
}

func TestFailureStaysWithWhatToTypeAndIsTriedAgain(t *testing.T) {
	f := remoteFake(t)
	fail := func(_ context.Context, c Connecting) error {
		c.Step(Step{Stage: "shell", Text: "zsh", Done: true})
		c.Step(Step{Stage: "find", Text: "looking"})
		return &config.Problem{
			Stage: "find", Err: errors.New("`codex` was not found in the login shell's PATH\nsh: 1: codex: not found\nsh: 1: \x1b[31mtowline: not found"),
			Hints: []string{"upload this build (24 MB, no sudo): `towline connect dev-server --install`", "everything that was tried: `towline doctor dev-server`"},
			Exit:  config.ExitUnavailable,
		}
	}
	l := newLaunch(f, fail, fail, steps)
	s := start(t, f, 80, 24, l.config)
	want := []string{
		"✘ not connected", "✘ app-server", "stage    find", "cause    `codex` was not found", "it said  sh: 1: codex: not found", "sh: 1: towline: not found",
		"next     towline connect dev-server --install", "upload this build", "towline doctor dev-server", "r try again", "q leave",
	}
	s.sees(want...)
	<-l.ended
	s.keys("r")
	<-l.ended
	s.sees(want...)
	s.keys("r")
	s.sees("○ new")
}

func TestLeavingAFailureGivesItsError(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f, func(context.Context, Connecting) error {
		return &config.Problem{Stage: "dial", Err: errors.New("10.0.1.42:22: connection refused"), Hints: []string{"is sshd running?"}, Exit: config.ExitUnavailable}
	})
	s := start(t, f, 40, 12, l.config)
	s.sees("dial", "connection refused")
	s.keys("q")
	_, err := s.ends()
	var p *config.Problem
	if !errors.As(err, &p) || p.Stage != "dial" || config.ExitCode(err) != config.ExitUnavailable {
		t.Errorf("Run = %v", err)
	}
}

func TestAbortEndsTheAttempt(t *testing.T) {
	for _, key := range []string{"<esc>", "<ctrl+c>", "<ctrl+d>"} {
		f := remoteFake(t)
		l := newLaunch(f, func(ctx context.Context, c Connecting) error {
			c.Step(Step{Stage: "authenticate"})
			<-ctx.Done()
			return context.Cause(ctx)
		})
		s := start(t, f, 80, 24, l.config)
		s.sees("authenticate", "so far")
		s.keys(key)
		_, err := s.ends()
		var p *config.Problem
		if !errors.As(err, &p) || p.Stage != "authenticate" || !errors.Is(err, ErrAborted) || config.ExitCode(err) != config.ExitInterrupted || len(p.Hints) == 0 {
			t.Errorf("%s: Run = %v", key, err)
		}
	}
}

func TestRunEndsWhileAQuestionIsOpen(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f, func(ctx context.Context, c Connecting) error {
		_, err := c.Secret(ctx, SecretQuestion{Hop: "dev-server"})
		return err
	})
	s := start(t, f, 80, 24, l.config)
	s.sees("Password")
	s.cancel(errors.New("the terminal closed"))
	if _, err := s.ends(); err == nil || err.Error() != "the terminal closed" {
		t.Errorf("Run = %v", err)
	}
	<-l.ended
}

func TestQuestionThatNobodyWaitsForGoes(t *testing.T) {
	f := remoteFake(t)
	timeout := make(chan struct{})
	l := newLaunch(f, func(ctx context.Context, c Connecting) error {
		ctx, cancel := context.WithCancelCause(ctx)
		go func() { <-timeout; cancel(errors.New("the server hung up")) }()
		_, err := c.Secret(ctx, SecretQuestion{Hop: "dev-server"})
		return err
	})
	s := start(t, f, 80, 24, l.config)
	s.sees("Password")
	close(timeout)
	s.sees("✘ not connected", "the server hung up")
	s.not("password:")
}

func TestHandshakeThatFailsIsAFailureOfTheConnection(t *testing.T) {
	f := remoteFake(t)
	f.refuse("initialize", "this app-server is too new")
	l := newLaunch(f, steps)
	s := start(t, f, 80, 24, l.config)
	s.sees("✘ not connected", "handshake", "this app-server is too new")
	f.reply("initialize", obj{"userAgent": "fake/1.2.3 (test)"})
	s.keys("r")
	s.sees("○ new")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs != 2 || l.closed != 1 {
		t.Errorf("connected %d times, closed %d of them", l.runs, l.closed)
	}
}

func TestQuestionsOfALaterConnectionWaitForAPause(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f, steps)
	s := start(t, f, 80, 24, l.config)
	s.sees("○ new")
	s.keys("half a wor")
	s.sees("› half a wor")
	l.mu.Lock()
	c := l.person
	l.mu.Unlock()
	got := make(chan error, 1)
	ask := func() {
		_, err := c.Secret(t.Context(), SecretQuestion{Hop: "dev-server", Kind: Password})
		got <- err
	}
	go ask()
	s.ahead.Add(int64(2 * readingGrace)) // a pause in the typing
	s.sees("Password", "password:")
	s.keys("<esc>")
	if err := <-got; !errors.Is(err, ErrAborted) {
		t.Errorf("Secret = %v", err)
	}
	s.sees("› half a wor")
	go ask() // nothing more is asked until the person wants to go on
	if err := <-got; !errors.Is(err, ErrAborted) {
		t.Errorf("Secret = %v", err)
	}
	s.keys("\x12") // ctrl+r
	s.keys("d")
	s.sees("› half a word")
}

func TestQuestionDoesNotTakeTheKeysOfSomebodyWhoTypes(t *testing.T) {
	b := newBench(t, 80, 24, theme.Plain(), ownSession())
	b.boot = &boot{cancel: func(error) {}}
	b.open1(opened("t-1", ""))
	b.press("hel")
	q := secretQuery(SecretQuestion{Hop: "dev-server"})
	b.Update(askMsg{q})
	b.press("lo")
	if b.comp.Text() != "hello" || len(q.line) != 0 {
		t.Fatalf("the composer has %q, the password %q", b.comp.Text(), string(q.line))
	}
	b.clock = b.clock.Add(readingGrace)
	b.press("x")
	if b.comp.Text() != "hello" || string(q.line) != "x" {
		t.Errorf("after a pause the composer has %q, the password %q", b.comp.Text(), string(q.line))
	}
}

func TestConnectWithoutADialIsAnError(t *testing.T) {
	f := remoteFake(t)
	s := start(t, f, 80, 24, func(c *Config) {
		c.Connect = func(context.Context, Connecting) (Opened, error) { return Opened{}, nil }
	})
	s.sees("✘ not connected", "cannot be used")
}

// A fingerprint that is not wholly on the screen cannot be accepted.
func TestNothingIsAcceptedUnseen(t *testing.T) {
	const print = "SHA256:2kW0p7lXqJm3m1oPq8w5qC0m0Qz3n9d6b4y2x1v0u9s"
	b := newBench(t, 20, 6, theme.Plain(), ownSession())
	b.connecting()
	q := hostKeyQuery(HostKeyQuestion{Hop: "dev-server", Type: "ssh-ed25519", Fingerprint: print})
	b.question(q)
	if s := ansi.Strip(b.screenText()); !strings.Contains(s, "make the window") {
		t.Errorf("nothing says what to do:\n%s", s)
	}
	b.press("ao")
	b.Update(tea.KeyPressMsg{Code: tea.KeyEnter})
	if len(q.answer) > 0 {
		t.Fatalf("accepted unseen: %+v", <-q.answer)
	}
	b.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
	if s := ansi.Strip(b.screenText()); !strings.Contains(s, print) {
		t.Errorf("the fingerprint is not there:\n%s", s)
	}
	b.press("o")
	if len(q.answer) == 0 || Decision((<-q.answer).choice) != AcceptOnce {
		t.Error("not accepted")
	}
}

// Who made the connection may have something to say while it works.
func TestALaterNoticeIsSeen(t *testing.T) {
	f := remoteFake(t)
	l := newLaunch(f, steps)
	s := start(t, f, 80, 24, l.config)
	s.sees("○ new")
	l.mu.Lock()
	c := l.person
	l.mu.Unlock()
	c.Notice("dev-server", "a banner of the server's")
	c.Notice("", "the login lent to dev-server:\n\x1b[2Jlog in again")
	s.sees("the login lent to dev-server", "log in again")
	s.not("a banner of the server's")
}
