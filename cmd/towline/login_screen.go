package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"towline/appserver/account"
	"towline/appserver/tui/qrcode"
	"towline/config"
	"towline/config/secret"
)

// loginScreen is what a login shows a person: on standard error, because a login
// has no output.
type loginScreen struct {
	out           *os.File
	creds         credentials
	tty           bool
	utf8, colour  bool
	width, height int

	mu   sync.Mutex
	open bool // the last line is a countdown that is not ended
}

func newLoginScreen(out *os.File, c credentials) *loginScreen {
	s := &loginScreen{out: out, creds: c, tty: term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb", width: 80, height: 24}
	s.utf8 = utf8Terminal(os.Getenv)
	s.colour = s.tty && os.Getenv("NO_COLOR") == ""
	if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 && h > 0 {
		s.width, s.height = w, h
	}
	return s
}

// utf8Terminal says whether characters beyond ASCII can be drawn.
func utf8Terminal(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// line prints one, below a countdown if there is one.
func (s *loginScreen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLine()
	fmt.Fprintf(s.out, format+"\n", args...)
}

func (s *loginScreen) closeLine() {
	if s.open {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.open = false
	}
}

// count shows the line that changes.
func (s *loginScreen) count(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(s.out, "\r\x1b[K"+text)
	s.open = true
}

// before says what the login replaces and who may log in, before the person walks
// through it.
func (s *loginScreen) before(p account.Prospect) {
	if p.Current.Env != "" {
		s.line("Note: %s is set and stands before what is stored, also after this login.", p.Current.Env)
	} else if p.Current.LoggedIn {
		s.line("Now logged in with %s.", loginOrigin(p.Current))
		s.line("This login replaces it, in %s.", s.place(p.Current.Where))
	}
	if len(p.Workspaces) > 0 {
		s.line("Only workspace %s may log in here", strings.Join(p.Workspaces, ", "))
		s.line("(set by %s). Choose it in the browser.", p.Source)
	}
	if p.Current.LoggedIn || len(p.Workspaces) > 0 || p.Current.Env != "" {
		s.line("")
	}
}

// place names where a credential lies, short enough for a line.
func (s *loginScreen) place(w secret.Where) string {
	home, _ := os.UserHomeDir() // unknown: not shortened
	if w.Path == "" {
		return "the " + cmpKind(w.Kind) + " store"
	}
	return shorten(printable(w.Path), home) + " (" + cmpKind(w.Kind) + ")"
}

func cmpKind(k secret.Kind) string {
	if k == "" {
		return config.StoreFile
	}
	return string(k)
}

// browser logs in through a browser on this machine.
func (s *loginScreen) browser(ctx context.Context, m *account.Manager, open bool) (account.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	var opening sync.WaitGroup
	defer opening.Wait()
	defer cancel()
	o := account.BrowserOptions{
		Step: func(text string) { s.line("%s.", upperFirst(text)) },
		Busy: portHolder,
		Ready: func(url string, port int) {
			s.line("Open this in your browser, if it does not open by itself:")
			s.line("\n%s\n", url)
			switch {
			case port == 0:
				s.line("No port here waits for the browser. When it ends at an address that begins with")
				s.line("http://127.0.0.1, copy that address and paste it here. Or log in with a code:")
				s.line("`towline login --device-auth`.")
				return
			case term.IsTerminal(int(os.Stdin.Fd())):
				s.line("Waiting on port %d. Ctrl-C gives up.", port)
				s.line("Browser on another machine? Paste here the address it ends at, which begins with")
				s.line("http://127.0.0.1:%d; or use `towline login --device-auth`.", port)
			default:
				s.line("Waiting on port %d. Ctrl-C gives up.", port)
			}
			if open {
				opening.Go(func() {
					if err := openBrowser(ctx, url); err != nil && ctx.Err() == nil {
						s.line("No browser opens by itself here: %s.", printable(err.Error()))
					}
				})
			}
		},
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		o.Paste = inputLines(ctx, os.Stdin)
	}
	return m.Browser(ctx, o)
}

// device shows the code and counts down until it was typed somewhere.
func (s *loginScreen) device(ctx context.Context, m *account.Manager) (account.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var counting sync.WaitGroup
	st, err := m.Device(ctx, func(d account.DeviceCode) {
		s.showDevice(d)
		if s.tty {
			counting.Go(func() { s.countdown(ctx, d.Expires) })
		}
	})
	cancel()
	counting.Wait()
	s.mu.Lock()
	s.closeLine()
	s.mu.Unlock()
	return st, err
}

// showDevice draws the code beside the words where there is room for both.
func (s *loginScreen) showDevice(d account.DeviceCode) {
	words := []string{"1. Open in a browser, on any device:", "", "   " + d.URL, "", "2. Log in, and type this code:", "", "   " + s.bold(d.Code), ""}
	link := d.URL
	if d.CompleteURL != "" {
		link = d.CompleteURL
	}
	words = append(words, "Only go on if you began this yourself.", "If somebody gave you the code, stop.")
	var code []string
	if s.tty && s.utf8 {
		ink := qrcode.OnDark // without colours: as most terminals are
		if s.colour {
			ink = qrcode.Colours
		}
		code = qrcode.Lines(link, ink, s.width, s.height-4)
	}
	const gap = 3
	wide := 0
	for _, w := range words {
		wide = max(wide, len([]rune(w)))
	}
	qrWide := 0
	if len(code) > 0 {
		qrWide = 2*len(code) - 1 // a code's size is odd
	}
	switch {
	case len(code) == 0:
		for _, w := range words {
			s.line("%s", w)
		}
	case qrWide+gap+wide <= s.width:
		beside := append([]string{"", "Scan this, or:", ""}, words...)
		for i := range max(len(code), len(beside)) {
			left, right := strings.Repeat(" ", qrWide), ""
			if i < len(code) {
				left = code[i]
			}
			if i < len(beside) {
				right = beside[i]
			}
			s.line("%s", strings.TrimRight(left+strings.Repeat(" ", gap)+right, " "))
		}
	case len(code)+len(words)+2 <= s.height:
		for _, w := range append(words, "") {
			s.line("%s", w)
		}
		for _, l := range code {
			s.line("%s", l)
		}
	default:
		for _, w := range words {
			s.line("%s", w)
		}
	}
	s.line("")
	if !s.tty {
		s.line("The code is good until %s.", d.Expires.Local().Format("15:04"))
	}
}

func (s *loginScreen) bold(text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

// countdown shows how long the code is good.
func (s *loginScreen) countdown(ctx context.Context, end time.Time) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		left := max(time.Until(end).Round(time.Second), 0)
		s.count(fmt.Sprintf("Waiting: %d:%02d left. Ctrl-C gives up.", int(left.Minutes()), int(left.Seconds())%60))
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// done says who is logged in now, and where that is kept.
func (s *loginScreen) done(st account.Status) error {
	switch st.Mode {
	case secret.ModeAPIKey:
		s.line("API key saved. Authentication is checked when you send a request.")
	default:
		s.line("Successfully logged in with %s", loginOrigin(st))
	}
	if st.AccountID != "" && st.Email != "" {
		s.line("  workspace  %s", printable(st.AccountID))
	}
	if st.Where.Kind == secret.KindEphemeral {
		s.line("Nothing is kept of it: the credential store is \"ephemeral\" (set by %s).", s.creds.from)
		return nil
	}
	s.line("  store      %s", s.place(st.Where))
	if st.Where.Fallback != "" {
		s.line("  note       not in the keyring: %s", printable(st.Where.Fallback))
	}
	if os.Getenv("CODEX_ACCESS_TOKEN") != "" {
		s.line("  note       CODEX_ACCESS_TOKEN is set and stands before it")
	}
	return nil
}

// relativeHome is a path under the home folder, for people.
func relativeHome(path string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return shorten(filepath.Clean(path), home)
}
