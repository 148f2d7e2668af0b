package thread

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// lineReader yields the lines of a thread file and remembers where the last
// whole one ended. Lines longer than the store's limit are passed over.
type lineReader struct {
	r     *bufio.Reader
	limit int64
	buf   []byte
	good  int64 // offset after the last newline seen
	off   int64 // offset read so far
	end   bool
}

// lines reads r, which is a thread's file from offset off on.
func (st *Store) lines(r io.Reader, off int64) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), limit: st.limit, good: off, off: off}
}

// next returns a line without its newline; whole is false for a last line that
// has none. The slice is valid until the next call. At the end it returns io.EOF.
func (l *lineReader) next() (line []byte, whole bool, err error) {
	l.buf = l.buf[:0]
	over := false
	for {
		part, err := l.r.ReadSlice('\n')
		l.off += int64(len(part))
		if over = over || int64(len(l.buf)+len(part)) > l.limit; !over {
			l.buf = append(l.buf, part...)
		}
		switch {
		case err == nil:
			l.good = l.off
			if over {
				return nil, true, nil
			}
			return bytes.TrimSuffix(l.buf, []byte("\n")), true, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			if l.end || l.off == l.good {
				return nil, false, io.EOF
			}
			l.end = true
			if over {
				return nil, false, nil
			}
			return l.buf, false, nil
		default:
			return nil, false, err
		}
	}
}

// read applies all records, until stop (when not nil) says that the one it is
// given is not wanted any more.
func (h *History) read(lr *lineReader, stop func(*Record) bool) error {
	for {
		line, _, err := lr.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		rec, ok := decode(line)
		switch {
		case ok && stop != nil && stop(&rec):
			return nil
		case ok:
			h.apply(&rec)
		case lr.off == lr.good: // a torn last line is no damage
			h.Skipped++
		}
	}
}
