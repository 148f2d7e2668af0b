package gate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"towline/appserver/protocol"
)

// thread is the live state of one thread: what runs in it now. It is built from
// every engine connection that watches the thread, and is as far along as the
// one that is furthest.
//
// Streams of different connections are at different points of the same sequence
// of events, so an event must be recognised when it arrives again elsewhere.
// Starts and ends of items carry ids. Deltas do not; but a connection that saw
// an item start (a witness) counts the item's events by method, and the n-th is
// the same event on every witness. So the first witness to bring the n-th event
// appends it, and the others add nothing. A connection that did not see the
// start adds nothing either, and may not end the item while there are witnesses:
// it would cut off text they have yet to bring.
type thread struct {
	id protocol.ThreadID
	mu sync.Mutex // guards what follows, and the items'

	dead      bool // no longer in the registry; look the thread up again
	seq       int64
	running   map[string]*item
	recent    []*item             // finished lately, oldest first
	recentLen int                 // bytes of text in recent
	ended     ring                // keys of finished items, so that a slow witness does not revive them
	watchers  map[*upstream]int64 // with the order in which they came
	came      int64
	clients   int                // watchers that are attached clients' and hear everything
	joins     map[*join]struct{} // under way; each keeps what ends meanwhile
}

// item is one thing that runs, or ran a moment ago.
type item struct {
	t         *thread
	key       string
	turn      string
	seq       int64  // order of start within the thread
	started   []byte // the item/started message
	command   bool   // a commandExecution may outlive its turn
	counts    counts // events so far, by method
	parts     []part
	size      int // bytes in parts
	witnesses int // connections that saw it start and still watch
	done      bool
	followers map[*client]struct{} // clients fed from here, see join.go
}

// part is a run of deltas that differ in nothing but their text, or one event
// without a delta.
type part struct {
	method       string
	before, tail []byte // params around the text, which is between quotes
	text         []byte // JSON string content, without quotes
	dropped      int    // bytes of text no longer kept
	whole        []byte // a message kept as it is
}

// counts is a small map from method to number; an item rarely has more than
// three methods.
type counts []struct {
	method string
	n      int64
}

func (c *counts) add(method string) int64 {
	for i := range *c {
		if (*c)[i].method == method {
			(*c)[i].n++
			return (*c)[i].n
		}
	}
	*c = append(*c, struct {
		method string
		n      int64
	}{method, 1})
	return 1
}

func (c counts) get(method string) int64 {
	for i := range c {
		if c[i].method == method {
			return c[i].n
		}
	}
	return 0
}

// ring remembers the last strings it was given.
type ring struct {
	set  map[string]struct{}
	list []string
	next int
}

const ringSize = 1024

func (r *ring) add(s string) {
	if r.set == nil {
		r.set = make(map[string]struct{})
	}
	if _, ok := r.set[s]; ok {
		return
	}
	if len(r.list) < ringSize {
		r.list = append(r.list, s)
	} else {
		delete(r.set, r.list[r.next])
		r.list[r.next] = s
		r.next = (r.next + 1) % ringSize
	}
	r.set[s] = struct{}{}
}

// thread returns the live state of a thread, making it when there is none.
func (g *Gate) thread(id protocol.ThreadID) *thread {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.threads[id]
	if t == nil {
		t = &thread{id: id, running: make(map[string]*item), watchers: make(map[*upstream]int64), joins: make(map[*join]struct{})}
		g.threads[id] = t
	}
	return t
}

// watchThread adds u to the thread's watchers.
func (g *Gate) watchThread(u *upstream, id protocol.ThreadID) *thread {
	for {
		t := g.thread(id)
		t.mu.Lock()
		if !t.dead {
			t.came++
			t.watchers[u] = t.came
			t.mu.Unlock()
			return t
		}
		t.mu.Unlock()
		g.drop(t)
	}
}

