package gate

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config/store"
)

// nowhere is a stream that remembers what was written and never says anything.
type nowhere struct {
	mu   sync.Mutex
	msgs [][]byte
}

func (n *nowhere) Read(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, io.EOF }
func (n *nowhere) Close(error) error                        { return nil }

func (n *nowhere) Write(_ context.Context, msg []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.msgs = append(n.msgs, append([]byte(nil), msg...))
	return nil
}

// noStore keeps nothing.
type noStore struct{}

func (noStore) PutApproval(context.Context, store.Approval) error { return nil }
func (noStore) Approvals(context.Context, store.ApprovalFilter) ([]store.Approval, error) {
	return nil, nil
}
func (noStore) SetLastThread(context.Context, string, string) error { return nil }
func (noStore) LastThread(context.Context, string) (string, error)  { return "", nil }
func (noStore) ForgetThread(context.Context, string) error          { return nil }
func (noStore) AddStarted(context.Context, string, string) error    { return nil }
func (noStore) Started(context.Context, string) ([]string, error)   { return nil, nil }

// loose is a client on no network: its upstream and its outbox only remember.
func loose(role protocol.Role) (*client, *nowhere) {
	g := New(Config{Engine: newFake(), Store: noStore{}, Log: slog.New(slog.DiscardHandler)})
	up := new(nowhere)
	c := g.newClient(Client{Principal: principal("p", role)}, rpc.NewOutbox(new(nowhere)), func(error) {})
	c.u = g.newUpstream(up, c)
	return c, up
}

