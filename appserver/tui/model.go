package tui

import (
	"fmt"
	"runtime/debug"
	"time"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/composer"
	"towline/appserver/tui/theme"
	"towline/appserver/tui/transcript"
)

// model is everything on the screen and everything known of the host. Only
// Update changes it.
type model struct {
	cfg  *Config
	link *link
	send func(tea.Msg) // for the link's goroutines, never called from Update
	now  func() time.Time

	th      *theme.Theme
	colours int
	dark    bool
	w, h    int

	conn     conn
	session  *protocol.Session // nil with a stock app-server
	engine   protocol.EngineState
	presence []protocol.Presence
	account  account

	cur     thread
	opening *opening
	tr      *transcript.Transcript
	comp    *composer.Composer
	asks    asks
	list    list
	screen  screen // what covers the conversation, nil for nothing

	notice  notice
	lastKey time.Time
	quitArm time.Time // ctrl+c was pressed on an empty composer then
	// sendWhenOpen: enter was pressed before the thread was there to write to. The
	// text stays in the composer until it is.
	sendWhenOpen bool
	// landing: where to begin is still being found out.
	landing bool
	ticking bool
	// bannerLetter was pressed while the banner offered it, a moment ago.
	bannerLetter string
	files        fileSearch
	result       Result
	project      project
	boot         *boot // how the connection is made, nil with a plain Dial
	fatal        error // why Run fails
	leaving      bool
	frame        frameSizes
}

// screen is something that covers the conversation for a while.
type screen interface {
	key(m *model, k tea.KeyPressMsg) tea.Cmd
	paste(m *model, s string)
	wheel(m *model, n int)
	// render draws at most h lines; x is negative when there is no cursor.
	render(m *model, w, h int) (lines []string, x, y int)
}

// notice is one line over the footer for a few seconds.
type notice struct {
	text  string
	bad   bool
	until time.Time
}

const noticeTime = 8 * time.Second

func newModel(cfg *Config, l *link, colours int) *model {
	m := &model{cfg: cfg, link: l, now: time.Now, colours: colours, dark: darkBy(cfg.Environ), comp: composer.New()}
	m.w, m.h = max(cfg.Size.Cols, 1), max(cfg.Size.Rows, 1)
	m.th = theme.For(m.dark, m.colours)
	m.tr = transcript.New(m.th, func() time.Time { return m.now() })
	if cfg.clock != nil {
		m.now = cfg.clock
	}
	m.result.Thread = cfg.Thread
	m.list.init()
	if cfg.Connect != nil {
		m.boot = &boot{cancel: func(error) {}}
	}
	return m
}

// Init dials or connects, and asks the terminal what its background is.
func (m *model) Init() tea.Cmd {
	begin := m.dial
	if m.boot != nil {
		begin = func() tea.Cmd { return m.beginConnect(m.cfg.Connect) }
	}
	cmds := []tea.Cmd{begin()}
	if m.colours >= 16 && getenv(m.cfg.Environ, "TERM") != "linux" { // whose console prints the question
		cmds = append(cmds, tea.RequestBackgroundColor)
	}
	return tea.Batch(cmds...)
}

// Update applies one message. A panic is ours: it is logged and contained, and
// ends this client only, because its state can no longer be trusted.
func (m *model) Update(msg tea.Msg) (_ tea.Model, cmd tea.Cmd) {
	defer func() {
		if r := recover(); r != nil {
			cmd = m.broken(r)
		}
	}()
	cmd = m.update(msg)
	m.landed()
	if m.wide() && !m.list.loaded && !m.list.tried && m.live() && m.opening == nil {
		cmd = tea.Batch(cmd, m.list.refresh(m))
	}
	if m.sendWhenOpen && m.live() && !m.busyOpening() && m.screen == nil && m.cur.id != "" {
		cmd = tea.Batch(cmd, m.submit())
	}
	if !m.ticking && m.needTick() {
		m.ticking = true
		cmd = tea.Batch(cmd, m.link.after(time.Second, tick))
	}
	return m, tea.Batch(cmd, m.bootTick(), m.askTick())
}

func (m *model) broken(r any) tea.Cmd {
	m.cfg.Log.Error("the terminal client panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	m.fatal = fmt.Errorf("the terminal client failed: %v", r)
	return tea.Quit
}

func (m *model) update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		if msg.Width > 0 && msg.Height > 0 {
			m.w, m.h = msg.Width, msg.Height
		}
	case tea.BackgroundColorMsg:
		m.setTheme(msg.IsDark())
	case tea.KeyPressMsg:
		cmd := m.key(msg)
		m.lastKey = m.now()
		return cmd
	case tea.PasteMsg:
		m.paste(msg.Content)
	case tea.MouseWheelMsg:
		return m.wheel(msg)
	case tea.MouseClickMsg:
		return m.click(msg)
	case upMsg:
		return m.up(msg)
	case downMsg:
		return m.down(msg)
	case linkMsg:
		return m.linkChanged(msg)
	case stepMsg, noticeMsg, askMsg, unaskMsg, connectedMsg, reopenedMsg, wakeMsg:
		return m.bootMsg(msg)
	case eventsMsg:
		m.caught(len(msg))
		return m.events(msg)
	case openedMsg:
		return m.opened(msg)
	case applyMsg:
		return msg(m)
	case endMsg:
		return m.leave()
	}
	return nil
}

// endMsg says that the person's side of the terminal is gone.
type endMsg struct{}

func (m *model) setTheme(dark bool) {
	if dark == m.dark {
		return
	}
	m.dark = dark
	m.th = theme.For(dark, m.colours)
	m.tr.SetTheme(m.th)
}

// say shows a line over the footer.
func (m *model) say(format string, args ...any) {
	m.notice = notice{text: fmt.Sprintf(format, args...), until: m.now().Add(noticeTime)}
}

// fail shows what went wrong over the footer.
func (m *model) fail(what string, err error) {
	m.notice = notice{text: fmt.Sprintf("%s: %v", what, err), bad: true, until: m.now().Add(2 * noticeTime)}
}

// needTick reports whether something on the screen shows time passing.
func (m *model) needTick() bool {
	if m.bootCovers() {
		return false // it has its own
	}
	if l, ok := m.screen.(*loginScreen); ok && l.waiting() {
		return true
	}
	return m.working() || !m.live() || m.notice.text != "" || m.asks.closed.text != "" || m.list.visible(m)
}

// tick redraws what shows time once a second, as long as something does.
func tick(m *model) tea.Cmd {
	m.ticking = false
	now := m.now()
	if m.live() {
		m.tr.Tick() // nothing runs that is not heard of
	}
	if m.notice.text != "" && now.After(m.notice.until) {
		m.notice = notice{}
	}
	m.asks.expire(now)
	return nil
}

// leave ends the program with the farewell.
func (m *model) leave() tea.Cmd {
	m.leaving = true
	m.result = m.farewell()
	return tea.Quit
}

// role is what this person may do; a stock app-server trusts everyone.
func (m *model) role() protocol.Role {
	if m.session == nil || m.session.Principal.Role == protocol.RoleNone {
		return protocol.RoleAdmin
	}
	return m.session.Principal.Role
}

// may reports whether the role suffices, and says so when not.
func (m *model) may(r protocol.Role, what string) bool {
	if m.role() >= r {
		return true
	}
	m.notice = notice{
		text: fmt.Sprintf("%s needs the role %s; yours here is %s", what, r, m.role()), bad: true,
		until: m.now().Add(noticeTime),
	}
	return false
}
