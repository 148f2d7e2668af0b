package gate

import "sync/atomic"

// Stats is what the gate has counted since it was made, and what it holds now.
type Stats struct {
	// Connections ever, and now: attached ones, those of them whose link is lost,
	// and engine connections kept after their client left.
	Connections             int64
	Attached, Away, Orphans int
	// Requests that came from clients; of them Denied by role or scope, or because
	// they could be taken for two things, and Limited by a rate. Answers are those
	// to the engine's questions that counted.
	Requests, Denied, Limited, Answers int64
	// InFlight are requests without an answer.
	InFlight int
	// Messages passed on to clients, and Slow clients dropped because they did not
	// read.
	Messages, Slow int64
	// Lapsed connections ended because their credential stopped to count.
	Lapsed int64
	// Approvals ever opened, and waiting now.
	ApprovalsOpened  int64
	ApprovalsWaiting int
	// Turns passed on to the engine, and threads that work now; of them those that
	// wait for a person.
	Turns                          int64
	ThreadsWorking, ThreadsWaiting int
}

// counters are the parts of Stats that only grow.
type counters struct {
	connections, requests, denied, limited, answers, messages, slow, lapsed, approvals, turns atomic.Int64
}

// Stats is a snapshot. It costs a look at every client, and waits for nobody.
func (g *Gate) Stats() Stats {
	n := &g.stats
	s := Stats{
		Connections: n.connections.Load(), Requests: n.requests.Load(), Denied: n.denied.Load(), Limited: n.limited.Load(),
		Answers: n.answers.Load(), Messages: n.messages.Load(), Slow: n.slow.Load(), Lapsed: n.lapsed.Load(),
		ApprovalsOpened: n.approvals.Load(), Turns: n.turns.Load(),
	}
	s.ThreadsWorking, s.ThreadsWaiting = g.working()
	g.mu.Lock()
	s.Orphans = len(g.orphans)
	g.mu.Unlock()
	for _, c := range g.everyone() {
		s.Requests += c.requested.Load()
		s.Messages += c.passed.Load()
		c.mu.Lock()
		s.InFlight += c.requests
		c.mu.Unlock()
		if !c.attached() {
			continue
		}
		s.Attached++
		if c.away != nil {
			if _, away := c.away.Away(); away {
				s.Away++
			}
		}
	}
	g.ledger.mu.Lock()
	defer g.ledger.mu.Unlock()
	for _, q := range g.ledger.all {
		if !q.done && q.object != nil {
			s.ApprovalsWaiting++
		}
	}
	return s
}