// drop takes a dead thread out of the registry.
func (g *Gate) drop(t *thread) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.threads[t.id] == t {
		delete(g.threads, t.id)
	}
}

// start books an item/started seen by a watcher and returns the item, which the
// watcher is a witness of from now on unless it has ended already. The caller wakes the clients it returns. last is what started before on the same
// stream: a connection that watches for less long may have brought this item
// first, and has put it before that one then.
func (t *thread) start(ev *event, key []byte, last *item) (it *item, wake []*client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if it := t.findLocked(string(key)); it != nil {
		if !it.done {
			it.witnesses++
		}
		if last != nil && it.seq < last.seq {
			t.seq++
			it.seq = t.seq
		}
		return it, nil
	}
	if _, ok := t.ended.set[string(key)]; ok {
		return nil, nil
	}
	t.seq++
	it = &item{
		t: t, key: string(key), turn: string(ev.turn), seq: t.seq, started: ev.msg, witnesses: 1,
		command:   protocol.StringField(protocol.Field(ev.Params, "item"), "type") == "commandExecution",
		followers: make(map[*client]struct{}),
	}
	if len(t.running) >= maxRunning {
		wake = t.endLocked(t.oldestLocked())
	}
	t.running[it.key] = it
	return it, wake
}

func (t *thread) oldestLocked() *item {
	var old *item
	for _, it := range t.running {
		if old == nil || it.seq < old.seq {
			old = it
		}
	}
	return old
}

// event books the n-th event of one method, brought by a witness, and feeds it
// to the clients that follow the item.
func (t *thread) event(it *item, ev *event, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if it.done || n <= it.counts.get(ev.Method) {
		return
	}
	it.counts.add(ev.Method)
	it.append(ev)
	for c := range it.followers {
		c.feed(t, ev.Method, ev.msg)
	}
}

// finish ends an item and returns who waits for that; the caller wakes them
// without the lock.
func (t *thread) finish(it *item) []*client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endLocked(it)
}

func (t *thread) endLocked(it *item) []*client {
	if it.done {
		return nil
	}
	it.done = true
	delete(t.running, it.key)
	t.ended.add(it.key)
	for j := range t.joins {
		if len(j.ended) < maxRunning {
			j.ended[it.key] = it
		}
	}
	t.recent = append(t.recent, it)
	t.recentLen += it.size
	for len(t.recent) > 0 && (len(t.recent) > maxRecent || t.recentLen > maxRecentBytes) {
		t.recentLen -= t.recent[0].size
		t.recent = append(t.recent[:0:0], t.recent[1:]...)
	}
	return it.takeFollowers()
}

func (it *item) takeFollowers() []*client {
	var out []*client
	for c := range it.followers {
		out = append(out, c)
	}
	clear(it.followers)
	return out
}

// findLocked looks an item up among all that are still known.
func (t *thread) findLocked(key string) *item {
	if it := t.running[key]; it != nil {
		return it
	}
	for _, it := range t.recent {
		if it.key == key {
			return it
		}
	}
	for j := range t.joins {
		if it := j.ended[key]; it != nil {
			return it
		}
	}
	return nil
}

// itemJSON returns the item a question is about, nil when unknown.
func (t *thread) itemJSON(key []byte) json.RawMessage {
	t.mu.Lock()
	defer t.mu.Unlock()
	it := t.findLocked(string(key))
	if it == nil {
		return nil
	}
	env, err := protocol.PeekTrusted(it.started)
	if err != nil {
		return nil
	}
	return bytes.Clone(protocol.Field(env.Params, "item"))
}

// settled reports whether nothing more will be fed from the item: it ended, or
// every witness left and its text stays a prefix.
func (it *item) settled() bool {
	it.t.mu.Lock()
	defer it.t.mu.Unlock()
	return it.done || it.witnesses == 0
}

