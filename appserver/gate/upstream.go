package gate

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// upstream is one engine connection as the gate's books see it: a client's, or
// the watcher's. One goroutine reads it and calls observe and close.
type upstream struct {
	g      *Gate
	s      rpc.Stream
	client *client // nil for the watcher
	serial int64   // order in which connections were made
	epoch  int64   // Gate.epoch when it was made

	book   sync.Mutex // held while a message is observed; guards what follows
	subs   map[protocol.ThreadID]*sub
	key    []byte // scratch
	orphan bool   // the client left, see adopt

	mu    sync.Mutex // guards what follows
	calls map[string]func(protocol.Envelope)
	ended bool

	writes sync.WaitGroup // of call
}

// sub is one thread a connection watches.
type sub struct {
	t       *thread
	items   map[string]*seen // items whose start it saw, until they end
	last    *item            // that started on this connection
	active  bool             // the thread works, as far as this connection has heard
	counted bool             // in thread.clients
}

type seen struct {
	it       *item
	counts   counts
	outlived bool // its turn is over
}

func (g *Gate) newUpstream(s rpc.Stream, c *client) *upstream {
	return &upstream{
		g: g, s: s, client: c, serial: g.serial.Add(1), epoch: g.epoch.Load(),
		subs: make(map[protocol.ThreadID]*sub), calls: make(map[string]func(protocol.Envelope)),
	}
}

// call sends a request of the gate's own. done runs on the reader goroutine, at
// the point of the stream where the answer stands; with a zero Envelope, on any
// goroutine, when the connection ends first. call does not wait for the peer.
func (u *upstream) call(method string, params any, done func(protocol.Envelope)) {
	id := u.g.nextID(u.g.secret)
	msg, err := protocol.NewRequest(protocol.StringID(id), method, params)
	u.mu.Lock()
	if u.ended || err != nil {
		u.mu.Unlock()
		done(protocol.Envelope{})
		return
	}
	u.calls[id] = done
	// The stream may be busy with a request of its client's that the engine is
	// slow to take; whoever calls here must not wait for that. Closing the stream
	// ends the write, so it needs no context: a cancelled one would cut the stream
	// in the middle of a message.
	u.writes.Go(func() {
		if u.s.Write(context.Background(), msg) != nil {
			u.settle(id, protocol.Envelope{})
		}
	})
	u.mu.Unlock()
}

// send writes a message nobody waits for.
func (u *upstream) send(msg []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.writes.Go(func() { _ = u.s.Write(context.Background(), msg) }) // its reader notices a broken stream
	}
}

func (u *upstream) settle(id string, env protocol.Envelope) {
	u.mu.Lock()
	done := u.calls[id]
	delete(u.calls, id)
	u.mu.Unlock()
	if done != nil {
		done(env)
	}
}

// observe enters one message of the engine's into the books. It never waits for
// a client. mine reports that the message answers a call of the gate's own and
// is not for the client.
func (u *upstream) observe(ev *event) (mine bool) {
	u.book.Lock()
	defer u.book.Unlock()
	switch ev.what {
	case whatItemEvent, whatItemStarted, whatItemCompleted:
		if len(ev.thread) > 0 && len(ev.item) > 0 {
			u.observeItem(ev)
		}
	case whatThreadStarted:
		u.g.places.learn(protocol.Field(ev.Params, "thread"), nil)
	case whatSettings:
		u.g.places.moved(ev.Params)
	case whatStatus:
		if s := u.subs[protocol.ThreadID(ev.thread)]; s != nil {
			s.active = protocol.StringField(protocol.Field(ev.Params, "status"), "type") == protocol.StatusActive
		}
	case whatTurnCompleted:
		if s := u.subs[protocol.ThreadID(ev.thread)]; s != nil {
			u.endTurn(s, string(ev.turn))
		}
		u.g.ledger.turnEnded(protocol.ThreadID(ev.thread), string(ev.turn))
		u.g.turnOver(protocol.ThreadID(ev.thread))
	case whatThreadClosed:
		id := protocol.ThreadID(ev.thread)
		u.unsubscribe(id)
		u.g.ledger.threadStopped(u, id, false)
		if ev.Method != "thread/closed" {
			u.g.forgetThread(id)
		}
	case whatResolved:
		u.g.ledger.resolved(u, protocol.Field(ev.Params, "requestId"))
	case whatRequest:
		ev.q = u.g.ledger.opened(u, ev)
		s := u.subs[protocol.ThreadID(ev.thread)]
		ev.unseen = len(ev.item) > 0 && (s == nil || s.items[string(ev.key(nil))] == nil)
	case whatReply:
		if id := text(ev.ID); len(id) > 0 {
			u.mu.Lock()
			_, mine = u.calls[string(id)]
			u.mu.Unlock()
			if mine {
				u.settle(string(id), ev.Envelope)
			}
		}
		if !mine && u.client != nil {
			u.client.replied(ev)
		}
	}
	return mine
}

