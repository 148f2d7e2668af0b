package tui

import (
	"encoding/json"
	"errors"
	"image/color"
	"regexp"
	"strings"
	"sync"
	"testing"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

func TestFirstPromptOnAnEmptyHost(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server", Project: "/home/ana/src/shop", Rehearsal: true})
	s := start(t, f, 80, 24)
	s.sees("rehearsal: an offline model, nothing leaves this machine", "gpt-5.5", "○ new", "rehearsal ·", "~/src/shop")

	s.keys("hello there", "<enter>")
	p := f.wait("turn/start", 1)
	if got := field(p, "threadId"); got != "t-1" {
		t.Errorf("turn/start for thread %q", got)
	}
	s.sees("› hello there", "sending")
	u := userItem("i1", "hello there")
	u["clientId"] = field(p, "clientUserMessageId")
	f.started("u-1")
	f.item(true, "u-1", u)
	s.sees("● working 0:0")
	s.not("sending")
	f.item(false, "u-1", agentItem("i2", ""))
	for _, d := range []string{"I'll ", "look **at", " it** now"} {
		f.tell("item/agentMessage/delta", obj{"threadId": "t-1", "turnId": "u-1", "itemId": "i2", "delta": d})
	}
	s.sees("I'll look at it now")
	f.item(true, "u-1", agentItem("i2", "I'll look **at it** now"))
	f.completed("u-1", "completed")
	screen := s.sees("✔ done")
	if n := strings.Count(screen, "look at it now"); n != 1 {
		t.Errorf("the answer is on the screen %d times:\n%s", n, screen)
	}
}

func TestCommandRunsLive(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	f.item(false, "u-1", commandItem("c1", "/bin/bash -lc 'go test ./...'", "inProgress", ""))
	s.sees("$ go test ./...", "● running 0:0")
	f.tell("item/commandExecution/outputDelta", obj{"threadId": "t-1", "turnId": "u-1", "itemId": "c1", "delta": "ok  \tshop/checkout\n"})
	s.sees("ok      shop/checkout")
	var out strings.Builder
	for i := range 40 {
		out.WriteString("line " + string(rune('a'+i%26)) + "\n")
	}
	done := commandItem("c1", "/bin/bash -lc 'go test ./...'", "failed", out.String())
	done["exitCode"], done["durationMs"] = 1, 12000
	f.item(true, "u-1", done)
	s.sees("✘ exit 1 · 12 s", "… 33 more lines (ctrl+o)")
	s.keys("<ctrl+o>")
	s.sees("in /home/ana/src/shop · exit 1", "line m")
	s.keys("<esc>")
	s.sees("… 33 more lines")
}

func TestSteerIsQueuedUntilRead(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	s.sees("● working")
	s.keys("also the docs", "<enter>")
	p := f.wait("turn/steer", 1)
	if got := field(p, "expectedTurnId"); got != "u-1" {
		t.Errorf("steered turn %q", got)
	}
	s.sees("› also the docs", "queued: read at the next step")
	u := userItem("i9", "also the docs")
	u["clientId"] = field(p, "clientUserMessageId")
	f.item(true, "u-1", u)
	s.not("queued")
	s.sees("› also the docs")
}

func TestSteerTooLateBecomesATurn(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.refuse("turn/steer", "no active turn to steer")
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	s.sees("● working")
	s.keys("one more thing", "<enter>")
	p := f.wait("turn/start", 1)
	if !strings.Contains(string(p), "one more thing") {
		t.Errorf("turn/start with %s", p)
	}
}

// The turn's end and the refusal to steer it may come one after the other, as
// they do after a cut: what was written is said once.
func TestSteerIntoATurnThatEndsIsSaidOnce(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	var once sync.Once
	shown := make(chan struct{})
	f.set("turn/steer", func(json.RawMessage) (any, error) {
		once.Do(func() { f.completed("u-1", "completed") })
		<-shown
		return nil, protocol.Errorf("no active turn to steer")
	})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	s.sees("● working")
	s.keys("one more thing", "<enter>")
	s.sees("› one more thing")
	s.not("queued")
	close(shown)
	if p := f.wait("turn/start", 1); !strings.Contains(string(p), "one more thing") {
		t.Errorf("turn/start with %s", p)
	}
	s.keys("and another", "<enter>")
	if p := f.wait("turn/start", 2); !strings.Contains(string(p), "and another") {
		t.Errorf("said again: %s", p)
	}
}

func TestRefusedPromptComesBack(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.refuse("turn/start", "Server is draining; retry after reconnecting")
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("precious words", "<enter>")
	s.sees("not sent: Server is draining", "› precious words")
}

func TestInterrupt(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-7")
	s.sees("● working")
	s.keys("<esc>")
	if got := field(f.wait("turn/interrupt", 1), "turnId"); got != "u-7" {
		t.Errorf("interrupted turn %q", got)
	}
	f.completed("u-7", "interrupted")
	s.sees("■ interrupted")
}

func TestCtrlCClearsThenStopsThenLeaves(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("half a thought")
	s.sees("› half a thought")
	s.keys("<ctrl+c>")
	s.sees("cleared")
	s.keys("<up>")
	s.sees("› half a thought")
	s.keys("<ctrl+c>")
	f.started("u-1")
	s.sees("● working")
	s.keys("<ctrl+c>")
	f.wait("turn/interrupt", 1)
	f.completed("u-1", "interrupted")
	s.sees("■ interrupted")
	s.keys("<ctrl+c>")
	// The first one was too recent or is: either way this or the next leaves.
	s.keys("<ctrl+c>")
	r, err := s.ends()
	if err != nil || !strings.Contains(r.Text, "detached from dev-server. Come back: towline dev-server") {
		t.Errorf("Run = %+v, %v", r, err)
	}
}

func TestDetachSaysThatItWorksOn(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	f.started("u-1")
	s.sees("● working")
	s.keys("/detach", "<enter>")
	r, err := s.ends()
	if err != nil {
		t.Fatal(err)
	}
	if !r.Working || r.Thread != "t-1" || r.Text != "still working on dev-server. Come back: towline dev-server  (thread t-1)" {
		t.Errorf("result %+v", r)
	}
}

func TestEndOfInputLeaves(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	_ = s.in.Close()
	if _, err := s.ends(); err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestCancelReturnsThoughTheTerminalIsStuck(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.mu.Lock() // nothing is read from the client any more
	f.started("u-1")
	why := errors.New("the link is gone")
	s.cancel(why)
	_, err := s.ends()
	s.mu.Unlock()
	if !errors.Is(err, why) {
		t.Errorf("Run = %v, want the cause", err)
	}
}

func TestFirstDialThatFailsIsAnError(t *testing.T) {
	f := newFake(t)
	f.down = true
	s := start(t, f, 80, 24)
	if _, err := s.ends(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Run = %v", err)
	}
}

func TestStockServerDegradesQuietly(t *testing.T) {
	f := newFake(t).stock()
	s := start(t, f, 80, 24)
	screen := s.sees("gpt-5.5", "○ new")
	if strings.Contains(screen, "unknown variant") {
		t.Errorf("the refusal of an extension is on the screen:\n%s", screen)
	}
	s.keys("/who", "<enter>")
	s.sees("a stock app-server does not say who else is attached")
}

func TestLandsInTheLastThread(t *testing.T) {
	last := protocol.ThreadID("t-1")
	f := newFake(t).session(protocol.Session{LastThread: &last})
	f.reply("thread/resume", opened("t-1", "fix flaky test", turn("u-1", "completed", userItem("i1", "why does it flake?"), agentItem("i2", "a race"))))
	s := start(t, f, 80, 24)
	s.sees("fix flaky test", "› why does it flake?", "a race", "✔ done")
}

func TestLandsInTheListWhenThereAreThreads(t *testing.T) {
	f := newFake(t).session(protocol.Session{Host: "dev-server"})
	f.reply("thread/list", obj{"data": []any{
		listed("t-1", "bump dependencies", "idle"), listed("t-2", "migrate orders table", "active", "waitingOnApproval"),
		listed("t-3", "nightly import", "idle"),
	}})
	f.set("thread/turns/list", func(p json.RawMessage) (any, error) {
		tn := turn("u", "completed")
		if field(p, "threadId") == "t-3" {
			tn = turn("u", "failed")
			tn["error"] = obj{"message": "rate limited"}
		}
		return obj{"data": []any{tn}}, nil
	})
	f.set("thread/resume", func(p json.RawMessage) (any, error) {
		return opened(field(p, "threadId"), "opened", turn("u", "completed", userItem("i", "hi"))), nil
	})
	s := start(t, f, 80, 24)
	screen := s.sees("▲ migrate orders table", "waiting for you", "✔ bump dependencies", "✘ nightly import", "failed: rate limited")
	if strings.Index(screen, "migrate") > strings.Index(screen, "bump") {
		t.Errorf("what waits is not first:\n%s", screen)
	}
	f.tell("thread/status/changed", obj{"threadId": "t-1", "status": obj{"type": "active", "activeFlags": []any{}}})
	s.sees("● bump dependencies", "working")
	s.keys("/", "nightly", "<enter>")
	if got := field(f.wait("thread/resume", 1), "threadId"); got != "t-3" {
		t.Errorf("opened %q", got)
	}
	s.sees("› hi")
}

func listed(id, name, status string, flags ...any) obj {
	st := obj{"type": status}
	if status == "active" {
		st["activeFlags"] = flags
	}
	return obj{"id": id, "sessionId": id, "name": name, "preview": name, "cwd": "/home/ana/src/shop", "status": st, "turns": []any{}, "updatedAt": 1, "createdAt": 1, "modelProvider": "x"}
}

func TestPasteAndResizeOnTheTerminal(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	long := strings.Repeat("a line of a log\r\n", 212)
	s.keys("why: ")
	s.paste(long)
	s.sees("why: [pasted 212 lines]")
	s.resize(160, 40)
	s.sees("threads", "ctrl+t", "[pasted 212 lines]")
	s.resize(20, 6)
	s.sees("[pasted 212 lines")
	s.keys("<enter>")
	if p := string(f.wait("turn/start", 1)); strings.Count(p, "a line of a log") != 212 {
		t.Errorf("%d of 212 lines were sent", strings.Count(p, "a line of a log"))
	}
}

func TestShortThreadIDIsFound(t *testing.T) {
	long := "0199a1b2-0000-7000-8000-00000000"
	for short, want := range map[string]string{"7f3a": long + "7f3a", "bump": long + "1111"} {
		f := newFake(t).session(protocol.Session{})
		f.reply("thread/list", obj{"data": []any{listed(long+"7f3a", "flaky", "idle"), listed(long+"1111", "bump", "idle")}})
		f.set("thread/resume", func(p json.RawMessage) (any, error) {
			return opened(field(p, "threadId"), "", turn("u", "completed", userItem("i", "found it"))), nil
		})
		s := start(t, f, 80, 24, func(c *Config) { c.Thread = protocol.ThreadID(short) })
		if got := field(f.wait("thread/resume", 1), "threadId"); got != want {
			t.Errorf("%s opened %s, want %s", short, got, want)
		}
		s.sees("› found it")
	}
}

func TestColoursComeFromTheTerminalAlone(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	t.Setenv("TERM", "dumb")
	for name, tc := range map[string]struct {
		environ []string
		colour  bool
	}{
		"a terminal with colours": {[]string{"TERM=xterm-256color"}, true},
		"NO_COLOR":                {[]string{"TERM=xterm-256color", "NO_COLOR=1"}, false},
		"NO_COLOR of any value":   {[]string{"TERM=xterm-256color", "NO_COLOR=yes please"}, false},
		"a dumb terminal":         {[]string{"TERM=dumb"}, false},
		"no TERM":                 {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t).session(protocol.Session{Rehearsal: true})
			s := start(t, f, 80, 24, func(c *Config) { c.Environ = tc.environ })
			s.sees("rehearsal: an offline model", "○ new")
			s.mu.Lock()
			defer s.mu.Unlock()
			if got := colourSGR.MatchString(s.raw.String()); got != tc.colour {
				t.Errorf("colours on the wire: %v, want %v", got, tc.colour)
			}
		})
	}
}

// colourSGR finds a style that sets a colour.
var colourSGR = regexp.MustCompile(`\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])[;m]`)

func TestLightBackgroundIsHeard(t *testing.T) {
	b := newBench(t, 80, 24, theme.Dark(), ownSession())
	b.Update(tea.BackgroundColorMsg{Color: color.White})
	if b.th.Name != "light" {
		t.Errorf("the theme is %q", b.th.Name)
	}
}
