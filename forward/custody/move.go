package custody

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"towline/config"
	"towline/config/secret"
)

// Local is where the login of this machine lies. Errors are *config.Problem.
type Local interface {
	// Lock is the refresh lock: while it is held nobody here renews the login.
	Lock(ctx context.Context) (unlock func(), err error)
	Load(ctx context.Context) (secret.Auth, error)
	// Remove takes the login out of every place on this machine, and fails when it
	// could not be taken out of one.
	Remove(ctx context.Context) error
	// Restore puts it back where it belongs. Another login that is there by now
	// stays: kept is false then.
	Restore(ctx context.Context, a secret.Auth) (kept bool, err error)
}

// Mover moves the login of this machine to a host.
type Mover struct {
	Local  Local
	Ledger Ledger
	Host   string // as the person typed it
	// Dial opens a stream to the receiving program there, more than once when links
	// break.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Replace lets the host give up a login of its own for this one.
	Replace bool
	// Step hears what is being done, in words for the person; nil is nobody.
	Step func(text string)

	pause time.Duration            // between questions; 0 is askPause
	cut   func(point string) error // see ForTest
}

// ForTest makes mv ask again after pause, and end as a process that is killed does
// where at fails. The points, in order: "before offer", "after offer", "before
// removal", "after removal", "before commit", "after commit", "after answer" (to
// resolve), "before close".
func (mv *Mover) ForTest(pause time.Duration, at func(point string) error) {
	mv.pause, mv.cut = pause, at
}

const (
	// askAgain is how often a host is asked for an outcome while the person waits.
	askAgain = 4
	// askPause is between two of these.
	askPause = 2 * time.Second
	// answerSlack is what the way takes, on top of the host's own limit.
	answerSlack = 15 * time.Second
	// localTime bounds what is done to the login on this machine.
	localTime = 60 * time.Second
)

// ErrUnresolved: the host may or may not have the login; nobody here uses it until
// the host was asked.
var ErrUnresolved = errors.New("the move is not resolved")

// Resolution is how an earlier move ended.
type Resolution struct {
	Move    Move
	Outcome Outcome
	Stored  Stored // when proved
	// Kept is whether the login is in its place here again.
	Kept bool
	// Why is what the host said against it.
	Why error
}

// Move moves the login. Errors are *config.Problem; one that is ErrUnresolved
// leaves the login aside until Resolve, and any other leaves it where it was,
// unless the error says that it cannot be used any more.
func (mv *Mover) Move(ctx context.Context) (Stored, error) {
	release, err := mv.Ledger.hold()
	if err != nil {
		return Stored{}, err
	}
	defer release()
	if p, err := mv.Ledger.Pending(); err != nil {
		return Stored{}, err
	} else if p != nil {
		return Stored{}, &config.Problem{
			Stage: StageMove, Err: fmt.Errorf("the login of this machine is being moved to %s since %s: %w", p.Host, p.Since.Local().Format(time.DateTime), ErrUnresolved),
			Hints: []string{"resolve that first: `towline credentials move " + p.Host + "`"}, Exit: config.ExitFailure,
		}
	}
	rw, err := mv.Dial(ctx)
	if err != nil {
		return Stored{}, err
	}
	defer func() { _ = rw.Close() }() // it may have been cut
	w, err := begin(ctx, rw, mv.Host)
	if err != nil {
		return Stored{}, err
	}
	unlock, err := mv.Local.Lock(ctx)
	if err != nil {
		return Stored{}, err
	}
	defer unlock()
	a, err := mv.Local.Load(ctx)
	if err != nil {
		return Stored{}, err
	}
	if a.Mode != secret.ModeChatGPT || a.Tokens == nil || a.Tokens.RefreshToken == "" {
		return Stored{}, &config.Problem{
			Stage: StageMove, Err: errors.New("there is no login here that renews itself"), Exit: config.ExitFailure,
			Hints: []string{"a key or token is put: `towline credentials put " + mv.Host + "`", "log in on the host: `towline login " + mv.Host + "`"},
		}
	}
	m := newMove(mv.Host, a, time.Now())
	if err := mv.offer(ctx, w, m); err != nil {
		return Stored{}, err
	}
	if err := mv.aside(ctx, m); err != nil {
		return Stored{}, err
	}
	// From here on only the host knows.
	mv.step("the host is asked to take it, and to prove that it works there")
	res, err := mv.commit(ctx, w, m)
	if err == nil {
		return mv.settled(ctx, res)
	}
	_ = rw.Close()
	mv.step("the answer did not arrive; asking again")
	res, err = mv.askUntil(ctx, m)
	if err != nil {
		return Stored{}, mv.unresolved(m, err)
	}
	return mv.settled(ctx, res)
}

