package login

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"towline/config"
	"towline/forward/sshfwd"
)

// attempt is a login that runs on the host.
type attempt struct {
	program Program
	p       sshfwd.Process
	events  chan Event // closed when the program has ended
	done    chan struct{}
	stop    func()
	wg      sync.WaitGroup
	once    sync.Once

	// Valid once events is closed.
	ended  error  // how the program ended
	saved  bool   // it said that all went well
	why    string // what it said went wrong
	failed *Event // Towline's own words for it
}

// args of a login, by method.
func (m Method) args() []string {
	switch m {
	case DeviceCode:
		return []string{"--device-auth"}
	case APIKey:
		return []string{"--with-api-key"}
	case AccessToken:
		return []string{"--with-access-token"}
	}
	return nil
}

// start runs the login on the host.
func (b *broker) start(ctx context.Context, m Method) (*attempt, error) {
	c := Command{Program: b.program(), Args: append([]string{"login"}, m.args()...), Input: Watched}
	if c.Program == Towline {
		c.Args, c.Input = append([]string{"login", "--events"}, m.args()...), Open
	}
	if m == APIKey || m == AccessToken {
		c.Input = Line
	}
	p, err := b.c.Host.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	a := &attempt{program: c.Program, p: p, events: make(chan Event), done: make(chan struct{})}
	a.stop = sync.OnceFunc(func() { close(a.done) })
	a.wg.Go(a.read)
	return a, nil
}

// read understands what the program says until it ends.
func (a *attempt) read() {
	defer close(a.events)
	var codex codexOutput
	r := bufio.NewReaderSize(a.p.Stdout(), maxLine)
	for n := 0; n < maxOutput; {
		line, err := r.ReadSlice('\n')
		n += len(line)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue // nothing of a login is that long
		}
		var e Event
		var ok bool
		if a.program == Towline {
			if e, ok = parseEvent(line); !ok {
				codex.line(string(line)) // a complaint before its events begin
			}
		} else {
			e, ok = codex.line(string(line))
		}
		if ok && e.Event == EventFailed {
			a.failed = &e
		} else if ok {
			select {
			case a.events <- e:
			case <-a.done:
				return
			}
		}
		if err != nil {
			break
		}
	}
	over := make(chan error, 1)
	go func() { over <- a.p.Wait() }() // on a dead link it ends with the connection only
	select {
	case a.ended = <-over:
	case <-a.done:
		return
	}
	a.saved, a.why = codex.saved, codex.complaint()
	if p, ok := a.p.(interface{ LastWords() string }); ok && a.why == "" {
		for line := range strings.Lines(p.LastWords()) {
			codex.line(line)
		}
		a.saved, a.why = codex.saved, codex.complaint()
	}
}

// end ends the login on the host, if it has not ended, and waits. Idempotent.
func (a *attempt) end() {
	a.once.Do(func() {
		a.stop()
		_ = a.p.Close() // how a login ended that was given up says nothing
	})
	a.wg.Wait()
}

