package gate

import (
	"encoding/json"
	"sort"
	"time"

	"towline/appserver/protocol"
)

// # Joining late
//
// The engine answers thread/resume with finished items only, never repeats a
// delta and never sends item/started for what already runs: a client that joins
// in the middle of an answer would see its second half appear from nowhere. The
// gate tells it what is missing, once and exactly.
//
// Let c be the point of the thread's event sequence where the engine put the
// reply into the client's stream (see [Engine]). What is missing are the items
// that started before c and had not ended by c, with their events before c. The
// gate knows neither c nor how far its live state is, so it makes both streams
// pass a point:
//
//  1. The reply is passed on. Everything after it on this stream is kept back.
//  2. The connections that have watched the thread for longest are sent a
//     request of ours and have answered it. The answer was caused after the
//     reply, so by the ordering rule these streams are past c; and as a
//     connection sees every start that a later comer sees, the live state is past
//     c with them: an item that had ended by c has ended in it. The items that
//     run in it now are the candidates.
//  3. The client's own stream is sent such a request and has answered it. By the
//     same rule it has now brought every event the live state knew at step 2. So
//     a candidate whose item/started is among what was kept back started after
//     c and needs nothing, and one whose start is not there started before c.
//     An item of which something other than its start was kept back ran at c too,
//     even if the live state has seen it end.
//  4. For each item that ran at c, in order of start: its item/started and its
//     text so far. From then on the client's own stream, whose position within
//     that text is unknown, is not believed about the item: its events are
//     dropped there, and the client is fed each event the moment it enters the
//     live state. Snapshot and registration happen under thread.mu, where events
//     are entered, so none falls between and none comes twice.
//  5. What was kept back is let go, by the same rules. item/completed, or the
//     turn/completed that ends an item, waits until the live state has got there
//     too, so the end of an item never overtakes its text.
//
// Approval requests replayed to the client are among what was kept back and so
// follow the item/started of their item.
//
// Observing is not kept back, only delivering is; so two clients may wait for
// each other's streams without deadlock. Every wait ends after joinTimeout at
// the latest, with what is known by then.
type join struct {
	c       *client
	t       *thread
	had     map[string]bool // item keys the reply itself holds
	timer   *time.Timer
	waiting int // watchers yet to answer; guarded by client.mu, as what follows

	candidates []*item
	active     bool // the reply was passed on
	ready      bool // both streams passed the point
	over       bool

	ended map[string]*item // that ended lately or during the join; guarded by thread.mu
}

// beginJoin starts a late join when the reply says that the thread works. It
// runs while the reply is observed.
func (c *client) beginJoin(s *sub, result json.RawMessage) *join {
	thread := protocol.Field(result, "thread")
	if protocol.StringField(protocol.Field(thread, "status"), "type") != protocol.StatusActive {
		return nil
	}
	j := &join{c: c, t: s.t, had: itemsIn(result), ended: make(map[string]*item)}
	s.t.mu.Lock()
	others := s.t.oldestWatchersLocked(c.u)
	if len(others) == 0 {
		s.t.mu.Unlock()
		return nil // nobody knows more than the engine said
	}
	for _, it := range s.t.recent {
		j.ended[it.key] = it
	}
	s.t.joins[j] = struct{}{}
	s.t.mu.Unlock()
	c.mu.Lock()
	j.waiting = len(others)
	j.timer = time.AfterFunc(joinTimeout, func() {
		c.g.log.Debug("late join timed out", "thread", s.t.id, "client", c.id)
		j.caughtUp()
		j.finish()
	})
	c.mu.Unlock()
	for _, u := range others {
		u.call(pointMethod, pointParams, func(protocol.Envelope) {
			c.mu.Lock()
			j.waiting--
			last := j.waiting == 0
			c.mu.Unlock()
			if !last {
				return
			}
			j.caughtUp()
			c.u.call(pointMethod, pointParams, func(protocol.Envelope) { j.finish() })
		})
	}
	return j
}

// maxAskedWatchers bounds the streams one join waits for. One would do; the
// others are for a first one that is slow or keeps things from us (see
// client.hearsAll).
const maxAskedWatchers = 3

