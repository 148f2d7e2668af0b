package run

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// maxInbox bounds what waits for the one who reads the events, in bytes. A server
// that has more to say waits, and in the end cuts us off; we come back then.
const maxInbox = 64 << 20

// link is one connection to the server, introduced.
type link struct {
	peer    *rpc.Peer
	box     inbox
	agent   string            // its userAgent
	session *protocol.Session // nil when it is no Towline gate
	heals   healer            // nil when the stream ends with its link
	cancel  context.CancelFunc
	over    chan struct{} // closed when the connection has ended
	err     error         // why; read it after over
}

// healer is a stream that outlives its link, as rpc.Resumable does.
type healer interface {
	State() rpc.LinkState
	Changed() <-chan struct{}
}

// heard is one message of the server's that counts here.
type heard struct {
	method string
	params json.RawMessage
	id     string // of a request, as on the wire; "" for a notification
}

// unheard are notifications that say nothing a run has a use for: it tells whole
// items, and asks not to be sent their pieces.
var unheard = []string{
	"item/agentMessage/delta", "item/plan/delta", "item/reasoning/summaryTextDelta", "item/reasoning/summaryPartAdded", "item/reasoning/textDelta",
	"item/commandExecution/outputDelta", "item/commandExecution/terminalInteraction", "item/fileChange/outputDelta", "item/mcpToolCall/progress",
	"turn/diff/updated", "account/rateLimits/updated", "thread/settings/updated", "thread/readState/changed", "skills/changed",
	"mcpServer/startupStatus/updated", "rawResponseItem/completed",
}

// counts reports whether a notification is worth keeping. The thread's id is the
// server's word for it; one without is about all of them.
func counts(method string) bool {
	switch method {
	case "turn/started", "turn/completed", "turn/plan/updated", "item/started", "item/completed", "item/fileChange/patchUpdated",
		"thread/tokenUsage/updated", "error", "warning", "configWarning", "deprecationNotice", "model/rerouted",
		"serverRequest/resolved", protocol.NoteApprovalOpened, protocol.NoteApprovalClosed:
		return true
	}
	return false
}

// connect opens a connection and introduces us. The error of a server that answered
// is its *protocol.Error.
func (t *turn) connect(ctx context.Context) (*link, error) {
	s, err := t.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &link{cancel: cancel, over: make(chan struct{})}
	l.box.init()
	l.heals, _ = s.(healer)
	l.peer = rpc.NewPeer(s, l)
	go func() {
		defer close(l.over)
		l.err = l.peer.Serve(life)
	}()
	if err := l.shake(ctx, t.cfg.Version); err != nil {
		l.close()
		var pe *protocol.Error
		if !errors.As(err, &pe) && ctx.Err() == nil && l.err != nil {
			err = l.err // better than "connection ended"
		}
		return nil, err
	}
	return l, nil
}

func (l *link) shake(ctx context.Context, version string) error {
	ext, err := json.Marshal(protocol.Extension{Version: 1})
	if err != nil {
		return err
	}
	title := "Towline exec"
	var hello protocol.Initialized
	if err := l.call(ctx, "initialize", protocol.InitializeParams{
		ClientInfo: protocol.ClientInfo{Name: "towline-exec", Title: &title, Version: version},
		Capabilities: &protocol.Capabilities{
			ExperimentalAPI: true, OptOutNotificationMethods: unheard, Extensions: map[string]json.RawMessage{"towline": ext},
		},
	}, &hello); err != nil {
		return err
	}
	l.agent = hello.UserAgent
	if err := l.peer.Notify("initialized", nil); err != nil {
		return err
	}
	var session protocol.Session
	var pe *protocol.Error
	switch err := l.call(ctx, protocol.ExtSession, nil, &session); {
	case err == nil:
		l.session = &session
	case !errors.As(err, &pe):
		return err
	}
	return nil
}

// call asks, within callTimeout. One that the server was too busy for is asked
// again, a few times.
func (l *link) call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errNoAnswer)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		err := l.peer.Call(ctx, method, params, result)
		var pe *protocol.Error
		if !errors.As(err, &pe) || pe.Code != protocol.CodeOverloaded || wait > 2*time.Second {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errNoAnswer = errors.New("the server does not answer")

// close ends the connection and waits until it has ended. Nothing said is lost: what
// was asked has been answered.
func (l *link) close() {
	l.cancel()
	l.peer.Close(rpc.ErrClosed)
	<-l.over
}

// Request implements rpc.Handler. A question to a person is left to those who are
// attached: an answer of ours, an error too, would count. A program's question has
// nobody else who could answer it.
func (l *link) Request(ctx context.Context, r *rpc.Request) {
	if !protocol.IsApproval(r.Method) {
		r.Fail(protocol.Errorf("towline exec does not answer %s", r.Method))
		return
	}
	l.box.put(ctx, heard{method: r.Method, params: r.Params, id: string(r.ID)})
	r.Drop()
}

// Notification implements rpc.Handler.
func (l *link) Notification(ctx context.Context, method string, params json.RawMessage) {
	if counts(method) {
		l.box.put(ctx, heard{method: method, params: params})
	}
}

// inbox is what was heard and is not told yet.
type inbox struct {
	wake chan struct{} // capacity 1: something is there
	room chan struct{} // capacity 1: something was taken

	mu   sync.Mutex // guards what follows
	all  []heard
	size int
}

func (b *inbox) init() { b.wake, b.room = make(chan struct{}, 1), make(chan struct{}, 1) }

// put waits while there is no room, until ctx ends.
func (b *inbox) put(ctx context.Context, h heard) {
	n := len(h.params) + len(h.method)
	for {
		b.mu.Lock()
		if b.size == 0 || b.size+n <= maxInbox {
			b.all = append(b.all, h)
			b.size += n
			b.mu.Unlock()
			poke(b.wake)
			return
		}
		b.mu.Unlock()
		select {
		case <-b.room:
		case <-ctx.Done():
			return
		}
	}
}

// take is the oldest message, false when there is none.
func (b *inbox) take() (heard, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.all) == 0 {
		b.all = nil
		return heard{}, false
	}
	h := b.all[0]
	b.all[0] = heard{}
	b.all = b.all[1:]
	b.size -= len(h.params) + len(h.method)
	poke(b.room)
	return h, true
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
