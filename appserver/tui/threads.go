package tui

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// pageTurns is how many turns are read at once, from the newest.
const pageTurns = 40

// thread is the one on the screen.
type thread struct {
	id       protocol.ThreadID
	name     string
	preview  string
	cwd      string
	model    string
	effort   string
	approval string
	sandbox  protocol.SandboxPolicy
	status   protocol.ThreadStatus

	turn    string // the running turn, "" when none is known
	since   time.Time
	last    string // how the last turn ended
	took    time.Duration
	done    string // id of the last turn that ended
	usage   *protocol.ThreadTokenUsage
	plan    []protocol.PlanStep
	diff    string // of the whole last turn
	pending []pending
	// overrides are settings the server could not take at once; they go with the
	// next turn and stick from there.
	overrides map[string]any
	older     older
	seen      map[string]bool // turns shown, to find the overlap after a loss
}

// older is where the history before the screen's continues.
type older struct {
	cursor *string
	busy   bool
}

// opening is a thread that is being fetched. What the server says of threads
// meanwhile waits for its reply: the reply is the older news.
type opening struct {
	req    openRequest
	seq    int
	events []event
}

// openRequest says which thread and what about it.
type openRequest struct {
	id     protocol.ThreadID // "" to start one
	fork   bool              // of id
	cwd    string            // of a new one, "" for the host's choice
	resync bool              // the screen shows it already
	since  time.Time         // the connection was lost then
	why    error             // and this is why
	orList bool              // when it cannot be opened, show what can
	quiet  bool              // and do not complain
	then   func(m *model) tea.Cmd
}

// openedMsg is what came back.
type openedMsg struct {
	seq    int
	gen    int
	opened protocol.ThreadOpened
	turns  []protocol.Turn // oldest first
	older  *string
	err    error
}

// busyOpening reports whether it is not yet settled which thread is shown.
func (m *model) busyOpening() bool { return m.opening != nil || m.landing }

// newThread begins a thread.
func (m *model) newThread(then func(m *model) tea.Cmd) tea.Cmd {
	if !m.may(protocol.RoleOperator, "starting a thread") {
		return m.landInListOnly()
	}
	if !m.sendable() {
		return m.landInListOnly()
	}
	return m.inProject(func(m *model, dir string) tea.Cmd { return m.open(openRequest{cwd: dir, then: then}) })
}

// landInListOnly shows the threads to somebody who cannot begin one.
func (m *model) landInListOnly() tea.Cmd {
	m.landing = false
	if m.screen == nil && m.cur.id == "" {
		m.screen = &picker{}
	}
	return m.list.refresh(m)
}

// open leaves the thread on the screen and fetches another.
func (m *model) open(r openRequest) tea.Cmd {
	if !m.live() {
		m.say("not now: %s", m.away())
		return nil
	}
	leave := m.cur.id
	if r.resync || leave == r.id && !r.fork {
		leave = ""
	}
	m.conn.opens++
	seq, gen := m.conn.opens, m.conn.gen
	m.opening, m.landing = &opening{req: r, seq: seq}, false
	if !r.resync {
		m.asks.dropThread(m.cur.id)
	}
	p := m.link.current()
	return m.link.task(func(ctx context.Context) tea.Msg {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		msg := openedMsg{seq: seq, gen: gen}
		ask := func(method string, params, result any) error { return p.Call(ctx, method, params, result) }
		if leave != "" {
			// The reply does not matter: a thread that is not there is left too.
			_ = p.Call(ctx, "thread/unsubscribe", map[string]any{"threadId": leave}, nil)
		}
		switch {
		case r.id == "":
			params := map[string]any{}
			if r.cwd != "" {
				params["cwd"] = r.cwd
			}
			msg.err = p.Call(ctx, "thread/start", params, &msg.opened)
		case r.fork:
			msg.err = p.Call(ctx, "thread/fork", map[string]any{"threadId": r.id}, &msg.opened)
			if msg.err == nil {
				msg.history(ask)
			}
		default:
			msg.err = p.Call(ctx, "thread/resume", map[string]any{
				"threadId": r.id, "excludeTurns": true,
				"initialTurnsPage": map[string]any{"limit": pageTurns, "itemsView": protocol.ViewFull, "sortDirection": "desc"},
			}, &msg.opened)
			if msg.err == nil {
				msg.history(ask)
			}
		}
		return msg
	})
}

