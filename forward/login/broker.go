package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"towline/config"
	"towline/forward/sshfwd"
)

// broker is one login of a host.
type broker struct {
	c     Config
	facts facts
}

// Run logs the host in and says how that went. It leaves nothing behind on either
// side however it ends: no listener, no process, no file. Errors are
// *config.Problem.
func Run(ctx context.Context, c Config) (Event, error) {
	c = c.withDefaults()
	b := &broker{c: c}
	if !c.HasCodex && !c.hasTowline() {
		return Event{}, problem(config.ExitUnavailable, errors.New("neither towline nor codex is on "+c.Name),
			"put this program there: `towline login "+c.Name+" --install`")
	}
	b.facts = b.look(ctx)
	if err := b.choose(); err != nil {
		return Event{}, err
	}
	var err error
	switch c.Method {
	case APIKey, AccessToken:
		err = b.hand(ctx)
	case DeviceCode:
		err = b.device(ctx)
	default:
		err = b.browser(ctx)
	}
	if err != nil {
		return Event{}, b.ended(ctx, err)
	}
	out, err := b.verify(ctx)
	if err != nil {
		return Event{}, b.ended(ctx, err)
	}
	out.Host = c.Name
	return out, nil
}

// program is what runs the login: Codex where there is one, so that the login is
// what Codex itself makes of it.
func (b *broker) program() Program {
	if b.c.HasCodex && !b.c.Door && !b.facts.managed {
		return Codex
	}
	return Towline
}

// choose makes sure that there is a program which obeys the host's policy.
func (b *broker) choose() error {
	if b.program() == Codex || b.c.hasTowline() {
		return nil
	}
	return &config.Problem{
		Stage: "policy", Exit: config.ExitDenied,
		Err:   fmt.Errorf("%s has a policy in /etc/towline/requirements.toml, which codex does not read", b.c.Name),
		Hints: []string{"put Towline there, which does: `towline login " + b.c.Name + " --install`"},
	}
}

// ended makes a Problem of why it is over.
func (b *broker) ended(ctx context.Context, err error) error {
	var p *config.Problem
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return problem(config.ExitInterrupted, errors.New("interrupted; nothing is left on "+b.c.Name), "begin again: `towline login "+b.c.Name+"`")
	case errors.As(err, &p):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return problem(config.ExitFailure, errors.New("nobody finished the login in time"), "begin again: `towline login "+b.c.Name+"`")
	}
	return problem(config.ExitFailure, err, "see every step: `towline login "+b.c.Name+" -v`")
}

func (b *broker) step(format string, args ...any) {
	b.c.Person.Tell(Event{Event: EventStep, Text: config.OneLine(fmt.Sprintf(format, args...))})
}

// errNext says that this way of logging in is not to be had, and another may be.
var errNext = errors.New("this way is not to be had")

// browser logs in through the browser of this machine; where ports are in the
// way, with a code, and where that is not to be had, by pasting.
func (b *broker) browser(ctx context.Context) error {
	if ok, err := b.mayTakeOver(ctx); err != nil || !ok {
		if err != nil {
			return err
		}
		b.step("that login goes on; yours goes on with a code instead")
		return b.device(ctx)
	}
	l, err := b.claim(ctx)
	if err != nil {
		return err
	}
	if l != nil {
		err := b.forwarded(ctx, l)
		if !errors.Is(err, errNext) {
			return err
		}
	}
	b.step("going on with a code to type in the browser")
	err = b.device(ctx)
	if !errors.Is(err, errNext) {
		return err
	}
	b.step("going on by pasting the address the browser ends at")
	return b.pasted(ctx)
}

// mayTakeOver asks before a login is ended that somebody else began on the host:
// programs that log in end the one that waits there, without asking.
func (b *broker) mayTakeOver(ctx context.Context) (bool, error) {
	h, busy := b.facts.ports[b.c.ports[0]]
	known := h.Program != "" && (isCodex(h.Program) || h.Program == "towline")
	switch {
	case !busy, h.Program != "" && !known:
		return true, nil // nobody is there, or no login
	case !h.Mine && b.program() == Towline:
		return true, nil // it leaves others' alone
	case !known && b.askThere(ctx, b.c.ports[0]) != aLogin:
		return true, nil
	}
	what := fmt.Sprintf("port %d of %s is held by %s: another login, it seems", b.c.ports[0], b.c.Name, h)
	yes, err := b.c.Person.Confirm(ctx, what+". End it and begin yours?")
	if errors.Is(err, ErrNobody) {
		b.step("%s", what)
		return false, nil
	}
	return yes, err
}

