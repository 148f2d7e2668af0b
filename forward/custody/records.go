package custody

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"towline/config"
	"towline/config/osfile"
	"towline/config/secret"
)

// Records are a host's memory of moves: what it promised, and to which. They hold
// no secret. Dir is private to the user and made when needed.
type Records struct {
	Dir string
	Now func() time.Time // nil is time.Now
}

// States of a record.
const (
	stateAdopting = "adopting" // committed; it may or may not be stored and proved
	stateProved   = "proved"
	stateReturned = "returned" // nothing is here, nor ever will be under this id
	stateDead     = "dead"
)

const (
	// keepRecords is how long one is kept that nothing depends on any more, and
	// maxRecords how many.
	keepRecords = 90 * 24 * time.Hour
	maxRecords  = 256
	maxRecord   = 64 << 10 // bytes
)

// record is one move, in ID.json.
type record struct {
	State  string    `json:"state"`
	At     time.Time `json:"at"`
	Mark   Mark      `json:"mark"`
	Stored Stored    `json:"stored"`
	Why    *fault    `json:"why,omitempty"`
}

func (r Records) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// ready checks, before anything is promised, that promises can be kept.
func (r Records) ready() error {
	if err := config.PrivateDir(r.Dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(r.Dir, ".try")
	if err != nil {
		return recordProblem(err)
	}
	_ = f.Close() // empty
	return recordProblem(os.Remove(f.Name()))
}

func recordProblem(err error) error {
	if err == nil {
		return nil
	}
	return &config.Problem{Stage: StageStore, Err: err, Exit: config.ExitConfig, Hints: []string{"make room, or make the folder writable for you"}}
}

// hold is the right to settle moves on this host, of one process at a time.
func (r Records) hold() (release func(), err error) {
	if err := config.PrivateDir(r.Dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(r.Dir, "lock"), os.O_CREATE|os.O_RDWR|osfile.NoFollow, 0o600)
	if err != nil {
		return nil, recordProblem(err)
	}
	if err := osfile.Lock(f); err != nil {
		_ = f.Close() // not ours
		return nil, err
	}
	return func() { _ = f.Close() }, nil // the lock goes with it
}

// errAtIt: another process of this host settles a move just now.
var errAtIt = &config.Problem{
	Stage: StageMove, Err: errors.New("this host is settling a move just now"), Exit: config.ExitUnavailable,
	Hints: []string{"ask again in a minute: `towline credentials move HOST`"},
}

// adopt is what commit asks for.
func (r Records) adopt(ctx context.Context, h Host, id string, a secret.Auth, replace bool) (Outcome, Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	release, err := r.hold()
	if errors.Is(err, osfile.ErrLocked) {
		return Returned, Stored{}, errAtIt // nothing was begun, and will not be: nobody wrote a record
	}
	if err != nil {
		return Returned, Stored{}, err
	}
	defer release()
	switch old, err := r.load(id); {
	case err != nil:
		return Returned, Stored{}, err
	case old != nil:
		// It was asked about before it came, and is the laptop's since.
		return r.say(old)
	}
	rec := &record{State: stateAdopting, Mark: MarkOf(a)}
	if err := r.save(id, rec); err != nil {
		return Returned, Stored{}, err
	}
	if err := h.Adopt(ctx, a, replace); err != nil {
		return r.giveBack(ctx, h, id, rec, err)
	}
	return r.prove(ctx, h, id, rec)
}

// resolve is what a laptop asks that never heard an outcome. From then on a commit
// that is still on its way finds a record and does nothing.
func (r Records) resolve(ctx context.Context, h Host, id string) (Outcome, Stored, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	release, err := r.hold()
	if errors.Is(err, osfile.ErrLocked) {
		return Busy, Stored{}, errAtIt
	}
	if err != nil {
		return Unknown, Stored{}, err
	}
	defer release()
	rec, err := r.load(id)
	switch {
	case err != nil:
		return Unknown, Stored{}, err
	case rec == nil:
		rec = &record{State: stateReturned}
		if err := r.save(id, rec); err != nil {
			return Unknown, Stored{}, err
		}
		return Returned, Stored{}, nil
	case rec.State == stateAdopting:
		return r.prove(ctx, h, id, rec)
	}
	return r.say(rec)
}

func (r Records) say(rec *record) (Outcome, Stored, error) {
	var err error
	if rec.Why != nil {
		err = &config.Problem{Stage: rec.Why.Stage, Err: errors.New(rec.Why.Error), Hints: rec.Why.Hints, Exit: rec.Why.Exit}
	}
	switch rec.State {
	case stateProved:
		return Proved, rec.Stored, nil
	case stateDead:
		return Dead, Stored{}, err
	case stateReturned:
		return Returned, Stored{}, err
	}
	return Unknown, Stored{}, err
}

// prove settles a move that was committed.
func (r Records) prove(ctx context.Context, h Host, id string, rec *record) (Outcome, Stored, error) {
	st, verdict, err := h.Prove(ctx, rec.Mark)
	switch verdict {
	case Works:
		rec.State, rec.Stored, rec.Why = stateProved, st, nil
		if serr := r.save(id, rec); serr != nil {
			rec.Stored.Note = "this host could not note that the move is over"
		}
		return Proved, rec.Stored, nil
	case Unspent, Absent:
		return r.giveBack(ctx, h, id, rec, err)
	case Refused:
		rec.State = stateDead
		if err != nil {
			rec.Why = faultOf(err)
		}
		derr := h.Drop(ctx, rec.Mark) // it is of no use to anybody
		return Dead, Stored{}, errors.Join(err, derr, r.save(id, rec))
	}
	if err != nil {
		rec.Why = faultOf(err)
		_ = r.save(id, rec) // as it was, it says the same
	}
	return Unknown, Stored{}, err
}

// giveBack forgets a login that was not used here, so that the laptop may.
func (r Records) giveBack(ctx context.Context, h Host, id string, rec *record, why error) (Outcome, Stored, error) {
	if err := h.Drop(ctx, rec.Mark); err != nil {
		return Unknown, Stored{}, errors.Join(why, err)
	}
	rec.State = stateReturned
	if why != nil {
		rec.Why = faultOf(why)
	}
	if err := r.save(id, rec); err != nil {
		return Unknown, Stored{}, errors.Join(why, err) // a record that says adopting would have it proved again
	}
	return Returned, Stored{}, why
}

func (r Records) load(id string) (*record, error) {
	raw, err := readPrivate(r.file(id), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, recordProblem(err)
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return nil, recordProblem(fmt.Errorf("%s is damaged", r.file(id)))
	}
	return &rec, nil
}

func (r Records) save(id string, rec *record) error {
	rec.At = r.now().UTC()
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := writePrivate(r.file(id), raw); err != nil {
		return recordProblem(err)
	}
	r.clear(id)
	return nil
}

func (r Records) file(id string) string { return filepath.Join(r.Dir, id+".json") }

// clear drops old records that nothing depends on.
func (r Records) clear(but string) {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id, ours := strings.CutSuffix(e.Name(), ".json")
		info, err := e.Info()
		if !ours || id == but || err != nil || !validID(id) {
			continue
		}
		if r.now().Sub(info.ModTime()) < keepRecords && len(entries) <= maxRecords {
			continue
		}
		if rec, err := r.load(id); err == nil && rec != nil && rec.State != stateAdopting {
			_ = os.Remove(r.file(id)) // the next time, then
		}
	}
}
