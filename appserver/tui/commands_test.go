package tui

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"towline/appserver/protocol"
)

func TestDiffAsksGitAndFallsBackToTheTurn(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	const diff = "diff --git a/pay.go b/pay.go\n--- a/pay.go\n+++ b/pay.go\n@@ -1,2 +1,2 @@\n-old line\n+new line\n ctx\n"
	f.reply("command/exec", obj{"exitCode": 0, "stdout": diff, "stderr": ""})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("/diff", "<enter>")
	s.sees("what changed in ~/src/shop · 1 file +1 −1", "old line", "new line")
	s.keys("<esc>")
	s.not("what changed in")
	f.reply("command/exec", obj{"exitCode": 3, "stdout": "", "stderr": ""})
	s.keys("/diff", "<enter>")
	s.sees("no git repository here")
	f.started("u-1")
	f.tell("turn/diff/updated", obj{"threadId": "t-1", "turnId": "u-1", "diff": strings.ReplaceAll(diff, "pay.go", "cart.go")})
	f.completed("u-1", "completed")
	s.sees("✔ done")
	s.keys("/diff", "<enter>")
	s.sees("what the last turn changed · 1 file", "cart.go")
}

func TestFileCompletionSearchesOrLists(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply("fuzzyFileSearch", obj{"files": []any{obj{"path": "checkout/pay.go", "root": "/x", "match_type": "file", "file_name": "pay.go", "score": 1}}})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("look at @pay")
	s.sees("checkout/pay.go")
	if got := field(f.wait("fuzzyFileSearch", 1), "query"); got != "pay" {
		t.Errorf("searched for %q", got)
	}
	s.keys("<tab>")
	s.sees("› look at checkout/pay.go")
	s.keys("<ctrl+c>")

	f.refuse("fuzzyFileSearch", "Invalid request: unknown variant `fuzzyFileSearch`")
	f.reply("fs/readDirectory", obj{"entries": []any{
		obj{"fileName": "checkout", "isDirectory": true, "isFile": false},
		obj{"fileName": ".git", "isDirectory": true, "isFile": false},
		obj{"fileName": "cart.go", "isDirectory": false, "isFile": true},
		obj{"fileName": "main.go", "isDirectory": false, "isFile": true},
	}})
	s.keys("@c")
	screen := s.sees("checkout/", "cart.go")
	if strings.Contains(screen, "main.go") || strings.Contains(screen, ".git") {
		t.Errorf("offers what does not fit:\n%s", screen)
	}
}

func TestSettingsGoAtOnceOrWithTheNextTurn(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("/approvals", "<enter>")
	s.sees("What may be done without asking", "● work in the project")
	s.keys("1")
	p := f.wait("thread/settings/update", 1)
	if field(p, "approvalPolicy") != "on-request" || field(p, "sandboxPolicy", "type") != "readOnly" {
		t.Errorf("set %s", p)
	}
	s.sees("read-only · on-request")

	f.refuse("thread/settings/update", "Invalid request: unknown variant `thread/settings/update`")
	s.keys("/model", " gpt-9", "<enter>")
	s.sees("from the next turn on")
	s.keys("go", "<enter>")
	if got := field(f.wait("turn/start", 1), "model"); got != "gpt-9" {
		t.Errorf("the turn began with model %q", got)
	}
}

func TestModelThenEffort(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply("model/list", obj{"data": []any{
		obj{"model": "gpt-5.5", "displayName": "GPT-5.5", "description": "the one in use"},
		obj{"model": "big", "displayName": "Big", "description": "thinks", "supportedReasoningEfforts": []any{obj{"reasoningEffort": "low", "description": "fast"}, obj{"reasoningEffort": "high", "description": "deep"}}},
		obj{"model": "secret", "displayName": "Secret", "hidden": true},
	}})
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("/model", "<enter>")
	if screen := s.sees("● GPT-5.5", "Big"); strings.Contains(screen, "Secret") {
		t.Errorf("a hidden model is offered:\n%s", screen)
	}
	s.keys("<down>", "<enter>")
	s.sees("How hard Big thinks", "deep")
	s.keys("2")
	p := f.wait("thread/settings/update", 1)
	if field(p, "model") != "big" || field(p, "effort") != "high" {
		t.Errorf("set %s", p)
	}
}

