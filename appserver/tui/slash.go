package tui

import (
	"encoding/json"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/composer"
	"towline/appserver/tui/text"
	"towline/appserver/tui/transcript"
)

// slashCommand is what / and a word do.
type slashCommand struct {
	name, alias string
	args        string // what may follow, "" for nothing
	need        bool   // something has to follow
	about       string
	role        protocol.Role
	thread      bool // needs a thread
	run         func(m *model, args string) tea.Cmd
}

var slashCommands []slashCommand

func init() { // the table refers to functions that refer to it
	slashCommands = []slashCommand{
		{name: "new", args: "[prompt]", about: "begin a new thread", run: slashNew},
		{name: "resume", alias: "threads", args: "[id or name]", about: "all threads, with what they are doing (ctrl+t)", run: func(m *model, args string) tea.Cmd {
			if args != "" && len(args) < uuidLen {
				return m.findThread(args)
			} else if args != "" {
				return m.open(openRequest{id: protocol.ThreadID(args)})
			}
			return m.openPicker()
		}},
		{name: "project", alias: "cd", args: "[folder]", about: "begin a new thread in another folder of the host", role: protocol.RoleOperator, run: slashProject},
		{name: "fork", about: "go on in a copy of this thread", role: protocol.RoleOperator, thread: true, run: slashFork},
		{name: "rename", args: "name", need: true, about: "give this thread a name", role: protocol.RoleOperator, thread: true, run: slashRename},
		{name: "archive", about: "put this thread away", role: protocol.RoleOperator, thread: true, run: slashArchive},
		{name: "compact", about: "summarise what was said, to make room", role: protocol.RoleOperator, thread: true, run: slashCompact},
		{name: "diff", about: "what changed in the project", thread: true, run: func(m *model, _ string) tea.Cmd { return m.showDiff() }},
		{name: "model", args: "[model]", about: "choose the model", role: protocol.RoleOperator, thread: true, run: (*model).chooseModel},
		{name: "approvals", alias: "permissions", about: "what may be done without asking", role: protocol.RoleOperator, thread: true, run: func(m *model, _ string) tea.Cmd { return m.chooseApprovals() }},
		{name: "interrupt", alias: "stop", about: "stop the turn (esc)", run: func(m *model, _ string) tea.Cmd { return m.interrupt() }},
		{name: "continue", about: "go on with an interrupted turn (ctrl+r)", role: protocol.RoleOperator, thread: true, run: func(m *model, _ string) tea.Cmd { return m.goOn() }},
		{name: "copy", about: "copy the last answer to this terminal's clipboard", run: slashCopy},
		{name: "status", about: "this thread, this host, this connection", run: func(m *model, _ string) tea.Cmd { return m.showStatus() }},
		{name: "who", about: "who else is attached", run: func(m *model, _ string) tea.Cmd { return m.showWho() }},
		{name: "login", args: "[way]", about: "log the host in: with a code, a browser or a key", role: protocol.RoleAdmin, run: slashLogin},
		{name: "logout", about: "log the host out", role: protocol.RoleAdmin, run: slashLogout},
		{name: "help", about: "keys and commands (?)", run: func(m *model, _ string) tea.Cmd {
			m.screen = &pager{title: "help", lines: helpLines}
			return nil
		}},
		{name: "retry", about: "reach for the host again now (r, while it is away)", run: func(m *model, _ string) tea.Cmd { return m.retry() }},
		{name: "update", about: "put this version on the host, where that is offered", run: func(m *model, _ string) tea.Cmd { return m.updateHost() }},
		{name: "detach", about: "leave; the thread goes on (ctrl+d)", run: func(m *model, _ string) tea.Cmd { return m.detach() }},
		{name: "quit", alias: "exit", about: "the same", run: func(m *model, _ string) tea.Cmd { return m.detach() }},
	}
}

// slash reads "/name args". A path is no command.
func slash(s string) (name, args string, ok bool) {
	if !strings.HasPrefix(s, "/") {
		return "", "", false
	}
	name, args, _ = strings.Cut(s[1:], " ")
	if name == "" || strings.ContainsAny(name, "/\n.") {
		return "", "", false
	}
	return name, strings.TrimSpace(args), true
}

func (m *model) runSlash(name, args string) tea.Cmd {
	for _, c := range slashCommands {
		if c.name != name && c.alias != name {
			continue
		}
		switch {
		case c.need && args == "":
			m.say("/%s needs %s after it", c.name, c.args)
			return nil
		case !m.may(c.role, "/"+c.name):
			return nil
		case c.role >= protocol.RoleOperator && !m.sendable():
			return nil
		case c.thread && m.cur.id == "":
			m.say("/%s needs a thread: /new begins one", c.name)
			return nil
		}
		m.comp.Take()
		return c.run(m, args)
	}
	m.say("there is no /%s: ? lists the commands", text.Truncate(text.CleanLine(name), 30, "…"))
	return nil
}

