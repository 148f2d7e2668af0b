package custody

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"towline/config"
	"towline/config/osfile"
	"towline/config/secret"
)

// Steps of a move, as the ledger has them.
const (
	// StepOffered: the host was shown the login. It is still where it was here.
	StepOffered = "offered"
	// StepAside: it is being taken out of its places here. The host was not told to
	// keep it.
	StepAside = "aside"
	// StepCommitted: the host may have been told. Only it knows.
	StepCommitted = "committed"
)

// Move is one that is not over: the login of this machine is on its way to Host.
type Move struct {
	ID          string    `json:"id"`
	Host        string    `json:"host"` // as it was typed
	Since       time.Time `json:"since"`
	Step        string    `json:"step"`
	Account     string    `json:"account"`
	Email       string    `json:"email,omitempty"`
	Fingerprint string    `json:"fingerprint"`

	auth secret.Auth
}

// String says which, never what.
func (m Move) String() string { return "move " + m.ID + " to " + m.Host + ", " + m.Step }

// Aside keeps a login out of every program's sight: a store of the same kind as
// the login's own, under another name. A *secret.Store is one.
type Aside interface {
	Save(ctx context.Context, a secret.Auth) (secret.Where, error)
	Load(ctx context.Context) (secret.Auth, secret.Where, error)
	Delete(ctx context.Context) (bool, error)
}

// Ledger is the one file of a machine that says whether a login is being moved
// away. It is private to the user and holds no secret; the login itself is kept in
// Aside meanwhile, which only looking does without. While the file says
// [StepCommitted] nobody here may use that login.
type Ledger struct {
	Path  string
	Aside Aside
}

// maxLedger bounds the file, in bytes.
const maxLedger = 64 << 10

// Pending is the move that is not over, nil when there is none.
func (l Ledger) Pending() (*Move, error) {
	raw, err := readPrivate(l.Path, maxLedger)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ledgerProblem(err)
	}
	var m Move
	if err := json.Unmarshal(raw, &m); err != nil || !validID(m.ID) {
		return nil, ledgerProblem(fmt.Errorf("%s is damaged", l.Path))
	}
	return &m, nil
}

// take gets what is aside; nothing is where it never was, or is back already.
func (l Ledger) take(ctx context.Context, m *Move) (err error) {
	m.auth, _, err = l.Aside.Load(ctx)
	if errors.Is(err, secret.ErrNone) {
		return nil
	}
	return err
}

func ledgerProblem(err error) error {
	return &config.Problem{
		Stage: StageMove, Err: err, Exit: config.ExitConfig,
		Hints: []string{"this file says where a login is that was being moved; look at both ends before you remove it: `towline credentials status`"},
	}
}

// write makes a step durable.
func (l Ledger) write(m *Move, step string) error {
	m.Step = step
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := config.PrivateDir(filepath.Dir(l.Path)); err != nil {
		return err
	}
	if err := writePrivate(l.Path, raw); err != nil {
		return ledgerProblem(err)
	}
	return nil
}

// close ends a move: what is aside goes first.
func (l Ledger) close(ctx context.Context) error {
	if _, err := l.Aside.Delete(ctx); err != nil {
		return err
	}
	if err := removePrivate(l.Path); err != nil {
		return ledgerProblem(err)
	}
	return nil
}

// hold is the right to move logins, of one process at a time.
func (l Ledger) hold() (release func(), err error) {
	if err := config.PrivateDir(filepath.Dir(l.Path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(l.Path+".lock", os.O_CREATE|os.O_RDWR|osfile.NoFollow, 0o600)
	if err != nil {
		return nil, ledgerProblem(err)
	}
	if err := osfile.Lock(f); err != nil {
		_ = f.Close() // not ours
		if errors.Is(err, osfile.ErrLocked) {
			err = errors.New("another command is moving a login just now")
		}
		return nil, &config.Problem{Stage: StageMove, Err: err, Exit: config.ExitUnavailable, Hints: []string{"wait for it to end, or see `towline credentials status`"}}
	}
	return func() { _ = f.Close() }, nil // the lock goes with it
}

func newMove(host string, a secret.Auth, now time.Time) *Move {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	m := &Move{ID: hex.EncodeToString(id[:]), Host: host, Since: now.UTC(), Account: a.Tokens.AccountID, Fingerprint: a.Fingerprint(), auth: a}
	if c, err := secret.Claims(a.Tokens.IDToken); err == nil {
		m.Email = c.Email
	}
	return m
}
