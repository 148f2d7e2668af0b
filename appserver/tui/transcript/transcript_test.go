package transcript

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"towline/appserver/protocol"
	"towline/appserver/tui/theme"
)

func newTest(n int) *Transcript {
	tr := New(theme.Plain(), func() time.Time { return time.Unix(1000, 0) })
	tr.Resize(60)
	for i := range n {
		tr.Upsert("u", say(i), true)
	}
	return tr
}

func say(i int) protocol.Item {
	return protocol.Item{ID: fmt.Sprint("i", i), Body: &protocol.AgentMessage{Text: fmt.Sprintf("message %d", i)}}
}

func plain(lines []string) string { return ansi.Strip(strings.Join(lines, "\n")) }

func TestFollowsItsEndUntilScrolled(t *testing.T) {
	tr := newTest(50)
	if got := plain(tr.View(6)); !strings.Contains(got, "message 49") {
		t.Errorf("the end is not in view:\n%s", got)
	}
	tr.Scroll(-10)
	before := plain(tr.View(6))
	tr.Upsert("u", say(50), true)
	if after := plain(tr.View(6)); after != before {
		t.Errorf("the view moved from\n%s\nto\n%s", before, after)
	}
	tr.Scroll(100)
	if got := plain(tr.View(6)); !strings.Contains(got, "message 50") || !tr.Following() {
		t.Errorf("scrolled down to\n%s", got)
	}
}

func TestScrollingIsExact(t *testing.T) {
	tr := newTest(30)
	all := strings.Split(plain(func() []string { tr.View(1000); return tr.View(1000) }()), "\n")
	tr.View(7)
	for up := 1; up < len(all)-7; up++ {
		tr.Scroll(-1)
		got := tr.View(7)
		want := all[len(all)-7-up : len(all)-up]
		if plain(got) != strings.Join(want, "\n") {
			t.Fatalf("%d lines up shows\n%s\nwant\n%s", up, plain(got), strings.Join(want, "\n"))
		}
	}
	if !tr.Scroll(-1000) {
		t.Error("the beginning is not said to be it")
	}
}

func TestPrependKeepsThePlace(t *testing.T) {
	tr := newTest(10)
	tr.View(5)
	tr.Home()
	before := plain(tr.View(5))
	tr.Prepend([]protocol.Turn{{ID: "old", Status: protocol.TurnCompleted, Items: protocol.Items{say(100), say(101)}}})
	if after := plain(tr.View(5)); !strings.HasPrefix(strings.TrimLeft(after, "\n"), strings.Split(before, "\n")[0]) {
		t.Errorf("the place moved from\n%s\nto\n%s", before, after)
	}
}

// TestDrawsOnlyWhatIsSeen is what keeps long conversations smooth.
func TestDrawsOnlyWhatIsSeen(t *testing.T) {
	tr := newTest(10_000)
	tr.View(40)
	for range 20 {
		tr.Scroll(-40)
		tr.View(40)
	}
	drawn := 0
	for _, b := range tr.blocks {
		if b.fresh {
			drawn++
		}
	}
	if drawn > 1000 {
		t.Errorf("20 screens drew %d of 10000 items", drawn)
	}
}

func TestLateDeltasAreIgnoredByFinishedItems(t *testing.T) {
	tr := newTest(0)
	tr.Delta(DeltaMessage, "u", "m", "half")
	tr.Upsert("u", protocol.Item{ID: "m", Body: &protocol.AgentMessage{Text: "half and whole"}}, true)
	tr.Delta(DeltaMessage, "u", "m", " again")
	if got := plain(tr.View(5)); strings.TrimSpace(got) != "half and whole" {
		t.Errorf("shows %q", got)
	}
}

func TestOldItemsAreDroppedBeyondTheBound(t *testing.T) {
	tr := newTest(maxBlocks + 10)
	if tr.Len() > maxBlocks || tr.Has("i0") || !tr.Has(fmt.Sprint("i", maxBlocks)) {
		t.Errorf("%d blocks are kept", tr.Len())
	}
}

func TestCutAtTheOverlap(t *testing.T) {
	tr := newTest(0)
	for i, turn := range []string{"a", "b", "c"} {
		tr.Upsert(turn, say(i), true)
	}
	if !tr.Cut(map[string]bool{"b": true, "c": true}) || tr.Len() != 1 || !tr.Has("i0") {
		t.Errorf("%d blocks are left", tr.Len())
	}
	if tr.Cut(map[string]bool{"z": true}) {
		t.Error("an unknown turn was cut")
	}
}

func TestInterruptedTurnEndsWhatRan(t *testing.T) {
	tr := newTest(0)
	tr.Delta(DeltaMessage, "u", "m", "unfini")
	tr.EndTurn(protocol.Turn{ID: "u", Status: protocol.TurnInterrupted})
	if got := plain(tr.View(9)); !strings.Contains(got, "unfini") || !strings.Contains(got, "■ interrupted") {
		t.Errorf("shows %q", got)
	}
}

func TestCommandUnwrapsOnlyWhatItUnderstands(t *testing.T) {
	for in, want := range map[string]string{
		`/bin/bash -lc 'go test ./...'`:      `go test ./...`,
		`bash -lc "echo \"hi\""`:             `echo "hi"`,
		`/bin/bash -lc 'it'\''s'`:            `it's`,
		`/bin/bash -lc ls`:                   `ls`,
		`/bin/bash -lc "echo $HOME"`:         `/bin/bash -lc "echo $HOME"`,
		`/bin/bash -lc ls; rm -rf /`:         `/bin/bash -lc ls; rm -rf /`,
		`/tmp/evil/bash -lc 'ls'`:            `/tmp/evil/bash -lc 'ls'`,
		`/bin/bash -lc 'a' 'b'`:              `/bin/bash -lc 'a' 'b'`,
		`env X=1 /bin/bash -lc 'ls'`:         `env X=1 /bin/bash -lc 'ls'`,
		`/bin/bash -lc 'unterminated`:        `/bin/bash -lc 'unterminated`,
		"/bin/bash -lc 'a\nb'":               "a\nb",
		`/bin/bash --rcfile /tmp/x -lc 'ls'`: `/bin/bash --rcfile /tmp/x -lc 'ls'`,
	} {
		if got := Command(in); got != want {
			t.Errorf("Command(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzCommand(f *testing.F) {
	f.Add(`/bin/bash -lc 'a'\''b'`)
	f.Fuzz(func(t *testing.T, s string) {
		_ = Command("/bin/bash -lc " + s)
		if q := "/bin/sh -c '" + strings.ReplaceAll(s, "'", `'\''`) + "'"; Command(q) != s {
			t.Errorf("the quoted %q reads as %q", s, Command(q))
		}
	})
}

func TestElapsedAndClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 340 * time.Millisecond: "0.3 s", 12 * time.Second: "12 s", 243 * time.Second: "4 min 3 s", 130 * time.Minute: "2 h 10 min",
	} {
		if got := Elapsed(d); got != want {
			t.Errorf("Elapsed(%s) = %q, want %q", d, got, want)
		}
	}
	if got := Clock(3723 * time.Second); got != "1:02:03" {
		t.Errorf("Clock = %q", got)
	}
}