// slashChoices are the commands that fit what is typed.
func slashChoices(query string) []composer.Choice {
	var first, rest []composer.Choice
	for _, c := range slashCommands {
		ch := composer.Choice{Label: "/" + c.name, Detail: c.about, Insert: "/" + c.name, Run: !c.need}
		if c.args != "" {
			ch.Label += " " + c.args
		}
		if c.need {
			ch.Insert += " "
		}
		switch {
		case strings.HasPrefix(c.name, query) || c.alias != "" && strings.HasPrefix(c.alias, query):
			first = append(first, ch)
		case strings.Contains(c.name, query):
			rest = append(rest, ch)
		}
	}
	return append(first, rest...)
}

func slashNew(m *model, args string) tea.Cmd {
	if args == "" {
		return m.newThread(nil)
	}
	return m.newThread(func(m *model) tea.Cmd { return m.say1(args) })
}

func slashFork(m *model, _ string) tea.Cmd {
	return m.open(openRequest{id: m.cur.id, fork: true, then: func(m *model) tea.Cmd {
		m.say("this is a copy; the original is in ctrl+t")
		return nil
	}})
}

func slashRename(m *model, args string) tea.Cmd {
	return m.do("thread/name/set", map[string]any{"name": args}, "renamed")
}

func slashCompact(m *model, _ string) tea.Cmd {
	return m.do("thread/compact/start", nil, "making room")
}

func slashArchive(m *model, _ string) tea.Cmd {
	id := m.cur.id
	return call(m.link, "thread/archive", map[string]any{"threadId": id}, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail("archive", err)
			return nil
		}
		m.say("archived")
		m.cur = thread{}
		m.tr.Reset()
		return m.openPicker()
	})
}

// do sends a request about the thread on the screen and says that it was done.
func (m *model) do(method string, params map[string]any, done string) tea.Cmd {
	if params == nil {
		params = map[string]any{}
	}
	params["threadId"] = m.cur.id
	return call(m.link, method, params, func(m *model, _ json.RawMessage, err error) tea.Cmd {
		if err != nil {
			m.fail(method, err)
		} else {
			m.say("%s", done)
		}
		return nil
	})
}

func slashCopy(m *model, _ string) tea.Cmd {
	s := m.tr.Last()
	if s == "" {
		m.say("there is no answer to copy yet")
		return nil
	}
	m.say("copied, if this terminal allows it (%d characters)", len([]rune(s)))
	return tea.SetClipboard(s)
}

// showStatus puts the facts into the conversation, where they can be copied.
func (m *model) showStatus() tea.Cmd {
	c := &m.cur
	var s []string
	add := func(k, v string) {
		if v != "" {
			s = append(s, fmt.Sprintf("%-10s %s", k, text.CleanLine(v)))
		}
	}
	add("thread", strings.TrimSpace(string(c.id)+"  "+c.name))
	add("folder", c.cwd)
	add("model", strings.TrimSpace(c.model+" "+c.effort))
	add("sandbox", sandboxName(c.sandbox))
	add("approvals", c.approval)
	if u := c.usage; u != nil {
		s := fmt.Sprintf("%s in all, %s in · %s out", count(u.Total.TotalTokens), count(u.Total.InputTokens), count(u.Total.OutputTokens))
		if pct := window(u); pct != "" {
			s += ", " + pct
		}
		add("tokens", s)
	}
	add("host", m.host())
	if o := m.remote(); o != nil {
		add("reached", strings.TrimSpace(m.transport()+" "+o.Note))
		if o.CutEndsTurn {
			add("", "a cut link, or leaving, ends the running turn")
		}
		add("version", o.Skew.Notice)
	}
	if m.account.known && (m.account.Required || m.account.Account != nil) {
		add("account", orString(m.account.name(), "not logged in: /login"))
	}
	add("engine", strings.TrimSpace(m.engine.Kind+" "+m.engine.Version+" "+m.engine.State))
	if m.session != nil {
		p := m.session.Principal
		add("you", strings.TrimSpace(p.Name+" · "+p.Role.String()+" · "+p.Via))
	} else {
		add("you", "a stock app-server, which does not say who is who")
	}
	if m.rehearsal() {
		add("rehearsal", "an offline model, nothing leaves this machine")
	}
	m.tr.Note("", "", transcript.Note{Text: "status", Detail: strings.Join(s, "\n")})
	m.tr.End()
	return nil
}

// showWho lists who is attached, and to what.
func (m *model) showWho() tea.Cmd {
	if m.session == nil {
		m.say("a stock app-server does not say who else is attached")
		return nil
	}
	var s []string
	for _, p := range m.presence {
		where := "looking at no thread"
		switch {
		case p.Thread != nil && *p.Thread == m.cur.id:
			where = "in this thread"
		case p.Thread != nil:
			where = "in another thread"
			if r := m.list.row(*p.Thread); r != nil {
				where = "in “" + r.title() + "”"
			}
		}
		s = append(s, text.CleanLine(fmt.Sprintf("%s · %s · %s %s · %s", who(p), p.Role, p.Client, p.Via, where)))
	}
	m.tr.Note("", "", transcript.Note{Text: "attached", Detail: strings.Join(s, "\n")})
	m.tr.End()
	return m.readPresence()
}
