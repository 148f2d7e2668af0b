// Package audit is the record of who did what: append-only files of JSON lines,
// chained by their hashes. It writes them ([Open], [Log.Record]), starts a new file
// when one has grown ([Options]), checks them ([Verify]) and reads them ([Read]).
// What is recorded is its callers' business: no prompt text, no answers' free text,
// no secrets.
//
// # The files
//
// audit.jsonl is written to; audit-N.jsonl are full ones, N being the number of
// their last entry. One JSON object a line, oldest first:
//
//	{"seq":N,"at":TIME,"event":E,"who":{…},…facts…,"prev":HEX,"hash":HEX}
//
// hash is the last member: the SHA-256 of every byte of the line before
// `,"hash":`, and prev is the hash of the entry before (64 zeros in the first), in
// whatever file that is. So no line can be changed, removed or inserted without
// breaking the chain at that line. Cutting lines off the end is what a chain cannot
// show: audit.head holds the number and the hash of the last entry.
//
// A writer killed in the middle of a line leaves a torn last line. The next
// start ends it and appends a line with event "torn" that holds the SHA-256 of
// the fragment; the chain skips the fragment.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/access"
	"towline/config/osfile"
)

// The events of the log's own.
const (
	eventTorn   = "torn"         // the line before was not written to its end
	eventCut    = "audit.cut"    // entries that were there are not
	eventHead   = "audit.head"   // audit.head was missing
	eventLate   = "audit.late"   // entries follow that could not be written when they happened
	eventPruned = "audit.pruned" // old files were deleted, as configured
)

const (
	zeroHash = "0000000000000000000000000000000000000000000000000000000000000000"
	// lockTries and lockPause are how long somebody else may have the file.
	lockTries = 10
	lockPause = 20 * time.Millisecond
	// maxPending bounds entries kept in memory while they cannot be written.
	maxPending = 10_000
	// retryEvery is how long a log that cannot be written is left alone.
	retryEvery = time.Second
)

// Options say how a log is kept. The zero value never starts a new file, and goes
// on when it cannot be written.
type Options struct {
	// MaxSize is how large a file may grow, in bytes; 0 is without end.
	MaxSize int64
	// Keep is how many full files stay; 0 keeps all. What is deleted is recorded.
	Keep int
	// Refuse makes Ready fail while entries cannot be written, so that nothing is
	// done that would not be on record.
	Refuse bool
	// Log hears of entries that could not be written, whole. Nil discards.
	Log *slog.Logger
}

// Log is an open audit log. Its methods may be called concurrently; a nil *Log
// records nothing.
type Log struct {
	path string
	o    Options
	log  *slog.Logger

	failing atomic.Bool // entries wait in pending

	mu      sync.Mutex // guards what follows
	f, head *os.File
	size    int64
	seq     int64
	prev    string
	pending []entry // happened, and could not be written
	dropped int     // beyond maxPending: only counted
	since   time.Time
	tried   time.Time
	cause   error
	aside   aside
	counts  Counts
}

// Counts is what a log has done since it was opened.
type Counts struct {
	Entries  int64 // written
	Failures int64 // attempts to write that failed
	Waiting  int   // entries that could not be written yet
	Lost     int   // and beyond what can wait: only counted
}