func (t *thread) oldestWatchersLocked(but *upstream) []*upstream {
	var out []*upstream
	for u := range t.watchers {
		if u != but {
			out = append(out, u)
		}
	}
	sort.Slice(out, func(a, b int) bool { return t.watchers[out[a]] < t.watchers[out[b]] })
	return out[:min(len(out), maxAskedWatchers)]
}

// The cheapest request every engine answers; only its place in the stream counts.
const pointMethod = "thread/loaded/list"

var pointParams = map[string]int{"limit": 1}

// caughtUp is the end of step 2.
func (j *join) caughtUp() {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	if j.candidates != nil || j.over {
		return
	}
	j.t.mu.Lock()
	defer j.t.mu.Unlock()
	j.candidates = make([]*item, 0, len(j.t.running))
	for _, it := range j.t.running {
		j.candidates = append(j.candidates, it)
	}
}

// finish is the end of step 3: the rest happens now, or as soon as the reply
// itself, kept back by an earlier join of this client, is passed on.
func (j *join) finish() {
	c := j.c
	c.mu.Lock()
	defer c.mu.Unlock()
	j.ready = true
	switch {
	case c.gone:
		c.endJoinLocked(j)
	case j.active:
		c.finishJoinLocked(j)
		c.releaseLocked(false)
	}
}

// finishJoinLocked is step 4.
func (c *client) finishJoinLocked(j *join) {
	if j.over {
		return
	}
	defer c.endJoinLocked(j)
	if !c.sees(j.t.id) {
		return // it has left the client's reach meanwhile
	}
	started, ran := make(map[string]bool), make(map[string]bool)
	var key []byte
	for i := range c.held {
		ev := &c.held[i]
		if string(ev.thread) != string(j.t.id) || len(ev.item) == 0 {
			continue
		}
		key = ev.key(key)
		switch {
		case ev.what == whatItemStarted:
			started[string(key)] = true
		case (ev.isItem() || ev.what == whatRequest) && !started[string(key)]:
			ran[string(key)] = true
		}
	}
	j.t.mu.Lock()
	defer j.t.mu.Unlock()
	missing := make(map[*item]bool)
	for _, it := range j.candidates {
		if !started[it.key] && !j.had[it.key] {
			missing[it] = true
		}
	}
	for k := range ran {
		if it := j.t.findLocked(k); it != nil && !j.had[k] {
			missing[it] = true
		}
	}
	order := make([]*item, 0, len(missing))
	for it := range missing {
		if c.follow[it.key] == nil {
			order = append(order, it)
		}
	}
	sort.Slice(order, func(a, b int) bool { return order[a].seq < order[b].seq })
	now := time.Now().UnixMilli()
	for _, it := range order {
		for _, msg := range it.replay(now, c.optOut) {
			c.put(msg)
		}
		c.follow[it.key] = it
		if !it.done && it.witnesses > 0 {
			it.followers[c] = struct{}{}
		}
	}
}

func (c *client) endJoinLocked(j *join) {
	j.over = true
	j.timer.Stop()
	if c.join == j {
		c.join = nil
	}
	j.t.mu.Lock()
	delete(j.t.joins, j)
	j.t.mu.Unlock()
}

// itemsIn lists the items a thread/resume reply holds of turns that still run.
// An engine that includes a running item there has told its state up to c.
func itemsIn(result json.RawMessage) map[string]bool {
	type turns []struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Items  []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	var r struct {
		Thread struct {
			Turns turns `json:"turns"`
		} `json:"thread"`
		Page *struct {
			Data turns `json:"data"`
		} `json:"initialTurnsPage"`
	}
	if json.Unmarshal(result, &r) != nil {
		return nil
	}
	if r.Page != nil {
		r.Thread.Turns = append(r.Thread.Turns, r.Page.Data...)
	}
	had := make(map[string]bool)
	for _, t := range r.Thread.Turns {
		if t.Status != protocol.TurnInProgress {
			continue
		}
		for _, it := range t.Items {
			had[t.ID+"\x00"+it.ID] = true
		}
	}
	return had
}
