package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"towline/appserver/account"
	"towline/appserver/tui"
	"towline/config"
	"towline/forward/login"
	"towline/launcher"
	"towline/launcher/remote"
)

// codexCodeLasts is how long a device code of Codex's is good: it does not say.
const codexCodeLasts = 15 * time.Minute

// loginPerson is who logs a host in: somebody at a terminal, or a program that
// reads events and answers no questions.
type loginPerson struct {
	host   string
	asker  *handover
	screen *loginScreen
	enc    *json.Encoder // nil for a person
	pasted func(ctx context.Context) (string, error)

	mu      sync.Mutex // guards what enc writes
	counted sync.WaitGroup
	uncount func() // ends the countdown; nil when there is none
}

func newLoginPerson(out io.Writer, host string, f loginFlags) *loginPerson {
	p := &loginPerson{host: host, asker: f.host.lines(os.Stderr), screen: newLoginScreen(os.Stderr, credentials{})}
	switch {
	case f.remote.json || f.events:
		p.enc = json.NewEncoder(out)
		p.enc.SetEscapeHTML(false) // addresses have ampersands
		p.screen = nil
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			p.pasted = p.fromLines()
		}
	case term.IsTerminal(int(os.Stdin.Fd())):
		// What is pasted holds the code: it is not shown.
		p.pasted = func(ctx context.Context) (string, error) { return hiddenLine(ctx, os.Stdin) }
	}
	return p
}

// fromLines reads what a driving program pastes: one address a line.
func (p *loginPerson) fromLines() func(context.Context) (string, error) {
	var once sync.Once
	var lines <-chan string
	return func(ctx context.Context) (string, error) {
		// Its reader ends with standard input, or with the process.
		once.Do(func() { lines = inputLines(context.WithoutCancel(ctx), os.Stdin) })
		select {
		case line, ok := <-lines:
			if !ok {
				return "", login.ErrNobody
			}
			return line, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// driven is fromLines for a driver whose leaving ends the login.
func (p *loginPerson) driven(ctx context.Context, gone func()) {
	lines := make(chan string)
	go func() { // ends with standard input, or with ctx
		read := p.fromLines()
		for {
			line, err := read(ctx)
			if err != nil {
				gone()
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	p.pasted = func(ctx context.Context) (string, error) {
		select {
		case line := <-lines:
			return line, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// close ends what still changes on the screen.
func (p *loginPerson) close() {
	if p.uncount != nil {
		p.uncount()
		p.counted.Wait()
		p.uncount = nil
	}
}

// through is a launcher's configuration that asks and tells p.
func (p *loginPerson) through(lc launcher.Config) launcher.Config {
	if p.enc == nil {
		return through(lc, p.asker)
	}
	lc.Ask = nil // a program answers nothing
	lc.Events = func(e remote.Event) {
		if e.Done {
			p.Tell(login.Event{Event: login.EventStep, Stage: e.Stage, Text: strings.TrimSpace(printable(e.Hop) + ": " + printable(e.Text))})
		}
	}
	return lc
}

// Confirm implements login.Person.
func (p *loginPerson) Confirm(ctx context.Context, question string) (bool, error) {
	if p.enc != nil {
		return false, login.ErrNobody
	}
	n, err := p.asker.Choose(ctx, tui.Question{Title: question, Choices: []tui.Choice{{Key: "y", Label: "yes"}, {Key: "n", Label: "no"}}})
	switch {
	case errors.Is(err, tui.ErrNobody):
		return false, login.ErrNobody
	case errors.Is(err, tui.ErrAborted):
		return false, nil
	}
	return n == 0 && err == nil, err
}

// Paste implements login.Person.
func (p *loginPerson) Paste(ctx context.Context) (string, error) {
	if p.pasted == nil {
		return "", login.ErrNobody
	}
	return p.pasted(ctx)
}

// Tell implements login.Person.
func (p *loginPerson) Tell(e login.Event) {
	if p.enc != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if e.Host == "" {
			e.Host = p.host
		}
		_ = p.enc.Encode(e) // whoever reads has gone: the login is finished all the same
		return
	}
	s := p.screen
	switch e.Event {
	case login.EventStep:
		s.line("%s.", upperFirst(strings.TrimSuffix(e.Text, ".")))
	case login.EventURL:
		p.page(e)
	case login.EventDevice:
		p.code(e)
	case login.EventDone:
		p.close()
		s.line("%s is logged in%s", p.host, withWhom(e))
		if e.Workspace != "" && e.Account != "" {
			s.line("  workspace  %s", e.Workspace)
		}
		if e.Store != "" {
			s.line("  store      %s", placeThere(e))
		}
	}
}

// page shows the page to open.
func (p *loginPerson) page(e login.Event) {
	s := p.screen
	if e.Opened {
		s.line("Your browser opens, to log %s in. If it does not, go to", p.host)
	} else {
		s.line("Open this in your browser, to log %s in:", p.host)
	}
	s.line("\n%s\n", e.URL)
	switch {
	case e.Port != nil && *e.Port != 0:
		s.line("Port %d of this machine leads to %s until then. Ctrl-C gives up.", *e.Port, p.host)
		if p.pasted != nil && !e.Opened {
			s.line("Browser on another machine? Paste here the address it ends at; it is not shown.")
		}
	case p.pasted != nil:
		s.line("The browser will end at an address that cannot be opened, or that another")
		s.line("program answers: http://127.0.0.1:… Copy it and paste it here; it is not shown.")
	default:
		s.line("Nothing here can take the browser back: run this in a terminal, and paste the address.")
	}
}

// code shows the code, and counts down until it was typed somewhere.
func (p *loginPerson) code(e login.Event) {
	d := account.DeviceCode{URL: e.URL, CompleteURL: e.CompleteURL, Code: e.Code, Expires: time.Now().Add(codexCodeLasts)}
	if e.Expires != nil {
		d.Expires = *e.Expires
	}
	p.screen.showDevice(d)
	if p.screen.tty {
		ctx, cancel := context.WithCancel(context.Background()) // close ends it
		p.uncount = cancel
		p.counted.Go(func() { p.screen.countdown(ctx, d.Expires) })
	}
}

// withWhom says how and as whom a host is logged in.
func withWhom(e login.Event) string {
	text := modeNames[e.Mode]
	if text == "" {
		text = e.Mode
	}
	if text == "" {
		return ""
	}
	if e.Plan != "" {
		text += " " + e.Plan
	}
	if e.Account != "" {
		text += ", " + e.Account
	}
	return " with " + printable(text)
}

// placeThere names where a host keeps its login.
func placeThere(e login.Event) string {
	if e.Path == "" {
		return printable(e.Store)
	}
	return printable(e.Path) + " (" + printable(e.Store) + ")"
}

// failedEvent is the last line for a program that reads events.
func failedEvent(host string, err error) login.Event {
	e := login.Event{Event: login.EventFailed, Host: host, Error: err.Error(), Hints: config.Hints(err)}
	var p *config.Problem
	if errors.As(err, &p) {
		e.Stage, e.Error = p.Stage, fmt.Sprint(p.Err)
	}
	return e
}
