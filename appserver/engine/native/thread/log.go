package thread

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"towline/appserver/protocol"
	"towline/config/osfile"
)

// Log is a thread open for writing. It holds the thread's writer lock until
// Close. It may be used by many goroutines.
type Log struct {
	st *Store
	id protocol.ThreadID

	mu   sync.Mutex // guards what follows
	f    *os.File   // nil after Close
	size int64      // of the good part: every append ends here
	head Head
	bad  error // the tail could not be repaired; nothing more is written
}

// ErrLogClosed is returned by appends after Close.
var ErrLogClosed = errors.New("thread log closed")

// BusyError says that another process, or another Log of this one, writes a thread.
type BusyError struct{ ID protocol.ThreadID }

func (e *BusyError) Error() string {
	return fmt.Sprintf("thread %s already has an active writer", e.ID)
}

// lock opens path for appending and takes its writer lock without waiting.
func lock(path string, id protocol.ThreadID, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|osfile.NoFollow|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := osfile.Lock(f); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, osfile.ErrLocked) {
			return nil, &BusyError{ID: id}
		}
		return nil, fmt.Errorf("lock thread %s: %w", id, err)
	}
	return f, nil
}

// Append writes records and returns when they are on disk. Records without a
// time get the current one. After an error nothing of them is in the file.
func (l *Log) Append(recs ...Record) error {
	var buf bytes.Buffer
	now := l.st.now().UnixMilli()
	for i := range recs {
		if recs[i].AtMs == 0 {
			recs[i].AtMs = now
		}
		if err := recs[i].encode(&buf, l.st.limit); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(buf.Bytes()); err != nil {
		return err
	}
	for i := range recs {
		l.head.apply(&recs[i])
	}
	l.st.noteHead(l.head, l.size)
	return nil
}

func (l *Log) write(b []byte) error {
	if l.bad != nil {
		return l.bad
	}
	if l.f == nil {
		return ErrLogClosed
	}
	_, err := l.f.Write(b)
	if err == nil {
		err = datasync(l.f)
	}
	if err != nil {
		// A full disk leaves half a line; the next append must not continue it.
		if terr := l.f.Truncate(l.size); terr != nil {
			l.bad = fmt.Errorf("thread %s: %w", l.id, errors.Join(err, terr))
		}
		return fmt.Errorf("append to thread %s: %w", l.id, err)
	}
	l.size += int64(len(b))
	return nil
}

// Head is what lists show of this thread now.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close releases the writer lock. It may be called more than once.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// repair makes the file end with a whole line: a complete record that lacks its
// newline gets one, anything else after the last newline is cut off.
func (l *Log) repair() error {
	lr := l.st.lines(io.NewSectionReader(l.f, 0, 1<<62), 0)
	for {
		line, whole, err := lr.next()
		if errors.Is(err, io.EOF) {
			l.size = lr.good
			return nil
		}
		if err != nil {
			return err
		}
		if whole {
			continue
		}
		l.size = lr.good
		if _, ok := decode(line); ok {
			l.size = lr.off
			return l.write([]byte("\n"))
		}
		if err := l.f.Truncate(l.size); err != nil {
			return err
		}
		return datasync(l.f)
	}
}
