package native

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Bounds of fs/watch. Watching is looking again and again: it needs nothing of
// the system, works on every file system, and costs at most a twentieth of the
// time.
const (
	maxWatches      = 32 // of one connection
	maxWatchEntries = 10_000
	watchEvery      = 200 * time.Millisecond
	watchShare      = 20 // a look that took t is followed by a pause of at least 20t
	maxChanged      = 1000
)

// seen is what a look at a file remembers.
type seen struct {
	mode    fs.FileMode
	size    int64
	changed time.Time
}

// fsWatch tells the client of changes to a file, or to what is directly in a
// directory, until fs/unwatch or the end of the connection.
func (c *conn) fsWatch(r *rpc.Request) (any, error) {
	var p struct {
		pathParam
		ID string `json:"watchId"`
	}
	if err := decode(r, &p, "path", "watchId"); err != nil {
		return nil, err
	}
	path := string(p.Path)
	now, err := look(path)
	if err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	c.mu.Lock()
	switch {
	case c.watches[p.ID] != nil:
		err = protocol.Errorf("watchId already exists: %s", p.ID)
	case len(c.watches) >= maxWatches:
		err = protocol.Errorf("%d paths are watched already: fs/unwatch one first", maxWatches)
	default:
		c.watches[p.ID] = stop
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r.Reply(map[string]string{"path": path})
	c.work.Go(func() { c.watch(p.ID, path, now, stop) })
	return nil, nil
}

func (c *conn) fsUnwatch(r *rpc.Request) (any, error) {
	var p struct {
		ID string `json:"watchId"`
	}
	if err := decode(r, &p, "watchId"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if stop := c.watches[p.ID]; stop != nil {
		close(stop)
		delete(c.watches, p.ID)
	}
	return nil, nil
}

// watch looks until it is stopped.
func (c *conn) watch(id, path string, before map[string]seen, stop <-chan struct{}) {
	timer := time.NewTimer(watchEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-stop:
			return
		case <-c.ctx.Done():
			return
		}
		began := time.Now()
		now, err := look(path)
		timer.Reset(max(watchEvery, watchShare*time.Since(began)))
		var paths []string
		switch {
		case err == nil:
			paths = differences(path, before, now)
		case before != nil: // too much to look at: said once
			paths = []string{path}
		}
		before = now
		if len(paths) == 0 {
			continue
		}
		select {
		case <-stop: // nothing comes after the answer to fs/unwatch but what was on its way
			return
		default:
		}
		c.notify("fs/changed", map[string]any{"watchId": id, "changedPaths": paths})
	}
}

// look is the state of a path, under the name "", and of what is directly in
// it. A path that is not there is an empty state: it may come.
func look(path string) (map[string]seen, error) {
	out := make(map[string]seen)
	fi, err := os.Stat(path)
	if err != nil {
		return out, nil
	}
	if !fi.IsDir() {
		out[""] = seen{fi.Mode(), fi.Size(), fi.ModTime()}
		return out, nil
	}
	d, err := os.Open(path)
	if err != nil {
		return nil, osError(err)
	}
	defer func() { _ = d.Close() }()             // read-only
	entries, _ := d.ReadDir(maxWatchEntries + 1) // what cannot be read is not there: it says so again when it can
	if len(entries) > maxWatchEntries {
		return nil, protocol.Errorf("%s holds more than %d entries, too many to watch", path, maxWatchEntries)
	}
	for _, de := range entries {
		fi, err := de.Info()
		if err != nil {
			continue // gone since
		}
		s := seen{mode: fi.Mode()}
		if !fi.IsDir() { // what happens in a folder below is not told
			s.size, s.changed = fi.Size(), fi.ModTime()
		}
		out[de.Name()] = s
	}
	return out, nil
}

// differences are the paths that came, went or changed, sorted.
func differences(path string, before, now map[string]seen) []string {
	var out []string
	note := func(name string) { out = append(out, filepath.Join(path, name)) }
	for name, s := range now {
		if old, ok := before[name]; !ok || old.mode != s.mode || old.size != s.size || !old.changed.Equal(s.changed) {
			note(name)
		}
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			note(name)
		}
	}
	slices.Sort(out)
	if len(out) > maxChanged {
		return []string{path}
	}
	return out
}
