package gate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towline/appserver/audit"
	"towline/appserver/protocol"
	"towline/config/store"
)

// A message is refused when the engine could take it for something else than the
// gate does.
func TestMessagesOfTwoMeaningsStopAtTheGate(t *testing.T) {
	for name, msg := range map[string]string{
		"an answer as a request, method twice": `{"id":0,"method":"thread/list","method":"thread/list","params":{},"result":{"decision":"accept"}}`,
		"an answer as a request, params twice": `{"id":0,"method":"thread/list","params":{},"params":{},"result":{"decision":"accept"}}`,
		"an answer as a request":               `{"id":0,"method":"thread/list","trace":5,"result":{"decision":"accept"}}`,
		"an error as a request":                `{"id":0,"method":"thread/list","params":{},"error":{"code":1,"message":"x"}}`,
		"an answer with an empty method":       `{"id":0,"method":"","result":{"decision":"accept"}}`,
		"an answer with params":                `{"id":0,"params":{},"result":{"decision":"accept"}}`,
		"a result and an error":                `{"id":0,"result":{"decision":"accept"},"error":{"code":1,"message":"x"}}`,
		"two decisions":                        `{"id":0,"result":{"decision":"decline","decision":"accept"}}`,
		"two decisions, one escaped":           `{"id":0,"result":{"decision":"decline","d\u0065cision":"accept"}}`,
		"two results":                          `{"id":0,"result":{"decision":"decline"},"result":{"decision":"accept"}}`,
		"deeper than the engine reads":         `{"id":0,"result":{"decision":"accept","x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}}`,
		"half a character":                     `{"id":0,"result":{"decision":"accept","x":"\ud800"}}`,
		"an endless number":                    `{"id":0,"result":{"decision":"accept","x":1e999}}`,
		"two threads":                          `{"id":7,"method":"thread/unsubscribe","params":{"threadId":"a","threadId":"b"}}`,
		"a thread in another spelling":         `{"id":7,"method":"thread/unsubscribe","params":{"ThreadID":"b"}}`,
		"an endless id":                        `{"id":"` + strings.Repeat("x", maxID) + `","method":"thread/list","params":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, true)
			p := r.join("ana", protocol.RoleAdmin, false)
			thread := p.startThread()
			r.e.startTurn(thread, "t1")
			q := r.command(thread)
			p.wait("question", 0, isAsk)
			p.send(msg)
			p.sync()
			p.reply(protocol.IntID(q.id), `{"decision":"decline"}`)
			if got := string(<-q.answers); got != `{"id":0,"result":{"decision":"decline"}}` {
				t.Errorf("the engine took %s for the answer", got)
			}
			if r.e.got(msg) {
				t.Error("the message reached the engine")
			}
			_ = p.leave()
			r.stop()
			if raw, err := os.ReadFile(r.audit); err != nil || !strings.Contains(string(raw), `"event":"denied"`) {
				t.Errorf("the audit does not tell, err %v", err)
			}
		})
	}
}

// Only what was validated is passed on, and nothing next to it.
func TestAnswersArePassedOnWithoutExtras(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleApprover, false)
	op := r.join("bob", protocol.RoleOperator, false)
	thread := op.startThread()
	r.e.startTurn(thread, "t1")
	p.resume(thread)
	q := r.command(thread)
	p.wait("question", 0, isAsk)
	p.reply(protocol.IntID(q.id), `{"Decision":"accept"}`)
	p.reply(protocol.IntID(q.id), `{"decision":{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["bash"]}}}`)
	p.reply(protocol.IntID(q.id), `{"Decision":"accept","decision":"decline","more":{"x":1}}`)
	if got := string(<-q.answers); got != `{"id":0,"result":{"decision":"decline"}}` {
		t.Errorf("the engine got %s", got)
	}
	for d, ok := range map[string]bool{
		`{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["make"]}}`:                                                               true,
		`{"AcceptWithExecpolicyAmendment":{"execpolicy_amendment":["make"]}}`:                                                               false,
		`{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":["make"]},"applyNetworkPolicyAmendment":{"network_policy_amendment":{}}}`: false,
		`{"acceptWithExecpolicyAmendment":{"execpolicy_amendment":[]}}`:                                                                     false,
	} {
		if ownAmendment([]byte(d)) != ok {
			t.Errorf("%s: want %v", d, ok)
		}
	}
}

