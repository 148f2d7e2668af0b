package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"github.com/google/uuid"

	"towline/appserver/protocol"
)

// ledger knows every question the engine asks. The engine sends one question to
// every connection that watches its thread, under an id that is small, counted
// per engine process, and starts again with the next; so neither a message nor
// an id is a question. A question is what agrees in method, id, thread, turn,
// item and start time (see identity).
//
// Questions to people are approval objects: stored when they open, stored with
// who answered before the engine hears the answer, stored when they close.
// Questions to programs (item/tool/call, …) are only counted, so that one
// answer is passed on.
type ledger struct {
	g        *Gate
	restored sync.Once
	goesOn   bool // the engine outlived the last process, and so did its questions

	mu sync.Mutex // guards what follows, and every question's fields but its identity

	all    map[string]*question
	closed []string // identities of closed questions, oldest first
	open   int
	asked  map[*upstream]map[string]*question // by request id, as on the wire
}

// question is one request of the engine's.
type question struct {
	identity string
	method   string
	thread   protocol.ThreadID
	turn     string

	at      map[*upstream]json.RawMessage // where it stands open, with its id there
	clients map[*client]bool              // who was shown it and may yet answer
	object  *protocol.Approval            // nil when a program answers
	done    bool                          // nothing more may be passed on
	failure []byte                        // a program's error, passed on when nobody else is left to answer
	lost    bool                          // closed because its engine seemed gone
	lostAt  int64                         // the serial then: only a later connection can prove otherwise

	stored sync.Once  // the first write to the store
	save   sync.Mutex // orders writes to the store; taken before ledger.mu
}

func newLedger(g *Gate) *ledger {
	return &ledger{g: g, all: make(map[string]*question), asked: make(map[*upstream]map[string]*question)}
}