// Counts is a snapshot.
func (l *Log) Counts() Counts {
	if l == nil {
		return Counts{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.Waiting, c.Lost = len(l.pending), l.dropped
	return c
}

// Open opens the log whose file is at path for appending, creating it with mode
// 0600. It refuses a file that others may read and one another process appends
// to. It continues the chain from the last whole line; whether what is before it
// holds is Verify's job. That entries are missing at the end is recorded.
func Open(path string, o Options) (*Log, error) {
	l := &Log{path: path, o: o, log: o.Log, prev: zeroHash}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	f, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	l.f = f
	if err := l.resume(); err != nil {
		_ = l.closeFiles() // the first error is the one to tell
		return nil, err
	}
	return l, nil
}

// openLocked opens the file at path as its only writer.
func openLocked(path string) (*os.File, error) {
	for range lockTries {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|osfile.NoFollow, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open audit file: %w", err)
		}
		st, err := f.Stat()
		if err == nil && st.Mode().Perm()&0o077 != 0 && osfile.ModesMean {
			err = fmt.Errorf("%s has mode %#o, want 0600", path, st.Mode().Perm())
		}
		if err == nil {
			err = lock(f, path)
		}
		if err != nil {
			_ = f.Close() // nothing was written
			return nil, err
		}
		// Its writer may have put a new file in its place while we waited.
		now, err := os.Stat(path)
		if err == nil && os.SameFile(st, now) {
			return f, nil
		}
		_ = f.Close() // a full one
	}
	return nil, fmt.Errorf("%s: another file is put there again and again", path)
}

// lock waits a little: a command that notes something has the file for a moment.
func lock(f *os.File, path string) error {
	err := osfile.Lock(f)
	for range lockTries {
		if !errors.Is(err, osfile.ErrLocked) {
			break
		}
		time.Sleep(lockPause)
		err = osfile.Lock(f)
	}
	if err != nil {
		return fmt.Errorf("%s is in use by another towline: %w", path, err)
	}
	return nil
}

// resume finds the end of the chain.
func (l *Log) resume() error {
	st, err := l.f.Stat()
	if err != nil {
		return fmt.Errorf("open audit file: %w", err)
	}
	l.size = st.Size()
	tail, whole, err := lastLines(l.f, l.size)
	if err != nil {
		return fmt.Errorf("read audit file: %w", err)
	}
	from := l.path
	if whole == nil { // a new one: the chain goes on from the last full one
		if from, whole, err = lastOfFull(l.path); err != nil {
			return err
		}
	}
	if whole != nil {
		var row row
		if err := json.Unmarshal(whole, &row); err != nil || len(row.Hash) != sha256.Size*2 {
			return fmt.Errorf("%s ends in a line that is not an audit entry; move it away to start a new chain", from)
		}
		l.seq, l.prev = row.Seq, row.Hash
	}
	fragment := ""
	if len(tail) > 0 {
		if _, err := l.f.Write([]byte("\n")); err != nil {
			return fmt.Errorf("end the torn line of the audit file: %w", err)
		}
		l.size++
		if row, hash, ok := checkRow(tail); ok && row.Prev == l.prev { // only the newline was missing
			l.seq, l.prev = row.Seq, hash
		} else {
			sum := sha256.Sum256(tail)
			fragment = hex.EncodeToString(sum[:])
		}
	}
	return l.resumeHead(fragment, len(tail))
}

// resumeHead holds the end of the chain against audit.head, and records what is
// to be said about the start.
func (l *Log) resumeHead(fragment string, bytes int) error {
	head, was, err := openHead(headPath(l.path))
	if err != nil {
		return err
	}
	l.head = head
	seq, hash := l.seq, l.prev
	if fragment != "" {
		l.Record(eventTorn, access.Principal{}, slog.Int("bytes", bytes), slog.String("sha256", fragment))
	}
	switch {
	case was == nil && seq > 0:
		l.Record(eventHead, access.Principal{})
	case was != nil && (was.seq > seq || was.seq == seq && was.hash != hash && seq > 0):
		l.log.Error("the audit log was cut", "last", seq, "was", was.seq)
		l.Record(eventCut, access.Principal{}, slog.Int64("last", seq), slog.Int64("was", was.seq), slog.String("wasHash", was.hash))
	}
	return l.writeHead()
}

// Record appends one entry. It does not fail towards its caller: an entry that
// cannot be written is logged as an error, and written once that works again.
func (l *Log) Record(event string, p access.Principal, attrs ...slog.Attr) {
	if l == nil {
		return
	}
	e := entry{at: time.Now(), event: event, who: p, facts: attrs}
	l.mu.Lock()
	if taken, to := l.aside.put(e); taken {
		l.mu.Unlock()
		if to != nil {
			to(event, p, attrs)
		}
		return
	}
	defer l.mu.Unlock()
	if len(l.pending) > 0 && time.Since(l.tried) < retryEvery || l.catchUp() != nil {
		l.keep(e)
		return
	}
	if err := l.append(e); err != nil {
		l.fail(err)
		l.keep(e)
	}
}

// Ready is nil when what is recorded next will be written, or need not be. Its
// error is for people; it is never given without Options.Refuse.
func (l *Log) Ready() error {
	if l == nil || !l.failing.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.tried) >= retryEvery && l.catchUp() == nil || !l.o.Refuse {
		return nil
	}
	return fmt.Errorf("the host's audit log cannot be written (%w), and without it nothing is done here", l.cause)
}

