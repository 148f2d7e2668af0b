package gate

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"towline/appserver/protocol"
)

// When a credential stops to count its connections end, the client hears why,
// what it asks and answers afterwards counts no more, and the audit says so.
func TestLapsedClientsAreLetGo(t *testing.T) {
	home, _, _ := folders(t)
	r := newRig(t, func(c *Config) { c.Project = home }, true)
	over := make(chan struct{})
	who := scopedPrincipal(t, "ci", protocol.RoleOperator, "exec")
	who.Scope, who.Lapsed = nil, over
	p, other := dialAs(t, r.g, who), dialAs(t, r.g, who)
	p.hello("ci")
	other.hello("ci")
	thread := p.startThread()
	r.e.startTurn(thread, "t1")
	q := r.e.ask(thread, protocol.ReqCommandApproval, map[string]any{"itemId": "i"})
	p.wait("question", 0, isAsk)
	r.e.forgetSeen()
	close(over)
	_ = p.s.Write(t.Context(), []byte(`{"id":`+string(protocol.IntID(q.id))+`,"result":{"decision":"accept"}}`)) // it may be gone already
	_ = p.s.Write(t.Context(), []byte(`{"id":"late","method":"turn/start","params":{"threadId":"`+thread+`","input":[]}}`))
	for _, c := range []*person{p, other} {
		if w := c.note("warning"); !strings.Contains(string(w.Params), "access ended") {
			t.Errorf("told %s", w.Params)
		}
		err := <-c.served
		close(c.served)
		if !errors.Is(err, errLapsed) {
			t.Errorf("Serve: %v", err)
		}
	}
	if len(q.answers) != 0 || r.e.saw("turn/start") {
		t.Error("what was said after the end counted")
	}
	if n := r.g.Stats().Lapsed; n != 2 {
		t.Errorf("%d are counted", n)
	}
	r.stop()
	raw, err := os.ReadFile(r.audit)
	if err != nil || strings.Count(string(raw), `"event":"detach"`) != 2 || !strings.Contains(string(raw), "it was revoked, has expired") {
		t.Errorf("the audit says %s, err %v", raw, err)
	}
}

// One that does not read is gone all the same, and one that comes too late does
// not get in.
func TestLapsedClientsThatDoNotReadGo(t *testing.T) {
	r := newRig(t, nil, false)
	over := make(chan struct{})
	who := scopedPrincipal(t, "ci", protocol.RoleOperator, "exec")
	who.Lapsed = over
	p := dialAs(t, r.g, who)
	p.hello("ci")
	began := time.Now()
	close(over)
	<-p.served
	close(p.served)
	late := dialAs(t, r.g, who)
	_ = late.s.Write(t.Context(), []byte(`{"id":1,"method":"thread/list","params":{}}`))
	<-late.served
	close(late.served)
	if r.e.saw("thread/list") {
		t.Error("who came too late was heard")
	}
	t.Logf("gone after %v", time.Since(began)) // a second is the promise; machines differ
}

// An engine connection that is kept for what a lapsed client began goes with it.
func TestOrphansLapse(t *testing.T) {
	r := newRig(t, nil, true)
	over := make(chan struct{})
	who := principal("ana", protocol.RoleOperator)
	who.Lapsed = over
	p := dialAs(t, r.g, who)
	p.hello("ana")
	thread := p.startThread()
	r.e.mu.Lock()
	r.e.threads[thread].ephemeral = true // nobody else can watch it
	r.e.mu.Unlock()
	r.e.startTurn(thread, "t1")
	r.e.itemStarted(thread, "i", "agentMessage", nil)
	p.note("item/started")
	_ = p.leave()
	eventually(t, "its connection is kept", func() bool { return r.g.Stats().Orphans == 1 })
	close(over)
	eventually(t, "it goes", func() bool { return r.g.Stats().Orphans == 0 })
}
