package tui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

const (
	// dialTimeout bounds one attempt: dial, initialize, who am I.
	dialTimeout = 20 * time.Second
	// callTimeout bounds a request; turns and commands answer at once or stream.
	callTimeout = 60 * time.Second
	// frame is how often at most the program is given what the server said.
	frame = time.Second / 60
)

var errFlood = errors.New("more arrived than this terminal could show")

// link is the client's end of the connection and the owner of every goroutine
// but the program's own. Its methods make commands; they are called from Update
// and the commands run elsewhere.
type link struct {
	ctx context.Context // the life of Run; commands end with it
	cfg *Config
	box *inbox
	wg  sync.WaitGroup

	person     *connector  // what Connect is given
	connecting atomic.Bool // Connect, or an Update, runs

	mu     sync.Mutex // guards what follows
	peer   *rpc.Peer
	lk     Link    // its stream, nil when that does not heal
	opened *Opened // what Connect returned last, nil before
}

// The messages of the link.
type (
	upMsg struct { // a connection is there and initialized
		gen     int
		link    Link              // nil when the stream does not heal
		session *protocol.Session // nil when the peer is no Towline gate
		agent   string            // its userAgent
		bare    bool              // a Towline gate that has no engine now
	}
	downMsg struct { // a connection could not be made, or ended
		gen  int
		err  error
		dial bool // it never was one
	}
	eventsMsg []event
	// applyMsg is the end of a command: what Update is to do with its outcome.
	applyMsg func(m *model) tea.Cmd
)

// task runs f as a command that Run waits for.
func (l *link) task(f func(ctx context.Context) tea.Msg) tea.Cmd {
	return func() tea.Msg {
		l.mu.Lock()
		if l.ctx.Err() != nil {
			l.mu.Unlock()
			return nil
		}
		l.wg.Add(1)
		l.mu.Unlock()
		defer l.wg.Done()
		return f(l.ctx)
	}
}

// after runs f in Update when d has passed.
func (l *link) after(d time.Duration, f func(m *model) tea.Cmd) tea.Cmd {
	return l.task(func(ctx context.Context) tea.Msg {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return applyMsg(f)
		case <-ctx.Done():
			return nil
		}
	})
}

// wait ends when all commands and the connection have. ctx must be over.
func (l *link) wait() {
	l.mu.Lock() // no task starts after this: ctx is over
	p := l.peer
	l.mu.Unlock()
	if p != nil {
		p.Close(context.Cause(l.ctx))
	}
	l.wg.Wait()
	if l.opened != nil {
		closeOpened(*l.opened)
	}
}

// dial opens a stream. The one that Connect made takes as long as its person
// needs; any other has a bound.
func (l *link) dial(ctx context.Context) (rpc.Stream, error) {
	l.mu.Lock()
	o := l.opened
	l.mu.Unlock()
	if o == nil && l.cfg.Connect != nil {
		again, err := l.reconnect(ctx)
		if err != nil {
			return nil, err
		}
		o = &again
	}
	if o != nil {
		return o.Dial(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return l.cfg.Dial(ctx)
}

// feed gives the program what arrives, until ctx ends. It may be slow; the
// inbox is what bounds it.
func (l *link) feed(send func(tea.Msg)) {
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.box.wake:
		}
		if q := l.box.take(); len(q) > 0 {
			send(eventsMsg(q))
		}
		t := time.NewTimer(frame)
		select {
		case <-t.C:
		case <-l.ctx.Done():
			t.Stop()
			return
		}
	}
}