// Whatever a client sends, nothing reaches the engine that its role forbids, no
// token is asked for, and a question is answered at most once and validly.
func FuzzClientMessages(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"method":"thread/resume","params":{"threadId":"t","path":"/x"}}`,
		`{"id":"a","method":"turn/start","params":{}}`,
		`{"id":1,"method":"getAuthStatus","params":{"includeToken":true}}`,
		`{"id":7,"result":{"decision":"accept"}}`,
		`{"id":7,"result":{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["a"]}}}}`,
		`{"id":7,"error":{"code":-1,"message":"no"}}`,
		`{"method":"initialized"}`,
		`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"x"},"capabilities":{"optOutNotificationMethods":["a"],"extensions":{"towline":1}}}}`,
		`{"id":1,"method":"towline/approval/answer","params":{"id":"x","result":{}}}`,
		`{"id":1,"method":"towline/approval/list","params":[]}`,
		`{"id":1,"method":"fs/readFile","method":"thread/list","params":null}`,
	} {
		f.Add([]byte(s), byte(1))
		f.Add([]byte(s), byte(2))
	}
	f.Fuzz(func(t *testing.T, msg []byte, roleByte byte) {
		role := protocol.Role(roleByte % 4) // everyone but the admin
		c, up := loose(role)
		// One question is open to this client.
		ask := []byte(`{"id":7,"method":"item/commandExecution/requestApproval","params":{"threadId":"t","turnId":"u","itemId":"i"}}`)
		env, err := protocol.PeekTrusted(ask)
		if err != nil {
			t.Fatal(err)
		}
		c.u.book.Lock()
		c.u.subscribe("t")
		c.u.book.Unlock()
		ev := classify(env, ask)
		c.u.observe(&ev)
		c.deliver(ev)
		for range 2 {
			if err := c.receive(t.Context(), msg); err != nil {
				t.Fatal(err)
			}
		}
		answers := 0
		for _, m := range up.msgs {
			env, err := protocol.Peek(m)
			if err != nil {
				t.Fatalf("the engine was sent %q: %v", m, err)
			}
			switch env.Kind {
			case protocol.KindRequest:
				if protocol.LeastRole(env.Method) > role || env.Method == "getAuthStatus" {
					t.Fatalf("%s reached the engine for a %s", env.Method, role)
				}
				if env.Method == "thread/resume" && role < protocol.RoleOperator {
					var p map[string]json.RawMessage
					_ = json.Unmarshal(env.Params, &p)
					for k := range p {
						if k != "threadId" && k != "excludeTurns" && k != "initialTurnsPage" {
							t.Fatalf("thread/resume passed with %s", k)
						}
					}
				}
			case protocol.KindNotification:
				if env.Method != "initialized" && role < protocol.RoleOperator {
					t.Fatalf("%s reached the engine from a %s", env.Method, role)
				}
			case protocol.KindResponse:
				if answers++; answers > 1 || role < protocol.RoleApprover || !strings.Contains(string(env.Result), "decision") {
					t.Fatalf("the engine was answered %s (%d answers) by a %s", env.Result, answers, role)
				}
			default:
				t.Fatalf("the engine was sent %s", m)
			}
		}
	})
}

// Whatever the engine sends (a newer one, or a broken one), observing and
// delivering it neither fails nor loses it for the client.
func FuzzEngineMessages(f *testing.F) {
	for _, s := range []string{
		`{"method":"item/started","params":{"threadId":"t","turnId":"u","item":{"type":"agentMessage","id":"i"}}}`,
		`{"method":"item/agentMessage/delta","params":{"threadId":"t","turnId":"u","itemId":"i","delta":"x"}}`,
		`{"method":"item/completed","params":{"threadId":"t","turnId":"u","item":{"id":"i"}}}`,
		`{"method":"turn/completed","params":{"threadId":"t","turn":{"id":"u"}}}`,
		`{"method":"thread/closed","params":{"threadId":"t"}}`,
		`{"method":"serverRequest/resolved","params":{"threadId":"t","requestId":7}}`,
		`{"id":8,"method":"item/tool/call","params":{}}`,
		`{"id":1,"result":{"thread":{"id":"t","status":{"type":"active"}}}}`,
		`{"id":1,"error":{}}`,
	} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		c, _ := loose(protocol.RoleOperator)
		c.sent("1", call{method: "thread/resume"})
		c.sent("2", call{method: "initialize"})
		started := []byte(`{"method":"item/started","params":{"threadId":"t","turnId":"u","item":{"type":"agentMessage","id":"i"}}}`)
		valid := true
		for _, m := range [][]byte{started, a, b, a, b} {
			valid = valid && json.Valid(m)
			env, err := protocol.PeekTrusted(m)
			if err != nil {
				continue
			}
			ev := classify(env, m)
			if !c.u.observe(&ev) {
				c.deliver(ev)
			}
		}
		c.mu.Lock()
		held := len(c.held)
		c.mu.Unlock()
		if held != 0 {
			t.Fatalf("%d messages kept back with nobody to wait for", held)
		}
		for _, s := range c.u.subs {
			for _, w := range s.items {
				for _, msg := range w.it.replay(1, nil) {
					if _, err := protocol.Peek(msg); err != nil && valid {
						t.Fatalf("replay of %q: %v", msg, err)
					}
				}
			}
		}
		c.leave()
		c.u.close(nil)
	})
}

// FuzzLendersAnswer holds what a lender says to what the engine relies on: a token
// for the account that was lent and nothing beside it, else an error that repeats
// nothing of the answer.
func FuzzLendersAnswer(f *testing.F) {
	for _, s := range []string{
		`{"id":3,"result":{"accessToken":"a.b.c","chatgptAccountId":"acct-1","chatgptPlanType":null}}`,
		`{"id":3,"result":{"accessToken":"a.b.c","chatgptAccountId":"acct-2","more":{"x":1}}}`,
		`{"id":"x","result":[]}`, `{"id":3,"error":{"code":-1,"message":"a.b.c"}}`,
		`{"id":3,"result":{"AccessToken":"a.b.c","accesstoken":"d","chatgptaccountid":"acct-1","chatgptAccountId":"acct-1"}}`,
	} {
		f.Add(s)
	}
	l := &loan{held: held{account: "acct-1"}}
	f.Fuzz(func(t *testing.T, in string) {
		env, err := protocol.Peek([]byte(in))
		if err != nil || env.Kind != protocol.KindResponse && env.Kind != protocol.KindError {
			return
		}
		out, err := protocol.Peek(l.vet(env))
		if err != nil || string(out.ID) != string(env.ID) {
			t.Fatalf("%s became unreadable, or another's: %v", in, err)
		}
		if out.Kind == protocol.KindError {
			return
		}
		n := 0
		for name := range protocol.Members(out.Result) {
			switch n++; name {
			case "accessToken", "chatgptAccountId", "chatgptPlanType":
			default:
				t.Fatalf("%s passes with %q", in, name)
			}
		}
		if n != 3 || protocol.StringField(out.Result, "chatgptAccountId") != "acct-1" || protocol.StringField(out.Result, "accessToken") == "" {
			t.Fatalf("%s passes as %s", in, out.Result)
		}
	})
}
