package tui

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/tui/prompt"
	"towline/appserver/tui/transcript"
)

const (
	// programGrace is how long a request for a program waits for another client
	// that can answer it, before this one says that it cannot.
	programGrace = 3 * time.Second
	// closedTime is how long it is said who answered.
	closedTime = 6 * time.Second
)

// ask is one question that waits for a person.
type ask struct {
	p        *prompt.Prompt
	key      string // of the request: its id as written
	thread   protocol.ThreadID
	turn     string
	item     string
	req      *rpc.Request // nil when only the approval object is known
	approval string       // the approval object's id, "" with a stock app-server
	since    time.Time    // it is on the screen since then; zero before
	live     bool         // keys answer it
}

// asks is the queue of questions, oldest first.
type asks struct {
	open     []*ask
	last     time.Time // this person answered then
	ticking  bool
	ended    []*ask // their turn is over; the server has yet to say that they are closed
	settled  []*rpc.Request
	closed   closedAsk
	answered map[string]string              // by key: what this client answered on this connection
	waiting  map[protocol.ThreadID]string   // what waits in other threads, in words
	items    map[string]protocol.Approval   // open approval objects by request key
	programs map[string]func(string, error) // requests for programs, by key
}

// closedAsk is the last question that somebody else settled.
type closedAsk struct {
	key, text string
	at        time.Time
}

// lost drops what belongs to a connection that is gone. The server asks again.
func (a *asks) lost() {
	*a = asks{closed: a.closed, last: a.last, ticking: a.ticking}
}

// quieten takes the keys from the questions for a moment, because the link is
// back: r and d were the banner's until now, for who saw nothing else. An answer
// that is being written goes on.
func (a *asks) quieten(now time.Time) {
	for _, q := range a.open {
		if q.live && !q.p.Typing() {
			q.live, q.since = false, now
			a.last = now // what is pressed in that moment is no text either
		}
	}
}

func (a *asks) expire(now time.Time) {
	if a.closed.text != "" && now.Sub(a.closed.at) > closedTime {
		a.closed = closedAsk{}
	}
}

// dropThread forgets the questions of a thread that is left: they stay open at
// the server, for others and for when this one comes back.
func (a *asks) dropThread(id protocol.ThreadID) {
	a.open = slices.DeleteFunc(a.open, func(q *ask) bool { return q.thread == id })
	a.closed = closedAsk{}
}

// dropTurn forgets the questions of a turn that ended.
func (a *asks) dropTurn(turn string) {
	a.open = slices.DeleteFunc(a.open, func(q *ask) bool {
		if q.turn == "" || q.turn != turn {
			return false
		}
		a.ended = append(a.ended, q)
		return true
	})
}

// maxSettled is how many requests that others settled stay unanswered. Nobody
// waits for these answers, but the connection counts unanswered requests and
// refuses new ones beyond rpc.MaxInFlight.
const maxSettled = rpc.MaxInFlight / 2

// release lets go of a request that was settled without us.
func (a *asks) release(q *ask) {
	if q.req == nil {
		return
	}
	if a.settled = append(a.settled, q.req); len(a.settled) > maxSettled {
		a.settled[0].Fail(protocol.Errorf("settled elsewhere")) // the server ignores it
		a.settled = a.settled[1:]
	}
}

// item tells the questions about an item what it is, and reports whether there
// is one.
func (a *asks) item(it protocol.Item) (asked bool) {
	for _, q := range a.open {
		if q.item == it.ID {
			q.p.SetItem(it)
			asked = true
		}
	}
	return asked
}

func (a *asks) find(key string) *ask {
	for _, q := range a.open {
		if q.key == key {
			return q
		}
	}
	return nil
}

// asked is a request from the server.
func (m *model) asked(e event) tea.Cmd {
	if protocol.IsApproval(e.method) {
		q := m.question(string(e.req.ID), e.method, e.params)
		q.req = e.req
		return nil
	}
	if e.method == protocol.ReqCurrentTime {
		e.req.Reply(map[string]int64{"currentTimeAt": m.now().Unix()})
		return nil
	}
	// Meant for the program that offered it. Another client of this thread may
	// be that program, so it goes first.
	key := string(e.req.ID)
	if m.asks.programs == nil {
		m.asks.programs = map[string]func(string, error){}
	}
	m.asks.programs[key] = func(what string, err error) {
		if what != "" {
			e.req.Reply(map[string]any{"success": false, "contentItems": []map[string]string{{"type": "inputText", "text": what}}})
			return
		}
		e.req.Fail(err)
	}
	gen, method := m.conn.gen, e.method
	return m.link.after(programGrace, func(m *model) tea.Cmd {
		answer := m.asks.programs[key]
		if answer == nil || m.conn.gen != gen {
			return nil
		}
		delete(m.asks.programs, key)
		switch method {
		case protocol.ReqToolCall:
			answer("this client offers no tools", nil)
		case protocol.ReqTokensRefresh:
			answer("", protocol.Errorf("this client holds no account tokens"))
		case protocol.ReqAttestation:
			answer("", protocol.Errorf("this client cannot attest"))
		default:
			answer("", &protocol.Error{Code: protocol.CodeMethodNotFound, Message: "unsupported server request " + method})
		}
		return nil
	})
}