func TestPickerArchivedPagingAndNew(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.set("thread/list", func(p json.RawMessage) (any, error) {
		switch {
		case field(p, "archived") == "true":
			return obj{"data": []any{listed("t-9", "put away", "notLoaded")}}, nil
		case field(p, "cursor") == "next":
			return obj{"data": []any{listed("t-2", "older one", "idle")}}, nil
		}
		return obj{"data": []any{listed("t-1", "newest", "idle")}, "nextCursor": "next"}, nil
	})
	f.set("thread/resume", func(p json.RawMessage) (any, error) {
		return opened(field(p, "threadId"), "back again", turn("u", "completed", userItem("i", "from the archive"))), nil
	})
	s := start(t, f, 80, 24)
	s.sees("newest", "and older ones")
	s.keys("<down>")
	s.sees("older one")
	s.keys("a")
	s.sees("archived threads", "put away")
	s.keys("<enter>")
	if got := field(f.wait("thread/unarchive", 1), "threadId"); got != "t-9" {
		t.Errorf("took %q out of the archive", got)
	}
	s.sees("› from the archive")
	s.keys("<ctrl+t>")
	s.sees("threads", "newest")
	s.keys("n")
	f.wait("thread/start", 1)
	if got := field(f.wait("thread/unsubscribe", 1), "threadId"); got != "t-9" {
		t.Errorf("left %q", got)
	}
	s.sees("○ new")
}

func TestWheelScrollsAndClickOpens(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	var items []any
	for _, n := range strings.Fields("one two three four five six seven eight nine ten") {
		items = append(items, agentItem("a"+n, "message "+n), commandItem("c"+n, "run "+n, "completed", "out "+n+"\n"))
	}
	f.reply("thread/resume", opened("t-1", "", turn("u-1", "completed", items...)))
	s := start(t, f, 80, 24, func(c *Config) { c.Thread = "t-1" })
	s.sees("run ten")
	s.keys("<wheelup>", "<wheelup>", "<wheelup>")
	s.not("run ten")
	s.sees("↓ more below")
	s.keys("<wheeldown>", "<wheeldown>", "<wheeldown>", "<wheeldown>")
	screen := s.sees("run ten")
	for y, l := range strings.Split(screen, "\n") {
		if strings.Contains(l, "$ run nine") {
			s.keys("\x1b[<0;5;" + string(rune('0'+(y+1)/10)) + string(rune('0'+(y+1)%10)) + "M")
		}
	}
	s.sees("in /home/ana/src/shop · exit 0", "out nine")
	s.keys("\x1b[C") // to the next item
	s.sees("out ten")
}

func TestForkCompactRenameInterruptShell(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	f.reply("thread/fork", opened("t-7", "the copy", turn("u", "completed", userItem("i", "original words"))))
	s := start(t, f, 80, 24)
	s.sees("○ new")
	s.keys("/rename", "<enter>")
	s.keys("a better name", "<enter>")
	if got := field(f.wait("thread/name/set", 1), "name"); got != "a better name" {
		t.Errorf("named %q", got)
	}
	s.keys("/compact", "<enter>")
	f.wait("thread/compact/start", 1)
	s.keys("!ls -la", "<enter>")
	if got := field(f.wait("thread/shellCommand", 1), "command"); got != "ls -la" {
		t.Errorf("ran %q", got)
	}
	s.keys("/fork", "<enter>")
	s.sees("› original words", "the copy")
	s.keys("/nonsense", "<enter>")
	s.sees("there is no /nonsense")
	s.keys("<ctrl+c>", "/etc/passwd is a path", "<enter>")
	if p := string(f.wait("turn/start", 1)); !strings.Contains(p, "/etc/passwd is a path") {
		t.Errorf("sent %s", p)
	}
}

// A thread that was begun while the list was on its way is in it all the same.
func TestPickerHearsOfWhatItMissed(t *testing.T) {
	f := newFake(t).session(protocol.Session{})
	var begun atomic.Bool
	f.set("thread/list", func(json.RawMessage) (any, error) {
		if !begun.Load() {
			return obj{"data": []any{}}, nil
		}
		return obj{"data": []any{listed("t-7", "begun just now", "active")}}, nil
	})
	s := start(t, f, 80, 24)
	s.sees("? help")
	s.keys("<ctrl+t>")
	s.sees("no threads yet")
	begun.Store(true)
	f.tell("thread/status/changed", obj{"threadId": "t-7", "status": obj{"type": "active", "activeFlags": []any{}}})
	s.sees("begun just now")
}
