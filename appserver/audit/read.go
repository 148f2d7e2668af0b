package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"towline/config/osfile"
)

// followEvery is how often a log that is followed is looked at.
const followEvery = 200 * time.Millisecond

// Entry is one entry, as read. Its members are those that most entries have; Raw
// has all, as the file does.
type Entry struct {
	Seq   int64     `json:"seq"`
	At    time.Time `json:"at"`
	Event string    `json:"event"`
	Who   Who       `json:"who"`
	// Via and Remote are the door and the address it came by.
	Via    string `json:"via"`
	Remote string `json:"remote"`
	Method string `json:"method"`
	Thread string `json:"thread"`
	// Name is what a token, a login or the like is called.
	Name     string `json:"name"`
	Approval string `json:"approval"`
	Decision string `json:"decision"`

	Raw []byte `json:"-"` // the line, without its newline
}

// Who is the principal of an entry; without a Kind it is the host itself.
type Who struct {
	Kind  string `json:"kind"`
	ID    string `json:"id"`
	Name  string `json:"name"`
	Role  string `json:"role"`
	Scope string `json:"scope"`
}

// Filter selects entries; zero members select all.
type Filter struct {
	Event  string // an event, or how it begins when it ends in a dot: "token."
	Who    string // a principal's name or id
	Thread string
	Since  time.Time // at or after
	Until  time.Time // before
}

// Takes reports whether e is one of the selected.
func (f Filter) Takes(e Entry) bool {
	switch {
	case f.Event != "" && e.Event != f.Event && !(strings.HasSuffix(f.Event, ".") && strings.HasPrefix(e.Event, f.Event)),
		f.Who != "" && f.Who != e.Who.Name && f.Who != e.Who.ID,
		f.Thread != "" && f.Thread != e.Thread,
		e.At.Before(f.Since),
		!f.Until.IsZero() && !e.At.Before(f.Until):
		return false
	}
	return true
}

// Read gives the entries of the log at path to take, oldest first, until all are
// read or take fails. A line that is none is left out: Verify tells of those.
func Read(path string, f Filter, take func(Entry) error) error {
	files, err := Files(path)
	if err != nil {
		return err
	}
	var last int64
	for _, name := range files {
		r, err := openReader(name)
		if err != nil {
			return err
		}
		err = r.entries(f, &last, take)
		r.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Follow gives entries to take that are later than after, those to come included,
// until ctx ends, which is no error.
func Follow(ctx context.Context, path string, f Filter, after int64, take func(Entry) error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	last := after
	for {
		files, err := Files(path)
		if err != nil {
			return err
		}
		// What was full before we looked is read again from its beginning only when
		// something in it is new.
		for _, name := range newer(files, path, last) {
			r, err := openReader(name)
			if err != nil {
				if errors.Is(err, os.ErrNotExist) { // renamed just now: the next look finds it
					break
				}
				return err
			}
			err = r.follow(ctx, f, &last, name == path, tick.C, take)
			r.close()
			if err != nil || ctx.Err() != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// newer leaves out full files whose last entry is known.
func newer(files []string, path string, last int64) []string {
	var out []string
	full, err := fullFiles(path)
	if err != nil {
		return files
	}
	for _, f := range full {
		if f.last > last {
			out = append(out, f.path)
		}
	}
	if len(files) > 0 && files[len(files)-1] == path {
		out = append(out, path)
	}
	return out
}

type reader struct {
	f  *os.File
	br *bufio.Reader
}

func openReader(name string) (*reader, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return nil, fmt.Errorf("open audit file: %w", err)
	}
	return &reader{f, bufio.NewReaderSize(f, 64<<10)}, nil
}

func (r *reader) close() { _ = r.f.Close() } // read-only

// entries reads to the end; last is the number of the last entry seen.
func (r *reader) entries(f Filter, last *int64, take func(Entry) error) error {
	for {
		line, err := readLine(r.br)
		if errors.Is(err, io.EOF) {
			return nil // a fragment is no entry yet
		}
		if err != nil {
			return fmt.Errorf("read audit file: %w", err)
		}
		if err := one(line, f, last, take); err != nil {
			return err
		}
	}
}

func one(line []byte, f Filter, last *int64, take func(Entry) error) error {
	e, ok := parse(line)
	if !ok || e.Seq <= *last {
		return nil
	}
	*last = e.Seq
	if !f.Takes(e) {
		return nil
	}
	return take(e)
}

// follow reads what is there and, from the file that is written to, what comes,
// until another file has its name.
func (r *reader) follow(ctx context.Context, f Filter, last *int64, current bool, tick <-chan time.Time, take func(Entry) error) error {
	var part []byte
	for {
		line, err := readLine(r.br)
		part = append(part, line...)
		if err == nil {
			if err := one(part, f, last, take); err != nil {
				return err
			}
			part = nil
			continue
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("read audit file: %w", err)
		}
		if !current || len(part) > maxRow || r.replaced() {
			return nil
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return nil
		}
	}
}

// replaced reports whether the file has another name now, and is read to its end.
func (r *reader) replaced() bool {
	mine, err := r.f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(r.f.Name())
	if err == nil && os.SameFile(mine, now) {
		return false
	}
	// What was written before the file was put aside may have come after our look.
	_, err = r.br.Peek(1)
	return errors.Is(err, io.EOF)
}

// parse reads a line.
func parse(line []byte) (Entry, bool) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil || e.Seq == 0 || e.Event == "" {
		return Entry{}, false
	}
	e.Raw = bytes.Clone(line)
	return e, true
}