func (u *upstream) observeItem(ev *event) {
	s := u.subs[protocol.ThreadID(ev.thread)]
	if s == nil { // subscribed in a way we do not know of
		s = u.subscribe(protocol.ThreadID(ev.thread))
	}
	u.key = ev.key(u.key)
	switch ev.what {
	case whatItemStarted:
		if s.items[string(u.key)] != nil {
			return
		}
		it, wake := s.t.start(ev, u.key, s.last)
		if it != nil {
			s.last = it
			s.items[it.key] = &seen{it: it}
		}
		wakeAll(wake)
	case whatItemEvent:
		if w := s.items[string(u.key)]; w != nil {
			s.t.event(w.it, ev, w.counts.add(ev.Method))
		}
	case whatItemCompleted:
		if w := s.items[string(u.key)]; w != nil {
			delete(s.items, w.it.key)
			wakeAll(s.t.finish(w.it))
			return
		}
		s.t.mu.Lock()
		var wake []*client
		if it := s.t.running[string(u.key)]; it != nil && it.witnesses == 0 {
			wake = s.t.endLocked(it)
		}
		s.t.mu.Unlock()
		wakeAll(wake)
	}
}

// endTurn ends what does not outlive a turn: interrupted messages and cancelled
// patches get no item/completed.
func (u *upstream) endTurn(s *sub, turn string) {
	var wake []*client
	for key, w := range s.items {
		if w.it.turn != turn {
			continue
		}
		if w.outlived = w.it.command; !w.it.command {
			delete(s.items, key)
			wake = append(wake, s.t.finish(w.it)...)
		}
	}
	s.t.mu.Lock()
	for _, it := range s.t.running {
		if it.turn == turn && !it.command && it.witnesses == 0 {
			wake = append(wake, s.t.endLocked(it)...)
		}
	}
	s.t.mu.Unlock()
	wakeAll(wake)
}

// subscribe notes that the engine sends the thread's events on this connection
// from this point of its stream on.
func (u *upstream) subscribe(id protocol.ThreadID) *sub {
	s := u.subs[id]
	if s == nil {
		s = &sub{t: u.g.watchThread(u, id), items: make(map[string]*seen)}
		u.subs[id] = s
		if u.client != nil && !u.orphan && u.client.hearsAll() {
			s.count(1)
		}
	}
	if u.client != nil {
		u.client.setSubscribed(id, true)
	}
	return s
}

// unsubscribe is the end of that: the connection bears witness no more.
func (u *upstream) unsubscribe(id protocol.ThreadID) {
	s := u.subs[id]
	if s == nil {
		return
	}
	delete(u.subs, id)
	if u.client != nil {
		u.client.setSubscribed(id, false)
	}
	t := s.t
	if s.counted {
		s.count(-1)
	}
	var wake []*client
	t.mu.Lock()
	delete(t.watchers, u)
	for _, w := range s.items {
		if w.it.witnesses--; w.it.witnesses == 0 && !w.it.done {
			wake = append(wake, w.it.takeFollowers()...)
		}
	}
	empty := len(t.watchers) == 0
	if empty {
		t.dead = true
		for _, it := range t.running {
			wake = append(wake, t.endLocked(it)...)
		}
	}
	t.mu.Unlock()
	wakeAll(wake)
	if empty {
		u.g.drop(t)
	}
}

// count notes that a client came to the thread or left it; the watcher stands in
// for the last one.
func (s *sub) count(n int) {
	s.counted = n > 0
	s.t.mu.Lock()
	s.t.clients += n
	s.t.mu.Unlock()
}

// neededLocked reports whether something would be lost if this connection
// closed: it alone watches a thread that works, or it alone saw the start of
// something that still runs. A command that outlived its turn does not count:
// the engine decides when such a thread is unloaded, and a connection nobody
// uses must not delay that.
func (u *upstream) neededLocked() bool {
	for _, s := range u.subs {
		if u.neededForLocked(s) {
			return true
		}
	}
	return false
}

func (u *upstream) neededForLocked(s *sub) bool {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if s.active && len(s.t.watchers) == 1 {
		return true
	}
	for _, w := range s.items {
		if !w.it.done && !w.outlived && w.it.witnesses == 1 {
			return true
		}
	}
	return false
}

// close takes the connection out of the books. The reader calls it last.
func (u *upstream) close(reason error) {
	_ = u.s.Close(reason) // nobody is left to tell
	u.book.Lock()
	for id := range u.subs {
		u.unsubscribe(id)
	}
	u.book.Unlock()
	u.g.ledger.left(u)
	u.mu.Lock()
	u.ended = true
	calls := u.calls
	u.calls = nil
	u.mu.Unlock()
	u.writes.Wait()
	for _, done := range calls {
		done(protocol.Envelope{})
	}
}

// errOf returns the error of a reply to a call of our own.
func errOf(env protocol.Envelope) error {
	switch env.Kind {
	case protocol.KindResponse:
		return nil
	case protocol.KindError:
		pe := new(protocol.Error)
		if err := json.Unmarshal(env.Error, pe); err != nil {
			return err
		}
		return pe
	}
	return rpc.ErrClosed
}

func wakeAll(cs []*client) {
	for _, c := range cs {
		c.wake()
	}
}

// refused reports whether err is the engine's answer, not the connection's end.
func refused(err error) bool {
	var pe *protocol.Error
	return errors.As(err, &pe)
}