// history finds the turns: in the reply, as newer servers give them, else by
// asking the two ways older ones know.
func (msg *openedMsg) history(ask func(method string, params, result any) error) {
	o := &msg.opened
	page := o.InitialTurnsPage
	if page == nil && len(o.Thread.Turns) > 0 {
		msg.turns = o.Thread.Turns
		return
	}
	if page == nil {
		page = new(protocol.TurnsPage)
		if ask("thread/turns/list", turnsParams(o.Thread.ID, nil), page) != nil {
			var read struct {
				Thread protocol.Thread `json:"thread"`
			}
			if ask("thread/read", map[string]any{"threadId": o.Thread.ID, "includeTurns": true}, &read) == nil {
				msg.turns = read.Thread.Turns
			}
			return
		}
	}
	msg.turns, msg.older = slices.Clone(page.Data), page.NextCursor
	slices.Reverse(msg.turns)
}

func turnsParams(id protocol.ThreadID, cursor *string) map[string]any {
	p := map[string]any{"threadId": id, "limit": pageTurns, "itemsView": protocol.ViewFull, "sortDirection": "desc"}
	if cursor != nil {
		p["cursor"] = *cursor
	}
	return p
}

// opened puts the thread on the screen.
func (m *model) opened(msg openedMsg) tea.Cmd {
	op := m.opening
	if msg.gen != m.conn.gen {
		return nil
	}
	if op == nil || op.seq != msg.seq {
		// The person went elsewhere meanwhile; do not stay subscribed.
		id := msg.opened.Thread.ID
		if msg.err == nil && id != m.cur.id && (op == nil || op.req.id != id) {
			return call(m.link, "thread/unsubscribe", map[string]any{"threadId": id}, ignore)
		}
		return nil
	}
	m.opening = nil
	if msg.err != nil {
		return m.notOpened(op, msg.err)
	}
	fresh := m.show(op, msg)
	cmds := []tea.Cmd{m.readApprovals()}
	for _, e := range op.events {
		cmds = append(cmds, m.event(e))
	}
	if !op.req.since.IsZero() {
		s := m.backAfter(op.req.since, op.req.why)
		if fresh > 0 {
			s += fmt.Sprintf(" · %d new", fresh)
		}
		m.say("%s", s)
	}
	if op.req.then != nil {
		cmds = append(cmds, op.req.then(m))
	}
	return tea.Batch(cmds...)
}

// show replaces the screen's thread by what was fetched and returns how many
// items of it were not on the screen before.
func (m *model) show(op *opening, msg openedMsg) (fresh int) {
	o := msg.opened
	same := op.req.resync && o.Thread.ID == m.cur.id
	old, seen := m.cur, maps.Clone(m.cur.seen)
	m.cur = thread{
		id: o.Thread.ID, cwd: o.Cwd, model: o.Model, sandbox: o.Sandbox, approval: approvalName(o.ApprovalPolicy),
		status: o.Thread.Status, seen: map[string]bool{}, older: older{cursor: msg.older},
		name: str(o.Thread.Name), preview: o.Thread.Preview, effort: str(o.ReasoningEffort),
	}
	if m.cur.cwd == "" {
		m.cur.cwd = o.Thread.Cwd
	}
	m.result.Thread = m.cur.id
	m.tr.SetCwd(m.cur.cwd)
	before := m.tr.Len()
	if same {
		// Keep what is above the overlap: it is the same, and it was paid for.
		page := map[string]bool{}
		for _, t := range msg.turns {
			page[t.ID] = true
		}
		if m.tr.Cut(page) {
			m.cur.older, m.cur.seen = old.older, old.seen
		} else if len(msg.turns) > 0 || len(old.seen) == 0 {
			m.tr.Reset()
		}
		m.cur.usage, m.cur.diff = old.usage, old.diff
	} else {
		m.tr.Reset()
		m.comp.Dismiss()
	}
	if len(msg.turns) == 0 && m.tr.Len() == 0 {
		m.welcome()
	}
	for _, t := range msg.turns {
		m.cur.seen[t.ID] = true
		m.tr.Turn(t)
		m.ended(t)
	}
	if n := len(msg.turns); n > 0 && msg.turns[n-1].Status == protocol.TurnInProgress {
		t := msg.turns[n-1]
		m.cur.turn, m.cur.since = t.ID, m.now()
		if t.StartedAt != nil {
			m.cur.since = time.Unix(*t.StartedAt, 0)
		}
	}
	m.offerToGoOn(o.Thread.InterruptedTurn)
	if same {
		m.unsent(old.pending, msg.turns, seen, old.done)
		return max(m.tr.Len()-before, 0)
	}
	m.list.upsert(o.Thread, m.now())
	if _, ok := m.screen.(*picker); ok {
		m.screen = nil
	}
	return 0
}

