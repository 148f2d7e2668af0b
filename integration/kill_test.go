package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/appserver/access/token"
	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/integration/peer"
)

const (
	killHosts = 4
	// killsEach makes what the issue asks for: "kill -9 of the daemon at 200 random
	// moments under load".
	killsEach = 200 / killHosts
	// A life lasts at least shortLife and at most longLife from when it is asked for
	// work, and now and then ends before that.
	shortLife, longLife = 5 * time.Millisecond, 250 * time.Millisecond
	// livesPerThread bounds what is read again after each.
	livesPerThread = 8
	mintsPerLife   = 8
)

// Whatever a daemon has acknowledged is there after it was killed: items, ends of
// turns, decisions, tokens, and what its audit says of them.
func TestTwoHundredKillsLoseNothingAcknowledged(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	var rose []time.Duration
	t.Cleanup(func() { // after the hosts
		if slices.Sort(rose); len(rose) > 0 {
			t.Logf("%d kills; ready again after %v (median), %v (the slowest)", len(rose), rose[len(rose)/2], rose[len(rose)-1])
		}
	})
	for n := range uint64(killHosts) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			m := newMortal(t, rand.New(rand.NewPCG(seed, n))) //nolint:gosec // no secret
			for i := range killsEach {
				m.live(i)
				mu.Lock()
				rose = append(rose, m.rise(i))
				mu.Unlock()
				m.check(i%5 == 4, false)
				if t.Failed() {
					t.Fatalf("after %d kills", i+1)
				}
			}
			m.check(true, true)
			m.told()
		})
	}
}

// mortal is a host that is killed again and again, and what it has acknowledged.
type mortal struct {
	*testing.T
	h        *peer.Host
	rnd      *rand.Rand // of the one who kills
	standing string     // the token of those who stay

	mu       sync.Mutex // guards what follows
	threads  [2]protocol.ThreadID
	work     map[protocol.ThreadID]*worked
	answers  map[string]string // decisions by approval
	commands map[string]string // by approval
	listed   map[string]bool   // approvals
	tokens   map[string]*minted
	promised []promise
	fresh    fresh
	marks    map[int64]string // hashes of entries of the audit, by number
	lost     int              // sessions whose client was told that they are
	waiting  *mourner         // a client that outlives the daemon
	link     *rpc.Resumable   // under it
}

// worked is what was said of a thread.
type worked struct {
	begun []string                   // turns
	items map[string]json.RawMessage // completed, by id
	ended map[string]string          // status by turn
}

// minted is a token that was created.
type minted struct {
	secret, old string // old was rotated out
	revoked     bool
	unsure      bool // a revocation or rotation was asked for, and not acknowledged
}

// promise is something that must be on record.
type promise struct{ event, about, decision string }

// fresh is what the last life changed.
type fresh struct {
	threads map[protocol.ThreadID]bool
	tokens  map[string]bool
}

func newMortal(t *testing.T, rnd *rand.Rand) *mortal {
	h := peer.Start(t, peer.HostConfig{
		TOML: peer.RehearsalAtOnce(t), Args: []string{"--listen", "ws://127.0.0.1:" + peer.LowPort(t)},
	})
	m := &mortal{
		T: t, h: h, rnd: rnd, work: make(map[protocol.ThreadID]*worked),
		answers: make(map[string]string), commands: make(map[string]string), tokens: make(map[string]*minted),
		listed: make(map[string]bool), marks: make(map[int64]string),
	}
	m.standing = newToken(t, h, "--name", "standing", "--scope", "all")
	m.forget()
	return m
}

// forget begins another life.
func (m *mortal) forget() {
	m.fresh = fresh{
		threads: make(map[protocol.ThreadID]bool), tokens: make(map[string]bool),
	}
}

func (m *mortal) audit() string { return filepath.Join(m.h.Home, "audit.jsonl") }