// identity is the same for two deliveries of one question. Params as a whole
// are not compared: Codex leaves experimental members out for some clients.
func identity(u *upstream, ev *event) string {
	h := sha256.New()
	part := func(b []byte) { h.Write(b); h.Write([]byte{0}) }
	part([]byte(ev.Method))
	part([]byte(idKey(ev.ID)))
	for _, name := range []string{"threadId", "turnId", "itemId", "callId", "approvalId", "startedAtMs", "serverName", "conversationId"} {
		part(protocol.Field(ev.Params, name))
	}
	if !protocol.IsApproval(ev.Method) {
		// Nothing in some of these tells one engine process from the next.
		part(protocol.IntID(u.epoch))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// opened books a question that arrived on u.
func (l *ledger) opened(u *upstream, ev *event) *question {
	id := identity(u, ev)
	var item json.RawMessage
	person := protocol.IsApproval(ev.Method)
	if person {
		if s := u.subs[protocol.ThreadID(ev.thread)]; s != nil && len(ev.item) > 0 {
			item = s.t.itemJSON(ev.key(nil))
		}
	}
	l.mu.Lock()
	q := l.all[id]
	fresh := q == nil || q.lost && u.serial > q.lostAt
	changed := fresh
	switch {
	case q == nil:
		q = &question{
			identity: id, method: ev.Method, thread: protocol.ThreadID(ev.thread), turn: string(ev.turn),
			at: make(map[*upstream]json.RawMessage), clients: make(map[*client]bool),
		}
		if person {
			q.object = &protocol.Approval{
				ID: uuid.NewString(), ThreadID: q.thread, RequestID: clone(ev.ID), Method: ev.Method, Params: clone(ev.Params),
				State: protocol.ApprovalOpen, OpenedAt: time.Now().UnixMilli(),
			}
		}
		if ev.Method == protocol.ReqTokensRefresh {
			l.supersedeLocked(ev.Method)
		}
		l.makeRoomLocked()
		l.all[id] = q
		l.open++
	case fresh: // the engine lives after all, or one that was joined outlived us
		q.lost, q.done = false, false
		if q.object != nil {
			q.object.State, q.object.ClosedAt, q.object.By, q.object.Result = protocol.ApprovalOpen, 0, nil, nil
		}
		l.open++
	}
	if q.object != nil && q.object.Item == nil && item != nil {
		q.object.Item, changed = item, true
	}
	q.at[u] = clone(ev.ID)
	if l.asked[u] == nil {
		l.asked[u] = make(map[string]*question)
	}
	l.asked[u][idKey(ev.ID)] = q
	l.mu.Unlock()
	if person {
		// Nobody is shown what is not yet stored: whoever brings a question second
		// waits for the one that brought it first.
		first := false
		q.stored.Do(func() { first = true; _ = l.record(q) }) // logged there
		if changed && !first {
			_ = l.record(q)
		}
	}
	if person && fresh {
		l.announce(protocol.NoteApprovalOpened, q)
		l.audit("approval opened", q, nil)
	}
	return q
}

func clone(b json.RawMessage) json.RawMessage { return append(json.RawMessage(nil), b...) }

// makeRoomLocked keeps the number of questions bounded: the closed ones that
// were remembered longest go first, an engine that floods loses its oldest.
func (l *ledger) makeRoomLocked() {
	for len(l.closed) > maxQuestions {
		if q := l.all[l.closed[0]]; q != nil && q.done {
			delete(l.all, q.identity)
		}
		l.closed = l.closed[1:]
	}
	if l.open < maxQuestions {
		return
	}
	for _, q := range l.all {
		if !q.done {
			l.closeLocked(q, protocol.ApprovalGone)
			return
		}
	}
}

// supersedeLocked closes what is open of a method whose questions end without a
// word when nobody answers them in time. The next one shows that.
func (l *ledger) supersedeLocked(method string) {
	for _, q := range l.all {
		if q.method == method && !q.done {
			l.closeLocked(q, "")
		}
	}
}

func (l *ledger) closeLocked(q *question, state string) {
	if q.done {
		return
	}
	q.done = true
	l.open--
	l.closed = append(l.closed, q.identity)
	if q.object != nil && q.object.State == protocol.ApprovalOpen {
		q.object.State, q.object.ClosedAt = state, time.Now().UnixMilli()
	}
}

// shown notes that a client was shown a question.
func (l *ledger) shown(q *question, c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q.clients[c] = true
}

// resolved is the engine's word, on u, that a question is closed. When nobody
// answered through us and its turn goes on, somebody answered elsewhere: a
// plain codex on the same daemon.
func (l *ledger) resolved(u *upstream, id json.RawMessage) {
	l.mu.Lock()
	q := l.asked[u][idKey(id)]
	if q == nil {
		l.mu.Unlock()
		return
	}
	delete(l.asked[u], idKey(id))
	delete(q.at, u)
	was := !q.done
	l.closeLocked(q, protocol.ApprovalAnswered)
	l.mu.Unlock()
	if was {
		l.closedElsewhere(q)
	}
}

// turnEnded closes what the turn left open. A question without a turn stays.
func (l *ledger) turnEnded(thread protocol.ThreadID, turn string) {
	if turn != "" {
		l.goneIf(func(q *question) bool { return q.thread == thread && q.turn == turn })
	}
}

// threadStopped closes what a thread left open, as u's stream tells: it went
// idle or was closed. Another stream may be ahead of u and have brought the
// next question already, so only those count that u has seen, or nobody has any
// more.
func (l *ledger) threadStopped(u *upstream, thread protocol.ThreadID, turns bool) {
	l.goneIf(func(q *question) bool {
		_, here := q.at[u]
		return q.thread == thread && (!turns || q.turn != "") && (here || len(q.at) == 0)
	})
}

// engineLost closes the questions that stand open nowhere. They open again when
// the engine turns out to have survived.
func (l *ledger) engineLost() {
	at := l.g.serial.Add(1)
	l.goneIf(func(q *question) bool {
		if len(q.at) > 0 {
			return false
		}
		q.lost, q.lostAt = true, at
		return true
	})
}

func (l *ledger) goneIf(match func(*question) bool) {
	l.mu.Lock()
	if l.open == 0 {
		l.mu.Unlock()
		return
	}
	var gone []*question
	for _, q := range l.all {
		if !q.done && match(q) {
			l.closeLocked(q, protocol.ApprovalGone)
			gone = append(gone, q)
		}
	}
	l.mu.Unlock()
	for _, q := range gone {
		l.closedElsewhere(q)
	}
}

func (l *ledger) closedElsewhere(q *question) {
	if q.object == nil {
		return
	}
	_ = l.record(q) // logged there
	l.announce(protocol.NoteApprovalClosed, q)
	l.audit("approval closed", q, nil)
}

// left takes an engine connection off the books. A question that stood open
// there alone is lost with its engine, unless the watcher still has one.
func (l *ledger) left(u *upstream) {
	l.mu.Lock()
	for _, q := range l.asked[u] {
		delete(q.at, u)
	}
	delete(l.asked, u)
	l.mu.Unlock()
	if (u.epoch != l.g.epoch.Load() || !l.g.watching.Load()) && !l.g.stopping() {
		l.engineLost()
	}
}

// dismissed is called when a client leaves: that never answers a question to a
// person, and for a program it is no answer either.
func (l *ledger) dismissed(c *client) {
	c.mu.Lock()
	var mine []*question
	for _, a := range c.asked {
		mine = append(mine, a.q)
	}
	c.mu.Unlock()
	for _, q := range mine {
		l.mu.Lock()
		delete(q.clients, c)
		u, msg := l.failureLocked(q, c.u)
		l.mu.Unlock()
		if u != nil {
			u.send(msg)
		}
	}
}

// failureLocked returns the error to pass on when every program that was asked
// has failed or left, and a connection other than the one that is ending.
func (l *ledger) failureLocked(q *question, ending *upstream) (*upstream, []byte) {
	if q.done || q.failure == nil || len(q.clients) > 0 {
		return nil, nil
	}
	for u := range q.at {
		if u != ending {
			l.closeLocked(q, "")
			return u, q.failure
		}
	}
	return nil, nil
}

// program takes a program's answer and says whether it is the one to pass on.
// An error waits for the others that were asked: of several clients on a thread
// perhaps one knows the tool.
func (l *ledger) program(q *question, c *client, env protocol.Envelope, msg []byte) (pass bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q.done || !q.clients[c] {
		return false
	}
	delete(q.clients, c)
	if env.Kind == protocol.KindError && len(q.clients) > 0 {
		q.failure = msg
		return false
	}
	l.closeLocked(q, "")
	return true
}

// win claims a question for an answer. When it returns nil the answer is in the
// store and nobody else's counts; errSettled, with the object, when it came too
// late.
func (l *ledger) win(q *question, by protocol.Presence, result json.RawMessage) (protocol.Approval, error) {
	l.mu.Lock()
	if q.done {
		defer l.mu.Unlock()
		return *q.object, errSettled
	}
	by.You = false
	q.object.By, q.object.Result = &by, clone(result)
	l.closeLocked(q, protocol.ApprovalAnswered)
	a := *q.object
	l.mu.Unlock()
	if err := l.record(q); err != nil {
		l.reopen(q)
		return a, err
	}
	return a, nil
}

// decided puts an answer on record. That comes before the engine is given it:
// what is done on somebody's word is on record even when we are killed just then.
func (l *ledger) decided(q *question, by *client) { l.audit("approval answered", q, by) }

// undecided takes an answer back that is on record and did not reach the engine.
func (l *ledger) undecided(q *question) {
	l.reopen(q)
	l.audit("approval reopened", q, nil)
}

// reopen makes a question one that nobody has answered.
func (l *ledger) reopen(q *question) {
	l.mu.Lock()
	q.done = false
	l.open++
	q.object.State, q.object.ClosedAt, q.object.By, q.object.Result = protocol.ApprovalOpen, 0, nil, nil
	l.mu.Unlock()
	_ = l.record(q) // logged there
}

// passed tells everyone about an answer the engine has been given.
func (l *ledger) passed(q *question) { l.announce(protocol.NoteApprovalClosed, q) }

// snapshot returns the object as it is now.
func (l *ledger) snapshot(q *question) protocol.Approval {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *q.object
}

// itemOf returns the item a question is about, nil when unknown.
func (l *ledger) itemOf(q *question) json.RawMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q.object == nil {
		return nil
	}
	return q.object.Item
}

// byID finds a question by its object's id.
func (l *ledger) byID(id string) *question {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.all {
		if q.object != nil && q.object.ID == id {
			return q
		}
	}
	return nil
}

// where returns a connection on which the question stands open, preferring the
// given one, and its id there.
func (l *ledger) where(q *question, prefer *upstream) (*upstream, json.RawMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, ok := q.at[prefer]; ok {
		return prefer, id
	}
	for u, id := range q.at {
		if u.client == nil {
			return u, id
		}
	}
	for u, id := range q.at {
		return u, id
	}
	return nil, nil
}