// notOpened says why, and shows what else there is.
func (m *model) notOpened(op *opening, err error) tea.Cmd {
	r := op.req
	if r.resync {
		if len(m.cur.seen) == 0 {
			return m.newThread(nil) // it never ran a turn, so nothing of it was kept
		}
		m.tr.Note("resync", "", transcript.Note{Kind: transcript.NoteFail, Text: "this thread cannot be followed any more: " + err.Error(), Detail: "ctrl+t shows the others, /new begins one"})
		return nil
	}
	if !r.quiet {
		what := "open the thread"
		if r.id == "" {
			what = "start a thread"
		}
		m.fail(what, err)
	}
	if r.orList {
		return m.landInList()
	}
	if m.cur.id != "" {
		// The one that was left is still on the screen: follow it again.
		return m.open(openRequest{id: m.cur.id, resync: true})
	}
	return nil
}

// fetchOlder reads the turns before those on the screen.
func (m *model) fetchOlder() tea.Cmd {
	o := &m.cur.older
	if o.cursor == nil || o.busy || !m.live() {
		return nil
	}
	o.busy = true
	id := m.cur.id
	return call(m.link, "thread/turns/list", turnsParams(id, o.cursor), func(m *model, page protocol.TurnsPage, err error) tea.Cmd {
		if m.cur.id != id {
			return nil
		}
		m.cur.older = older{}
		if err != nil {
			m.fail("read older turns", err)
			return nil
		}
		m.cur.older.cursor = page.NextCursor
		turns := slices.Clone(page.Data)
		slices.Reverse(turns)
		turns = slices.DeleteFunc(turns, func(t protocol.Turn) bool { return m.cur.seen[t.ID] })
		for _, t := range turns {
			m.cur.seen[t.ID] = true
		}
		m.tr.Prepend(turns)
		return nil
	})
}

// welcome is what an empty thread shows.
func (m *model) welcome() {
	who := text.CleanLine(m.cur.model)
	if who == "" {
		who = "the default model"
	}
	engine := map[string]string{"codex": "Codex", "native": "Towline's own engine"}[m.engine.Kind]
	if engine == "" {
		engine = "an app-server"
	}
	// A build that is no release has a version nobody can read.
	if v, _, _ := strings.Cut(text.CleanLine(m.engine.Version), "-"); v != "" && v != "v0.0.0" && !strings.Contains(v, "devel") {
		engine += " " + v
	}
	where := m.host()
	if dir := tilde(m.cur.cwd); dir != "" {
		where += " in " + text.CleanLine(dir)
	}
	m.tr.Note("welcome", "", transcript.Note{Kind: transcript.NoteHead, Text: who + " · " + engine, Detail: "on " + where})
	if m.rehearsal() {
		m.tr.Note("rehearsal", "", transcript.Note{
			Kind: transcript.NoteWarn, Text: "rehearsal: an offline model, nothing leaves this machine",
			Detail: "It does what plain words ask: say `help` to hear which.",
		})
	}
	m.tr.Note("hints", "", transcript.Note{Text: "say what you want done · / commands · @ files · ctrl+t threads · ? help"})
}

func (m *model) rehearsal() bool { return m.session != nil && m.session.Rehearsal }

// ignore is for requests whose answer changes nothing.
func ignore(*model, json.RawMessage, error) tea.Cmd { return nil }

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
