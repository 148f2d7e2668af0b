package thread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"towline/appserver/protocol"
	"towline/config/osfile"
)

// Options are a store's collaborators.
type Options struct {
	Clock     func() time.Time // nil means time.Now
	Log       *slog.Logger     // nil discards
	MaxRecord int64            // bytes of one line; 0 means MaxRecord
}

// ErrNotFound: no thread of that id is stored.
var ErrNotFound = errors.New("thread not found")

// Store is a directory of threads. It may be used by many goroutines and, one
// thread at a time, by many processes.
type Store struct {
	dir   string
	now   func() time.Time
	log   *slog.Logger
	limit int64 // bytes of one line

	mu    sync.Mutex // guards the index, see index.go
	index map[protocol.ThreadID]*entry
	dirty bool // the index differs from index.json
	swept time.Time
}

// Open makes or opens the store in dir. It refuses a directory others may enter.
func Open(dir string, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxRecord <= 0 {
		o.MaxRecord = MaxRecord
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("thread store: %w", err)
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("thread store: %w", err)
	}
	if !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("thread store: %s must be a directory with mode 0700, it has %04o", dir, fi.Mode().Perm())
	}
	return &Store{dir: dir, now: o.Clock, log: o.Log, limit: o.MaxRecord}, nil
}

// NewID makes a thread, turn or item id: a UUIDv7, so ids sort by time.
func NewID() string {
	id, err := uuid.NewV7()
	if err != nil {
		panic(err) // the system's random source is gone
	}
	return id.String()
}

// ValidID reports whether s can name a thread.
func ValidID(s protocol.ThreadID) bool {
	id, err := uuid.Parse(string(s))
	return err == nil && id.String() == string(s)
}

// Path is the file of a thread, whether it exists or not.
func (st *Store) Path(id protocol.ThreadID) string {
	return filepath.Join(st.dir, string(id)+".jsonl")
}

// Create makes a new thread and opens it for writing. m.ID and m.CreatedAtMs
// are filled in when empty.
func (st *Store) Create(m Meta, s Settings, more ...Record) (*Log, error) {
	if m.ID == "" {
		m.ID = protocol.ThreadID(NewID())
	}
	if !ValidID(m.ID) {
		return nil, fmt.Errorf("invalid thread id %q", m.ID)
	}
	if m.CreatedAtMs == 0 {
		m.CreatedAtMs = st.now().UnixMilli()
	}
	// The file appears with all its first records or not at all.
	tmp := filepath.Join(st.dir, "."+string(m.ID)+".new")
	f, err := lock(tmp, m.ID, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, fmt.Errorf("create thread: %w", err)
	}
	l := &Log{st: st, id: m.ID, f: f}
	err = l.begin(append([]Record{{Type: recThread, Thread: &m, AtMs: m.CreatedAtMs}, SetSettings(s)}, more...))
	if err == nil {
		err = os.Rename(tmp, st.Path(m.ID))
	}
	if err == nil {
		err = st.syncDir()
	}
	if err != nil {
		_ = f.Close() // the file goes away
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("create thread: %w", err)
	}
	st.noteHead(l.head, l.size)
	return l, nil
}

func (l *Log) begin(recs []Record) error {
	var buf bytes.Buffer
	now := l.st.now().UnixMilli()
	for i := range recs {
		if recs[i].AtMs == 0 {
			recs[i].AtMs = now
		}
		if err := recs[i].encode(&buf, l.st.limit); err != nil {
			return err
		}
		l.head.apply(&recs[i])
	}
	return l.write(buf.Bytes())
}

func (st *Store) syncDir() error {
	d, err := os.Open(st.dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // read-only
	return d.Sync()
}

// Open takes a thread's writer lock, repairs what a crash left, records the
// turn it cut short as interrupted, and returns the whole history. It fails
// with ErrNotFound, or a *BusyError while somebody else writes.
func (st *Store) Open(id protocol.ThreadID) (*Log, *History, error) {
	if !ValidID(id) {
		return nil, nil, ErrNotFound
	}
	f, err := lock(st.Path(id), id, 0)
	if err != nil {
		return nil, nil, notFound(err)
	}
	l := &Log{st: st, id: id, f: f}
	h := new(History)
	if err = l.repair(); err == nil {
		if err = h.read(st.lines(io.NewSectionReader(f, 0, l.size), 0), nil); err == nil && h.Head.ID != id {
			err = fmt.Errorf("thread %s: the first line is not its own", id)
		}
	}
	if err != nil {
		_ = f.Close() // nothing of value was written
		return nil, nil, err
	}
	l.head = h.Head
	if h.Skipped > 0 {
		st.log.Warn("thread file has unreadable lines", "thread", id, "lines", h.Skipped)
	}
	if turn := h.Interrupt(); turn != "" {
		r := TurnCut(turn)
		r.AtMs = h.Head.UpdatedAtMs
		if err := l.Append(r); err != nil {
			_ = l.Close()
			return nil, nil, err
		}
		h.apply(&r)
	}
	return l, h, nil
}

// Read returns a thread's history without locking it. A turn without its end
// is reported as interrupted.
func (st *Store) Read(id protocol.ThreadID) (*History, error) {
	return st.readUntil(id, nil)
}

// ReadTurns is Read for the beginning of a thread: up to and with the turn last,
// or up to the turn before, whichever is not empty.
func (st *Store) ReadTurns(id protocol.ThreadID, last, before string) (*History, error) {
	ended, found := false, last == "" && before == ""
	h, err := st.readUntil(id, func(r *Record) bool {
		if r.Type == recTurn {
			if ended || before != "" && r.TurnID == before {
				found = true
				return true
			}
			ended = last != "" && r.TurnID == last
		}
		return false
	})
	if err == nil && !found && !ended {
		return nil, fmt.Errorf("%w: no such turn in thread %s", ErrNotFound, id)
	}
	return h, err
}

func (st *Store) readUntil(id protocol.ThreadID, stop func(*Record) bool) (*History, error) {
	if !ValidID(id) {
		return nil, ErrNotFound
	}
	f, err := os.OpenFile(st.Path(id), os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return nil, notFound(err)
	}
	defer func() { _ = f.Close() }() // read-only
	h := new(History)
	if err := h.read(st.lines(f, 0), stop); err != nil {
		return nil, fmt.Errorf("read thread %s: %w", id, err)
	}
	if h.Head.ID != id {
		return nil, fmt.Errorf("thread %s: the first line is not its own", id)
	}
	h.Interrupt()
	return h, nil
}

// Update appends records to a thread nobody has open.
func (st *Store) Update(id protocol.ThreadID, recs ...Record) error {
	if !ValidID(id) {
		return ErrNotFound
	}
	l, _, err := st.Open(id)
	if err != nil {
		return err
	}
	return errors.Join(l.Append(recs...), l.Close())
}

// Delete removes a thread nobody has open.
func (st *Store) Delete(id protocol.ThreadID) error {
	if !ValidID(id) {
		return ErrNotFound
	}
	f, err := lock(st.Path(id), id, 0)
	if err != nil {
		return notFound(err)
	}
	defer func() { _ = f.Close() }() // the file is gone
	if err := os.Remove(st.Path(id)); err != nil {
		return fmt.Errorf("delete thread %s: %w", id, err)
	}
	st.forget(id)
	return st.syncDir()
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) || osfile.IsLink(err) {
		return ErrNotFound
	}
	return err
}
