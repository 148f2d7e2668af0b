package peer

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Canary is a secret that nothing else in the world contains. While the test
// runs it is looked for in the command line and environment of every process of
// the machine; afterwards in what the test names. Wherever it is seen and was
// not allowed to be, the test fails.
//
// It is recognised as it is, in hexadecimal, and inside anything encoded as
// base64, JWTs included.
type Canary struct {
	Value string // 32 letters and digits, without meaning

	t       testing.TB
	shapes  []shape
	stop    chan struct{}
	stopped chan struct{}

	mu   sync.Mutex // guards what follows
	seen map[string]bool
}

// shape is one way to write the value.
type shape struct {
	name string
	text []byte
}

// NewCanary makes one and begins to watch for it.
func NewCanary(t testing.TB) *Canary {
	t.Helper()
	c := &Canary{Value: "canary" + random(t, 13), t: t, stop: make(chan struct{}), stopped: make(chan struct{}), seen: map[string]bool{}}
	c.shapes = shapes(c.Value)
	go c.watch()
	t.Cleanup(c.settle)
	return c
}

// shapes lists the ways to write v.
func shapes(v string) []shape {
	out := []shape{{"as it is", []byte(v)}, {"in hexadecimal", []byte(hex.EncodeToString([]byte(v)))}}
	for lead := range 3 {
		// What stands before and after decides the characters at the borders.
		enc := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00\x00"[:lead] + v))
		from := (lead*8 + 5) / 6
		to := len(enc)
		if (lead+len(v))%3 != 0 {
			to--
		}
		out = append(out, shape{"in base64", []byte(enc[from:to])})
	}
	return out
}

// In reports how the canary is written in b, "" when it is not there.
func (c *Canary) In(b []byte) string {
	for _, s := range c.shapes {
		if bytes.Contains(b, s.text) {
			return s.name
		}
	}
	return ""
}

func (c *Canary) watch() {
	defer close(c.stopped)
	tick := time.NewTicker(15 * time.Millisecond) // a process that starts has no event for us
	defer tick.Stop()
	for {
		c.scan()
		select {
		case <-tick.C:
		case <-c.stop:
			return
		}
	}
}

// scan looks at every process once.
func (c *Canary) scan() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		if n := e.Name(); n[0] < '0' || n[0] > '9' {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		if c.In(line) != "" {
			c.note("the command line of " + c.program(line))
		}
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			if c.In(kv) != "" {
				name, _, _ := bytes.Cut(kv, []byte("="))
				c.note(fmt.Sprintf("%s in the environment of %s", name, c.program(line)))
			}
		}
	}
}

// program is a command line without what must not be printed.
func (c *Canary) program(line []byte) string {
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	for i, a := range args {
		if c.In([]byte(a)) != "" {
			args[i] = "CANARY"
		}
	}
	return fmt.Sprintf("%q", args)
}

func (c *Canary) note(where string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[where] = true
}

// Seen is how many places it was seen in so far, of processes.
func (c *Canary) Seen() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// settle ends the watch and tells what it saw.
func (c *Canary) settle() {
	close(c.stop)
	<-c.stopped
	c.mu.Lock()
	defer c.mu.Unlock()
	for where := range c.seen {
		c.t.Errorf("the secret was in %s", where)
	}
}

// Absent fails the test when the canary is in text: an output, a log, a URL.
func (c *Canary) Absent(name, text string) {
	c.t.Helper()
	how := c.In([]byte(text))
	if how == "" {
		if u, err := url.QueryUnescape(text); err == nil {
			how = c.In([]byte(u))
		}
	}
	if how != "" {
		c.t.Errorf("the secret is in %s, %s", name, how)
	}
}

// Files looks for the canary in every file below the folders. It may be in those
// whose path matches one of the patterns of [filepath.Match] (a pattern without a
// slash is for the last part only), which must be private to their owner; it
// returns those it is in.
func (c *Canary) Files(dirs, allowed []string) []string {
	c.t.Helper()
	var in []string
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // it went while we looked
			}
			info, err := d.Info()
			if err != nil || info.Size() > 64<<20 { // programs
				return nil
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			how := c.In(raw)
			if how == "" && c.In([]byte(path)) == "" {
				return nil
			}
			in = append(in, path)
			may := slices.ContainsFunc(allowed, func(pattern string) bool {
				name := path
				if !strings.Contains(pattern, "/") {
					name = filepath.Base(path)
				}
				ok, _ := filepath.Match(pattern, name)
				return ok
			})
			switch {
			case !may:
				c.t.Errorf("the secret is in %s, %s", path, how)
			case info.Mode().Perm()&0o077 != 0:
				c.t.Errorf("the secret is in %s, which has mode %v", path, info.Mode())
			}
			return nil
		})
	}
	return in
}
