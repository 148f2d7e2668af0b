package tui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
	"go.uber.org/goleak"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for an event before it says what it saw.
const patience = 15 * time.Second

// obj is a JSON object.
type obj = map[string]any

// fake is a scripted app-server at the other end of the rpc.Stream. Methods
// without a script get {} back.
type fake struct {
	t  *testing.T
	mu sync.Mutex // guards what follows
	// on answers requests; nil error and nil result mean {}.
	on    map[string]func(params json.RawMessage) (any, error)
	calls []called
	peer  *rpc.Peer
	down  bool // Dial fails
	dials int
	heard chan struct{} // closed and replaced on every request
	wg    sync.WaitGroup
}

type called struct {
	method string
	params json.RawMessage
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, on: map[string]func(json.RawMessage) (any, error){}, heard: make(chan struct{})}
	f.reply("initialize", obj{"userAgent": "fake/1.2.3 (test)"})
	f.on["thread/start"] = func(json.RawMessage) (any, error) { return opened("t-1", ""), nil }
	f.reply("thread/list", obj{"data": []any{}})
	return f
}

// stock makes the fake refuse Towline's own methods, as Codex does.
func (f *fake) stock() *fake {
	for _, m := range []string{protocol.ExtSession, protocol.ExtPresence, protocol.ExtApprovalList, protocol.ExtApprovalAnswer, protocol.ExtStatus} {
		f.refuse(m, "Invalid request: unknown variant `"+m+"`, expected one of …")
	}
	return f
}

func (f *fake) session(s protocol.Session) *fake {
	if s.Principal.Role == protocol.RoleNone {
		s.Principal = protocol.Presence{ID: "c1", Kind: "key", Name: "ana@laptop", Role: protocol.RoleAdmin, You: true}
	}
	if s.Engine.Kind == "" {
		s.Engine = protocol.EngineState{Kind: "native", State: "ready", Version: "0.1.0"}
	}
	f.reply(protocol.ExtSession, s)
	f.reply(protocol.ExtPresence, obj{"data": []protocol.Presence{s.Principal}})
	f.reply(protocol.ExtApprovalList, obj{"data": []any{}})
	return f
}

func (f *fake) reply(method string, v any) {
	f.set(method, func(json.RawMessage) (any, error) { return v, nil })
}

func (f *fake) refuse(method, why string) {
	f.set(method, func(json.RawMessage) (any, error) { return nil, protocol.Errorf("%s", why) })
}

func (f *fake) set(method string, h func(json.RawMessage) (any, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on[method] = h
}

func (f *fake) dial(ctx context.Context) (rpc.Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	if f.down {
		return nil, errors.New("connect: connection refused")
	}
	a, b := rpc.Pipe(64)
	p := rpc.NewPeer(b, f)
	f.peer = p
	f.wg.Go(func() { _ = p.Serve(context.WithoutCancel(ctx)) })
	return a, nil
}

func (f *fake) Request(_ context.Context, r *rpc.Request) {
	f.mu.Lock()
	h := f.on[r.Method]
	f.mu.Unlock()
	var v any
	var err error
	if h != nil {
		v, err = h(r.Params)
	}
	if err != nil {
		r.Fail(err)
	} else {
		r.Reply(v)
	}
	f.mu.Lock()
	f.calls = append(f.calls, called{r.Method, r.Params})
	close(f.heard)
	f.heard = make(chan struct{})
	f.mu.Unlock()
}

func (f *fake) Notification(context.Context, string, json.RawMessage) {}

// wait returns the params of the nth call of a method, once it came.
func (f *fake) wait(method string, nth int) json.RawMessage {
	f.t.Helper()
	deadline := time.After(patience)
	for {
		f.mu.Lock()
		n, heard := 0, f.heard
		for _, c := range f.calls {
			if c.method == method {
				if n++; n == nth {
					f.mu.Unlock()
					return c.params
				}
			}
		}
		f.mu.Unlock()
		select {
		case <-heard:
		case <-deadline:
			f.t.Fatalf("no call number %d of %s came; these did: %v", nth, method, f.methods())
		}
	}
}

func (f *fake) methods() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.calls {
		out = append(out, c.method)
	}
	return out
}

func (f *fake) current() *rpc.Peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peer
}

