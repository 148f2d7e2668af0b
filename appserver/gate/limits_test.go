package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"towline/appserver/access"
	"towline/appserver/protocol"
	"towline/config"
)

func TestBucket(t *testing.T) {
	b := newBucket(10, time.Second, 3)
	now := int64(1)
	for range 3 {
		if wait := b.take(now); wait != 0 {
			t.Fatalf("within the burst: wait %v", wait)
		}
	}
	if wait := b.take(now); wait != 100*time.Millisecond {
		t.Errorf("beyond it: wait %v", wait)
	}
	now += int64(100 * time.Millisecond)
	if b.take(now) != 0 || b.take(now) == 0 {
		t.Error("after a tenth of a second there is exactly one more")
	}
	now += int64(time.Hour)
	for i := range 4 {
		if (b.take(now) == 0) != (i < 3) {
			t.Errorf("after an hour %d came at once", i+1)
		}
	}
	if none := newBucket(0, time.Second, 0); none.take(now) != 0 {
		t.Error("no rate bounds")
	}
}

func overloaded(err error) (after int64, ok bool) {
	var pe *protocol.Error
	if !errors.As(err, &pe) || pe.Code != protocol.CodeOverloaded || !strings.HasPrefix(pe.Message, "Server overloaded; retry later.") {
		return 0, false
	}
	_ = json.Unmarshal(protocol.Field(pe.Data, "retryAfterMs"), &after)
	return after, after > 0
}

// A rate is the principal's, over all of its connections and whether it comes
// again, and not its neighbour's. It does not keep anybody from interrupting.
func TestRatesBoundPrincipals(t *testing.T) {
	rate := config.Rate{Requests: 1, Burst: 8}
	r := newRig(t, func(c *Config) { c.Rate = config.Rates{Tokens: rate, People: rate} }, false)
	token := func(id string) access.Principal {
		return access.Principal{Kind: access.KindToken, ID: id, Name: id, Role: protocol.RoleOperator}
	}
	p, second, other := dialAs(t, r.g, token("a")), dialAs(t, r.g, token("a")), dialAs(t, r.g, token("b"))
	p.hello("p")
	second.hello("second") // two of eight are gone
	other.hello("other")
	refused := 0
	for range 8 {
		if _, err := p.call("model/list", nil); err != nil {
			if _, ok := overloaded(err); !ok {
				t.Fatalf("told %v", err)
			}
			refused++
		}
	}
	if refused < 1 || refused > 4 { // a second or two may have passed
		t.Errorf("%d of eight were refused", refused)
	}
	var err error
	for range 20 { // the rest of what has come since
		if _, err = second.call("model/list", nil); err != nil {
			break
		}
	}
	if _, ok := overloaded(err); !ok {
		t.Errorf("its other connection: %v", err)
	}
	other.must("model/list", nil)
	for range 20 {
		p.must("turn/interrupt", map[string]any{"threadId": "t", "turnId": "u"})
	}
	own := dialAs(t, r.g, access.Principal{Kind: access.KindLocal, ID: "uid:1", Name: "me", Role: protocol.RoleAdmin})
	own.hello("own")
	for range 100 {
		own.must("model/list", nil)
	}
	_ = p.leave()
	again := dialAs(t, r.g, token("a"))
	_, err = again.call("initialize", map[string]any{"clientInfo": map[string]string{"name": "x", "version": "1"}})
	if err == nil {
		_, err = again.call("model/list", nil)
	}
	if _, ok := overloaded(err); !ok {
		t.Errorf("who came again: %v", err)
	}
	if r.g.Stats().Limited == 0 {
		t.Error("nothing is counted")
	}
}

// Turns are bounded by the minute, and for a token with a scope by what runs.
func TestRatesBoundTurns(t *testing.T) {
	home, _, _ := folders(t)
	r := newRig(t, func(c *Config) {
		c.Project = home
		c.Rate.Tokens = config.Rate{Turns: 5, Running: 2}
	}, true)
	p := r.joinScoped("ci", protocol.RoleOperator, "exec")
	turn := func(thread string) error {
		_, err := p.call("turn/start", map[string]any{"threadId": thread, "input": []any{}})
		return err
	}
	var threads []string
	for range 3 {
		threads = append(threads, p.startThread())
	}
	for i, id := range threads {
		err := turn(id)
		if i < 2 {
			if err != nil {
				t.Fatal(err)
			}
			r.e.startTurn(id, fmt.Sprint("t", i))
			continue
		}
		if _, ok := overloaded(err); !ok || !strings.Contains(err.Error(), "2 turns at once") {
			t.Errorf("the third: %v", err)
		}
	}
	if err := turn(threads[0]); err != nil {
		t.Errorf("more for one that runs: %v", err)
	}
	r.e.endTurn(threads[0])
	p.wait("the end", 0, func(e protocol.Envelope) bool { return e.Method == "turn/completed" })
	if err := turn(threads[2]); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	err := turn(threads[2])
	if after, ok := overloaded(err); !ok || !strings.Contains(err.Error(), "5 turns a minute") || after > 60_000 {
		t.Errorf("the sixth of a minute: %v", err)
	}
}

// Bytes of requests without an answer are bounded, one request always passes, and
// what was held is given back when the client leaves.
func TestRatesBoundBytes(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate.People = config.Rate{Bytes: 1000} }, false)
	p := r.join("p", protocol.RoleOperator, false)
	p.must("echo", map[string]string{"x": strings.Repeat("y", 4000)})
	p.send(`{"id":1,"method":"hang","params":{"x":"` + strings.Repeat("y", 900) + `"}}`)
	if _, err := p.call("echo", map[string]string{"x": strings.Repeat("y", 200)}); err == nil {
		t.Error("more was taken")
	} else if _, ok := overloaded(err); !ok {
		t.Errorf("told %v", err)
	}
	_ = p.leave()
	again := r.join("p", protocol.RoleOperator, false)
	again.must("echo", map[string]string{"x": strings.Repeat("y", 900)})
}

func BenchmarkAfford(b *testing.B) {
	g := New(Config{Engine: newFake(), Store: noStore{}, Rate: config.Rates{Tokens: config.Rate{Requests: 1 << 30, Burst: 1 << 30, Bytes: 1 << 30}}})
	c := &client{g: g}
	c.quota = g.quotaOf(access.Principal{Kind: access.KindToken, ID: "x"})
	for b.Loop() {
		if c.afford("model/list", 100) != nil {
			b.Fatal("refused")
		}
	}
}