// append adds an event to what a late joiner will be told. Text is joined as
// JSON string content, which needs no decoding: every delta is whole Unicode.
func (it *item) append(ev *event) {
	for len(it.parts) > 1 && it.size > 2*maxItemText {
		it.size -= len(it.parts[0].text) + len(it.parts[0].whole)
		it.parts = it.parts[1:]
	}
	before, content, tail, ok := splitDelta(ev.Params)
	if !ok {
		it.parts = append(it.parts, part{whole: ev.msg})
		it.size += len(ev.msg)
		it.trimNotes()
		return
	}
	it.size += len(content)
	if n := len(it.parts); n > 0 {
		if p := &it.parts[n-1]; p.method == ev.Method && bytes.Equal(p.before, before) && bytes.Equal(p.tail, tail) {
			p.text = append(p.text, content...)
			it.trimText(p)
			return
		}
	}
	it.parts = append(it.parts, part{method: ev.Method, before: before, tail: tail, text: bytes.Clone(content)})
	it.trimText(&it.parts[len(it.parts)-1])
}

// trimText keeps the later half of a text that passed the limit.
func (it *item) trimText(p *part) {
	if len(p.text) <= maxItemText {
		return
	}
	var s string
	if json.Unmarshal(quote(p.text), &s) != nil {
		s = ""
	}
	keep := strings.ToValidUTF8(s[len(s)/2:], "")
	if nl := strings.IndexByte(keep, '\n'); nl >= 0 && nl < len(keep)/2 {
		keep = keep[nl+1:]
	}
	p.dropped += len(s) - len(keep)
	b, _ := json.Marshal(keep) // a string always marshals
	it.size += len(b) - 2 - len(p.text)
	p.text = b[1 : len(b)-1]
}

// trimNotes drops the oldest event that is no text when there are too many.
func (it *item) trimNotes() {
	notes, first := 0, -1
	for i := range it.parts {
		if it.parts[i].whole != nil {
			if notes++; first < 0 {
				first = i
			}
		}
	}
	if notes > maxItemNotes {
		it.size -= len(it.parts[first].whole)
		it.parts = append(it.parts[:first], it.parts[first+1:]...)
	}
}

// replay returns the messages that bring a client from nothing to where the
// item is: its start, then one delta for each run of text.
func (it *item) replay(atMs int64, hide map[string]bool) [][]byte {
	var out [][]byte
	if !hide["item/started"] {
		out = append(out, it.started)
	}
	for i := range it.parts {
		p := &it.parts[i]
		switch {
		case p.whole != nil:
			if env, err := protocol.PeekTrusted(p.whole); err == nil && !hide[env.Method] {
				out = append(out, p.whole)
			}
		case !hide[p.method]:
			content := p.text
			if p.dropped > 0 {
				note, _ := json.Marshal(fmt.Sprintf("[%d earlier bytes are not kept]\n", p.dropped)) // a string always marshals
				content = append(note[1:len(note)-1:len(note)-1], p.text...)
			}
			params := bytes.Join([][]byte{p.before, quote(content), p.tail}, nil)
			if msg, err := protocol.NewNotification(p.method, json.RawMessage(params), atMs); err == nil {
				out = append(out, msg)
			}
		}
	}
	return out
}

func quote(content []byte) []byte {
	return append(append(append(make([]byte, 0, len(content)+2), '"'), content...), '"')
}

// splitDelta cuts params at the content of their delta.
func splitDelta(params json.RawMessage) (before, content, tail []byte, ok bool) {
	v := protocol.Field(params, "delta")
	if len(v) < 2 || v[0] != '"' {
		return nil, nil, nil, false
	}
	// v is a part of params, so the difference of what lies behind their starts
	// is where it begins.
	at := cap(params) - cap(v)
	if at < 0 || at+len(v) > len(params) || &params[at] != &v[0] {
		return nil, nil, nil, false
	}
	return params[:at], v[1 : len(v)-1], params[at+len(v):], true
}