// connect makes connection number gen. Its end arrives as a downMsg later.
func (l *link) connect(gen int, send func(tea.Msg)) tea.Cmd {
	return l.task(func(ctx context.Context) tea.Msg {
		s, err := l.dial(ctx)
		if err != nil {
			return downMsg{gen: gen, err: err, dial: true}
		}
		dctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		l.box.open(gen)
		r := &receiver{gen: gen, box: l.box}
		p := rpc.NewPeer(s, r)
		r.over = func() { p.Close(errFlood) }
		ended := make(chan error, 1)
		over := make(chan struct{})
		l.wg.Add(1) // safe: this task still counts
		go func() {
			defer l.wg.Done()
			err := p.Serve(ctx)
			close(over)
			ended <- err
			send(downMsg{gen: gen, err: err})
		}()
		up, err := l.shake(dctx, p)
		if err != nil {
			p.Close(err)
			var pe *protocol.Error
			select {
			case e := <-ended: // the reason is better than "connection ended"
				if !errors.As(err, &pe) && e != nil {
					err = e
				}
			default:
			}
			return downMsg{gen: gen, err: err, dial: true}
		}
		l.mu.Lock()
		lk, heals := s.(Link)
		l.peer, l.lk = p, lk
		l.mu.Unlock()
		up.gen = gen
		if heals {
			up.link = lk
			l.wg.Add(1)
			go func() {
				defer l.wg.Done()
				l.watchLink(lk, gen, over, send)
			}()
		}
		return up
	})
}

// shake introduces us and asks a Towline gate who we are to it.
func (l *link) shake(ctx context.Context, p *rpc.Peer) (upMsg, error) {
	ext, err := json.Marshal(protocol.Extension{Version: 1})
	if err != nil {
		return upMsg{}, err
	}
	var hello struct {
		UserAgent string `json:"userAgent"`
	}
	err = p.Call(ctx, "initialize", map[string]any{
		"clientInfo": map[string]any{"name": "towline-tui", "title": "Towline", "version": l.cfg.Version},
		"capabilities": map[string]any{
			"experimentalApi": true, "requestAttestation": false,
			"extensions": map[string]json.RawMessage{"towline": ext},
		},
	}, &hello)
	up := upMsg{agent: hello.UserAgent, bare: engineless(err)}
	if err != nil && !up.bare {
		return upMsg{}, fmt.Errorf("initialize: %w", err)
	}
	if !up.bare {
		if err := p.Notify("initialized", nil); err != nil {
			return upMsg{}, err
		}
	}
	s := new(protocol.Session)
	var pe *protocol.Error
	switch err := p.Call(ctx, protocol.ExtSession, nil, s); {
	case err == nil:
		up.session = s
	case up.bare || !errors.As(err, &pe):
		return upMsg{}, err // the connection, not the answer
	}
	return up, nil
}

// engineless reports whether a gate refused because it has no engine: it then
// says how that one is.
func engineless(err error) bool {
	var pe *protocol.Error
	return errors.As(err, &pe) && protocol.Field(pe.Data, "engine") != nil
}

// current is the peer to talk to, nil when there is none.
func (l *link) current() *rpc.Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peer
}

// drop closes the connection, which makes the program dial again.
func (l *link) drop(reason error) {
	if p := l.current(); p != nil {
		p.Close(reason)
	}
}

// call sends one request and hands the decoded answer to then, in Update.
func call[T any](l *link, method string, params any, then func(m *model, v T, err error) tea.Cmd) tea.Cmd {
	p := l.current()
	return l.task(func(ctx context.Context) tea.Msg {
		var v T
		err := errNotConnected
		if p != nil {
			ctx, cancel := l.patient(ctx, fmt.Errorf("%s: no answer in %s", method, callTimeout))
			defer cancel()
			err = p.Call(ctx, method, params, &v)
		}
		return applyMsg(func(m *model) tea.Cmd { return then(m, v, err) })
	})
}

var errNotConnected = errors.New("not connected")

// refused reports whether the server itself said no, and what.
func refused(err error) (*protocol.Error, bool) {
	var pe *protocol.Error
	ok := errors.As(err, &pe)
	return pe, ok
}

// unknownMethod reports whether a refusal means that the server does not know
// the method: Codex says so with the code it uses for everything.
func unknownMethod(pe *protocol.Error) bool {
	return pe.Code == protocol.CodeMethodNotFound || strings.Contains(pe.Message, "unknown variant")
}
