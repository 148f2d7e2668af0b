package thread

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"towline/appserver/protocol"
	"towline/config/osfile"
)

// Keys threads are sorted by.
const (
	ByCreated = "created_at"
	ByUpdated = "updated_at"
	ByRecency = "recency_at"
)

// Query selects and orders threads. The zero value asks for the newest
// unarchived ones.
type Query struct {
	Archived  bool
	Cwds      []string // nil: any
	Providers []string // empty: any
	Sources   []string // Meta.Source; empty: any
	Search    string   // substring of the title, in any case
	Exclude   []protocol.ThreadID
	Empty     bool   // threads without a turn too
	Sort      string // one of the By constants; default ByCreated
	Ascending bool
	Cursor    string
	Limit     int
}

// Page is one answer to a Query. Next is "" at the end. Back continues from
// the page's beginning in the other direction.
type Page struct {
	Heads      []Head
	Next, Back string
}

// ErrCursor: a cursor did not come from a Page.
var ErrCursor = errors.New("invalid cursor")

// List answers q.
func (st *Store) List(q Query) (Page, error) {
	sel, err := st.sel(q)
	if err != nil {
		return Page{}, err
	}
	var p Page
	for _, e := range sel {
		if q.Limit > 0 && len(p.Heads) == q.Limit {
			p.Next = q.cursor(&p.Heads[len(p.Heads)-1])
			break
		}
		p.Heads = append(p.Heads, e.Head)
	}
	if len(p.Heads) > 0 {
		p.Back = q.cursor(&p.Heads[0])
	}
	return p, nil
}

// sel returns what q selects from its cursor on, in order and without limit.
func (st *Store) sel(q Query) ([]*entry, error) {
	var after func(h *Head) bool
	if q.Cursor != "" {
		ms, id, ok := strings.Cut(q.Cursor, "|")
		at, err := strconv.ParseInt(ms, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("%w: %q", ErrCursor, q.Cursor)
		}
		after = func(h *Head) bool {
			c := q.compare(q.key(h), string(h.ID), at, id)
			return c > 0
		}
	}
	heads, err := st.heads()
	if err != nil {
		return nil, err
	}
	search := strings.ToLower(q.Search)
	var out []*entry
	for _, e := range heads {
		h := &e.Head
		if h.Archived != q.Archived || h.Turns == 0 && !q.Empty ||
			q.Cwds != nil && !slices.Contains(q.Cwds, h.Settings.Cwd) ||
			len(q.Providers) > 0 && !slices.Contains(q.Providers, h.Provider) ||
			len(q.Sources) > 0 && !slices.Contains(q.Sources, h.Source) ||
			slices.Contains(q.Exclude, h.ID) ||
			search != "" && !strings.Contains(strings.ToLower(h.Title()), search) ||
			after != nil && !after(h) {
			continue
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *entry) int {
		return q.compare(q.key(&a.Head), string(a.Head.ID), q.key(&b.Head), string(b.Head.ID))
	})
	return out, nil
}

func (q *Query) key(h *Head) int64 {
	switch q.Sort {
	case ByUpdated:
		return h.UpdatedAtMs
	case ByRecency:
		return h.RecencyAtMs
	}
	return h.CreatedAtMs
}

// compare orders by time, then id, in the direction asked for.
func (q *Query) compare(at int64, id string, at2 int64, id2 string) int {
	c := cmp.Or(cmp.Compare(at, at2), strings.Compare(id, id2))
	if q.Ascending {
		return c
	}
	return -c
}

func (q *Query) cursor(h *Head) string {
	return strconv.FormatInt(q.key(h), 10) + "|" + string(h.ID)
}

// Head returns one thread's head. It fails with ErrNotFound.
func (st *Store) Head(id protocol.ThreadID) (Head, error) {
	heads, err := st.heads()
	if err != nil {
		return Head{}, err
	}
	if e := heads[id]; e != nil {
		return e.Head, nil
	}
	return Head{}, ErrNotFound
}

// Found is one thread a search came up with.
type Found struct {
	Head    Head
	Snippet string
}

// Search looks for text in titles and in what was said, in any case, and
// returns up to q.Limit threads in q's order with the cursor of the next page.
// q.Search is ignored.
func (st *Store) Search(ctx context.Context, text string, q Query) (found []Found, next string, err error) {
	q.Search = ""
	limit := q.Limit
	sel, err := st.sel(q)
	if err != nil {
		return nil, "", err
	}
	term := strings.ToLower(text)
	for _, e := range sel {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		snip := snippet(e.Head.Title(), term)
		if snip == "" {
			snip = st.grep(ctx, e.Head.ID, term)
		}
		if snip == "" {
			continue
		}
		if limit > 0 && len(found) == limit {
			return found, q.cursor(&found[limit-1].Head), nil
		}
		found = append(found, Found{e.Head, snip})
	}
	return found, "", nil
}

// grep returns a snippet of the first message of a thread that contains term.
func (st *Store) grep(ctx context.Context, id protocol.ThreadID, term string) string {
	f, err := os.OpenFile(st.Path(id), os.O_RDONLY|osfile.NoFollow, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // read-only
	lr := st.lines(f, 0)
	for ctx.Err() == nil {
		line, _, err := lr.next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				st.log.Warn("thread file is unreadable", "thread", id, "err", err)
			}
			return ""
		}
		if typ, _, ok := prefix(line); !ok || typ != recItem || !bytes.Contains(line, []byte(`Message"`)) {
			continue
		}
		r, ok := decode(line)
		if !ok {
			continue
		}
		switch b := r.Item.Body.(type) {
		case *protocol.UserMessage:
			for _, in := range b.Content {
				if s := snippet(in.Text, term); s != "" {
					return s
				}
			}
		case *protocol.AgentMessage:
			if s := snippet(b.Text, term); s != "" {
				return s
			}
		}
	}
	return ""
}

// snippet returns the line of text that contains term, shortened around it.
func snippet(text, term string) string {
	for line := range strings.Lines(text) {
		low := strings.ToLower(line)
		i := strings.Index(low, term)
		if i < 0 {
			continue
		}
		if len(low) != len(line) { // folding moved the bytes
			i = 0
		}
		const around = 80
		start, end := max(0, i-around), min(len(line), i+len(term)+around)
		return strings.TrimSpace(strings.ToValidUTF8(line[start:end], ""))
	}
	return ""
}