// A real engine runs the command when any of these reaches it: an observer with
// a key for reading would approve unseen.
func TestEngineObserverCannotSmuggleAnAnswer(t *testing.T) {
	eachEngine(t, func(t *testing.T, e Engine, m *model) {
		g, st, _, _ := startGate(t, e, t.TempDir(), nil, true)
		proof := filepath.Join(t.TempDir(), "ran")
		m.script = func(n int, say func(any)) {
			if n == 0 {
				say(execCommand("touch " + proof))
				return
			}
			say(message("all done"))
		}
		ana := attach(t, g, "ana", protocol.RoleOperator, false)
		thread := protocol.StringField(protocol.Field(ana.must("thread/start", map[string]any{"approvalPolicy": "on-request"}), "thread"), "id")
		ana.turn(thread, "go")
		q, _ := ana.wait("question", 0, isAsk)
		eve := attach(t, g, "eve", protocol.RoleObserver, false)
		for _, form := range []string{
			`{"id":%s,"method":"thread/list","method":"thread/list","params":{},"result":{"decision":"accept"}}`,
			`{"id":%s,"method":"thread/list","params":{},"params":{},"result":{"decision":"accept"}}`,
			`{"id":%s,"method":"thread/list","trace":1,"params":{},"params":{},"result":{"decision":"accept"}}`,
			`{"id":%s,"result":{"decision":"accept"}}`,
		} {
			eve.send(fmt.Sprintf(form, q.ID))
		}
		eve.must("thread/loaded/list", map[string]any{})
		ana.reply(q.ID, `{"decision":"decline"}`)
		ana.note("turn/completed")
		if _, err := os.Stat(proof); err == nil {
			t.Error("the command ran")
		}
		rows, err := st.Approvals(t.Context(), store.ApprovalFilter{})
		if err != nil || len(rows) != 1 || string(rows[0].Result) != `{"decision":"decline"}` {
			t.Errorf("stored %+v, err %v", rows, err)
		}
	})
}

// What a program answers becomes the model's input or the host's account.
func TestProgramsAnswersNeedMoreThanApproving(t *testing.T) {
	for method, least := range map[string]protocol.Role{
		protocol.ReqToolCall: protocol.RoleOperator, protocol.ReqCurrentTime: protocol.RoleOperator, "something/new": protocol.RoleOperator,
		protocol.ReqTokensRefresh: protocol.RoleAdmin, protocol.ReqAttestation: protocol.RoleAdmin,
		protocol.ReqCommandApproval: protocol.RoleApprover, protocol.ReqElicitation: protocol.RoleApprover,
	} {
		for _, role := range []protocol.Role{protocol.RoleApprover, protocol.RoleOperator, protocol.RoleAdmin} {
			r := newRig(t, nil, true)
			owner := r.join("owner", protocol.RoleOperator, false)
			thread := owner.startThread()
			p := r.join("p", role, false)
			r.e.startTurn(thread, "t1")
			p.resume(thread)
			if method == protocol.ReqTokensRefresh { // only who lends is asked
				_, _ = p.call(protocol.AccountStart, protocol.LoginStart{Type: protocol.LoginLend, AccessToken: "a.b.c", AccountID: "acct"})
			}
			q := r.e.ask(thread, method, map[string]any{"itemId": "i"})
			p.must("thread/list", nil) // everything before the answer has come
			if got := p.count(isAsk) == 1; got != (role >= least) {
				t.Errorf("%s: %s was asked: %v", method, role, got)
			}
			if role < least {
				p.reply(protocol.IntID(q.id), `{"contentItems":[],"success":true,"accessToken":"mine"}`)
				p.sync()
				if len(q.answers) != 0 {
					t.Errorf("%s: an answer by %s reached the engine", method, role)
				}
			}
		}
	}
}

