package gate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/config"
)

// While there is no engine the gate answers by itself. Credentials and rates count
// there as they do elsewhere.
func TestSecurityWithoutAnEngineCredentialsCount(t *testing.T) {
	var asked atomic.Int32
	e := newFake()
	e.setState(protocol.EngineState{State: "starting"}, errors.New("not yet"))
	r := newRigOn(t, e, func(c *Config) {
		c.Rate.Tokens = config.Rate{Requests: 1, Burst: 3}
		c.Extensions = map[string]Extension{protocol.ExtTokenCreate: func(context.Context, Client, json.RawMessage) (any, error) {
			asked.Add(1)
			return struct{}{}, nil
		}}
	}, false)
	create := `{"id":"1","method":"` + protocol.ExtTokenCreate + `","params":{}}`
	serve := func(lapsed bool, msgs ...string) {
		over := make(chan struct{})
		if lapsed {
			close(over)
		}
		near, far := rpc.Pipe(64)
		for _, m := range msgs {
			if err := near.Write(t.Context(), []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		who := access.Principal{Kind: access.KindToken, ID: "a", Name: "a", Role: protocol.RoleAdmin, Lapsed: over}
		go func() { done <- r.g.Serve(t.Context(), far, Client{Principal: who, Via: "wss"}) }()
		if !lapsed {
			for range msgs {
				if _, err := near.Read(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_ = near.Close(nil)
		}
		<-done
		_ = near.Close(nil)
	}
	for range 20 { // it may be let go before it is read
		serve(true, create)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("a lapsed administrator was heard %d times", n)
	}
	serve(false, create, create, create, create, create, create, create, create)
	if n := asked.Load(); n != 3 {
		t.Errorf("%d requests passed, the burst is 3", n)
	}
}

// Interrupts pass whatever the rate is, because a person must be able to stop what a
// program does in his name. They are on record, so they must not be a way to write
// the audit log full.
func TestSecurityInterruptsAreBounded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate.Tokens = config.Rate{Requests: 1, Burst: 4} }, false)
	p := dialAs(t, r.g, access.Principal{Kind: access.KindToken, ID: "a", Name: "a", Role: protocol.RoleApprover})
	p.hello("a")
	const all = 3 * urgentBurst
	refused := 0
	for range all {
		if _, err := p.call("turn/interrupt", map[string]any{"threadId": "t", "turnId": "u"}); err != nil {
			if _, ok := overloaded(err); ok {
				refused++
			}
		}
	}
	if refused == 0 || refused > all-urgentBurst {
		t.Errorf("%d of %d were refused", refused, all)
	}
	_ = p.leave()
	r.stop()
	raw, err := os.ReadFile(r.audit)
	if n := strings.Count(string(raw), "turn/interrupt"); err != nil || n > all-refused+1 {
		t.Errorf("%d entries, err %v", n, err)
	}
}

// What a scope does not hold is not told by the host's account of itself either.
func TestSecurityScopedClientsHearNothingOfTheHost(t *testing.T) {
	home, _, _ := folders(t)
	const secret = "/srv/else/where"
	r := newRig(t, func(c *Config) {
		c.Project = home
		c.Status = func() protocol.HostStatus {
			st := protocol.HostStatus{
				PID: 7, Home: secret, Project: secret, SSH: secret, HostKey: secret, Listen: []string{secret}, StartedAt: 1,
				Restarted: &protocol.Restarted{At: 1, Reason: secret}, Lent: &protocol.Lent{Account: secret},
			}
			st.Threads.Interrupted = 3
			return st
		}
	}, false)
	r.e.setState(protocol.EngineState{Kind: "codex", State: "ready", Detail: secret, Problem: secret, Hints: []string{secret}}, nil)
	p := dialAs(t, r.g, scopedPrincipal(t, "ci", protocol.RoleOperator, "exec"))
	p.hello("ci")
	for _, method := range []string{protocol.ExtStatus, protocol.ExtSession} {
		raw, err := p.call(method, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(raw); strings.Contains(s, secret) || strings.Contains(s, `"pid":7`) || strings.Contains(s, `"interrupted":3`) {
			t.Errorf("%s: %s", method, s)
		}
	}
	all := r.join("ana", protocol.RoleObserver, true)
	raw, err := all.call(protocol.ExtStatus, nil)
	if err != nil || !strings.Contains(string(raw), secret) {
		t.Errorf("without a scope: %s, %v", raw, err)
	}
}
