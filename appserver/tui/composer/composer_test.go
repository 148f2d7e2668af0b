package composer

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"

	"towline/appserver/tui/theme"
)

var keys = map[string]tea.KeyPressMsg{
	"enter": {Code: tea.KeyEnter}, "alt+enter": {Code: tea.KeyEnter, Mod: tea.ModAlt}, "shift+enter": {Code: tea.KeyEnter, Mod: tea.ModShift},
	"ctrl+j": {Code: 'j', Mod: tea.ModCtrl}, "up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "tab": {Code: tea.KeyTab}, "esc": {Code: tea.KeyEscape},
}

func press(c *Composer, names ...string) (last Action) {
	for _, n := range names {
		if k, ok := keys[n]; ok {
			last = c.Key(k)
			continue
		}
		for _, r := range n {
			last = c.Key(tea.KeyPressMsg{Code: r, Text: string(r)})
		}
	}
	return last
}

func TestEnterSendsAndTheOthersBreakTheLine(t *testing.T) {
	c := New()
	press(c, "a", "alt+enter", "b", "shift+enter", "c", "ctrl+j", "d")
	if press(c, "enter") != Send {
		t.Error("enter does not send")
	}
	if got := c.Take(); got != "a\nb\nc\nd" {
		t.Errorf("sent %q", got)
	}
	if !c.Empty() {
		t.Error("what was taken is still there")
	}
}

func TestHistoryKeepsTheDraft(t *testing.T) {
	c := New()
	for _, s := range []string{"first", "second"} {
		press(c, s)
		c.Take()
	}
	press(c, "draft")
	for i, want := range []string{"second", "first", "first"} {
		press(c, "up")
		if got := c.Text(); got != want {
			t.Errorf("up %d shows %q, want %q", i+1, got, want)
		}
	}
	press(c, "down", "down")
	if got := c.Text(); got != "draft" {
		t.Errorf("back at %q, want the draft", got)
	}
}

func TestLongPasteIsFoldedAndSentWhole(t *testing.T) {
	c := New()
	press(c, "look: ")
	long := strings.Repeat("line of a log\n", 212)
	c.Paste(strings.ReplaceAll(long, "\n", "\r\n"))
	lines, _, _ := c.Render(Look{Theme: theme.Plain(), Width: 60, Height: 10, Prompt: "> "})
	if got := strings.Join(lines, "\n"); !strings.Contains(got, "look: [pasted 212 lines]") {
		t.Errorf("shows %q", got)
	}
	if got := c.Take(); got != "look: "+long {
		t.Errorf("sent %d bytes, want %d", len(got), len("look: "+long))
	}
	press(c, "up")
	if got := c.Text(); got != "look: "+long {
		t.Error("the history lost the pasted text")
	}
}

func TestShortPasteIsText(t *testing.T) {
	c := New()
	c.Paste("two\nlines\x1b[2J")
	if got := c.Text(); got != "two\nlines" {
		t.Errorf("pasted %q", got)
	}
}

func TestTokens(t *testing.T) {
	for in, want := range map[string]string{
		"/mo": "/mo", "": "", "see @ma": "@ma", "say /mo": "", "/model x": "", "@": "@", "mail a@b": "", "look @src/ma": "@src/ma",
	} {
		c := New()
		c.Set(in)
		got := ""
		if k, q := c.Token(); k != 0 {
			got = string(k) + q
		}
		if got != want {
			t.Errorf("Token of %q = %q, want %q", in, got, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	c := New()
	press(c, "see @ma")
	c.Offer(File, "ma", []Choice{{Label: "main.go", Insert: "main.go "}, {Label: "make", Insert: "make "}})
	press(c, "down", "tab")
	if got := c.Text(); got != "see make " {
		t.Errorf("completed to %q", got)
	}
	// An answer that comes late is not for this token.
	c.Offer(File, "ma", []Choice{{Label: "x"}})
	if c.Completing() {
		t.Error("a late answer opened the list")
	}
}

func TestCommandThatNeedsNothingIsSentByEnter(t *testing.T) {
	c := New()
	press(c, "/hel")
	c.Offer(Command, "hel", []Choice{{Label: "/help", Insert: "/help", Run: true}})
	if a := press(c, "enter"); a != Send || c.Text() != "/help" {
		t.Errorf("enter = %v with %q", a, c.Text())
	}
	c.Set("/re")
	c.Offer(Command, "re", []Choice{{Label: "/rename", Insert: "/rename "}})
	if a := press(c, "enter"); a != Handled || c.Text() != "/rename " {
		t.Errorf("enter = %v with %q", a, c.Text())
	}
}

func TestClosedListStaysClosedForTheToken(t *testing.T) {
	c := New()
	press(c, "/he")
	offer := func() { c.Offer(Command, "he", []Choice{{Label: "/help", Insert: "/help"}}) }
	offer()
	press(c, "esc")
	offer()
	if c.Completing() {
		t.Error("the list came back")
	}
}

func TestRestoreKeepsWhatWasWrittenMeanwhile(t *testing.T) {
	c := New()
	press(c, "new")
	c.Restore("old")
	if got := c.Text(); got != "old\nnew" {
		t.Errorf("restored to %q", got)
	}
}