// askThere looks at what answers at a port of the host, with one harmless request.
func (b *broker) askThere(ctx context.Context, port int) answer {
	got := silent
	c := sshfwd.NewCarrier(b.c.Host, port, sshfwd.Options{
		Towline: b.c.TowlinePath, Log: b.c.Log, Patience: probeWait,
		Check: func(_ context.Context, conn io.ReadWriter) error {
			resp, err := exchange(conn, port, "/towline")
			got = answered(resp, err)
			if err == nil {
				_ = resp.Body.Close()
			}
			return nil
		},
	})
	if _, err := c.Find(ctx); err != nil {
		b.c.Log.Info("the host's port cannot be looked at", "port", port, "err", err)
	}
	return got
}

// claim takes one of the ports here, the first if it can. nil is none, and has been
// told.
func (b *broker) claim(ctx context.Context) (*sshfwd.Listener, error) {
	for i, port := range b.c.ports {
		l, err := b.take(ctx, port, i == 0)
		if l != nil || err != nil {
			return l, err
		}
		if i == 0 {
			b.step("trying port %d", b.c.ports[1])
		}
	}
	return nil, nil
}

// take takes one port here, if need be from a login of this person's that they
// let go, or that was left behind. nil is none, and has been told.
func (b *broker) take(ctx context.Context, port int, mayCancel bool) (*sshfwd.Listener, error) {
	l, err := sshfwd.Listen(ctx, port)
	switch {
	case err == nil:
		return l, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case sshfwd.Reserved(err):
		b.step("port %d cannot be opened here: permission denied on bind; on Windows, Hyper-V reserves ranges of ports (see them: netsh interface ipv4 show excludedportrange protocol=tcp)", port)
		return nil, nil
	case !sshfwd.Busy(err):
		b.step("port %d cannot be opened here: %v", port, err)
		return nil, nil
	}
	h := FindHolder(ctx, port)
	free := false
	switch other := h.host(); {
	case h.ours() && h.Mine && ask(ctx, port) == hungUp:
		b.step("port %d was held by a login of ours that had lost its host (%s); it is ended", port, h)
		hangUp(h.PID)
		free = true
	case h.ours() && other != "" && other != b.c.Name:
		b.step("port %d is held by `towline login %s` (%s)", port, other, h)
	case mayCancel && h.Mine && (h.isLogin() || h.PID == 0 && ask(ctx, port) == aLogin):
		free, err = b.letGo(ctx, port, h)
		if err != nil {
			return nil, err
		}
	case h.PID == 0 && ask(ctx, port) == aLogin:
		b.step("port %d is held by a login of Codex's, %s", port, h)
	default:
		b.step("port %d is held by %s", port, h)
	}
	if !free {
		return nil, nil
	}
	return b.whenFree(ctx, port)
}

// letGo asks whether a login that waits here may be ended, and ends it.
func (b *broker) letGo(ctx context.Context, port int, h Holder) (bool, error) {
	what := fmt.Sprintf("port %d is held by another login here: %s", port, h)
	yes, err := b.c.Person.Confirm(ctx, what+". End it?")
	switch {
	case errors.Is(err, ErrNobody), err == nil && !yes:
		b.step("%s", what)
		return false, nil
	case err != nil:
		return false, err
	}
	if !cancel(ctx, port) {
		b.step("%s; it does not let go", what)
		return false, nil
	}
	b.step("the login that held port %d is ended", port)
	return true, nil
}

// whenFree waits for a port that somebody is about to let go of.
func (b *broker) whenFree(ctx context.Context, port int) (*sshfwd.Listener, error) {
	ctx, stop := context.WithTimeout(ctx, freeWait)
	defer stop()
	for {
		l, err := sshfwd.Listen(ctx, port)
		if err == nil {
			return l, nil
		}
		if !wait(ctx, freePoll) {
			b.step("port %d is still held", port)
			return nil, nil
		}
	}
}

// forwarded logs in with l as the port here. errNext says that the ports are in
// the way; that has been told.
func (b *broker) forwarded(ctx context.Context, l *sshfwd.Listener) error {
	defer func() { _ = l.Close() }() // also the one that takes its place
	release := b.steer(ctx, l.Port())
	defer release()
	a, page, err := b.begin(ctx, Browser)
	if err != nil {
		return err
	}
	defer a.end()
	release()
	where, err := parseAuthorize(page.URL)
	if err != nil {
		return problem(config.ExitFailure, err, "log in with a code instead: `towline login "+b.c.Name+" --device-auth`")
	}
	if page.Port != nil && *page.Port == 0 { // no port was free there: it reads what is pasted
		_ = l.Close()
		page.Opened = b.open(ctx, page.URL)
		b.c.Person.Tell(page)
		return b.await(ctx, a, &where, nil)
	}
	if where.Port != l.Port() {
		b.step("the login on %s waits on port %d", b.c.Name, where.Port)
		_ = l.Close()
		other, err := b.take(ctx, where.Port, false)
		if err != nil {
			return err
		}
		if other == nil {
			return errNext
		}
		l = other
		defer func() { _ = other.Close() }()
	}
	carrier, err := b.carrier(ctx, where.Port)
	if err != nil {
		return b.unreachable(ctx, a, err)
	}
	served := make(chan struct{})
	defer func() { <-served }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(served)
		if err := l.Serve(ctx, carrier.Dial, b.c.Log); err != nil {
			b.step("port %d is lost: %v", where.Port, err)
		}
	}()
	page.Port = &where.Port
	page.Opened = b.open(ctx, page.URL)
	b.c.Person.Tell(page)
	err = b.await(ctx, a, &where, carrier)
	if ctx.Err() == nil { // the browser, or a newcomer that took over, may still be reading the last answer
		_ = l.Close()
		t := time.NewTimer(lastPage)
		defer t.Stop()
		select {
		case <-served:
		case <-t.C:
		}
	}
	return err
}

