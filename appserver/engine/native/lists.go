package native

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// Page sizes when the client names none, and the most it may name.
const (
	threadsPerPage = 25
	turnsPerPage   = 25
	itemsPerPage   = 100
	maxPerPage     = 1000
)

func pageSize(asked *int, usual int) int {
	if asked == nil || *asked <= 0 {
		return usual
	}
	return min(*asked, maxPerPage)
}

func (c *conn) threadRead(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		IncludeTurns bool `json:"includeTurns"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	if !thread.ValidID(p.ThreadID) {
		return nil, invalidThread(p.ThreadID)
	}
	var out struct {
		Thread threadView `json:"thread"`
		Read   readState  `json:"readState"`
	}
	err := c.with(p.ThreadID, func(l *live) error {
		out.Thread, out.Read = l.view(), readStateOf(l.id, l.hist.Head.Unread)
		if p.IncludeTurns {
			out.Thread.Turns = l.turns()
		}
		return nil
	})
	if err == nil {
		return out, nil
	}
	head, err := c.e.store.Head(p.ThreadID)
	if err == nil && p.IncludeTurns {
		var h *thread.History
		if h, err = c.e.store.Read(p.ThreadID); err == nil {
			out.Thread.Turns = h.Turns
		}
	}
	if errors.Is(err, thread.ErrNotFound) {
		return nil, protocol.Errorf("thread not loaded: %s", p.ThreadID)
	}
	if err != nil {
		return nil, err
	}
	turns := out.Thread.Turns
	out.Thread, out.Read = c.e.view(&head, c.e.statusOf(p.ThreadID), false), readStateOf(p.ThreadID, head.Unread)
	if len(turns) > 0 {
		out.Thread.Turns = turns
	}
	return out, nil
}

// listParams are those of thread/list and thread/search.
type listParams struct {
	Archived       bool                `json:"archived"`
	Cursor         string              `json:"cursor"`
	Cwd            oneOrMore           `json:"cwd"`
	Excluded       []protocol.ThreadID `json:"excludedThreadIds"`
	Limit          *int                `json:"limit"`
	ModelProviders []string            `json:"modelProviders"`
	SearchTerm     string              `json:"searchTerm"`
	SortDirection  string              `json:"sortDirection"`
	SortKey        string              `json:"sortKey"`
	SourceKinds    []string            `json:"sourceKinds"`
	// What no thread of this engine has: asking for it finds nothing.
	Ancestor   *string `json:"ancestorThreadId"`
	Parent     *string `json:"parentThreadId"`
	AttachedTo *string `json:"attachedToThreadId"`
	Project    *string `json:"projectId"`
	Section    *string `json:"sectionId"`
}

// oneOrMore reads a string or a list of strings.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	var one *string
	if json.Unmarshal(b, &one) == nil {
		if *o = nil; one != nil {
			*o = []string{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

func (p *listParams) query() thread.Query {
	q := thread.Query{
		Archived: p.Archived, Cwds: p.Cwd, Providers: p.ModelProviders, Sources: p.SourceKinds, Search: p.SearchTerm,
		Exclude: p.Excluded, Sort: p.SortKey, Ascending: p.SortDirection == "asc", Cursor: p.Cursor,
		Limit: pageSize(p.Limit, threadsPerPage),
	}
	if p.Ancestor != nil || p.Parent != nil || p.AttachedTo != nil || p.Project != nil || p.Section != nil {
		q.Cwds = []string{}
	}
	return q
}

func (c *conn) threadList(r *rpc.Request) (any, error) {
	var p listParams
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	pg, err := c.e.store.List(p.query())
	if err != nil {
		return nil, listError(err)
	}
	out := struct {
		Data            []threadView                    `json:"data"`
		ReadStates      map[protocol.ThreadID]readState `json:"readStates"`
		NextCursor      *string                         `json:"nextCursor"`
		BackwardsCursor *string                         `json:"backwardsCursor"`
	}{[]threadView{}, map[protocol.ThreadID]readState{}, optional(pg.Next), optional(pg.Back)}
	for i := range pg.Heads {
		h := &pg.Heads[i]
		out.Data = append(out.Data, c.e.view(h, c.e.statusOf(h.ID), false))
		out.ReadStates[h.ID] = readStateOf(h.ID, h.Unread)
	}
	return out, nil
}

func listError(err error) error {
	if errors.Is(err, thread.ErrCursor) {
		return protocol.Errorf("%v", err)
	}
	return err
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (c *conn) threadSearch(r *rpc.Request) (any, error) {
	var p listParams
	if err := decode(r, &p, "searchTerm"); err != nil {
		return nil, err
	}
	type row struct {
		Snippet string     `json:"snippet"`
		Thread  threadView `json:"thread"`
	}
	out := struct {
		Data            []row   `json:"data"`
		NextCursor      *string `json:"nextCursor"`
		BackwardsCursor *string `json:"backwardsCursor"`
	}{Data: []row{}}
	if strings.TrimSpace(p.SearchTerm) == "" {
		return out, nil
	}
	found, next, err := c.e.store.Search(c.ctx, p.SearchTerm, p.query())
	if err != nil {
		return nil, listError(err)
	}
	out.NextCursor = optional(next)
	for i := range found {
		h := &found[i].Head
		out.Data = append(out.Data, row{found[i].Snippet, c.e.view(h, c.e.statusOf(h.ID), false)})
	}
	return out, nil
}

func (c *conn) threadLoadedList(r *rpc.Request) (any, error) {
	var p struct {
		Cursor string `json:"cursor"`
		Limit  *int   `json:"limit"`
	}
	if err := decode(r, &p); err != nil {
		return nil, err
	}
	limit := pageSize(p.Limit, maxPerPage)
	ids := []protocol.ThreadID{}
	var next *string
	for _, id := range c.e.loadedIDs() {
		if string(id) <= p.Cursor {
			continue
		}
		if len(ids) == limit {
			next = optional(string(ids[limit-1]))
			break
		}
		ids = append(ids, id)
	}
	return page{ids, next}, nil
}

// loadedIDs lists the loaded threads by id, with those another process works on.
func (e *Engine) loadedIDs() []protocol.ThreadID {
	var ids []protocol.ThreadID
	for _, l := range e.loaded() {
		ids = append(ids, l.id)
	}
	if e.cfg.Elsewhere != nil {
		if more := e.cfg.Elsewhere.Threads(); len(more) > 0 {
			ids = append(ids, more...)
			slices.Sort(ids)
			ids = slices.Compact(ids)
		}
	}
	return ids
}
