package gate

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

// Times and bounds of rates.
const (
	// startGrace is how long a turn may take to show as one that runs: until then
	// it counts, after that the watcher's word does.
	startGrace = 5 * time.Second
	// maxQuotas bounds principals whose rates are remembered; those that have been
	// quiet are forgotten first.
	maxQuotas = 4096
	// urgentRate a second, and urgentBurst at once, are the bounds of urgent.
	urgentRate, urgentBurst = 20, 200
	// burstSeconds is the burst where none is configured.
	burstSeconds = 10
)

// turnMethods start a turn, or make one likely.
var turnMethods = map[string]bool{
	"turn/start": true, "review/start": true, "thread/compact/start": true, "thread/queue/start": true, "thread/queue/add": true,
	"thread/shellCommand": true, "thread/realtime/start": true, "thread/goal/set": true,
}

// urgent pass whatever the rate is: who may stop something or decide must not be
// kept from it by what a program does in his name. They have a rate of their own,
// far beyond any person's: what is on record must not be a way to fill the disk.
var urgent = map[string]bool{"turn/interrupt": true, protocol.ExtApprovalAnswer: true}

// quota is what one principal has used, over all of its connections. Nil has no
// bounds.
type quota struct {
	rate     config.Rate
	who      string // for people
	scoped   bool
	requests bucket
	turns    bucket
	urgent   bucket
	bytes    atomic.Int64 // of requests without an answer

	mu      sync.Mutex                      // guards running; innermost
	running map[protocol.ThreadID]time.Time // since when
}

// bucket is a rate without a lock: the time at which what was used so far is
// paid off (GCRA).
type bucket struct {
	paid  atomic.Int64 // nanoseconds since the gate began
	every int64        // nanoseconds for one
	burst int64        // nanoseconds for as many as may come at once
}

func newBucket(n int, per time.Duration, burst int) bucket {
	if n <= 0 {
		return bucket{}
	}
	every := per.Nanoseconds() / int64(n)
	return bucket{every: every, burst: every * int64(max(burst, 1))}
}

// take uses one. It says how long to wait where there is none.
func (b *bucket) take(now int64) (wait time.Duration) {
	if b.every == 0 {
		return 0
	}
	for {
		was := b.paid.Load()
		next := max(was, now) + b.every
		if late := next - now - b.burst; late > 0 {
			return time.Duration(late)
		}
		if b.paid.CompareAndSwap(was, next) {
			return 0
		}
	}
}

// quotaOf finds a principal's, or makes it. The user the daemon runs as has none:
// whatever it does here, it can do to the daemon itself.
func (g *Gate) quotaOf(p access.Principal) *quota {
	var rate config.Rate
	switch p.Kind {
	case access.KindLocal:
		return nil
	case access.KindToken, access.KindJWT:
		rate = g.cfg.Rate.Tokens
	default:
		rate = g.cfg.Rate.People
	}
	if rate == (config.Rate{}) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if q := g.quotas[p.Key()]; q != nil {
		return q
	}
	if len(g.quotas) >= maxQuotas {
		now := g.clock()
		for k, q := range g.quotas {
			if q.requests.paid.Load() <= now && q.turns.paid.Load() <= now && q.urgent.paid.Load() <= now && q.bytes.Load() == 0 {
				delete(g.quotas, k)
			}
		}
	}
	q := &quota{rate: rate, who: p.Name, scoped: p.Scope != nil, running: make(map[protocol.ThreadID]time.Time)}
	burst := rate.Burst
	if burst == 0 {
		burst = rate.Requests * burstSeconds
	}
	q.requests, q.turns = newBucket(rate.Requests, time.Second, burst), newBucket(rate.Turns, time.Minute, rate.Turns)
	q.urgent = newBucket(urgentRate, time.Second, urgentBurst)
	if len(g.quotas) < maxQuotas { // else this connection has one of its own
		g.quotas[p.Key()] = q
	}
	return q
}

// clock is what buckets count in.
func (g *Gate) clock() int64 { return int64(time.Since(g.began)) }

// afford says whether a request is within its principal's rates. What it holds of
// bytes is booked when it goes to the engine, and given back by the answer.
func (c *client) afford(method string, size int64) *protocol.Error {
	q := c.quota
	if q == nil {
		return nil
	}
	if urgent[method] {
		if wait := q.urgent.take(c.g.clock()); wait > 0 {
			return c.saturated(wait, fmt.Sprintf("%s may send %s %d times a second", q.who, method, urgentRate))
		}
		return nil
	}
	if wait := q.requests.take(c.g.clock()); wait > 0 {
		return c.saturated(wait, fmt.Sprintf("%s may send %d requests a second", q.who, q.rate.Requests))
	}
	if q.rate.Bytes > 0 {
		if held := q.bytes.Load(); held > 0 && held+size > q.rate.Bytes {
			return c.saturated(time.Second, fmt.Sprintf("%s has %d MiB of requests without an answer", q.who, held>>20))
		}
	}
	return nil
}

// affordTurn is afford for a request that starts a turn, once it is sure to go to
// the engine. booked is true when the thread's place is this request's to give back.
func (c *client) affordTurn(params json.RawMessage) (thread protocol.ThreadID, booked bool, why *protocol.Error) {
	thread = protocol.ThreadID(protocol.StringField(params, "threadId"))
	q := c.quota
	if q == nil {
		return thread, false, nil
	}
	if wait := q.turns.take(c.g.clock()); wait > 0 {
		return thread, false, c.saturated(wait, fmt.Sprintf("%s may start %d turns a minute", q.who, q.rate.Turns))
	}
	if !q.scoped || q.rate.Running <= 0 {
		return thread, false, nil
	}
	booked, ok := c.g.mayRun(q, thread)
	if !ok {
		return thread, false, c.saturated(time.Second, fmt.Sprintf("%s may run %d turns at once", q.who, q.rate.Running))
	}
	return thread, booked, nil
}

// saturated is Codex's error for it, with when to come again.
func (c *client) saturated(wait time.Duration, why string) *protocol.Error {
	c.g.stats.limited.Add(1)
	c.mu.Lock()
	first := !c.limited
	c.limited = true
	c.mu.Unlock()
	e := &protocol.Error{Code: protocol.CodeOverloaded, Message: protocol.ErrOverloaded.Message + " " + why + "."}
	e.Data, _ = json.Marshal(struct { // plain data
		Reason string `json:"reason"`
		After  int64  `json:"retryAfterMs"`
	}{"rate", max(wait.Milliseconds(), 1)})
	if first { // the first says it; the rest is counted
		c.denied("rate", e)
	}
	return e
}

// mayRun books a turn in a thread, unless there are too many. More than one in
// the same thread is one turn. It heals itself: a turn whose end nobody saw does
// not count once its thread is idle.
func (g *Gate) mayRun(q *quota, thread protocol.ThreadID) (fresh, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, since := range q.running {
		if _, works := g.active[id]; !works && time.Since(since) > startGrace {
			delete(q.running, id)
		}
	}
	if _, had := q.running[thread]; had {
		return false, true
	}
	if len(q.running) >= q.rate.Running {
		return false, false
	}
	q.running[thread] = time.Now()
	return true, true
}

// ended gives a turn's place back.
func (q *quota) ended(thread protocol.ThreadID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.running, thread)
}

// turnOver is called when a turn has ended, as any connection tells.
func (g *Gate) turnOver(thread protocol.ThreadID) {
	g.mu.Lock()
	var all []*quota
	for _, q := range g.quotas {
		if q.scoped {
			all = append(all, q)
		}
	}
	g.mu.Unlock()
	for _, q := range all {
		q.ended(thread)
	}
}