// tell sends a notification.
func (f *fake) tell(method string, params any) {
	f.t.Helper()
	if err := f.current().Notify(method, params); err != nil {
		f.t.Fatalf("tell %s: %v", method, err)
	}
}

// ask sends a request and returns what the answer will be.
func (f *fake) ask(method string, params any) <-chan answered {
	out := make(chan answered, 1)
	p := f.current()
	f.wg.Go(func() {
		var a answered
		a.err = p.Call(context.Background(), method, params, &a.result)
		out <- a
	})
	return out
}

type answered struct {
	result json.RawMessage
	err    error
}

// cut drops the connection; back says whether the next Dial works.
func (f *fake) cut(back bool) {
	f.mu.Lock()
	f.down = !back
	p := f.peer
	f.mu.Unlock()
	p.Close(io.EOF)
}

// opened is the reply to thread/start and thread/resume.
func opened(id, name string, turns ...any) obj {
	th := obj{"id": id, "sessionId": id, "preview": "", "cwd": "/home/ana/src/shop", "status": obj{"type": "idle"}, "turns": []any{}, "modelProvider": "x"}
	if name != "" {
		th["name"] = name
	}
	o := obj{
		"thread": th, "model": "gpt-5.5", "modelProvider": "x", "cwd": "/home/ana/src/shop",
		"approvalPolicy": "on-request", "approvalsReviewer": "user", "sandbox": obj{"type": "workspaceWrite"},
	}
	if turns != nil {
		o["initialTurnsPage"] = obj{"data": turns, "nextCursor": nil}
	}
	return o
}

func userItem(id, s string) obj {
	return obj{"type": "userMessage", "id": id, "clientId": nil, "content": []any{obj{"type": "text", "text": s, "text_elements": []any{}}}}
}

func agentItem(id, s string) obj { return obj{"type": "agentMessage", "id": id, "text": s} }

func commandItem(id, cmd, status, out string) obj {
	o := obj{"type": "commandExecution", "id": id, "command": cmd, "cwd": "/home/ana/src/shop", "status": status, "commandActions": []any{}, "source": "agent"}
	if out != "" {
		o["aggregatedOutput"] = out
	}
	if status == "completed" {
		o["exitCode"], o["durationMs"] = 0, 1200
	}
	return o
}

func turn(id, status string, items ...any) obj {
	if items == nil {
		items = []any{}
	}
	return obj{"id": id, "status": status, "items": items, "itemsView": "full", "error": nil}
}

// on the thread "t-1", turn "u-1".
func (f *fake) started(turnID string) {
	f.tell("turn/started", obj{"threadId": "t-1", "turn": turn(turnID, "inProgress")})
}

func (f *fake) completed(turnID, status string) {
	f.tell("turn/completed", obj{"threadId": "t-1", "turn": turn(turnID, status)})
}

func (f *fake) item(done bool, turnID string, it obj) {
	method := "item/started"
	if done {
		method = "item/completed"
	}
	f.tell(method, obj{"threadId": "t-1", "turnId": turnID, "item": it})
}

// tty is a person at a terminal: a real emulator on one side, keys on the other.
type tty struct {
	t      *testing.T
	emu    *vt.Emulator
	mu     sync.Mutex // guards the emulator and what follows
	drawn  chan struct{}
	raw    strings.Builder // everything written, as it came
	in     *io.PipeWriter
	sizes  chan Size
	done   chan struct{}
	result Result
	err    error
	cancel context.CancelCauseFunc
	ahead  atomic.Int64 // how far the client's clock is, in nanoseconds
}

// start runs the client against f on a terminal of w x h.
func start(t *testing.T, f *fake, w, h int, change ...func(*Config)) *tty {
	t.Helper()
	pr, pw := io.Pipe()
	s := &tty{t: t, emu: vt.NewEmulator(w, h), drawn: make(chan struct{}), in: pw, sizes: make(chan Size, 1), done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(t.Context())
	s.cancel = cancel
	cfg := Config{
		Dial: f.dial, In: pr, Out: s, Environ: []string{"TERM=xterm-256color"}, Size: Size{w, h}, Sizes: s.sizes,
		Host: "dev-server", Version: "test", ReattachHint: "towline dev-server", Log: slog.New(slog.DiscardHandler),
		clock: func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) },
	}
	for _, c := range change {
		c(&cfg)
	}
	// The terminal answers questions (background, modes) on its own.
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1024)
		for {
			n, err := s.emu.Read(buf)
			if n > 0 {
				_, _ = pw.Write(buf[:n])
			}
			if err != nil {
				return
			}
		}
	})
	go func() {
		defer close(s.done)
		s.result, s.err = Run(ctx, cfg)
	}()
	t.Cleanup(func() {
		cancel(errors.New("the test is over"))
		<-s.done
		_ = pr.Close()
		_ = pw.Close()
		if c, ok := s.emu.InputPipe().(io.Closer); ok {
			_ = c.Close()
		}
		wg.Wait()
		if p := f.current(); p != nil {
			p.Close(io.EOF)
		}
		f.wg.Wait()
	})
	return s
}

