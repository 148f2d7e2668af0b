package custody

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"towline/config"
	"towline/config/secret"
)

// Host is what a receiving program does with what it receives. Errors are
// *config.Problem. A method may be called after the link is gone: what was begun
// is finished.
type Host interface {
	// Put stores a key or token, reads it back and says what is there now. It
	// refuses to replace a login that renews itself unless replace is set.
	Put(ctx context.Context, kind Kind, value secret.String, replace bool) (Stored, error)
	// Consider says whether a login may be kept here. It changes nothing.
	Consider(ctx context.Context, a secret.Auth, replace bool) error
	// Adopt makes a the login of this machine.
	Adopt(ctx context.Context, a secret.Auth, replace bool) error
	// Prove renews the login that was adopted as m, which spends the refresh token it
	// came with. The error says what stands against it.
	Prove(ctx context.Context, m Mark) (Stored, Verdict, error)
	// Drop forgets the login that was adopted as m, unless another took its place.
	Drop(ctx context.Context, m Mark) error
}

// Mark tells a login, and the refresh token it came with, without being one.
type Mark struct {
	Account string `json:"account"`
	Refresh string `json:"refresh"` // hash
}

// MarkOf is a's mark.
func MarkOf(a secret.Auth) Mark {
	if a.Tokens == nil {
		return Mark{}
	}
	sum := sha256.Sum256([]byte("towline refresh token 1:" + a.Tokens.RefreshToken))
	return Mark{Account: a.Tokens.AccountID, Refresh: hex.EncodeToString(sum[:16])}
}

// Verdict is what a proof showed.
type Verdict int

// The verdicts. Doubtful, the zero one, is also what a host says that cannot tell.
const (
	Doubtful Verdict = iota // it may have been spent, or not
	Works                   // it was renewed
	Unspent                 // the issuer was never asked
	Refused                 // the issuer refused it for good
	Absent                  // it is not here
)

// About says what a receiving program is.
type About struct {
	Version string
	Name    string // of the machine
}

// The receiver's patience.
const (
	orderTime = 2 * time.Minute // for a whole order: people answer prompts before they connect
	// proofTime bounds adopting and proving, which goes on without a link.
	proofTime = 75 * time.Second
)

// Serve receives one credential on rw. It returns nil when it was told what to do
// and has said how that went, whichever way it went; the error of a failed order
// is returned as well, for the exit status.
//
// When ctx ends it stops waiting for orders; an order that was begun is finished.
func Serve(ctx context.Context, rw io.ReadWriteCloser, h Host, r Records, about About) error {
	w := newWire(rw)
	if err := w.send(message{Event: "ready", V: wireVersion, Version: about.Version, Host: about.Name}, nil); err != nil {
		return cut(err)
	}
	var m message
	var payload []byte
	err := w.within(ctx, orderTime, func() (err error) {
		if m, err = w.next(); err == nil && (m.Op == "put" || m.Op == "move") {
			payload, err = w.payload(m)
		}
		return err
	})
	if err != nil {
		return w.fail(err)
	}
	// Whoever began an order has it finished: half of it would be worse than either end.
	own := context.WithoutCancel(ctx)
	switch m.Op {
	case "put":
		return w.put(own, h, m, payload)
	case "move":
		return w.move(ctx, own, h, r, m, payload)
	case "resolve":
		if !validID(m.ID) {
			return w.fail(errors.New("that is no move"))
		}
		return w.outcome(r.resolve(own, h, m.ID))
	}
	return w.fail(fmt.Errorf("%q is unknown here", config.OneLine(m.Op)))
}

func cut(err error) error {
	return &config.Problem{Stage: StageStore, Err: err, Exit: config.ExitUnavailable, Hints: []string{"try again; nothing was stored"}}
}

// fail tells an error and returns it.
func (w *wire) fail(err error) error {
	if errors.Is(err, errCut) {
		return cut(err) // nobody is there to be told
	}
	_ = w.send(message{Event: "failed", Fault: faultOf(err)}, nil) // they will see that nothing came
	return err
}

func (w *wire) put(ctx context.Context, h Host, m message, payload []byte) error {
	st, err := h.Put(ctx, m.Kind, secret.String(payload), m.Replace)
	if err != nil {
		return w.fail(err)
	}
	return w.send(message{Event: "stored", Stored: &st}, nil)
}

func (w *wire) move(ctx, own context.Context, h Host, r Records, m message, payload []byte) error {
	a, err := secret.Parse(payload)
	switch {
	case !validID(m.ID):
		return w.fail(errors.New("that is no move"))
	case err != nil:
		return w.fail(&config.Problem{Stage: StageMove, Err: err, Exit: config.ExitUsage})
	case a.Mode != secret.ModeChatGPT || a.Tokens == nil || a.Tokens.RefreshToken == "":
		return w.fail(&config.Problem{Stage: StageMove, Err: errors.New("this is no login that renews itself"), Exit: config.ExitUsage})
	}
	if err := h.Consider(own, a, m.Replace); err != nil {
		return w.fail(err)
	}
	if err := r.ready(); err != nil {
		return w.fail(err)
	}
	if err := w.send(message{Event: "held", ID: m.ID, Fingerprint: a.Fingerprint()}, nil); err != nil {
		return cut(err)
	}
	var order message
	if err := w.within(ctx, orderTime, func() (err error) { order, err = w.next(); return err }); err != nil {
		return w.fail(err)
	}
	if order.Op != "commit" || order.ID != m.ID {
		return w.fail(&config.Problem{Stage: StageMove, Err: errors.New("the move was given up"), Exit: config.ExitFailure})
	}
	return w.outcome(r.adopt(own, h, m.ID, a, m.Replace))
}

// outcome tells how a move ended. Any but proved is an error here, too.
func (w *wire) outcome(o Outcome, st Stored, err error) error {
	m := message{Event: "outcome", Outcome: o}
	if o == Proved {
		m.Stored = &st
	}
	if err != nil {
		m.Fault = faultOf(err)
	}
	if serr := w.send(m, nil); serr != nil && err == nil && o != Proved {
		return cut(serr)
	}
	return err
}

func validID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 16 && id == hex.EncodeToString(b)
}
