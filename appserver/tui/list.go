package tui

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

const (
	pageThreads = 50
	// maxThreads bounds what the list keeps, however far one scrolls.
	maxThreads = 2000
	// maxOutcomes is of how many threads it is asked how they ended.
	maxOutcomes = 16
)

// row is a thread in the list.
type row struct {
	protocol.Thread
	since time.Time // it works since then, as far as we saw
	last  string    // how its last turn ended, "" when unknown
	err   string    // why it failed
	asked bool      // the server was asked how it ended
}

// list is what is known of the host's threads, newest first.
type list struct {
	rows     []*row
	byID     map[protocol.ThreadID]*row
	cursor   *string // of the next page
	archived bool    // the list is of the archived ones
	loaded   bool
	busy     bool
	tried    bool // on this connection
	// behind: a thread was heard of that a list asked for earlier may not have, or
	// not with its title.
	behind bool
}

func (l *list) init() { l.byID = map[protocol.ThreadID]*row{} }

func listParams(cursor *string, archived bool) map[string]any {
	p := map[string]any{"limit": pageThreads, "archived": archived}
	if cursor != nil {
		p["cursor"] = *cursor
	}
	return p
}

// visible reports whether the list is on the screen.
func (l *list) visible(m *model) bool {
	_, ok := m.screen.(*picker)
	return ok || m.wide()
}

// refresh reads the first page again.
func (l *list) refresh(m *model) tea.Cmd { return l.fetch(m, nil) }

// more reads the next page.
func (l *list) more(m *model) tea.Cmd {
	if l.cursor == nil || len(l.rows) >= maxThreads {
		return nil
	}
	return l.fetch(m, l.cursor)
}

func (l *list) fetch(m *model, cursor *string) tea.Cmd {
	if l.busy || !m.live() {
		return nil
	}
	l.busy, l.tried, l.behind = true, true, false
	archived := l.archived
	return call(m.link, "thread/list", listParams(cursor, archived), func(m *model, v protocol.ThreadList, err error) tea.Cmd {
		l := &m.list
		l.busy = false
		if err != nil {
			m.fail("list the threads", err)
			return nil
		}
		if archived != l.archived {
			return l.refresh(m) // the person switched meanwhile
		}
		l.take(m, v, cursor != nil)
		return tea.Batch(l.outcomes(m), l.catchUp(m))
	})
}

// catchUp asks anew when something happened that the list may not tell, and the
// list is on the screen.
func (l *list) catchUp(m *model) tea.Cmd {
	if !l.behind || !l.visible(m) {
		return nil
	}
	return l.refresh(m)
}

// take puts a page into the list.
func (l *list) take(m *model, v protocol.ThreadList, more bool) {
	old := l.byID
	if !more {
		l.rows, l.byID = nil, map[protocol.ThreadID]*row{}
	}
	for _, t := range v.Data {
		r := old[t.ID]
		if r == nil {
			r = new(row)
		}
		r.set(t, m.now())
		if l.byID[t.ID] == nil {
			l.rows = append(l.rows, r)
			l.byID[t.ID] = r
		}
	}
	l.cursor, l.loaded = v.NextCursor, true
	l.sort()
}

func (r *row) set(t protocol.Thread, now time.Time) {
	was := r.Status.Type
	t.Turns = nil
	r.Thread = t
	if was != protocol.StatusActive && t.Status.Type == protocol.StatusActive {
		// When its turn began is not said; the last time it did something is.
		if r.since = now; was == "" && r.recency() > 0 {
			r.since = time.Unix(r.recency(), 0)
		}
	}
}

func (l *list) sort() {
	slices.SortStableFunc(l.rows, func(a, b *row) int {
		if d := b.rank() - a.rank(); d != 0 {
			return d
		}
		return int(b.recency() - a.recency())
	})
}

// rank puts what waits for the person first, then what works.
func (r *row) rank() int {
	switch {
	case r.waits():
		return 2
	case r.Status.Type == protocol.StatusActive:
		return 1
	}
	return 0
}

func (r *row) waits() bool {
	return r.Status.Type == protocol.StatusActive && len(r.Status.ActiveFlags) > 0
}

func (r *row) recency() int64 {
	if r.RecencyAt != nil {
		return *r.RecencyAt
	}
	return r.UpdatedAt
}

func (r *row) title() string {
	s := str(r.Name)
	if s == "" {
		s = r.Preview
	}
	if s = text.CleanLine(s); s == "" {
		return "(empty)"
	}
	return s
}

// row is a thread's row, nil when the list does not have it.
func (l *list) row(id protocol.ThreadID) *row { return l.byID[id] }

