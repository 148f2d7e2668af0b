// Package gate stands between every client and the engine: who may do what,
// which questions wait for a person, who is here, and what happened.
//
// It speaks the Codex app-server protocol on both sides and adds nothing to it
// but the towline/* methods of package protocol. What it does not need to
// understand passes as the bytes that came, so a newer Codex keeps working.
//
// # How it works
//
// Each client gets an engine connection of its own ([Engine.Connect]); the gate
// pumps messages both ways. Towards the engine it checks roles and answers;
// towards the client every message goes through the one outbound path of that
// client (client.put), which never blocks: a client that does not read is
// dropped with rpc.ErrSlow and slows nobody. Everything the engine says is first
// observed (upstream.observe) and only then delivered (client.deliver).
// Observing keeps three books, shared by all connections:
//
//   - the ledger of questions to people (ledger.go): one object per question,
//     first valid answer wins, recorded before the engine hears it;
//   - the live state of threads (live.go): items that run now, with their text,
//     from which a client that joins late is told what it missed (join.go);
//   - presence (presence.go).
//
// A watcher (watcher.go) puts an engine connection of the gate's own on every
// thread that works while nobody is attached to it, so the books are kept then
// too.
//
// # Locks
//
// Taken in this order, never the other way:
//
//	upstream.book → client.mu → thread.mu
//	upstream.book → client.mu → ledger.mu
//	upstream.book → question.save → ledger.mu
//
// Gate.mu → quota.mu. upstream.mu, loan.mu, Gate.mu (the registries) and what
// scopes remember (places, owned, reach) are innermost. Under client.mu and
// thread.mu nothing waits; client.put, which both call, never does. A book is
// its connection's own, so recording an approval under it delays no one else.
//
// # Resumable streams
//
// A client behind a link that gets cut has a stream that outlives it (package
// rpc, resume.go): frames are numbered, kept until they are taken, and replayed
// on the next link. To the gate that is one [Gate.Serve] like any other: it is
// called once, put goes on while nobody is there, and the client is gone when its
// session is, because it left, stayed away for too long, or missed more than is
// kept. What the gate adds is that others see it as away (presence.go).
//
// Start reading at [Gate.Serve].
package gate

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"towline/appserver/access"
	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
	"towline/config/store"
)

// Limits, each on what one party can make the gate hold or do.
const (
	// maxRunning bounds running items kept per thread; the oldest is forgotten.
	maxRunning = 256
	// maxRecent and maxRecentBytes bound finished items kept per thread for
	// clients whose own stream is a moment behind.
	maxRecent      = 32
	maxRecentBytes = 4 << 20
	// maxItemText bounds the text kept of one running item, in bytes of JSON;
	// beyond it the older half goes, and a late joiner is told how much.
	maxItemText = 1 << 20
	// maxItemNotes bounds the other events kept of one running item.
	maxItemNotes = 64
	// maxHeld bounds messages kept back from one joining client.
	maxHeld = 16384
	// joinTimeout ends a join that waits for an engine connection which has
	// stopped answering: the client gets what is known.
	joinTimeout = 2 * time.Second
	// maxQuestions bounds questions open at once across all threads, and
	// separately those remembered as lost with an engine.
	maxQuestions = 4096
	// maxOrphans bounds engine connections kept after their client left because
	// something depends on them for the moment.
	maxOrphans = 32
	// maxDenials bounds audit lines one connection can cause by being refused;
	// the rest are counted in its detach line.
	maxDenials = 50
	// recordTimeout bounds one write to the store.
	recordTimeout = 10 * time.Second
	// connectTimeout is how long an engine may take to accept a connection before
	// its client is told that there is none.
	connectTimeout = 10 * time.Second
	// flushTimeout is how long a client whose engine connection ended may take
	// to read what was queued for it.
	flushTimeout = 2 * time.Second
	// noticeTimeout is how long an engine may take to notice that it has died.
	noticeTimeout = 500 * time.Millisecond

	// lastWordsTime is how long a client that ended its input may wait for its
	// answers.
	lastWordsTime = 5 * time.Second
)

// Engine is what answers the protocol. Codex and the native engine implement it.
//
// The gate relies on one ordering rule, which both keep: a message to several
// connections enters all their queues before any message caused by a later
// request, and the reply to thread/resume enters its queue at one point of the
// thread's event sequence: every event before it is in the reply's history (or
// was a delta), every event after it follows on that connection.
type Engine interface {
	// Run keeps the engine alive until ctx ends.
	Run(ctx context.Context) error
	// Connect opens a fresh app-server connection for one client. No handshake
	// is done yet: the client's own initialize is passed through. ctx bounds the
	// opening only.
	Connect(ctx context.Context) (rpc.Stream, error)
	// State is a snapshot; Changed is closed, and replaced, when it changes.
	State() protocol.EngineState
	Changed() <-chan struct{}
}

