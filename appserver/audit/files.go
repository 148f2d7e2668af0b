package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"towline/config/osfile"
)

// full is a file that is written to no more.
type full struct {
	path string
	last int64 // the number of its last entry
}

// fullFiles lists those beside the file at path, oldest first.
func fullFiles(path string) ([]full, error) {
	dir := filepath.Dir(path)
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list audit files: %w", err)
	}
	var out []full
	for _, e := range list {
		number, ok := strings.CutPrefix(e.Name(), "audit-")
		number, ok2 := strings.CutSuffix(number, ".jsonl")
		last, err := strconv.ParseInt(number, 10, 64)
		if ok && ok2 && err == nil && last > 0 && e.Type().IsRegular() {
			out = append(out, full{filepath.Join(dir, e.Name()), last})
		}
	}
	slices.SortFunc(out, func(a, b full) int { return int(min(max(a.last-b.last, -1), 1)) })
	return out, nil
}

// lastOfFull is the last entry of the newest full file, nil when there is none.
func lastOfFull(path string) (from string, whole []byte, err error) {
	files, err := fullFiles(path)
	if err != nil || len(files) == 0 {
		return path, nil, err
	}
	from = files[len(files)-1].path
	if _, whole, err = lastOf(from); err != nil {
		return from, nil, fmt.Errorf("read audit file: %w", err)
	}
	return from, whole, nil
}

// lastLines returns the fragment after the last newline and the last whole line.
func lastLines(f io.ReaderAt, size int64) (tail, whole []byte, err error) {
	n := min(size, 2*maxRow)
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, size-n); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	end := bytes.LastIndexByte(buf, '\n')
	tail = buf[end+1:]
	if end >= 0 {
		whole = buf[bytes.LastIndexByte(buf[:end], '\n')+1 : end]
	}
	return tail, whole, nil
}

// rotate puts a new file in the place of the full one. Where that fails, the full
// one grows on. The new file is ready, and ours alone, before it gets its name.
func (l *Log) rotate() {
	next := l.path + ".next"
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|osfile.NoFollow, 0o600)
	if err == nil {
		err = osfile.Lock(f)
	}
	if err == nil {
		err = l.f.Sync()
	}
	kept := filepath.Join(filepath.Dir(l.path), fmt.Sprintf("audit-%012d.jsonl", l.seq))
	if err == nil {
		err = os.Rename(l.path, kept)
	}
	if err == nil {
		if err = os.Rename(next, l.path); err != nil {
			err = errors.Join(err, os.Rename(kept, l.path))
		}
	}
	if err != nil {
		l.log.Warn("no new audit file is begun", "err", err)
		if f != nil {
			_ = f.Close()       // nothing was written
			_ = os.Remove(next) // the next try makes it anew
		}
		return
	}
	_ = l.f.Close() // it was synced
	l.f, l.size = f, 0
	l.prune()
}

// prune deletes the oldest full files beyond Options.Keep. That it will is on
// record before it does.
func (l *Log) prune() {
	if l.o.Keep <= 0 {
		return
	}
	files, err := fullFiles(l.path)
	if err != nil || len(files) <= l.o.Keep {
		return
	}
	old := files[:len(files)-l.o.Keep]
	last := old[len(old)-1]
	_, whole, err := lastOf(last.path)
	r, hash, ok := checkRow(whole)
	if err != nil || !ok || r.Seq != last.last {
		l.log.Warn("an old audit file does not end as it should, and stays", "file", last.path)
		return
	}
	err = l.append(entry{at: time.Now(), event: eventPruned, facts: []slog.Attr{
		slog.Int64("through", r.Seq), slog.String("throughHash", hash), slog.Int("files", len(old)),
	}})
	for _, f := range old {
		if err == nil {
			err = os.Remove(f.path)
		}
	}
	if err != nil {
		l.log.Warn("old audit files stay", "err", err)
	}
}

func lastOf(path string) (tail, whole []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // read-only
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	return lastLines(f, st.Size())
}