// live gives the daemon work from all sides and kills it.
func (m *mortal) live(n int) {
	m.mu.Lock()
	m.forget()
	if n%livesPerThread == 0 {
		m.threads = [2]protocol.ThreadID{}
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(m.Context(), peer.Patience)
	defer cancel()
	life := shortLife + time.Duration(m.rnd.Int64N(int64(longLife-shortLife)))
	lists, die := [4]uint64{m.rnd.Uint64(), m.rnd.Uint64(), m.rnd.Uint64(), m.rnd.Uint64()}, make(chan struct{})
	var wg sync.WaitGroup
	for i, do := range []func(ctx context.Context, rnd *rand.Rand, n int){m.asks, m.streams, m.decides, m.mints} {
		wg.Go(func() { do(ctx, rand.New(rand.NewPCG(lists[i], 0)), n) }) //nolint:gosec // no secret
	}
	time.AfterFunc(life, func() { close(die) })
	<-die // the moment is the point
	m.h.Kill()
	cancel()
	wg.Wait()
}

// rise starts the daemon again; every few times it is killed while it starts.
func (m *mortal) rise(n int) time.Duration {
	if n%5 == 0 { // the chain shows later as well what was wrong with it
		// A line that was being written is all that may be wrong while it is dead.
		if _, err := audit.Verify(m.audit()); err != nil && !strings.Contains(err.Error(), "the next start notes it") {
			m.Errorf("the audit of the dead: %v", err)
		}
	}
	if n%7 == 6 {
		m.h.Stillborn(time.Duration(m.rnd.Int64N(int64(60 * time.Millisecond))))
	}
	return m.h.Rise()
}

// mourner is one connection of a life.
type mourner struct {
	*rpc.Peer
	m    *mortal
	done chan struct{}
	end  error // of the stream, when done is closed

	asked chan protocol.Approval // for who decides
	over  chan string            // turns
}

// join serves a stream and says hello.
func (m *mortal) join(ctx context.Context, s rpc.Stream) (*mourner, error) {
	c := &mourner{m: m, done: make(chan struct{}), asked: make(chan protocol.Approval, 64), over: make(chan string, 64)}
	c.Peer = rpc.NewPeer(s, c)
	go func() { defer close(c.done); c.end = c.Serve(context.Background()) }()
	err := c.Call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo: protocol.ClientInfo{Name: "mourner", Version: "1"},
		Capabilities: &protocol.Capabilities{
			ExperimentalAPI: true, Extensions: map[string]json.RawMessage{"towline": json.RawMessage(`{"version":1}`)},
		},
	}, nil)
	if err == nil {
		err = c.Notify("initialized", nil)
	}
	if err != nil {
		c.leave()
	}
	return c, err
}

func (c *mourner) leave() { c.Close(nil); <-c.done }

// Request implements rpc.Handler. Decisions are made elsewhere.
func (c *mourner) Request(_ context.Context, r *rpc.Request) { r.Drop() }

// Notification implements rpc.Handler.
func (c *mourner) Notification(_ context.Context, method string, params json.RawMessage) {
	var p struct {
		ThreadID protocol.ThreadID `json:"threadId"`
		Item     json.RawMessage   `json:"item"`
		Turn     struct {
			ID     string `json:"id"`
			Status string `json:"status"`
		} `json:"turn"`
		Approval protocol.Approval `json:"approval"`
	}
	if err := json.Unmarshal(params, &p); err != nil {
		c.m.Errorf("%s: %v", method, err)
		return
	}
	switch method {
	case "item/completed":
		c.m.about(p.ThreadID, func(w *worked) { w.items[protocol.StringField(p.Item, "id")] = p.Item })
	case "turn/completed":
		c.m.about(p.ThreadID, func(w *worked) { w.ended[p.Turn.ID] = p.Turn.Status })
		c.over <- p.Turn.ID
	case protocol.NoteApprovalOpened:
		c.asked <- p.Approval
	}
}

// about notes something of a thread.
func (m *mortal) about(id protocol.ThreadID, note func(w *worked)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.work[id]
	if w == nil {
		w = &worked{items: make(map[string]json.RawMessage), ended: make(map[string]string)}
		m.work[id] = w
	}
	m.fresh.threads[id] = true
	note(w)
}

