package thread

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"towline/appserver/protocol"
	"towline/config/osfile"
)

// entry is one thread in the index. A file only grows, so a head stays true for
// the first good bytes and later lines are applied on top.
type entry struct {
	Head Head  `json:"head"`
	Good int64 `json:"good"` // bytes of whole lines the head reflects
	Size int64 `json:"size"` // of the file when it was read
}

const (
	indexFile    = "index.json"
	indexVersion = 2
	// rescanAfter bounds how stale a list may be about what other processes
	// wrote. What this process writes is seen at once.
	rescanAfter = time.Second
	// emptyLife is how long a thread nobody ever said anything in is kept: long
	// enough for a client that lost its link to come back to it.
	emptyLife = 7 * 24 * time.Hour
)

type indexJSON struct {
	Version int                          `json:"version"`
	Threads map[protocol.ThreadID]*entry `json:"threads"`
}

// heads returns the up-to-date index. The map is a copy, the entries are not
// changed any more once they are in it.
func (st *Store) heads() (map[protocol.ThreadID]*entry, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.index == nil {
		st.loadIndex()
	}
	if now := st.now(); st.swept.IsZero() || now.Sub(st.swept) >= rescanAfter || now.Before(st.swept) {
		if err := st.scan(); err != nil {
			return nil, err
		}
		st.swept = now
	}
	out := make(map[protocol.ThreadID]*entry, len(st.index))
	for id, e := range st.index {
		out[id] = e
	}
	return out, nil
}

// loadIndex reads the cache. Anything wrong with it means an empty index.
func (st *Store) loadIndex() {
	st.index = make(map[protocol.ThreadID]*entry)
	b, err := os.ReadFile(filepath.Join(st.dir, indexFile))
	if err != nil {
		return
	}
	var v indexJSON
	if json.Unmarshal(b, &v) != nil || v.Version != indexVersion {
		return
	}
	for id, e := range v.Threads {
		if e != nil && e.Head.ID == id && ValidID(id) {
			st.index[id] = e
		}
	}
}

// scan brings the index in line with the directory. Only files that changed
// size are opened, and only their new part is read.
func (st *Store) scan() error {
	names, err := os.ReadDir(st.dir)
	if err != nil {
		return err
	}
	seen := make(map[protocol.ThreadID]bool, len(names))
	for _, de := range names {
		name, ok := strings.CutSuffix(de.Name(), ".jsonl")
		id := protocol.ThreadID(name)
		if !ok || !ValidID(id) || !de.Type().IsRegular() {
			continue
		}
		fi, err := de.Info()
		if err != nil {
			continue // deleted meanwhile
		}
		seen[id] = true
		old := st.index[id]
		if old != nil && old.Size == fi.Size() {
			continue
		}
		e, err := st.readHead(id, old, fi.Size())
		if err != nil {
			st.log.Warn("thread file is unreadable", "thread", id, "err", err)
			delete(seen, id)
			continue
		}
		st.index[id], st.dirty = e, true
	}
	for id := range st.index {
		if !seen[id] {
			delete(st.index, id)
			st.dirty = true
		}
	}
	return nil
}

func (st *Store) readHead(id protocol.ThreadID, old *entry, size int64) (*entry, error) {
	f, err := os.OpenFile(st.Path(id), os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only
	e := &entry{Size: size}
	if old != nil && old.Good <= size {
		e.Head, e.Good = old.Head, old.Good
	}
	lr := st.lines(io.NewSectionReader(f, e.Good, size-e.Good), e.Good)
	for {
		line, whole, err := lr.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if whole {
			e.Head.skim(line)
		}
	}
	e.Good = lr.good
	if e.Head.ID != id {
		return nil, errors.New("the first line is not its own")
	}
	e.Head.slim()
	return e, nil
}

// slim drops what lists do not show and what can be large.
func (h *Head) slim() { h.Base, h.Developer, h.DynamicTools = "", "", nil }

// noteHead keeps the index true for what this process wrote.
func (st *Store) noteHead(h Head, size int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.index == nil {
		st.loadIndex()
	}
	h.slim()
	st.index[h.ID] = &entry{Head: h, Good: size, Size: size}
	st.dirty = true
}

func (st *Store) forget(id protocol.ThreadID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.index, id)
	st.dirty = true
}

// Sweep removes threads that are a week old and were never used, and files a
// crash left half made.
func (st *Store) Sweep() error {
	heads, err := st.heads()
	if err != nil {
		return err
	}
	limit := st.now().Add(-emptyLife)
	for id, e := range heads {
		if e.Head.Turns == 0 && e.Head.Name == nil && time.UnixMilli(e.Head.UpdatedAtMs).Before(limit) {
			err = errors.Join(err, st.Delete(id))
		}
	}
	names, rerr := os.ReadDir(st.dir)
	for _, de := range names {
		if !strings.HasPrefix(de.Name(), ".") {
			continue
		}
		if fi, ierr := de.Info(); ierr == nil && fi.ModTime().Before(limit) {
			err = errors.Join(err, os.Remove(filepath.Join(st.dir, de.Name())))
		}
	}
	return errors.Join(err, rerr)
}

// Save writes the index to its cache file when it changed.
func (st *Store) Save() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.dirty {
		return nil
	}
	b, err := json.Marshal(indexJSON{Version: indexVersion, Threads: st.index})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(st.dir, ".index-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(st.dir, indexFile))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	st.dirty = false
	return nil
}
