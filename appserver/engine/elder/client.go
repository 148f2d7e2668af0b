package elder

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"towline/appserver/engine/native"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// lastTime bounds how long an elder is listened to when the new engine has ended.
const lastTime = time.Second

// maxQueued is how many messages wait for the client before its engines do.
const maxQueued = 512

// client is one connection of the gate's: to the new engine, and to each elder.
type client struct {
	e     *Engine
	fresh rpc.Stream
	pumps sync.WaitGroup
	over  chan struct{} // closed by Close
	once  sync.Once

	write sync.Mutex // held while a message goes to an engine

	mu     sync.Mutex // guards what follows
	out    [][]byte   // for the client
	more   chan struct{}
	room   chan struct{}
	err    error // why no more comes
	olds   []*old
	calls  map[string]func(protocol.Envelope) // of our own, at the new engine
	serial int
	marks  map[string][]*mark // by the client's request id
	back   map[protocol.ThreadID][][]byte
}

// old is a client's connection to an elder.
type old struct {
	*elder
	s    rpc.Stream
	over chan struct{} // closed when nothing more comes
	gone bool
	// As this connection has told so far: the threads kept there, those ever kept,
	// those the client watches there.
	held, ever, watched map[protocol.ThreadID]bool
	pending             map[string][]*pending // by the client's request id
	asks                map[string]bool       // its own requests, by id
}

// pending is a client's request at an elder.
type pending struct {
	msg    []byte // nil when the answer is not for the client
	method string
	thread protocol.ThreadID
	mark   *mark
	// then, where not nil, is what to do with the answer.
	then func(protocol.Envelope)
}

// mark is a request that all engines answer, and whose answer stands where all of
// them have said what they had to say before (see gate/join.go).
type mark struct {
	left  int
	reply []byte
}

func newClient(e *Engine, fresh rpc.Stream) *client {
	return &client{
		e: e, fresh: fresh, over: make(chan struct{}), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
		calls: make(map[string]func(protocol.Envelope)), marks: make(map[string][]*mark),
		back: make(map[protocol.ThreadID][][]byte),
	}
}

func (c *client) add(el *elder, s rpc.Stream) {
	o := &old{
		elder: el, s: s, over: make(chan struct{}), held: make(map[protocol.ThreadID]bool), ever: make(map[protocol.ThreadID]bool),
		watched: make(map[protocol.ThreadID]bool), pending: make(map[string][]*pending), asks: make(map[string]bool),
	}
	for _, id := range c.e.heldBy(el) {
		o.held[id], o.ever[id] = true, true
	}
	c.olds = append(c.olds, o)
}

func (c *client) start() {
	c.pumps.Go(c.pumpFresh)
	for _, o := range c.olds {
		c.pumps.Go(func() {
			defer close(o.over)
			c.pumpOld(o)
		})
	}
}