// works has turns on a thread, which is begun or gone on with, until the daemon
// is dead.
func (m *mortal) works(ctx context.Context, c *mourner, which int, prompt func() string) error {
	m.mu.Lock()
	id := m.threads[which]
	m.mu.Unlock()
	method, params := "thread/resume", map[string]any{"threadId": id}
	if id == "" {
		method, params = "thread/start", map[string]any{"cwd": m.h.Project}
	}
	var opened protocol.ThreadOpened
	if err := c.Call(ctx, method, params, &opened); err != nil {
		return err
	}
	id = opened.Thread.ID
	m.mu.Lock()
	m.threads[which] = id
	m.mu.Unlock()
	m.about(id, func(*worked) {})
	for {
		var r struct{ Turn struct{ ID string } }
		err := c.Call(ctx, "turn/start", map[string]any{
			"threadId": id, "input": []protocol.UserInput{protocol.Text(prompt())},
		}, &r)
		if err != nil {
			return err
		}
		m.about(id, func(w *worked) { w.begun = append(w.begun, r.Turn.ID) })
		for over := ""; over != r.Turn.ID; {
			select {
			case over = <-c.over:
			case <-c.done:
				return c.end
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// asks is a client at the host whose commands need an approval.
func (m *mortal) asks(ctx context.Context, _ *rand.Rand, life int) {
	m.at(ctx, func(c *mourner) error {
		n := 0
		return m.works(ctx, c, 0, func() string {
			n++
			return fmt.Sprintf("run echo %d-%d >>ledger.txt outside the sandbox", life, n)
		})
	})
}

// at works at the host's own socket until the daemon is dead.
func (m *mortal) at(ctx context.Context, work func(c *mourner) error) {
	s, err := transport.Dial(ctx, "unix://"+daemonSocket(m.h))
	if err != nil {
		return // it died before
	}
	c, err := m.join(ctx, s)
	if err != nil {
		return
	}
	defer c.leave()
	m.ended(ctx, c, work(c))
}

// ended holds that a client's work ended with the daemon, and not before.
func (m *mortal) ended(ctx context.Context, c *mourner, err error) {
	select {
	case <-c.done:
	case <-ctx.Done():
	default:
		// The call fails before whoever reads knows why.
		if _, refused := err.(*protocol.Error); refused { //nolint:errorlint // as it came from the wire
			m.Errorf("refused by a living daemon: %v", err)
		}
	}
}

// streams is a client elsewhere, with a token and a stream that outlives its
// links, whose turns say much.
func (m *mortal) streams(ctx context.Context, rnd *rand.Rand, _ int) {
	s, err := transport.Connect(ctx, m.h.WS(), transport.DialOptions{Token: m.standing})
	if err != nil {
		return
	}
	c, err := m.join(ctx, s)
	if err != nil {
		return
	}
	m.mu.Lock()
	m.waiting, m.link = c, s.(*rpc.Resumable)
	m.mu.Unlock()
	m.ended(ctx, c, m.works(ctx, c, 1, func() string {
		switch n := rnd.IntN(1000); n % 3 {
		case 0:
			return fmt.Sprintf("create made-%d.txt with some text", n)
		case 1:
			return fmt.Sprintf("think about %d", n)
		default:
			return "count to 40"
		}
	}))
}

// comesBack has the one who streams find the daemon that took the dead one's
// place, which does not know it: it must be told so.
func (m *mortal) comesBack() {
	m.mu.Lock()
	c, link := m.waiting, m.link
	m.waiting, m.link = nil, nil
	m.mu.Unlock()
	if c == nil {
		return // it did not come in while the last one lived
	}
	defer c.leave()
	patience := time.After(peer.Patience)
	for {
		changed := link.Changed()
		if !link.State().NextTry.IsZero() {
			link.Retry()
		}
		select {
		case <-c.done:
			if !errors.Is(c.end, rpc.ErrLost) {
				m.Errorf("a session of a dead daemon ended with %v", c.end)
			}
			m.lost++
			return
		case <-changed:
		case <-patience:
			m.Fatalf("a client does not find the daemon again: %+v", link.State())
		}
	}
}

// decides is a client elsewhere who answers what others are asked.
func (m *mortal) decides(ctx context.Context, rnd *rand.Rand, _ int) {
	s, err := transport.DialWith(ctx, m.h.WS(), transport.DialOptions{Token: m.standing})
	if err != nil {
		return
	}
	c, err := m.join(ctx, s)
	if err != nil {
		return
	}
	defer c.leave()
	for {
		var a protocol.Approval
		select {
		case a = <-c.asked:
		case <-c.done:
			return
		case <-ctx.Done():
			return
		}
		decision := protocol.DecisionAccept
		if rnd.IntN(3) == 0 {
			decision = protocol.DecisionDecline
		}
		var p struct{ Command string }
		if err := json.Unmarshal(a.Params, &p); err != nil {
			m.Errorf("%s: %v", a.Params, err)
		}
		m.mu.Lock()
		m.commands[a.ID] = p.Command
		m.mu.Unlock()
		var r struct{ Approval protocol.Approval }
		err := c.Call(ctx, protocol.ExtApprovalAnswer, map[string]any{"id": a.ID, "result": protocol.Decide(decision)}, &r)
		if err != nil {
			m.ended(ctx, c, err)
			return
		}
		m.mu.Lock()
		m.answers[a.ID] = decision
		m.promised = append(m.promised, promise{"approval answered", a.ID, decision})
		m.mu.Unlock()
	}
}

// mints is a client at the host who makes tokens and takes them back.
func (m *mortal) mints(ctx context.Context, rnd *rand.Rand, life int) {
	m.at(ctx, func(c *mourner) error {
		var live []string
		for n := range mintsPerLife {
			if len(live) > 0 && rnd.IntN(2) == 0 {
				id := live[0]
				live = live[1:]
				if err := m.ends(ctx, c, id, rnd.IntN(3) == 0); err != nil {
					return err
				}
				continue
			}
			var made token.Created
			err := c.Call(ctx, protocol.ExtTokenCreate, token.CreateParams{Name: fmt.Sprintf("t%d-%d", life, n), Role: protocol.RoleObserver}, &made)
			if err != nil {
				return err
			}
			live = append(live, made.ID)
			m.mu.Lock()
			m.tokens[made.ID] = &minted{secret: made.Secret}
			m.fresh.tokens[made.ID] = true
			m.promised = append(m.promised, promise{event: "token.create", about: made.ID})
			m.mu.Unlock()
		}
		return nil
	})
}

// ends revokes a token, or gives it another secret.
func (m *mortal) ends(ctx context.Context, c *mourner, id string, rotate bool) error {
	m.mu.Lock()
	k := m.tokens[id]
	k.unsure = true
	m.mu.Unlock()
	method, event := protocol.ExtTokenRevoke, "token.revoke"
	var params any = token.IDParams{ID: id}
	if rotate {
		method, event, params = protocol.ExtTokenRotate, "token.rotate", token.RotateParams{ID: id}
	}
	var now token.Created
	if err := c.Call(ctx, method, params, &now); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k.unsure = false
	if rotate {
		k.old, k.secret = k.secret, now.Secret
	} else {
		k.revoked = true
	}
	m.promised = append(m.promised, promise{event: event, about: id})
	return nil
}
