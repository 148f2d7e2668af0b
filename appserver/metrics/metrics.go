// Package metrics counts what a daemon does and tells it to Prometheus, in its
// text format, on a listener of its own: never on the one clients come through.
//
// On the way of a message it costs two atomic additions. Everything else is looked
// up when somebody asks.
//
// Begin with [New]; a [Server] tells.
package metrics

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"towline/appserver/rpc"
)

// Snapshot is what is looked up when somebody asks.
type Snapshot struct {
	Attached, Away          int   // clients, and those of them whose link is lost
	Requests                int64 // of clients
	InFlight                int   // of them without an answer
	Denied, Limited         int64 // of them refused by role or scope, and by a rate
	Slow, Lapsed            int64 // clients dropped for not reading, and for what they came with
	ApprovalsOpened         int64
	ApprovalsWaiting        int
	TurnsStarted            int64
	TurnsRunning            int
	TurnsWaiting            int // for a person
	EngineKind, EngineState string
	AuditEntries            int64
	AuditFailures           int64
	AuditWaiting            int // entries that could not be written
	Listeners               int
}

// Metrics is everything that is counted. Its methods may be called concurrently.
type Metrics struct {
	set      *vm.Set
	version  string
	started  time.Time
	snapshot func() Snapshot

	mu    sync.Mutex // guards what follows
	roads map[string]*road
}

// New makes empty books. snapshot is called when somebody asks.
func New(version string, snapshot func() Snapshot) *Metrics {
	vm.ExposeMetadata(true) // types, for programs that want them; the library has one switch for all
	return &Metrics{set: vm.NewSet(), version: version, started: time.Now(), snapshot: snapshot, roads: make(map[string]*road)}
}

// Connection counts an attempt to connect.
func (m *Metrics) Connection(via, outcome string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`towline_connections_total{via=%q,outcome=%q}`, via, outcome)).Inc()
}

// AuthFailure counts a credential that did not count.
func (m *Metrics) AuthFailure(reason string) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`towline_auth_failures_total{reason=%q}`, reason)).Inc()
}

// road is one way in, and what went over it.
type road struct {
	in, out, inBytes, outBytes *vm.Counter
}

// doors are the ways in whose names become labels; there are no others, and a name
// from outside must not become one.
var doors = []string{"unix", "ws", "wss", "ssh", "stdio"}

func (m *Metrics) road(via string) *road {
	if !slices.Contains(doors, via) {
		via = "other"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.roads[via]
	if r == nil {
		counter := func(name, way string) *vm.Counter {
			return m.set.NewCounter(fmt.Sprintf(`towline_%s_total{via=%q,direction=%q}`, name, via, way))
		}
		r = &road{
			in: counter("messages", "in"), out: counter("messages", "out"),
			inBytes: counter("message_bytes", "in"), outBytes: counter("message_bytes", "out"),
		}
		m.roads[via] = r
	}
	return r
}

// Stream counts what s carries. It is in all that other packages can ask of it
// what s is.
func (m *Metrics) Stream(s rpc.Stream, via string) rpc.Stream {
	c := counted{Stream: s, r: m.road(via)}
	if a, ok := s.(absentee); ok {
		return &countedSession{counted: c, absentee: a}
	}
	return &c
}

// absentee is a stream that outlives its link.
type absentee interface {
	Away() (since time.Time, away bool)
	Changed() <-chan struct{}
}

type countedSession struct {
	counted
	absentee
}

type counted struct {
	rpc.Stream
	r *road
}

func (c *counted) Read(ctx context.Context) ([]byte, error) {
	msg, err := c.Stream.Read(ctx)
	if err == nil {
		c.r.in.Inc()
		c.r.inBytes.AddInt64(int64(len(msg)))
	}
	return msg, err
}

func (c *counted) Write(ctx context.Context, msg []byte) error {
	err := c.Stream.Write(ctx, msg)
	if err == nil {
		c.r.out.Inc()
		c.r.outBytes.AddInt64(int64(len(msg)))
	}
	return err
}

// Batch implements rpc.Batcher.
func (c *counted) Batch(on bool) error { return rpc.Batch(c.Stream, on) }

// Room implements rpc.Roomy.
func (c *counted) Room(n int) bool { return rpc.Room(c.Stream, n) }

// writeTo writes everything in Prometheus' text format.
func (m *Metrics) writeTo(w io.Writer) {
	m.set.WritePrometheus(w)
	vm.WriteGaugeUint64(w, fmt.Sprintf(`towline_build_info{version=%q,go=%q,os=%q,arch=%q}`, m.version, runtime.Version(), runtime.GOOS, runtime.GOARCH), 1)
	vm.WriteGaugeFloat64(w, "towline_uptime_seconds", time.Since(m.started).Seconds())
	if m.snapshot != nil {
		m.snapshot().write(w)
	}
	vm.WriteProcessMetrics(w)
}

func (s Snapshot) write(w io.Writer) {
	gauge := func(name string, n int) {
		vm.WriteGaugeUint64(w, "towline_"+name, uint64(max(n, 0)))
	}
	count := func(name string, n int64) {
		vm.WriteCounterUint64(w, "towline_"+name+"_total", uint64(max(n, 0)))
	}
	gauge("clients_attached", s.Attached)
	gauge("clients_away", s.Away)
	gauge("listeners", s.Listeners)
	count("requests", s.Requests)
	gauge("requests_in_flight", s.InFlight)
	count("requests_denied", s.Denied)
	count("requests_limited", s.Limited)
	count("slow_clients", s.Slow)
	count("lapsed_clients", s.Lapsed)
	count("approvals_opened", s.ApprovalsOpened)
	gauge("approvals_waiting", s.ApprovalsWaiting)
	count("turns_started", s.TurnsStarted)
	gauge("turns_running", s.TurnsRunning)
	gauge("turns_waiting", s.TurnsWaiting)
	count("audit_entries", s.AuditEntries)
	count("audit_failures", s.AuditFailures)
	gauge("audit_waiting", s.AuditWaiting)
	for _, state := range []string{"starting", "ready", "restarting", "failed"} {
		is := uint64(0)
		if state == s.EngineState {
			is = 1
		}
		vm.WriteGaugeUint64(w, fmt.Sprintf(`towline_engine_state{kind=%q,state=%q}`, s.EngineKind, state), is)
	}
}