func (s *tty) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(p)
	n, err := s.emu.Write(p)
	close(s.drawn)
	s.drawn = make(chan struct{})
	return n, err
}

// keys types; names in angle brackets are special keys.
func (s *tty) keys(parts ...string) {
	s.t.Helper()
	for _, p := range parts {
		if k, ok := special[p]; ok {
			p = k
		}
		if _, err := io.WriteString(s.in, p); err != nil {
			s.t.Fatalf("type %q: %v", p, err)
		}
	}
}

var special = map[string]string{
	"<enter>": "\r", "<esc>": "\x1b", "<tab>": "\t", "<up>": "\x1b[A", "<down>": "\x1b[B",
	"<pgup>": "\x1b[5~", "<pgdown>": "\x1b[6~", "<home>": "\x1b[H", "<end>": "\x1b[F", "<alt+enter>": "\x1b\r",
	"<ctrl+c>": "\x03", "<ctrl+d>": "\x04", "<ctrl+t>": "\x14", "<ctrl+o>": "\x0f", "<ctrl+j>": "\n",
	"<bs>": "\x7f", "<wheelup>": "\x1b[<64;10;5M", "<wheeldown>": "\x1b[<65;10;5M", "<space>": " ",
}

// decides types what is meant for a question: after having read it.
func (s *tty) decides(parts ...string) {
	s.t.Helper()
	s.ahead.Add(int64(2 * readingGrace))
	s.keys(parts...)
}

// paste pastes as terminals do.
func (s *tty) paste(p string) { s.keys("\x1b[200~" + p + "\x1b[201~") }

func (s *tty) resize(w, h int) {
	s.mu.Lock()
	s.emu.Resize(w, h)
	s.mu.Unlock()
	s.sizes <- Size{w, h}
}

// text is the screen without colours, lines trimmed.
func (s *tty) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return screenText(s.emu)
}

func screenText(e *vt.Emulator) string {
	lines := strings.Split(ansi.Strip(e.Render()), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \r")
	}
	return strings.Join(lines, "\n")
}

// sees waits until all of these are on the screen; not waits until none is.
func (s *tty) sees(want ...string) string {
	s.t.Helper()
	return s.until(fmt.Sprintf("%q", want), func(screen string) bool {
		for _, w := range want {
			if !strings.Contains(screen, w) {
				return false
			}
		}
		return true
	})
}

func (s *tty) not(gone ...string) string {
	s.t.Helper()
	return s.until(fmt.Sprintf("no %q", gone), func(screen string) bool {
		for _, w := range gone {
			if strings.Contains(screen, w) {
				return false
			}
		}
		return true
	})
}

func (s *tty) until(what string, ok func(screen string) bool) string {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		drawn, screen := s.drawn, screenText(s.emu)
		s.mu.Unlock()
		if ok(screen) {
			return screen
		}
		select {
		case <-drawn:
		case <-s.done:
			s.t.Fatalf("the client ended (%v, %v) while waiting for %s; its last screen:\n%s", s.result, s.err, what, screen)
		case <-deadline:
			s.t.Fatalf("never saw %s; the screen is:\n%s", what, screen)
		}
	}
}

// ends waits for Run to return.
func (s *tty) ends() (Result, error) {
	s.t.Helper()
	select {
	case <-s.done:
		return s.result, s.err
	case <-time.After(patience):
		s.t.Fatalf("the client does not end; the screen is:\n%s", s.text())
		return Result{}, nil
	}
}

// field digs into JSON.
func field(raw json.RawMessage, path ...string) string {
	for _, p := range path {
		raw = protocol.Field(raw, p)
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}
