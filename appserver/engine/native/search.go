package native

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Bounds of file search.
const (
	maxMatches   = 50
	maxWalk      = 200_000         // entries looked at below one root
	maxWalkTime  = 5 * time.Second // after which what was found is enough
	maxSessions  = 16              // of one connection
	maxQuery     = 512             // runes
	walkFreshFor = 10 * time.Second
)

// match is one file found.
type match struct {
	FileName string `json:"file_name"`
	Type     string `json:"match_type"` // "file" or "directory"
	Path     string `json:"path"`       // relative to Root
	Root     string `json:"root"`
	Score    int    `json:"score"`
	Indices  []int  `json:"indices"` // runes of Path that matched
}

// candidate is a file the walk came across.
type candidate struct {
	root, path string
	dir        bool
}

// searching is a search session: the walk is done once and queried often.
type searching struct {
	roots  []string
	files  []candidate
	walked time.Time
	latest chan string // the newest query, others are dropped; capacity 1
	cancel context.CancelFunc
}

func (c *conn) fuzzySearch(r *rpc.Request) (any, error) {
	var p struct {
		Query string   `json:"query"`
		Roots []string `json:"roots"`
	}
	if err := decode(r, &p, "query", "roots"); err != nil {
		return nil, err
	}
	return map[string]any{"files": rank(walk(c.ctx, c.e.roots(p.Roots)), p.Query)}, nil
}

// roots makes roots absolute.
func (e *Engine) roots(roots []string) []string {
	out := make([]string, 0, len(roots))
	for _, r := range roots {
		if !filepath.IsAbs(r) {
			r = filepath.Join(e.cfg.Cwd, r)
		}
		out = append(out, filepath.Clean(r))
	}
	return out
}

func (c *conn) fuzzySessionStart(r *rpc.Request) (any, error) {
	var p struct {
		ID    string   `json:"sessionId"`
		Roots []string `json:"roots"`
	}
	if err := decode(r, &p, "sessionId", "roots"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	s := &searching{roots: c.e.roots(p.Roots), latest: make(chan string, 1), cancel: cancel}
	c.mu.Lock()
	old := c.searches[p.ID]
	full := old == nil && len(c.searches) >= maxSessions
	if !full {
		c.searches[p.ID] = s
	}
	c.mu.Unlock()
	if full {
		cancel()
		return nil, protocol.Errorf("this connection has %d file searches open already", maxSessions)
	}
	if old != nil {
		old.cancel()
	}
	c.work.Go(func() { c.searchSession(ctx, p.ID, s) })
	return nil, nil
}

// searchSession answers the newest query until the session ends.
func (c *conn) searchSession(ctx context.Context, id string, s *searching) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-s.latest:
			if now := time.Now(); s.files == nil || now.Sub(s.walked) > walkFreshFor {
				s.files, s.walked = walk(ctx, s.roots), now
			}
			files := rank(s.files, q)
			if ctx.Err() != nil {
				return
			}
			c.notify("fuzzyFileSearch/sessionUpdated", map[string]any{"sessionId": id, "query": q, "files": files})
			if len(s.latest) == 0 {
				c.notify("fuzzyFileSearch/sessionCompleted", map[string]any{"sessionId": id})
			}
		}
	}
}

func (c *conn) fuzzySessionUpdate(r *rpc.Request) (any, error) {
	var p struct {
		ID    string `json:"sessionId"`
		Query string `json:"query"`
	}
	if err := decode(r, &p, "sessionId", "query"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.searches[p.ID]
	if s == nil {
		return nil, protocol.Errorf("fuzzy file search session not found: %s", p.ID)
	}
	select {
	case <-s.latest:
	default:
	}
	s.latest <- p.Query // c.mu keeps other senders out
	return nil, nil
}

func (c *conn) fuzzySessionStop(r *rpc.Request) (any, error) {
	var p struct {
		ID string `json:"sessionId"`
	}
	if err := decode(r, &p, "sessionId"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.searches[p.ID]; s != nil {
		s.cancel()
		delete(c.searches, p.ID)
	}
	return nil, nil
}

// walk lists the files below the roots, nearest first, leaving out what git
// would ignore and version control's own folders.
func walk(ctx context.Context, roots []string) []candidate {
	out := []candidate{}
	until := time.Now().Add(maxWalkTime)
	type folder struct {
		path  string // relative to the root
		rules []ignoreRules
	}
	for _, root := range roots {
		todo := []folder{{path: ""}}
		for seen := 0; len(todo) > 0 && seen < maxWalk; {
			f := todo[0]
			todo = todo[1:]
			if ctx.Err() != nil || time.Now().After(until) {
				return out
			}
			entries, err := os.ReadDir(filepath.Join(root, f.path))
			if err != nil {
				continue // gone, or not ours to read
			}
			rules := f.rules
			if own := readIgnore(root, f.path); own != nil {
				rules = append(slices.Clip(rules), *own)
			}
			for _, de := range entries {
				seen++
				rel := filepath.Join(f.path, de.Name())
				if de.Name() == ".git" || de.Name() == ".hg" || de.Name() == ".svn" || ignored(rules, rel, de.IsDir()) {
					continue
				}
				out = append(out, candidate{root, rel, de.IsDir()})
				if de.IsDir() {
					todo = append(todo, folder{rel, rules})
				}
			}
		}
	}
	return out
}

// rank returns the best matches, best first.
func rank(files []candidate, query string) []match {
	out := []match{}
	q := []rune(strings.ToLower(query))
	if len(q) == 0 || len(q) > maxQuery {
		return out
	}
	for _, f := range files {
		score, at, ok := fuzzy(f.path, q)
		if !ok {
			continue
		}
		m := match{FileName: filepath.Base(f.path), Type: "file", Path: f.path, Root: f.root, Score: score, Indices: at}
		if f.dir {
			m.Type = "directory"
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b match) int {
		if a.Score != b.Score {
			return b.Score - a.Score
		}
		if len(a.Path) != len(b.Path) {
			return len(a.Path) - len(b.Path)
		}
		return strings.Compare(a.Path, b.Path)
	})
	return out[:min(len(out), maxMatches)]
}

// fuzzy matches the runes of q in order in path. It looks for them from the end
// first, because people type the end of a path; neighbours, beginnings of words
// and the file's own name count more.
func fuzzy(path string, q []rune) (score int, at []int, ok bool) {
	p := []rune(path)
	at = make([]int, len(q))
	i := len(p) - 1
	for j := len(q) - 1; j >= 0; j-- {
		for i >= 0 && unicode.ToLower(p[i]) != q[j] {
			i--
		}
		if i < 0 {
			return 0, nil, false
		}
		at[j] = i
		i--
	}
	name := 0
	for k, r := range p {
		if r == filepath.Separator {
			name = k + 1
		}
	}
	for k, i := range at {
		score += 16
		switch {
		case k > 0 && at[k-1] == i-1:
			score += 12
		case i == 0 || strings.ContainsRune("/._- ", p[i-1]):
			score += 10
		case unicode.IsUpper(p[i]) && unicode.IsLower(p[i-1]):
			score += 8
		}
		if i >= name {
			score += 4
		}
	}
	if at[0] == name {
		score += 8
	}
	return score, at, true
}
