package codex

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
)

// answerTimeout bounds the handshake and each question of ours: a server that
// accepts and then says nothing is no server.
const answerTimeout = 10 * time.Second

// unwanted is everything Codex sends to all connections that we do not act on.
var unwanted = []string{
	"thread/name/updated", "thread/archived", "thread/unarchived", "configWarning", "remoteControl/status/changed",
}

// watch is our own connection to the server in use: its end is the server's
// end, and it says which version answers and whether there is an account.
type watch struct {
	peer    *rpc.Peer
	cancel  context.CancelFunc
	account chan struct{} // capacity 1: who is logged in may have changed
	ended   chan struct{} // closed when the connection is over
	err     error         // why; valid once ended
	version string

	moved chan struct{} // capacity 1: busy may have changed

	mu     sync.Mutex          // guards the next two
	busy   map[string]struct{} // threads at work
	quiet  time.Time           // since when there is none, after there were
	tokens []*rpc.Request      // requests for tokens, unanswered; the reader's own
}

// attach connects to the server on socket and does the handshake. The watch
// lives until its close.
func attach(ctx context.Context, socket string) (*watch, error) {
	dialing, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := transport.Dial(dialing, "unix://"+socket)
	if err != nil {
		return nil, err
	}
	w := &watch{
		account: make(chan struct{}, 1), moved: make(chan struct{}, 1), ended: make(chan struct{}), busy: make(map[string]struct{}),
	}
	w.peer = rpc.NewPeer(s, w)
	// The connection outlives ctx: what is to be done with the server when ctx
	// ends is for its owner to say.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.cancel = stop
	go func() {
		defer close(w.ended)
		w.err = w.peer.Serve(serving)
	}()
	var got protocol.Initialized
	err = w.peer.Call(dialing, "initialize", protocol.InitializeParams{
		ClientInfo:   protocol.ClientInfo{Name: "towline", Version: "1"},
		Capabilities: &protocol.Capabilities{OptOutNotificationMethods: unwanted},
	}, &got)
	if err == nil {
		err = w.peer.Notify("initialized", nil)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	w.version = agentVersion(got.UserAgent)
	return w, nil
}

// agentVersion takes the version out of "NAME/VERSION (…) …", as stock clients do.
func agentVersion(userAgent string) string {
	_, rest, _ := strings.Cut(userAgent, "/")
	version, _, _ := strings.Cut(rest, " ")
	return version
}

// facts asks what clients are told about the engine: whether it can work
// without anybody logging in first, and its model ("" when Codex chooses).
func (w *watch) facts(ctx context.Context) (usable bool, model string) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var acc struct {
		Account            json.RawMessage `json:"account"`
		RequiresOpenAIAuth bool            `json:"requiresOpenaiAuth"`
	}
	usable = true // when it cannot say, the first turn will
	if w.peer.Call(ctx, "account/read", nil, &acc) == nil {
		usable = !acc.RequiresOpenAIAuth || len(acc.Account) > 0 && string(acc.Account) != "null"
	}
	var conf struct {
		Config struct {
			Model string `json:"model"`
		} `json:"config"`
	}
	_ = w.peer.Call(ctx, "config/read", nil, &conf) // the model is a nicety
	return usable, plain(conf.Config.Model)
}

// close ends the connection and waits for it. It may be called again.
func (w *watch) close() {
	w.cancel()
	<-w.ended
}

// maxTokenAsks is how many requests for tokens stay unanswered; see Request.
const maxTokenAsks = 32

// Request refuses: this connection takes part in no thread. A request for tokens
// is not even refused: Codex sends it to every connection and takes the first
// answer, a refusal too, so that the lender's own would come to nothing. It is
// answered long after nobody waits for it any more, because the connection counts
// what is unanswered.
func (w *watch) Request(_ context.Context, r *rpc.Request) {
	if r.Method == protocol.ReqTokensRefresh {
		if w.tokens = append(w.tokens, r); len(w.tokens) <= maxTokenAsks {
			return
		}
		r, w.tokens = w.tokens[0], w.tokens[1:]
	}
	r.Fail(&protocol.Error{Code: protocol.CodeMethodNotFound, Message: "not a client that answers"})
}

// Notification notes that the account may have changed, and what works.
func (w *watch) Notification(_ context.Context, method string, params json.RawMessage) {
	w.heard(method, params)
	if method != "account/updated" && method != "account/login/completed" {
		return
	}
	select {
	case w.account <- struct{}{}:
	default:
	}
}