// The configuration holds the secrets of MCP servers and providers.
func TestConfigurationIsForOperators(t *testing.T) {
	for role, told := range map[protocol.Role]bool{protocol.RoleObserver: false, protocol.RoleApprover: false, protocol.RoleOperator: true} {
		r := newRig(t, nil, false)
		p := r.join("p", role, false)
		answer := p.must("config/read", map[string]any{"includeLayers": true})
		r.e.mu.Lock()
		asked := strings.Contains(strings.Join(r.e.seen, " "), "config/read")
		r.e.mu.Unlock()
		if asked != told || !told && string(answer) != `{"config":{},"origins":{}}` {
			t.Errorf("%s: the engine was asked %v, the client told %s", role, asked, answer)
		}
	}
}

// Names are shown to other people, some of them in terminals.
func TestClientNamesHoldNoControls(t *testing.T) {
	r := newRig(t, nil, true)
	p := dial(t, r.g, "eve", protocol.RoleObserver)
	p.must("initialize", map[string]any{
		"clientInfo": map[string]string{"name": " \x1b]0;pwned\x07a\u202eb\u200bc\r\n" + strings.Repeat("é", 200), "version": "1"},
	})
	list := string(p.must(protocol.ExtPresence, nil))
	if !strings.Contains(list, `"client":"]0;pwnedabc`) || strings.ContainsAny(list, "\u202e\u200b") || strings.Contains(list, `\u00`) {
		t.Errorf("presence is %s", list)
	}
}

// Nobody keeps an entry out of the audit file by making it too long.
func TestLongRefusalsAreAudited(t *testing.T) {
	r := newRig(t, nil, false)
	p := r.join("eve", protocol.RoleObserver, false)
	_, err := p.call("x/"+strings.Repeat("y", 2<<20), nil)
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("told %.100q", err)
	}
	op := r.join("op", protocol.RoleOperator, false)
	_, _ = op.call("turn/start", map[string]any{"threadId": strings.Repeat("t", 2<<20)})
	_, _ = op.call("process/spawn", map[string]any{})
	_, _ = op.call("config/batchWrite", map[string]any{})
	_ = p.leave()
	_ = op.leave()
	r.stop()
	raw, err := os.ReadFile(r.audit)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"event":"denied"`, `"method":"turn/start"`, `"event":"run"`, `"method":"process/spawn"`, `"event":"policy"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("the audit lacks %s", want)
		}
	}
	if r, err := audit.Verify(r.audit); err != nil || r.Entries < 8 {
		t.Errorf("%d entries, err %v", r.Entries, err)
	}
}

// A form may ask for a password; the program gets it, the books do not.
func TestFormsAreNotKept(t *testing.T) {
	r := newRig(t, nil, true)
	p := r.join("ana", protocol.RoleOperator, false)
	eve := r.join("eve", protocol.RoleObserver, true)
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	q := r.e.ask(thread, protocol.ReqElicitation, map[string]any{"serverName": "s", "mode": "form", "message": "log in"})
	p.wait("question", 0, isAsk)
	p.reply(protocol.IntID(q.id), `{"action":"accept","content":{"password":"hunter2"}}`)
	if got := string(<-q.answers); !strings.Contains(got, "hunter2") {
		t.Errorf("the engine got %s", got)
	}
	told := string(eve.note(protocol.NoteApprovalClosed).Params) + string(eve.must(protocol.ExtApprovalList, nil))
	if strings.Contains(told, "hunter2") || !strings.Contains(told, `"result":{"action":"accept"}`) {
		t.Errorf("an observer reads %s", told)
	}
}
