package gate

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// oracle is an engine for one request at a time: it remembers what it was sent,
// answers the gate's own questions, and lists threads in and out of reach.
type oracle struct {
	nowhere
	work, other string
	c           *client
}

const (
	insideThread  = "00000000-0000-4000-9000-000000000001"
	outsideThread = "00000000-0000-4000-9000-000000000002"
)

func (o *oracle) Write(ctx context.Context, msg []byte) error {
	_ = o.nowhere.Write(ctx, msg)
	env, err := protocol.Peek(msg)
	if err != nil || env.Kind != protocol.KindRequest || !strings.HasPrefix(string(text(env.ID)), o.c.g.secret) {
		return nil
	}
	cwd := func(id string) string {
		if id == insideThread {
			return o.work
		}
		return o.other
	}
	view := func(id string) map[string]any {
		return map[string]any{"id": id, "cwd": cwd(id), "preview": "of " + cwd(id)}
	}
	var result any
	switch env.Method {
	case "thread/read":
		id := protocol.StringField(env.Params, "threadId")
		if id != insideThread && id != outsideThread {
			o.tell(protocol.NewError(clone(env.ID), protocol.Errorf("none")))
			return nil
		}
		result = map[string]any{"thread": view(id)}
	case "thread/list":
		result = map[string]any{"data": []any{view(outsideThread), view(insideThread)}}
	case "thread/search":
		result = map[string]any{"data": []any{map[string]any{"snippet": "x", "thread": view(outsideThread)}}}
	case "thread/loaded/list":
		result = map[string]any{"data": []string{outsideThread, insideThread}}
	default:
		result = map[string]any{"config": map[string]any{"sandbox_mode": "workspace-write"}}
	}
	answer, _ := protocol.NewResponse(clone(env.ID), result)
	o.tell(answer)
	return nil
}

func (o *oracle) tell(msg []byte) {
	env, err := protocol.PeekTrusted(msg)
	if err != nil {
		return
	}
	ev := classify(env, msg)
	o.c.u.observe(&ev)
}