// offer shows the login to the host, which keeps it in memory.
func (mv *Mover) offer(ctx context.Context, w *wire, m *Move) error {
	if err := mv.at("before offer"); err != nil {
		return err
	}
	if err := mv.Ledger.write(m, StepOffered); err != nil {
		return err
	}
	mv.step("offering the login to " + mv.Host)
	ans, err := w.ask(ctx, mv.Host, storeTime, message{Op: "move", ID: m.ID, Replace: mv.Replace}, m.auth.Compact(), "held")
	if err == nil && ans.Fingerprint != m.Fingerprint {
		err = fmt.Errorf("%s received something else than was sent", mv.Host)
	}
	if derr := mv.at("after offer"); derr != nil {
		return derr
	}
	if err == nil {
		return nil
	}
	var p *config.Problem
	if !errors.As(err, &p) {
		err = &config.Problem{Stage: StageMove, Err: err, Hints: []string{"the login is still here; try again"}, Exit: config.ExitUnavailable}
	}
	return errors.Join(err, mv.closeLedger(ctx))
}

// closeLedger ends a move whatever has become of ctx.
func (mv *Mover) closeLedger(ctx context.Context) error {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), localTime)
	defer cancel()
	return mv.Ledger.close(own)
}

// aside takes the login out of its places here.
func (mv *Mover) aside(ctx context.Context, m *Move) error {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), localTime)
	defer cancel()
	if _, err := mv.Ledger.Aside.Save(own, m.auth); err != nil {
		return errors.Join(err, mv.Ledger.close(own))
	}
	if err := mv.Ledger.write(m, StepAside); err != nil {
		return errors.Join(err, mv.Ledger.close(own))
	}
	if err := mv.at("before removal"); err != nil {
		return err
	}
	err := mv.Local.Remove(own)
	if derr := mv.at("after removal"); derr != nil {
		return derr
	}
	if err == nil {
		err = mv.Ledger.write(m, StepCommitted)
	}
	if err == nil {
		return mv.at("before commit")
	}
	if _, rerr := mv.Local.Restore(own, m.auth); rerr != nil {
		return errors.Join(err, rerr) // it is aside, and the ledger says so
	}
	return errors.Join(err, mv.Ledger.close(own))
}

// commit tells the host to keep it and waits for the outcome.
func (mv *Mover) commit(ctx context.Context, w *wire, m *Move) (Resolution, error) {
	ans, err := w.ask(ctx, mv.Host, proofTime+answerSlack, message{Op: "commit", ID: m.ID}, nil, "outcome")
	if derr := mv.at("after commit"); derr != nil {
		return Resolution{}, derr
	}
	if err != nil {
		return Resolution{}, err
	}
	return mv.heard(m, ans), nil
}

func (mv *Mover) heard(m *Move, ans message) Resolution {
	res := Resolution{Move: *m, Outcome: ans.Outcome}
	if ans.Stored != nil {
		res.Stored = ans.Stored.clean()
	}
	if ans.Fault != nil {
		res.Why = ans.Fault.problem(m.Host)
	}
	return res
}

// askUntil asks the host until it knows. One that is at it is given the time that
// takes; other trouble, a few tries.
func (mv *Mover) askUntil(ctx context.Context, m *Move) (Resolution, error) {
	var last error
	end := time.Now().Add(proofTime + answerSlack)
	for tries := 0; ; {
		res, err := mv.ask(ctx, m)
		switch {
		case err == nil && res.Outcome != Busy && res.Outcome != Unknown:
			return res, nil
		case err != nil:
			last = err
		case res.Why != nil:
			last = res.Why
		default:
			last = errors.New("the host cannot say yet")
		}
		if err != nil || res.Outcome != Busy {
			tries++
		}
		if tries == askAgain || time.Now().After(end) || ctx.Err() != nil {
			return Resolution{}, last
		}
		select {
		case <-ctx.Done():
			return Resolution{}, last
		case <-time.After(mv.waits()):
		}
	}
}

// ask asks once.
func (mv *Mover) ask(ctx context.Context, m *Move) (Resolution, error) {
	rw, err := mv.Dial(ctx)
	if err != nil {
		return Resolution{}, err
	}
	defer func() { _ = rw.Close() }() // all that matters was said
	w, err := begin(ctx, rw, m.Host)
	if err != nil {
		return Resolution{}, err
	}
	ans, err := w.ask(ctx, m.Host, proofTime+answerSlack, message{Op: "resolve", ID: m.ID}, nil, "outcome")
	if err != nil {
		return Resolution{}, err
	}
	if derr := mv.at("after answer"); derr != nil {
		return Resolution{}, derr
	}
	return mv.heard(m, ans), nil
}