// upsert learns of a thread outside a page.
func (l *list) upsert(t protocol.Thread, now time.Time) {
	if t.Ephemeral || t.ParentThreadID != nil || l.archived {
		return
	}
	r := l.byID[t.ID]
	if r == nil {
		r = &row{}
		l.byID[t.ID] = r
		l.rows = append(l.rows, r)
	}
	name, preview := r.Name, r.Preview
	r.set(t, now)
	if r.Name == nil {
		r.Name = name
	}
	if r.Preview == "" {
		r.Preview = preview
	}
	l.sort()
}

func (l *list) remove(id protocol.ThreadID) {
	delete(l.byID, id)
	l.rows = slices.DeleteFunc(l.rows, func(r *row) bool { return r.ID == id })
}

// ended notes how a thread's turn went.
func (l *list) ended(id protocol.ThreadID, t protocol.Turn) {
	if r := l.byID[id]; r != nil {
		r.last, r.err, r.asked = t.Status, "", true
		if t.Error != nil {
			r.err = text.CleanLine(t.Error.Message)
		}
	}
}

// listEvent keeps the list up to date from broadcasts and reports whether the
// event was one.
func (m *model) listEvent(e event, id protocol.ThreadID) bool {
	l := &m.list
	r := l.byID[id]
	switch e.method {
	case "thread/started":
		var v struct{ Thread protocol.Thread }
		if json.Unmarshal(e.params, &v) == nil {
			l.upsert(v.Thread, m.now())
		}
	case "thread/status/changed":
		var v struct{ Status protocol.ThreadStatus }
		if json.Unmarshal(e.params, &v) != nil {
			return true
		}
		l.behind = l.behind || r == nil || r.Preview == ""
		if r == nil {
			return true
		}
		if r.Status.Type != protocol.StatusActive {
			r.since = m.now()
		}
		if r.Status.Type == protocol.StatusActive && v.Status.Type != protocol.StatusActive {
			now := m.now().Unix()
			r.RecencyAt, r.last, r.asked = &now, "", false
		}
		r.Status = v.Status
		if !r.waits() {
			delete(m.asks.waiting, id)
		}
		l.sort()
	case "thread/name/updated":
		if r != nil {
			name := protocol.StringField(e.params, "threadName")
			r.Name = &name
		}
	case "thread/archived", "thread/deleted":
		if !l.archived {
			l.remove(id)
		}
	case "thread/unarchived":
		if l.archived {
			l.remove(id)
		}
	case "thread/closed":
	default:
		return false
	}
	return true
}

// outcomes asks how the newest threads ended: the list does not say.
func (l *list) outcomes(m *model) tea.Cmd {
	var ids []protocol.ThreadID
	for _, r := range l.rows {
		if !r.asked && r.Status.Type != protocol.StatusActive && r.Preview != "" && len(ids) < maxOutcomes {
			r.asked = true
			ids = append(ids, r.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	p := m.link.current()
	return m.link.task(func(ctx context.Context) tea.Msg {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		turns := map[protocol.ThreadID]protocol.Turn{}
		for _, id := range ids {
			var page protocol.TurnsPage
			params := map[string]any{"threadId": id, "limit": 1, "itemsView": protocol.ViewNotLoaded, "sortDirection": "desc"}
			if err := p.Call(ctx, "thread/turns/list", params, &page); err != nil {
				if _, no := refused(err); !no {
					return nil
				}
				continue
			}
			if len(page.Data) > 0 {
				turns[id] = page.Data[0]
			}
		}
		return applyMsg(func(m *model) tea.Cmd {
			for id, t := range turns {
				if t.Status != protocol.TurnInProgress {
					m.list.ended(id, t)
				}
			}
			return nil
		})
	})
}

// state is the glyph and the words for a row; bad asks for attention.
func (m *model) rowState(r *row) (glyph, words string, bad bool) {
	switch {
	case r.waits():
		w := "waiting for you"
		if what := m.asks.waiting[r.ID]; what != "" {
			w += ": " + what
		}
		return "▲", w, true
	case r.Status.Type == protocol.StatusActive:
		return "●", "working", false
	case r.Status.Type == protocol.StatusSystemError || r.last == protocol.TurnFailed:
		if r.err != "" {
			return "✘", "failed: " + r.err, true
		}
		return "✘", "failed", true
	case r.last == protocol.TurnInterrupted, r.last == "" && r.InterruptedTurn != "":
		return "■", "interrupted", false
	case r.Preview == "":
		return "○", "new", false
	}
	return "✔", "done", false
}

// rowAge is how long it works, or how long ago something happened.
func (m *model) rowAge(r *row) string {
	if r.Status.Type == protocol.StatusActive {
		return transcript.Clock(m.now().Sub(r.since))
	}
	return ago(m.now().Sub(time.Unix(r.recency(), 0)))
}

// matches reports whether a row fits a search.
func (r *row) matches(q string) bool {
	q = strings.ToLower(q)
	return q == "" || strings.Contains(strings.ToLower(r.title()), q) || strings.Contains(strings.ToLower(r.Cwd), q) || strings.HasPrefix(string(r.ID), q)
}