// unreachable is what to make of a port of the host's that no way leads to.
func (b *broker) unreachable(ctx context.Context, a *attempt, err error) error {
	if ctx.Err() != nil || b.c.Lost != nil && b.c.Lost() != nil {
		return err
	}
	select {
	case _, ok := <-a.events:
		if !ok { // the login there has ended, and the port with it
			a.end()
			if why := b.outcome(a); why != nil {
				return why
			}
		}
	default:
	}
	b.step("%v", err)
	return errNext
}

// steer makes the host's login take the second port when that is the one we have:
// the first is held there for as long as it looks for one. Where that cannot be
// done it takes the first, and we shall see.
func (b *broker) steer(ctx context.Context, port int) (release func()) {
	nothing := func() {}
	if port != b.c.ports[1] || b.c.Door {
		return nothing
	}
	if h, busy := b.facts.ports[b.c.ports[0]]; busy && h.Program != "" && !h.isLogin() {
		return nothing // somebody else does that already
	}
	free, err := sshfwd.Hold(ctx, b.c.Host, b.c.ports[0], sshfwd.Options{Towline: b.c.TowlinePath, Log: b.c.Log})
	if err != nil {
		b.c.Log.Info("the host's port cannot be held", "port", b.c.ports[0], "err", err)
		return nothing
	}
	return sync.OnceFunc(free)
}

// carrier finds the way to the host's port.
func (b *broker) carrier(ctx context.Context, port int) (*sshfwd.Carrier, error) {
	c := sshfwd.NewCarrier(b.c.Host, port, sshfwd.Options{
		Name: b.c.Name, Towline: b.c.TowlinePath, Log: b.c.Log,
		Check: func(_ context.Context, conn io.ReadWriter) error {
			resp, err := exchange(conn, port, "/towline")
			if err != nil {
				return errors.New("nothing there speaks HTTP")
			}
			return resp.Body.Close()
		},
	})
	way, err := c.Find(ctx)
	if err != nil {
		return nil, err
	}
	if way != sshfwd.Direct {
		b.step("going through %s there, because %s forwards no ports", way, b.c.Name)
	}
	return c, nil
}

// open opens the page here, if that is wanted and works.
func (b *broker) open(ctx context.Context, page string) bool {
	if b.c.Open == nil {
		return false
	}
	if site, ok := outside(page); !ok || b.c.Known != nil && !b.c.Known(site) {
		b.step("the login on %s leads to %s, which is no site that this machine logs in at: your browser was not opened on it; go there only if you know it", b.c.Name, site)
		return false
	}
	if err := b.c.Open(ctx, page); err != nil {
		b.c.Log.Info("no browser was opened", "err", err)
		return false
	}
	return true
}

// device logs in with a code. errNext says that none is to be had; that has been
// told.
func (b *broker) device(ctx context.Context) error {
	a, code, err := b.begin(ctx, DeviceCode)
	if err != nil {
		return err
	}
	defer a.end()
	page := code.CompleteURL
	if page == "" {
		page = code.URL
	}
	code.Opened = b.c.Method != DeviceCode && b.open(ctx, page)
	b.c.Person.Tell(code)
	return b.await(ctx, a, nil, nil)
}

// pasted logs in with nothing listening here.
func (b *broker) pasted(ctx context.Context) error {
	a, page, err := b.begin(ctx, Browser)
	if errors.Is(err, errNext) {
		return problem(config.ExitUnavailable, errors.New("no port can be had for the browser, and no code"),
			"free port 1455 or 1457 on both machines, then `towline login "+b.c.Name+"`", "or bring a key: `towline credentials put "+b.c.Name+"`")
	}
	if err != nil {
		return err
	}
	defer a.end()
	where, err := parseAuthorize(page.URL)
	if err != nil {
		return problem(config.ExitFailure, err)
	}
	var carrier *sshfwd.Carrier
	if page.Port == nil || *page.Port != 0 { // 0: it reads what is pasted itself
		if carrier, err = b.carrier(ctx, where.Port); err != nil {
			return err
		}
	}
	none := 0
	page.Port, page.Opened = &none, b.open(ctx, page.URL)
	b.c.Person.Tell(page)
	return b.await(ctx, a, &where, carrier)
}