// Store is what the gate keeps across restarts; *store.Store is one.
type Store interface {
	PutApproval(ctx context.Context, a store.Approval) error
	Approvals(ctx context.Context, f store.ApprovalFilter) ([]store.Approval, error)
	SetLastThread(ctx context.Context, principal, threadID string) error
	LastThread(ctx context.Context, principal string) (string, error)
	ForgetThread(ctx context.Context, threadID string) error
	AddStarted(ctx context.Context, principal, threadID string) error
	Started(ctx context.Context, principal string) ([]string, error)
}

var _ Store = (*store.Store)(nil)

// Config is what a Gate is made of. Engine, Store and Log are required.
type Config struct {
	Engine Engine
	Store  Store
	Audit  *audit.Log // nil: nothing is audited
	Log    *slog.Logger

	Host      string // the host's short name
	Project   string // the project directory shown to clients
	Version   string // Towline's
	Rehearsal bool   // answers come from the offline instrument

	// DisableUnsandboxed refuses the methods that reach files or run programs
	// outside the engine's sandbox (protocol.RunsOutsideSandbox) for everyone.
	DisableUnsandboxed bool

	// Rate bounds what principals may ask for. The zero value bounds nobody.
	Rate config.Rates

	// HostLogin reports whether a login of the host's own is stored where the
	// engine keeps its. Nil: unknown, taken for no.
	HostLogin func() bool

	// MayLogIn says whether what the owner of the machine mandates allows an
	// account/login/start with these params, before the engine sees it: an engine
	// need not know all of the mandates. Its error's text is for the client. Nil
	// allows everything.
	MayLogIn func(params json.RawMessage) error
	// MayRelay says likewise whether this machine may be reached through a relay.
	MayRelay func() error

	// Extensions answer further towline/* requests, by method. The role that the
	// method table asks for has been checked, and the request is not recorded: that
	// is for whoever answers it.
	Extensions map[string]Extension

	// Status is the host's part of towline/status/read; the gate fills in
	// engine, attached and threads. Nil: only those are told.
	Status func() protocol.HostStatus
}

// Extension answers a towline/* request of a client. An error that is not a
// *protocol.Error goes to the log, and the client is told that there is one.
type Extension func(ctx context.Context, who Client, params json.RawMessage) (result any, err error)

// Client says who is at the other end of a stream, as its door proved it.
type Client struct {
	Principal access.Principal
	Via       string // "ssh", "unix", "ws", "stdio"
	Remote    string // address for the audit file
}

// Gate is safe for concurrent use. Run must be running for the watcher, the
// broadcasts and the last-thread memory to work.
type Gate struct {
	cfg    Config
	log    *slog.Logger
	secret string // starts every request id of the gate's own; clients cannot guess it
	serial atomic.Int64
	epoch  atomic.Int64 // counts engines lost, as far as the watcher can tell

	watching atomic.Bool // the watcher is connected

	ledger *ledger
	loan   loan
	quiet  quiet
	places places
	stats  counters
	sealer cipher.AEAD // of cursors, see scope_list.go
	began  time.Time

	mu       sync.Mutex // guards what follows
	clients  map[*client]struct{}
	threads  map[protocol.ThreadID]*thread
	orphans  map[*upstream]chan struct{}    // closed to end one
	running  bool                           // Run runs
	done     <-chan struct{}                // of Run's context
	lastSeen map[string]protocol.ThreadID   // last threads not yet in the store
	forget   map[protocol.ThreadID]struct{} // threads to clear from the store
	active   map[protocol.ThreadID]bool     // threads that work; true: they wait for a person
	owners   map[string]*owned              // of principals with a scope that are here
	quotas   map[string]*quota              // of principals

	own           sync.WaitGroup // orphans
	cover         chan struct{}  // capacity 1: clients came to or left a thread
	presenceDirty chan struct{}  // capacity 1
	lastDirty     chan struct{}  // capacity 1
}

// New makes a Gate. It does no I/O and starts nothing.
func New(cfg Config) *Gate {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	g := &Gate{
		cfg: cfg, log: cfg.Log, secret: "towline-gate-" + hex.EncodeToString(b[:]) + "-",
		clients: make(map[*client]struct{}), threads: make(map[protocol.ThreadID]*thread),
		orphans: make(map[*upstream]chan struct{}), lastSeen: make(map[string]protocol.ThreadID),
		forget: make(map[protocol.ThreadID]struct{}), active: make(map[protocol.ThreadID]bool),
		owners: make(map[string]*owned), quotas: make(map[string]*quota), sealer: newSealer(), began: time.Now(),
		cover: make(chan struct{}, 1), presenceDirty: make(chan struct{}, 1), lastDirty: make(chan struct{}, 1),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.ledger = newLedger(g)
	g.cfg.Store = quietStore{cfg.Store, &g.quiet}
	return g
}

// errEngineGone ends a client whose engine connection ended first.
var errEngineGone = errors.New("the engine closed the connection")

func (g *Gate) nextID(prefix string) string {
	return fmt.Sprintf("%s%d", prefix, g.serial.Add(1))
}
