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

// The sender's patience.
const (
	// readyTime is how long the program there may take to begin: a login shell reads
	// its rc files first.
	readyTime = 60 * time.Second
	// storeTime is how long it may take to store: a keyring may have to be asked, and
	// a token to be verified.
	storeTime = 90 * time.Second
)

// ErrTooOld: what answers there does not know how to receive credentials.
var ErrTooOld = errors.New("it does not know how to receive credentials")

// begin waits for the receiver to say that it is there.
func begin(ctx context.Context, rw io.ReadWriteCloser, host string) (*wire, error) {
	w := newWire(rw)
	var m message
	err := w.within(ctx, readyTime, func() (err error) { m, err = w.next(); return err })
	switch {
	case errors.Is(err, errCut) && ctx.Err() == nil:
		err = fmt.Errorf("the program on %s ended before it was ready: %w", host, ErrTooOld)
	case err != nil:
		err = fmt.Errorf("%s: %w", host, err)
	case m.Event == "failed":
		return nil, m.Fault.problem(host)
	case m.Event != "ready" || m.V != wireVersion:
		err = fmt.Errorf("the program on %s speaks another version: %w", host, ErrTooOld)
	default:
		return w, nil
	}
	return nil, &config.Problem{Stage: StageVersion, Err: err, Exit: config.ExitUnavailable, Hints: []string{"nothing was sent; see what is there: `towline doctor " + host + "`"}}
}

// ask sends one message and waits for the answer, which must be a want.
func (w *wire) ask(ctx context.Context, host string, d time.Duration, m message, payload []byte, want string) (answer message, err error) {
	err = w.within(ctx, d, func() (err error) {
		if err = w.send(m, payload); err == nil {
			answer, err = w.next()
		}
		return err
	})
	switch {
	case err != nil:
		return message{}, fmt.Errorf("%s: %w", host, err)
	case answer.Event == "failed":
		return message{}, answer.Fault.problem(host)
	case answer.Event != want:
		return message{}, fmt.Errorf("%s answered with %q", host, config.OneLine(answer.Event))
	}
	return answer, nil
}

// Put gives a host a key or a token over rw, which it closes. fingerprint is what
// the host must say it has stored. host is what to call it. Errors are
// *config.Problem; a link that was cut may have stored all of it or nothing.
func Put(ctx context.Context, rw io.ReadWriteCloser, host string, kind Kind, value secret.String, fingerprint string, replace bool) (Stored, error) {
	defer func() { _ = rw.Close() }() // all that matters was said
	w, err := begin(ctx, rw, host)
	if err != nil {
		return Stored{}, err
	}
	m, err := w.ask(ctx, host, storeTime, message{Op: "put", Kind: kind, Replace: replace}, []byte(value.Reveal()), "stored")
	var p *config.Problem
	switch {
	case errors.As(err, &p):
		return Stored{}, err
	case err != nil:
		return Stored{}, &config.Problem{
			Stage: StageStore, Err: err, Exit: config.ExitUnavailable,
			Hints: []string{"see what is there: `towline credentials status " + host + "`", "then try again"},
		}
	case m.Stored == nil || m.Stored.Fingerprint != fingerprint:
		return Stored{}, &config.Problem{
			Stage: StageStore, Err: fmt.Errorf("%s stored something else than was sent", host), Exit: config.ExitFailure,
			Hints: []string{"see what is there: `towline credentials status " + host + "`"},
		}
	}
	return m.Stored.clean(), nil
}

// clean makes what a host said fit for a terminal.
func (s Stored) clean() Stored {
	for _, f := range []*string{&s.Mode, &s.Store, &s.Path, &s.Fingerprint, &s.Account, &s.Note} {
		*f = config.OneLine(*f)
	}
	return s
}