// Whatever a client with a scope sends, nothing reaches the engine that names a
// thread or a folder out of its reach or asks for more than it may, and nothing of
// such a thread comes back.
func FuzzScopedMessages(f *testing.F) {
	if runtime.GOOS == "windows" {
		f.Skip("folders are spelled as on a host")
	}
	for _, s := range []string{
		`{"id":1,"method":"thread/start","params":{"cwd":"$W","sandbox":"workspace-write"}}`,
		`{"id":1,"method":"thread/start","params":{"cwd":"$O"}}`,
		`{"id":1,"method":"thread/start","params":{"cwd":"$W/../other","config":{"sandbox_mode":"danger-full-access"}}}`,
		`{"id":1,"method":"thread/resume","params":{"threadId":"$2","excludeTurns":true}}`,
		`{"id":1,"method":"thread/resume","params":{"threadId":"$1","path":"$O/x"}}`,
		`{"id":1,"method":"thread/resume","params":{"threadId":"$1","threadId":"$2"}}`,
		`{"id":1,"method":"thread/resume","params":{"threadId":"$1","ThreadId":"$2"}}`,
		`{"id":1,"method":"thread/resume","params":["$2"]}`,
		`{"id":1,"method":"thread/resume","params":{"threadId":{"x":"$2"}}}`,
		`{"id":1,"method":"thread/resume","params":{"thread\u0049d":"$2"}}`,
		`{"id":1,"method":"turn/start","params":{"threadId":"$1","input":[{"type":"localImage","path":"$O/a"}]}}`,
		`{"id":1,"method":"turn/start","params":{"threadId":"$1","input":[{"type":"text","text":"x"}],"sandboxPolicy":{"type":"workspaceWrite","writableRoots":["$O"]}}}`,
		`{"id":1,"method":"turn/start","params":{"threadId":"$1","input":[],"runtimeWorkspaceRoots":["$W","$O"]}}`,
		`{"id":1,"method":"thread/list","params":{"parentThreadId":"$2"}}`,
		`{"id":1,"method":"thread/list","params":{}}`, `{"id":1,"method":"thread/search","params":{"searchTerm":"x"}}`,
		`{"id":1,"method":"thread/loaded/list","params":{"cursor":"$2"}}`,
		`{"id":1,"method":"thread/read","params":{"threadId":"$2"},"result":{}}`,
		`{"method":"thread/read","params":{"threadId":"$2"}}`, `{"id":7,"result":{"decision":"accept"}}`,
		`{"id":1,"method":"towline/approval/list","params":{"threadId":"$2"}}`, `{"id":1,"method":"towline/status/read","params":{}}`,
	} {
		for scope := range byte(4) {
			f.Add(s, scope)
		}
	}
	root, err := filepath.EvalSymlinks(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	work, other := filepath.Join(root, "work"), filepath.Join(root, "other")
	f.Fuzz(func(t *testing.T, msg string, which byte) {
		words := [][]string{{"exec"}, {"exec", "project:" + work}, {"project:" + work}, {"threads:" + insideThread}}[which%4]
		role := []protocol.Role{protocol.RoleOperator, protocol.RoleObserver, protocol.RoleApprover, protocol.RoleAdmin}[which/4%4]
		g := New(Config{Engine: newFake(), Store: noStore{}, Log: slog.New(slog.DiscardHandler), Project: work})
		down := new(nowhere)
		out := rpc.NewOutbox(down)
		who := scopedPrincipal(t, "p", role, words...)
		c := g.newClient(Client{Principal: who}, out, func(error) {})
		c.scope = g.newReach(t.Context(), who)
		if which%4 == 0 {
			c.scope.own.add(insideThread)
		}
		up := &oracle{work: work, other: other, c: c}
		c.u = g.newUpstream(up, c)
		for _, id := range []string{insideThread, outsideThread} {
			cwd := map[string]string{insideThread: work, outsideThread: other}[id]
			g.places.put(protocol.ThreadID(id), place{cwd: cwd}, []byte(`{"sandbox":{"type":"workspaceWrite"}}`), false)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = out.Run(ctx) }()
		// What the engine tells of threads comes at any time.
		for _, note := range []string{
			`{"method":"thread/status/changed","params":{"threadId":"$2","status":{"type":"active","activeFlags":[]}}}`,
			`{"id":7,"method":"item/commandExecution/requestApproval","params":{"threadId":"$2","turnId":"u","itemId":"i"}}`,
			`{"method":"account/updated","params":{"authMode":"$O"}}`,
		} {
			b := []byte(expand(note, work, other))
			env, _ := protocol.PeekTrusted(b)
			ev := classify(env, b)
			c.u.observe(&ev)
			c.deliver(ev)
		}
		in := expand(msg, work, other)
		for range 2 {
			if err := c.receive(ctx, []byte(in)); err != nil {
				t.Fatal(err)
			}
		}
		c.scope.beside.Wait()
		flush, stop := context.WithTimeout(ctx, 30*time.Second)
		_ = out.Flush(flush)
		stop()
		cancel()
		<-done
		c.u.close(nil)
		for _, m := range up.msgs {
			env, err := protocol.Peek(m)
			if err != nil {
				t.Fatalf("the engine was sent %q: %v", m, err)
			}
			if strings.HasPrefix(string(text(env.ID)), g.secret) || env.Method == "initialize" || env.Method == "initialized" {
				continue // the gate's own questions, and what says who asks
			}
			if env.Kind != protocol.KindRequest {
				t.Fatalf("the engine was sent %s", m)
			}
			rule, ok := protocol.ScopedMethod(env.Method)
			if !ok || protocol.LeastRole(env.Method) > role || rule.Reach == protocol.ReachList || rule.Reach == protocol.ReachBlank {
				t.Fatalf("%s reached the engine from a %s with %v", env.Method, role, words)
			}
			if id := protocol.StringField(env.Params, "threadId"); rule.Reach == protocol.ReachThread && id != insideThread {
				t.Fatalf("the engine was sent %s", m)
			}
			for name, v := range protocol.Members(env.Params) {
				// What a person may write is free: text names no thread to an engine.
				if name == "cwd" || name == "runtimeWorkspaceRoots" || name == "sandboxPolicy" || name == "parentThreadId" {
					if strings.Contains(string(v), other) || strings.Contains(string(v), outsideThread) || strings.Contains(string(v), "..") {
						t.Fatalf("the engine was sent %s", m)
					}
				}
			}
			for _, s := range []string{"sandbox", "permissions"} {
				if sandboxRank(protocol.StringField(env.Params, s)) >= rankFull && !isAbsent(protocol.Field(env.Params, s)) {
					t.Fatalf("the engine was sent %s", m)
				}
			}
		}
		for _, m := range down.msgs {
			env, err := protocol.Peek(m)
			if err != nil {
				t.Fatalf("the client was sent %q", m)
			}
			if env.Kind == protocol.KindError {
				continue // which repeats what was asked
			}
			var all any
			_ = json.Unmarshal(m, &all)
			if strings.Contains(string(env.Result), outsideThread) || strings.Contains(string(env.Params), outsideThread) || strings.Contains(string(env.Result), other) {
				t.Fatalf("a client with %v was sent %s", words, m)
			}
		}
	})
}

// expand puts the threads and folders of the test in their places.
func expand(s, work, other string) string {
	return strings.NewReplacer("$W", work, "$O", other, "$1", insideThread, "$2", outsideThread).Replace(s)
}