// Read implements rpc.Stream.
func (c *client) Read(ctx context.Context) ([]byte, error) {
	for {
		c.mu.Lock()
		if len(c.out) > 0 {
			msg := c.out[0]
			c.out[0] = nil
			if c.out = c.out[1:]; len(c.out) == 0 {
				c.out = nil
			}
			c.mu.Unlock()
			poke(c.room)
			return msg, nil
		}
		err := c.err
		c.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-c.more:
		case <-c.over:
			return nil, rpc.ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close implements rpc.Stream.
func (c *client) Close(reason error) error {
	c.once.Do(func() {
		close(c.over)
		_ = c.fresh.Close(reason)
		for _, o := range c.olds {
			_ = o.s.Close(reason)
		}
	})
	c.pumps.Wait()
	return nil
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// putLocked queues a message for the client; c.mu is held.
func (c *client) putLocked(msg []byte) {
	c.out = append(c.out, msg)
	poke(c.more)
}

// waitForRoom keeps an engine from running ahead of a client that does not read.
func (c *client) waitForRoom() {
	for {
		c.mu.Lock()
		full := len(c.out) > maxQueued
		c.mu.Unlock()
		if !full {
			poke(c.room) // for another pump that waits
			return
		}
		select {
		case <-c.room:
		case <-c.over:
			return
		}
	}
}

// Write implements rpc.Stream: it sends a message of the client's to whom it is for.
func (c *client) Write(ctx context.Context, msg []byte) error {
	env, err := protocol.Peek(msg)
	if err != nil {
		return c.fresh.Write(ctx, msg) // the engine drops it, as it would without us
	}
	id := protocol.ThreadID("")
	if env.Kind == protocol.KindRequest {
		id = protocol.ThreadID(protocol.StringField(env.Params, "threadId"))
		if id != "" {
			c.settle(ctx, id)
		}
	}
	c.write.Lock()
	defer c.write.Unlock()
	return c.send(ctx, env, msg, id)
}

// settle waits until a thread that has just changed hands is watched here by
// everybody who watched it there.
func (c *client) settle(ctx context.Context, id protocol.ThreadID) {
	var olds []*elder
	c.mu.Lock()
	for _, o := range c.olds {
		if o.held[id] {
			olds = nil
			break
		}
		if o.ever[id] {
			olds = append(olds, o.elder)
		}
	}
	c.mu.Unlock()
	c.e.settled(ctx, olds, id)
}

// send routes one message; c.write is held.
func (c *client) send(ctx context.Context, env protocol.Envelope, msg []byte, id protocol.ThreadID) error {
	var to *old
	var copies []*old
	c.mu.Lock()
	switch env.Kind {
	case protocol.KindResponse, protocol.KindError:
		for _, o := range c.olds {
			if !o.gone && o.asks[string(env.ID)] {
				delete(o.asks, string(env.ID))
				to = o
			}
		}
	case protocol.KindNotification:
		copies = c.livingLocked()
	default:
		to, copies = c.routeLocked(env, msg, id)
	}
	c.mu.Unlock()
	if to != nil {
		// An elder that breaks meanwhile is noticed, with what it owes, by its reader.
		_ = to.s.Write(ctx, msg)
		return nil
	}
	for _, o := range copies {
		_ = o.s.Write(ctx, slices.Clone(msg))
	}
	return c.fresh.Write(ctx, msg)
}

func (c *client) livingLocked() (out []*old) {
	for _, o := range c.olds {
		if !o.gone {
			out = append(out, o)
		}
	}
	return out
}

// routeLocked finds who answers a request: an elder alone, or the new engine with
// those who also need to know.
func (c *client) routeLocked(env protocol.Envelope, msg []byte, id protocol.ThreadID) (to *old, copies []*old) {
	key := string(env.ID)
	book := func(o *old, p *pending) { o.pending[key] = append(o.pending[key], p) }
	switch env.Method {
	case "initialize", protocol.AccountLogout:
		copies = c.livingLocked()
	case protocol.AccountStart:
		if protocol.StringField(env.Params, "type") == protocol.LoginLend {
			copies = c.livingLocked() // who lends a login lends it to every turn
		}
	case "thread/loaded/list":
		copies = c.livingLocked()
		if len(copies) > 0 {
			m := &mark{left: len(copies) + 1}
			c.marks[key] = append(c.marks[key], m)
			for _, o := range copies {
				book(o, &pending{mark: m})
			}
			return nil, copies
		}
	case "thread/fork": // of what is on disk, and the new thread belongs here
		return nil, nil
	}
	for _, o := range copies {
		p := &pending{}
		if env.Method == "initialize" {
			p.then = func(protocol.Envelope) { c.compare(o) }
		}
		book(o, p)
	}
	if len(copies) > 0 || id == "" {
		return nil, copies
	}
	for _, o := range c.olds {
		if !o.gone && o.held[id] {
			book(o, &pending{msg: slices.Clone(msg), method: env.Method, thread: id})
			return o, nil
		}
	}
	return nil, nil
}

// call sends a request of our own to the new engine. c.write is held.
func (c *client) call(method string, params any, done func(protocol.Envelope)) {
	c.mu.Lock()
	c.serial++
	id := "towline-elder-" + strconv.Itoa(c.serial)
	c.calls[strconv.Quote(id)] = done
	c.mu.Unlock()
	msg, err := protocol.NewRequest(protocol.StringID(id), method, params)
	if err == nil {
		err = c.fresh.Write(context.Background(), msg) // closing the stream ends it
	}
	if err != nil {
		c.answered(strconv.Quote(id), protocol.Envelope{})
	}
}

func (c *client) answered(id string, env protocol.Envelope) bool {
	c.mu.Lock()
	done := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if done == nil {
		return false
	}
	done(env)
	return true
}

// pumpFresh carries what the new engine says until it ends, and the client with it.
func (c *client) pumpFresh() {
	for {
		msg, err := c.fresh.Read(context.Background()) // Close ends it
		if err != nil {
			c.lastWords()
			c.mu.Lock()
			c.err = err
			left := c.calls
			c.calls = make(map[string]func(protocol.Envelope))
			c.mu.Unlock()
			for _, done := range left {
				done(protocol.Envelope{})
			}
			poke(c.more)
			for _, o := range c.olds {
				_ = o.s.Close(err)
			}
			return
		}
		c.fromFresh(msg)
		c.waitForRoom()
	}
}

// lastWords gives elders that end with the daemon a moment: they have been told to
// before the new engine was, and say how their turns came out.
func (c *client) lastWords() {
	t := time.NewTimer(lastTime)
	defer t.Stop()
	for _, o := range c.olds {
		select {
		case <-o.over:
		case <-t.C:
			return
		case <-c.over:
			return
		}
	}
}

func (c *client) fromFresh(msg []byte) {
	env, err := protocol.PeekTrusted(msg)
	if err == nil && (env.Kind == protocol.KindResponse || env.Kind == protocol.KindError) && c.answered(string(env.ID), env) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.putLocked(msg)
		return
	}
	switch env.Kind {
	case protocol.KindResponse, protocol.KindError:
		key := string(env.ID)
		if ms := c.marks[key]; len(ms) > 0 {
			if ms[0].reply = msg; len(ms) == 1 {
				delete(c.marks, key)
			} else {
				c.marks[key] = ms[1:]
			}
			c.passedLocked(ms[0])
			return
		}
	case protocol.KindNotification:
		// What happens here to a thread comes after what happened there.
		if id := threadOf(env.Params); id != "" && c.heldLocked(id) {
			c.back[id] = append(c.back[id], msg)
			return
		}
	}
	c.putLocked(msg)
}

func threadOf(params json.RawMessage) protocol.ThreadID {
	if id := protocol.StringField(params, "threadId"); id != "" {
		return protocol.ThreadID(id)
	}
	return protocol.ThreadID(protocol.StringField(protocol.Field(params, "thread"), "id"))
}

func (c *client) heldLocked(id protocol.ThreadID) bool {
	return slices.ContainsFunc(c.olds, func(o *old) bool { return o.held[id] })
}

// passedLocked notes that one more engine has passed a mark.
func (c *client) passedLocked(m *mark) {
	if m.left--; m.left == 0 && m.reply != nil {
		c.putLocked(m.reply)
	}
}

// pumpOld carries what an elder says until it ends.
func (c *client) pumpOld(o *old) {
	for {
		msg, err := o.s.Read(context.Background()) // Close ends it
		if err != nil {
			c.ended(o)
			if err != io.EOF {
				_ = o.s.Close(err)
			}
			return
		}
		c.fromOld(o, msg)
		c.waitForRoom()
	}
}

func (c *client) fromOld(o *old, msg []byte) {
	env, err := protocol.PeekTrusted(msg)
	if err != nil {
		return
	}
	switch env.Kind {
	case protocol.KindResponse, protocol.KindError:
		c.oldAnswered(o, env, msg)
	case protocol.KindRequest:
		c.mu.Lock()
		defer c.mu.Unlock()
		if o.ever[threadOf(env.Params)] || env.Method == protocol.ReqTokensRefresh {
			o.asks[string(env.ID)] = true
			c.putLocked(msg)
		}
	case protocol.KindNotification:
		id := threadOf(env.Params)
		if env.Method == native.NoteHandedOver {
			c.handedOver(o, id)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !o.ever[id] {
			return // the new engine says such things itself
		}
		switch env.Method {
		case "serverRequest/resolved":
			delete(o.asks, string(protocol.Field(env.Params, "requestId")))
		case "thread/closed": // archived, deleted, or the end of everything there
			c.unwatchLocked(o, id)
			delete(o.held, id)
			defer c.releaseLocked(id)
		}
		c.putLocked(msg)
	}
}

// oldAnswered passes an elder's answer on, or sends the request to the new engine
// when its thread is there by now.
func (c *client) oldAnswered(o *old, env protocol.Envelope, msg []byte) {
	c.mu.Lock()
	key := string(env.ID)
	ps := o.pending[key]
	if len(ps) == 0 {
		c.mu.Unlock()
		return
	}
	p := ps[0]
	if len(ps) == 1 {
		delete(o.pending, key)
	} else {
		o.pending[key] = ps[1:]
	}
	switch {
	case p.mark != nil:
		c.passedLocked(p.mark)
	case p.then != nil:
		c.mu.Unlock()
		p.then(env)
		return
	case p.msg == nil:
	case env.Kind == protocol.KindError && protocol.StringField(protocol.Field(env.Error, "data"), "reason") == native.ReasonHandedOver:
		c.mu.Unlock()
		c.handedOver(o, p.thread)
		c.e.settled(context.Background(), []*elder{o.elder}, p.thread)
		c.write.Lock()
		defer c.write.Unlock()
		_ = c.fresh.Write(context.Background(), p.msg) // its reader notices a broken stream
		return
	default:
		if env.Kind == protocol.KindResponse {
			switch p.method {
			case "thread/resume":
				if !o.watched[p.thread] {
					o.watched[p.thread] = true
					c.e.watch(o.elder, p.thread, 1)
				}
			case "thread/unsubscribe":
				c.unwatchLocked(o, p.thread)
			}
		}
		c.putLocked(msg)
	}
	c.mu.Unlock()
}

// unwatchLocked notes that the client does not watch a thread there any more.
func (c *client) unwatchLocked(o *old, id protocol.ThreadID) {
	if o.watched[id] {
		delete(o.watched, id)
		c.e.watch(o.elder, id, -1)
	}
}

// releaseLocked lets go of what the new engine said of a thread meanwhile.
func (c *client) releaseLocked(id protocol.ThreadID) {
	for _, msg := range c.back[id] {
		c.putLocked(msg)
	}
	delete(c.back, id)
}
