package gate

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"towline/appserver/protocol"
)

// turnScript plays a turn of many items, some side by side, with many deltas
// each, and returns the texts by item.
func turnScript(e *fakeEngine, thread, turn string, items, deltas int, pace func()) map[string]string {
	texts := make(map[string]string)
	type running struct {
		id, typ, method string
		left            int
		sb              strings.Builder
	}
	var open []*running
	started := 0
	e.startTurn(thread, turn)
	for started < items || len(open) > 0 {
		if started < items && len(open) < 3 && (len(open) == 0 || rand.N(20) == 0) {
			r := &running{id: fmt.Sprintf("item-%d", started), typ: "agentMessage", method: "item/agentMessage/delta", left: rand.N(deltas)}
			if started%3 == 1 {
				r.typ, r.method = "commandExecution", "item/commandExecution/outputDelta"
			}
			started++
			open = append(open, r)
			e.itemStarted(thread, r.id, r.typ, nil)
		}
		i := rand.N(len(open))
		r := open[i]
		if r.left == 0 {
			texts[r.id] = r.sb.String()
			e.itemCompleted(thread, r.id, r.typ, r.sb.String())
			open = append(open[:i], open[i+1:]...)
			continue
		}
		r.left--
		// Equal deltas on purpose: nothing in their content tells them apart.
		text := []string{"x", "xx", "\u00e9\"\\\n", "😀"}[rand.N(4)]
		r.sb.WriteString(text)
		e.delta(thread, r.id, r.method, text, nil)
		pace()
	}
	e.endTurn(thread)
	return texts
}

// checkJoiner holds what a late joiner was sent against what happened: every
// item is in the reply's history or was sent whole, never both, in order, and
// ends before its turn.
func checkJoiner(t *testing.T, p *person, reply json.RawMessage, texts map[string]string) {
	t.Helper()
	p.wait("turn/completed", 0, func(e protocol.Envelope) bool { return e.Method == "turn/completed" })
	var r struct {
		Thread struct {
			Status protocol.ThreadStatus `json:"status"`
			Turns  []struct {
				Items []struct {
					ID string `json:"id"`
				} `json:"items"`
			} `json:"turns"`
		} `json:"thread"`
	}
	if err := json.Unmarshal(reply, &r); err != nil {
		t.Fatal(err)
	}
	if r.Thread.Status.Type != "active" {
		return // joined after the end
	}
	had := make(map[string]bool)
	for _, turn := range r.Thread.Turns {
		for _, it := range turn.Items {
			had[it.ID] = true
		}
	}
	got := make(map[string]*strings.Builder)
	ended := make(map[string]bool)
	last := -1
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.msgs {
		switch {
		case m.Method == "item/started":
			id := protocol.StringField(protocol.Field(m.Params, "item"), "id")
			if got[id] != nil {
				t.Fatalf("%s started twice", id)
			}
			if had[id] {
				t.Fatalf("%s was in the reply and started again", id)
			}
			n := 0
			_, _ = fmt.Sscanf(id, "item-%d", &n)
			if n <= last {
				t.Fatalf("%s started after item-%d", id, last)
			}
			last = n
			got[id] = new(strings.Builder)
		case strings.HasSuffix(m.Method, "elta"):
			id := protocol.StringField(m.Params, "itemId")
			if got[id] == nil {
				t.Fatalf("%s: text without a start", id)
			}
			if ended[id] {
				t.Fatalf("%s: text after its end", id)
			}
			got[id].WriteString(protocol.StringField(m.Params, "delta"))
		case m.Method == "item/completed":
			id := protocol.StringField(protocol.Field(m.Params, "item"), "id")
			if got[id] == nil || ended[id] {
				t.Fatalf("%s completed without a start, or twice", id)
			}
			ended[id] = true
			if s := got[id].String(); s != texts[id] {
				t.Fatalf("%s: got %d bytes of text, want %d\ngot  %.200q\nwant %.200q", id, len(s), len(texts[id]), s, texts[id])
			}
		case m.Method == "turn/completed":
			for id := range texts {
				if !had[id] && !ended[id] {
					t.Fatalf("turn ended and %s was neither in the reply nor sent", id)
				}
			}
		}
	}
}

func TestLateJoinersGetExactText(t *testing.T) {
	for name, run := range map[string]bool{"with the watcher": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			e := newFake()
			e.jitter = true
			r := newRigOn(t, e, nil, run)
			owner := r.join("owner", protocol.RoleOperator, false)
			thread := owner.startThread()
			const joiners = 12
			var wg sync.WaitGroup
			type joined struct {
				p     *person
				reply json.RawMessage
			}
			out := make(chan joined, joiners)
			go1 := make(chan struct{}, joiners)
			n := 0
			for i := range joiners {
				wg.Go(func() {
					<-go1
					p := r.join(fmt.Sprintf("late%d", i), protocol.RoleObserver, false)
					out <- joined{p, p.resume(thread)}
				})
			}
			texts := turnScript(e, thread, "turn-1", 30, 90, func() {
				if n++; n%70 == 0 && n/70 <= joiners {
					go1 <- struct{}{}
				}
				e.breathe()
			})
			for i := n / 70; i < joiners; i++ {
				go1 <- struct{}{}
			}
			wg.Wait()
			close(out)
			active := 0
			for j := range out {
				if strings.Contains(string(j.reply), `"active"`) {
					active++
					checkJoiner(t, j.p, j.reply, texts)
				}
			}
			if active < joiners/2 {
				t.Fatalf("only %d of %d joined while the thread worked", active, joiners)
			}
		})
	}
}
