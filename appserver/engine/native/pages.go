package native

import (
	"encoding/json"
	"slices"
	"strings"

	"towline/appserver/engine/native/thread"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// turns copies the turns, so that they can be encoded later; l.mu is held.
func (l *live) turns() []protocol.Turn {
	out := slices.Clone(l.hist.Turns)
	for i := range out {
		out[i].Items = slices.Clone(out[i].Items)
	}
	if out == nil {
		out = []protocol.Turn{}
	}
	return out
}

// turnsOf are the turns of any thread.
func (e *Engine) turnsOf(id protocol.ThreadID) ([]protocol.Turn, error) {
	if !thread.ValidID(id) {
		return nil, invalidThread(id)
	}
	if l, err := e.get(id); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.turns(), nil
	}
	h, err := e.store.Read(id)
	if err != nil {
		return nil, notStored(id, err)
	}
	return h.Turns, nil
}

// pageRequest is the part of a list's params that says which page.
type pageRequest struct {
	Cursor    json.RawMessage `json:"cursor"`
	Limit     *int            `json:"limit"`
	Direction string          `json:"sortDirection"`
	View      string          `json:"itemsView"`
}

// position is where a page begins: at the entry named, or next to it. Cursors
// are the entry's key, with "=" before it when the entry itself is wanted.
type position struct {
	key       string
	inclusive bool
}

func (p pageRequest) position() (pos position, ok bool, err error) {
	if !given(p.Cursor) {
		return position{}, false, nil
	}
	var s string
	if json.Unmarshal(p.Cursor, &s) == nil && s != "" {
		pos.key, pos.inclusive = strings.CutPrefix(s, "=")
		return pos, true, nil
	}
	return position{}, false, protocol.Errorf("invalid cursor: %s", p.Cursor)
}

// cut takes one page out of a list in ascending order.
func cut[T any](all []T, key func(*T) string, p pageRequest, usual int, ascending bool) (data []T, next, back *string, err error) {
	pos, given, err := p.position()
	if err != nil {
		return nil, nil, nil, err
	}
	all = slices.Clone(all)
	if !ascending {
		slices.Reverse(all)
	}
	if given {
		i := slices.IndexFunc(all, func(v T) bool { return key(&v) == pos.key })
		if i < 0 {
			return nil, nil, nil, protocol.Errorf("invalid cursor: %s", pos.key)
		}
		if !pos.inclusive {
			i++
		}
		all = all[i:]
	}
	if limit := pageSize(p.Limit, usual); len(all) > limit {
		all = all[:limit]
		next = optional(key(&all[limit-1]))
	}
	if len(all) > 0 {
		back = optional("=" + key(&all[0]))
	}
	if all == nil {
		all = []T{}
	}
	return all, next, back, nil
}

func turnsPage(turns []protocol.Turn, p pageRequest) (protocol.TurnsPage, error) {
	data, next, back, err := cut(turns, func(t *protocol.Turn) string { return t.ID }, p, turnsPerPage, p.Direction == "asc")
	if err != nil {
		return protocol.TurnsPage{}, err
	}
	for i := range data {
		t := &data[i]
		switch p.View {
		case protocol.ViewFull:
			t.ItemsView = protocol.ViewFull
		case protocol.ViewNotLoaded:
			t.ItemsView, t.Items = protocol.ViewNotLoaded, nil
		default:
			t.ItemsView, t.Items = protocol.ViewSummary, summary(t.Items)
		}
	}
	return protocol.TurnsPage{Data: data, NextCursor: next, BackwardsCursor: back}, nil
}

// summary is what was asked first and what was answered last.
func summary(items protocol.Items) protocol.Items {
	var out protocol.Items
	if i := slices.IndexFunc(items, func(it protocol.Item) bool { return it.Type() == "userMessage" }); i >= 0 {
		out = append(out, items[i])
	}
	for i := len(items) - 1; i >= 0; i-- {
		if items[i].Type() == "agentMessage" {
			return append(out, items[i])
		}
	}
	return out
}

func (c *conn) threadTurnsList(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		pageRequest
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	turns, err := c.e.turnsOf(p.ThreadID)
	if err != nil {
		return nil, err
	}
	return turnsPage(turns, p.pageRequest)
}

func (c *conn) threadItemsList(r *rpc.Request) (any, error) {
	var p struct {
		threadParam
		pageRequest
		TurnID string `json:"turnId"`
	}
	if err := decode(r, &p, "threadId"); err != nil {
		return nil, err
	}
	turns, err := c.e.turnsOf(p.ThreadID)
	if err != nil {
		return nil, err
	}
	var all []protocol.ItemEntry
	for i := range turns {
		if p.TurnID == "" || turns[i].ID == p.TurnID {
			all = append(all, entries(&turns[i])...)
		}
	}
	// A cursor may also be an item of the named turn.
	if id := protocol.StringField(p.Cursor, "itemId"); id != "" && p.TurnID != "" {
		p.Cursor = protocol.StringID(p.TurnID + "/" + id)
	}
	data, next, back, err := cut(all, entryKey, p.pageRequest, itemsPerPage, p.Direction != "desc")
	if err != nil {
		return nil, err
	}
	return map[string]any{"data": data, "nextCursor": next, "backwardsCursor": back}, nil
}

func entryKey(en *protocol.ItemEntry) string { return en.TurnID + "/" + en.Item.ID }

func entries(t *protocol.Turn) []protocol.ItemEntry {
	out := make([]protocol.ItemEntry, 0, len(t.Items))
	for _, it := range t.Items {
		en := protocol.ItemEntry{TurnID: t.ID, Item: it}
		if it.StartedAtMs != 0 {
			en.StartedAtMs = &it.StartedAtMs
		}
		if it.CompletedAtMs != 0 {
			en.CompletedAtMs = &it.CompletedAtMs
		}
		out = append(out, en)
	}
	return out
}

// newest are the cursors from which a client reads history backwards.
func newest(turns []protocol.Turn) (turn, item *string) {
	if len(turns) == 0 {
		return nil, nil
	}
	turn = optional("=" + turns[len(turns)-1].ID)
	for i := len(turns) - 1; i >= 0; i-- {
		if n := len(turns[i].Items); n > 0 {
			return turn, optional("=" + turns[i].ID + "/" + turns[i].Items[n-1].ID)
		}
	}
	return turn, nil
}