// question makes or finds the ask for a request.
func (m *model) question(key, method string, params json.RawMessage) *ask {
	if q := m.asks.find(key); q != nil {
		return q
	}
	q := &ask{
		key: key, thread: protocol.ThreadID(protocol.StringField(params, "threadId")),
		turn: protocol.StringField(params, "turnId"), item: protocol.StringField(params, "itemId"),
	}
	r := prompt.Request{Key: key, Method: method, Params: params, Cwd: m.cur.cwd}
	if it, ok := m.tr.Item(q.item); ok {
		r.Item = &it
	}
	if ap, ok := m.asks.items[key]; ok {
		q.approval = ap.ID
		r.Item = orItem(r.Item, ap.Item)
	}
	q.p = prompt.New(r)
	m.tr.Wait(q.item, true)
	m.asks.open = append(m.asks.open, q)
	if m.asks.closed.key == key {
		m.asks.closed = closedAsk{}
	}
	return q
}

func orItem(have *protocol.Item, raw json.RawMessage) *protocol.Item {
	var it protocol.Item
	if have == nil && len(raw) > 0 && json.Unmarshal(raw, &it) == nil {
		return &it
	}
	return have
}

// answer sends what the person decided.
func (m *model) answer(q *ask, a prompt.Answer) tea.Cmd {
	if a.Interrupt {
		return m.interrupt()
	}
	if !m.live() {
		m.say("not sent: %s; answer when it is back", m.away())
		return nil
	}
	m.settle(q)
	m.asks.last = m.now()
	if m.asks.answered == nil {
		m.asks.answered = map[string]string{}
	}
	m.asks.answered[q.key] = a.Word
	if a.Reason != "" {
		m.tr.Note("", "", transcript.Note{Kind: transcript.NoteStop, Text: a.Word + ": " + a.Reason})
	}
	var cmds []tea.Cmd
	if q.req != nil {
		q.req.Reply(a.Result)
	} else {
		params := map[string]any{"id": q.approval, "result": a.Result}
		cmds = append(cmds, call(m.link, protocol.ExtApprovalAnswer, params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
			if err != nil {
				m.fail("answer", err)
			}
			return nil
		}))
	}
	// Towline's own engine reads the reason in the answer; Codex does not.
	if a.Reason != "" && m.engine.Kind != "native" && m.cur.turn != "" {
		cmds = append(cmds, m.transmit(pending{id: newID(), text: a.Reason}, true))
	}
	return tea.Batch(cmds...)
}

// settle takes a question out of the queue.
func (m *model) settle(q *ask) {
	m.tr.Wait(q.item, false)
	m.asks.open = slices.DeleteFunc(m.asks.open, func(o *ask) bool { return o == q })
}

// onResolved: somebody answered, or nobody has to any more.
func onResolved(m *model, p json.RawMessage) tea.Cmd {
	key := string(protocol.Field(p, "requestId"))
	delete(m.asks.programs, key)
	if q := m.asks.find(key); q != nil {
		m.settle(q)
		m.asks.release(q)
		m.asks.closed = closedAsk{key: key, text: "✔ answered elsewhere", at: m.now()}
	}
	m.asks.ended = slices.DeleteFunc(m.asks.ended, func(q *ask) bool {
		if q.key == key {
			m.asks.release(q)
		}
		return q.key == key
	})
	return nil
}

// also names the others who are asked the same.
func (m *model) also() string {
	var names []string
	for _, p := range m.presence {
		if !p.You && p.Role >= protocol.RoleApprover && p.Thread != nil && *p.Thread == m.cur.id {
			names = append(names, who(p))
		}
	}
	return strings.Join(names, ", ")
}

// asking is the question on the screen, nil when there is none. The thread's own
// come first.
func (m *model) asking() *ask {
	if len(m.asks.open) == 0 {
		return nil
	}
	return m.asks.open[0]
}

// askLook is how the question on the screen is drawn.
func (m *model) askLook(w, h int) prompt.Look {
	l := prompt.Look{Theme: m.th, Width: w, Height: h, Index: 1, Total: len(m.asks.open), Also: m.also(), Quiet: m.askQuiet()}
	if m.role() < protocol.RoleApprover {
		l.Refused = fmt.Sprintf("waiting for somebody who may answer: your role here is %s, which can only watch", m.role())
	}
	return l
}

// askKey gives a key to the question on the screen.
func (m *model) askKey(q *ask, k tea.KeyPressMsg) (tea.Cmd, bool) {
	if m.role() < protocol.RoleApprover {
		return nil, false
	}
	a, done, handled := q.p.Key(k)
	if done {
		return m.answer(q, a), true
	}
	return nil, handled
}