// unresolved is what a person is told when only the host knows.
func (mv *Mover) unresolved(m *Move, why error) error {
	return &config.Problem{
		Stage: StageMove, Err: fmt.Errorf("%w: %s may have the login of this machine, which is not used here until that is known: %w", ErrUnresolved, m.Host, why),
		Hints: []string{"ask the host again: `towline credentials move " + m.Host + "`", "see both ends: `towline credentials status " + m.Host + "`"}, Exit: config.ExitUnavailable,
	}
}

// Resolve finds out how a move ended that is still in the ledger, and brings this
// machine in line with it. It reports nil when there is none. Errors are
// *config.Problem; the move stays in the ledger then.
func (mv *Mover) Resolve(ctx context.Context) (*Resolution, error) {
	release, err := mv.Ledger.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	m, err := mv.Ledger.Pending()
	if err != nil || m == nil {
		return nil, err
	}
	if err := mv.Ledger.take(ctx, m); err != nil {
		return nil, err
	}
	unlock, err := mv.Local.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	res := Resolution{Move: *m, Outcome: Returned}
	if m.Step == StepCommitted {
		if res, err = mv.askUntil(ctx, m); err != nil {
			return nil, mv.unresolved(m, err)
		}
	}
	if err := mv.finish(ctx, &res); err != nil {
		return nil, err
	}
	return &res, nil
}

// finish brings this machine in line with an outcome and closes the ledger.
func (mv *Mover) finish(ctx context.Context, res *Resolution) error {
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), localTime)
	defer cancel()
	switch res.Outcome {
	case Proved:
		if acc := res.Move.Account; acc != "" && res.Stored.Account != "" && res.Stored.Account != acc {
			return mv.unresolved(&res.Move, fmt.Errorf("it proved a login of another account (%s)", res.Stored.Account))
		}
	case Returned, Dead:
		var err error
		if res.Kept, err = mv.putBack(own, &res.Move); err != nil {
			return err // it is still aside
		}
	default:
		return mv.unresolved(&res.Move, res.Why)
	}
	if err := mv.at("before close"); err != nil {
		return err
	}
	return mv.Ledger.close(own)
}

// putBack puts the login back in its place. Where nothing is aside, it never left,
// or is back already.
func (mv *Mover) putBack(ctx context.Context, m *Move) (kept bool, err error) {
	if !m.auth.Empty() {
		return mv.Local.Restore(ctx, m.auth)
	}
	a, err := mv.Local.Load(ctx)
	return err == nil && MarkOf(a).Account == m.Account && a.Mode == secret.ModeChatGPT, nil //nolint:nilerr // it is not here, then
}

// settled is how Move itself ends.
func (mv *Mover) settled(ctx context.Context, res Resolution) (Stored, error) {
	if res.Outcome == Unknown || res.Outcome == Busy {
		m := res.Move
		mv.step("the host has it and could not prove it yet; asking again")
		again, err := mv.askUntil(ctx, &m)
		if err != nil {
			return Stored{}, mv.unresolved(&m, err)
		}
		res = again
	}
	if err := mv.finish(ctx, &res); err != nil {
		return Stored{}, err
	}
	if res.Outcome == Proved {
		return res.Stored, nil
	}
	return Stored{}, res.Err()
}

// Err is why a move did not happen, nil when it did.
func (r Resolution) Err() error {
	if r.Outcome == Proved {
		return nil
	}
	why := r.Why
	if why == nil {
		why = errors.New("it never took the login")
	}
	p := &config.Problem{
		Stage: StageMove, Err: fmt.Errorf("the login was not moved to %s and is here again: %w", r.Move.Host, why), Exit: config.ExitFailure,
		Hints: []string{"try again: `towline credentials move " + r.Move.Host + "`", "or log in there: `towline login " + r.Move.Host + "`"},
	}
	if !r.Kept {
		p.Err = fmt.Errorf("the login was not moved to %s, and another has taken its place here: %w", r.Move.Host, why)
	}
	if r.Outcome == Dead {
		p.Err = fmt.Errorf("the issuer did not renew the login, neither there nor here: %w", why)
		p.Hints = []string{"log in there: `towline login " + r.Move.Host + "`", "log in here: `towline login`"}
	}
	return p
}

func (mv *Mover) step(text string) {
	if mv.Step != nil {
		mv.Step(text)
	}
}

func (mv *Mover) at(point string) error {
	if mv.cut != nil {
		return mv.cut(point)
	}
	return nil
}

func (mv *Mover) waits() time.Duration {
	if mv.pause > 0 {
		return mv.pause
	}
	return askPause
}
