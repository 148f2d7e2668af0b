package custody

import (
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

// stored is a Move with what it moves, in the ledger's file.
type stored struct {
	Move
	Auth json.RawMessage `json:"auth"`
}

// Ledger is the one file of a machine that says whether a login is being moved
// away, and holds the login aside meanwhile: 0600, in a folder that is this
// user's alone. While it says [StepCommitted] nobody here may use that login.
type Ledger struct{ Path string }

// Pending is the move that is not over, nil when there is none.
func (l Ledger) Pending() (*Move, error) {
	raw, err := readPrivate(l.Path, MaxPayload*2)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ledgerProblem(err)
	}
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, ledgerProblem(fmt.Errorf("%s is damaged", l.Path))
	}
	if s.auth, err = secret.Parse(s.Auth); err != nil {
		return nil, ledgerProblem(fmt.Errorf("%s: %w", l.Path, err))
	}
	if !validID(s.ID) {
		return nil, ledgerProblem(fmt.Errorf("%s is damaged", l.Path))
	}
	return &s.Move, nil
}

func ledgerProblem(err error) error {
	return &config.Problem{
		Stage: StageMove, Err: err, Exit: config.ExitConfig,
		Hints: []string{"this file holds a login that was being moved; look at both ends before you remove it: `towline credentials status`"},
	}
}

// write makes a step durable.
func (l Ledger) write(m *Move, step string) error {
	m.Step = step
	raw, err := json.Marshal(stored{Move: *m, Auth: m.auth.Compact()})
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

// close ends a move, and with it the copy aside.
func (l Ledger) close() error {
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