// begin starts a login and waits for the page to open, or the code. errNext says
// that ports, or codes, are not to be had there; that has been told.
func (b *broker) begin(ctx context.Context, m Method) (*attempt, Event, error) {
	a, err := b.start(ctx, m)
	if err != nil {
		return nil, Event{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, beginWait, errors.New("the login on the host says nothing"))
	defer cancel()
	for {
		select {
		case e, ok := <-a.events:
			switch {
			case !ok:
				a.end()
				return nil, Event{}, b.notBegun(m, b.outcome(a))
			case e.Event == EventStep:
				b.c.Person.Tell(e)
			case e.Event == EventURL && m == Browser && e.URL != "", e.Event == EventDevice && m == DeviceCode && e.URL != "":
				e.Host = b.c.Name
				return a, e, nil
			}
		case <-ctx.Done():
			a.end()
			return nil, Event{}, context.Cause(ctx)
		}
	}
}

// notBegun is what to make of a login that ended before anybody could log in.
func (b *broker) notBegun(m Method, err error) error {
	if err == nil {
		err = problem(config.ExitFailure, errors.New("the login on the host ended before it began"))
	}
	var p *config.Problem
	ports := strings.Contains(err.Error(), "already in use") || errors.As(err, &p) && p.Stage == "callback"
	switch {
	case m == Browser && ports:
		b.step("no port is free for it on %s: %v", b.c.Name, err)
		return errNext
	case m == DeviceCode && b.c.Method != DeviceCode:
		b.step("no code is to be had: %v", err)
		return errNext
	}
	return err
}

// outcome is how a login ended that has: nil when it says that all went well.
func (b *broker) outcome(a *attempt) error {
	if b.c.Lost != nil {
		if err := b.c.Lost(); err != nil {
			return err
		}
	}
	switch {
	case a.failed != nil:
		p := &config.Problem{Stage: a.failed.Stage, Err: errors.New(a.failed.Error), Hints: a.failed.Hints, Exit: config.ExitFailure}
		if p.Stage == "" {
			p.Stage = Stage
		}
		if p.Stage == "policy" {
			p.Exit = config.ExitDenied
		}
		for i, h := range p.Hints {
			p.Hints[i] = "on " + b.c.Name + ": " + h
		}
		if len(p.Hints) == 0 {
			p.Hints = []string{"begin again: `towline login " + b.c.Name + "`"}
		}
		return p
	case a.ended == nil, a.saved: // the host is asked again; some shells lose a status
		return nil
	}
	why := a.why
	hints := []string{"see what is there: `towline doctor " + b.c.Name + "`"}
	switch {
	case strings.Contains(why, cancelText):
		why, hints = "another login on "+b.c.Name+" took over", []string{"begin again: `towline login " + b.c.Name + "`"}
	case strings.Contains(why, "unknown command"), strings.Contains(why, "unknown flag"):
		why, hints = "the Towline there is too old to log in", []string{"put this version there: `towline login " + b.c.Name + " --install`"}
	case strings.Contains(why, "is disabled"):
		hints = []string{"bring a key instead: `towline login " + b.c.Name + " --with-api-key`", "see what demands it: `towline credentials status " + b.c.Name + "`"}
	case why == "":
		why = fmt.Sprintf("%s login ended: %v", a.program, a.ended)
	}
	return problem(config.ExitFailure, errors.New(why), hints...)
}

// await waits for the host to be logged in. With where, a person may paste the
// address their browser ended at; it goes through carrier, or where that is nil to
// the program's input.
func (b *broker) await(ctx context.Context, a *attempt, where *authorize, carrier *sshfwd.Carrier) error {
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	pasted := make(chan string)
	if where != nil {
		wg.Go(func() { b.pastes(ctx, pasted) })
	}
	for {
		select {
		case e, ok := <-a.events:
			switch {
			case !ok:
				a.end()
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return b.outcome(a)
			case e.Event == EventStep:
				b.c.Person.Tell(e)
			}
		case text := <-pasted:
			b.deliver(ctx, a, *where, carrier, text)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pastes reads what the person pastes until ctx ends or nobody is there.
func (b *broker) pastes(ctx context.Context, out chan<- string) {
	for {
		text, err := b.c.Person.Paste(ctx)
		if err != nil {
			if !errors.Is(err, ErrNobody) && ctx.Err() == nil {
				b.c.Log.Info("nothing can be pasted", "err", err)
			}
			return
		}
		if strings.TrimSpace(text) == "" {
			continue
		}
		select {
		case out <- text:
		case <-ctx.Done():
			return
		}
	}
}

// deliver gives a pasted address to the login. What is wrong with it is told, and
// another may be pasted.
func (b *broker) deliver(ctx context.Context, a *attempt, where authorize, carrier *sshfwd.Carrier, text string) {
	target, err := where.callback(text)
	if err != nil {
		b.step("%v", err)
		return
	}
	if carrier == nil {
		_, err = fmt.Fprintf(a.p.Stdin(), "http://127.0.0.1:%d%s\n", where.Port, target)
	} else {
		err = visit(ctx, carrier, where.Port, target)
	}
	if err != nil {
		b.step("the address did not get to %s: %v", b.c.Name, err)
		return
	}
	b.step("the address is with %s", b.c.Name)
}

// maxRedirects is how far an answer is followed: a login ends once its last page
// was read.
const maxRedirects = 3

// visit does what the browser would have done with a redirect: it asks for it and
// for the pages that follow, as far as they are the login's own. Errors hold none
// of it.
func visit(ctx context.Context, carrier *sshfwd.Carrier, port int, target string) error {
	for range maxRedirects {
		next, status, err := visitOne(ctx, carrier, port, target)
		switch {
		case err != nil:
			return errors.New("the login did not answer")
		case status == http.StatusBadRequest:
			return errors.New("it belongs to another login")
		case status >= http.StatusInternalServerError:
			return errors.New("the login could not be completed there")
		case next == "":
			return nil
		}
		target = next
	}
	return nil
}

// visitTimeout bounds one page: the first is answered when the login is stored.
const visitTimeout = 2 * time.Minute

func visitOne(ctx context.Context, carrier *sshfwd.Carrier, port int, target string) (next string, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	conn, err := carrier.Dial(ctx)
	if err != nil {
		return "", 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }() // it was for one page
	resp, err := exchange(conn, port, target)
	if err != nil {
		return "", 0, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxHead))
	_ = resp.Body.Close()
	if resp.StatusCode < 300 || resp.StatusCode > 399 {
		return "", resp.StatusCode, nil
	}
	u, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || u.Host != "" && (!loopback(u.Hostname()) || u.Port() != fmt.Sprint(port)) || u.Path == "" {
		return "", resp.StatusCode, nil // elsewhere: that is for a browser
	}
	return u.RequestURI(), resp.StatusCode, nil
}

// hand gives a key or token to the host.
func (b *broker) hand(ctx context.Context) error {
	if err := b.c.Secret.check(); err != nil {
		return err
	}
	a, err := b.start(ctx, b.c.Method)
	if err != nil {
		return err
	}
	defer a.end()
	if _, err := io.WriteString(a.p.Stdin(), string(b.c.Secret)+"\n"); err != nil {
		return problem(config.ExitUnavailable, errors.New("the host did not take it"), "see every step: `towline doctor "+b.c.Name+"`")
	}
	_ = a.p.Stdin().Close() // the line is there; its end adds nothing
	return b.await(ctx, a, nil, nil)
}

// check refuses what is no key or token: it must survive the way through a shell's
// read and echo as it is.
func (s Secret) check() error {
	const longest = 60 << 10
	bad := s == "" || len(s) > longest || s[0] == '-'
	for i := range len(s) {
		bad = bad || s[i] <= ' ' || s[i] >= 0x7f || s[i] == '\\'
	}
	if bad {
		return problem(config.ExitUsage, errors.New("standard input holds no key or token: one word is expected"),
			"pipe it in: `printenv OPENAI_API_KEY | towline login HOST --with-api-key`")
	}
	return nil
}