// Trouble says since when entries could not be written, how many wait, and why;
// nil when all are.
func (l *Log) Trouble() *Trouble {
	if l == nil || !l.failing.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		return nil
	}
	return &Trouble{Since: l.since, Waiting: len(l.pending), Dropped: l.dropped, Err: l.cause, Refuses: l.o.Refuse}
}

// Trouble is a log that cannot be written.
type Trouble struct {
	Since   time.Time
	Waiting int // entries that are kept in memory until it can
	Dropped int // entries beyond those, of which only the number is known
	Err     error
	Refuses bool // nothing is done meanwhile
}

// keep remembers an entry that could not be written.
func (l *Log) keep(e entry) {
	line, err := e.line(0, "")
	if err != nil {
		l.log.Error("audit entry lost", "event", e.event, "err", err) // it cannot be encoded: it never will be
		return
	}
	l.log.LogAttrs(context.Background(), slog.LevelError, "audit entry not written",
		slog.String("entry", string(line)), slog.Any("err", l.cause))
	if len(l.pending) >= maxPending {
		l.dropped++
		return
	}
	l.pending = append(l.pending, e)
	l.failing.Store(true)
}

// fail notes why the file cannot be written.
func (l *Log) fail(err error) {
	if len(l.pending) == 0 {
		l.since = time.Now()
	}
	l.cause, l.tried = err, time.Now()
	l.counts.Failures++
}

// catchUp writes what waits.
func (l *Log) catchUp() error {
	if len(l.pending) == 0 {
		return nil
	}
	note := entry{at: time.Now(), event: eventLate, facts: []slog.Attr{
		slog.String("since", l.since.UTC().Format(time.RFC3339Nano)), slog.Int("entries", len(l.pending)),
		slog.Int("lost", l.dropped), slog.Any("why", l.cause),
	}}
	if err := l.append(note); err != nil {
		l.fail(err)
		return err
	}
	for i, e := range l.pending {
		if err := l.append(e); err != nil {
			l.pending = l.pending[i:]
			l.fail(err)
			return err
		}
	}
	l.log.Warn("the audit log can be written again", "entries", len(l.pending), "lost", l.dropped)
	l.pending, l.dropped, l.cause = nil, 0, nil
	l.failing.Store(false)
	return nil
}

// append writes one entry to the file, after starting a new one where it is due.
func (l *Log) append(e entry) error {
	if l.f == nil {
		return os.ErrClosed
	}
	if l.o.MaxSize > 0 && l.size >= l.o.MaxSize {
		l.rotate()
	}
	line, err := e.line(l.seq+1, l.prev)
	if err != nil {
		return err
	}
	if n, err := l.f.Write(line); err != nil {
		if n > 0 { // a full disk must not leave half a line
			err = errors.Join(err, l.f.Truncate(l.size))
		}
		return err
	}
	l.size += int64(len(line))
	l.seq++
	l.counts.Entries++
	l.prev = string(line[len(line)-len(`"}`)-1-sha256.Size*2 : len(line)-len(`"}`)-1])
	if err := l.writeHead(); err != nil {
		l.log.Warn("audit.head cannot be written", "err", err)
	}
	return nil
}

// Sync makes what was recorded survive a power cut.
func (l *Log) Sync() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return os.ErrClosed
	}
	return l.f.Sync()
}

// Close writes what waits, syncs and closes the file. It is idempotent.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	late := l.catchUp()
	return errors.Join(late, l.f.Sync(), l.closeFiles())
}

func (l *Log) closeFiles() error {
	err := l.f.Close()
	if l.head != nil {
		err = errors.Join(err, l.head.Close())
	}
	l.f, l.head = nil, nil
	return err
}

// Path is the file that is written to.
func (l *Log) Path() string { return l.path }

func headPath(path string) string { return filepath.Join(filepath.Dir(path), "audit.head") }
