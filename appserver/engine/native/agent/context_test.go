package agent_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"towline/appserver/engine/native/agent"
	"towline/appserver/protocol"
)

func TestInstructions(t *testing.T) {
	home, repo := t.TempDir(), t.TempDir()
	put := func(path, body string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(home+"/AGENTS.md", "HOME\n")
	put(repo+"/.git/HEAD", "")
	put(repo+"/AGENTS.md", "ROOT")
	put(repo+"/a/AGENTS.md", "NOT THIS")
	put(repo+"/a/AGENTS.override.md", "A OVERRIDE")
	put(repo+"/a/b/c/AGENTS.md", "C")
	put(repo+"/a/b/x/AGENTS.md", "ELSEWHERE")
	put(filepath.Dir(repo)+"/above-"+filepath.Base(repo), "")
	text, sources, err := agent.Instructions(home, repo+"/a/b/c")
	if err != nil {
		t.Fatal(err)
	}
	if text != "HOME\n\nROOT\n\nA OVERRIDE\n\nC" {
		t.Errorf("text %q", text)
	}
	if want := []string{home + "/AGENTS.md", repo + "/AGENTS.md", repo + "/a/AGENTS.override.md", repo + "/a/b/c/AGENTS.md"}; !reflect.DeepEqual(sources, want) {
		t.Errorf("sources %q", sources)
	}

	t.Run("outside a repository only the directory counts", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/.git", 0o755); err != nil { // as sandboxes leave it behind
			t.Fatal(err)
		}
		put(dir+"/AGENTS.md", "UP")
		put(dir+"/sub/AGENTS.md", "HERE")
		if text, _, _ := agent.Instructions("", dir+"/sub"); text != "HERE" {
			t.Errorf("text %q", text)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		put(repo+"/AGENTS.md", strings.Repeat("é", 20_000))
		text, sources, err := agent.Instructions(home, repo+"/a")
		if len(text) > 32<<10 || err == nil || len(sources) != 2 || !strings.HasSuffix(text, "é") {
			t.Errorf("%d bytes, %v, %v", len(text), sources, err)
		}
	})
	t.Run("odd files", func(t *testing.T) {
		dir := t.TempDir()
		mkfifo(t, dir+"/AGENTS.md")
		if text, _, err := agent.Instructions("", dir); text != "" || err == nil {
			t.Errorf("a pipe: %q, %v", text, err)
		}
		dir = t.TempDir()
		put(dir+"/AGENTS.md", "\xff\xfe")
		if text, _, err := agent.Instructions("", dir); text != "" || err == nil {
			t.Errorf("not text: %q, %v", text, err)
		}
		dir = t.TempDir()
		put(dir+"/AGENTS.override.md", "  \n")
		put(dir+"/AGENTS.md", "PLAIN")
		if text, _, _ := agent.Instructions("", dir); text != "PLAIN" {
			t.Errorf("an empty override: %q", text)
		}
	})
}

func TestContextIsTheProjectsAndTheRules(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	st := newStageWith(t, func(c *agent.Config) {
		c.Clock = func() time.Time { return now }
		c.DeveloperInstructions = "BE NICE"
	}, say(words("1")), say(words("2")), say(words("3")))
	st.write("AGENTS.md", "USE TABS")
	st.ok("t1", "go", policy("on-request", protocol.PolicyWorkspaceWrite))
	in := st.script.input(0)
	for i, want := range []string{
		"<permissions instructions>\\nSandbox: workspace-write. Commands may read all files and write below: " + st.dir,
		"# AGENTS.md instructions for " + st.dir + "\\n\\n<INSTRUCTIONS>\\nUSE TABS\\n</INSTRUCTIONS>",
		"<environment_context>\\n  <cwd>" + st.dir + "</cwd>\\n  <shell>bash</shell>\\n  <current_date>2026-02-03</current_date>\\n  <timezone>UTC</timezone>\\n</environment_context>",
	} {
		if !strings.Contains(string(in[i]), want) {
			t.Errorf("%d: %s\ndoes not hold %s", i, in[i], want)
		}
	}
	if !strings.Contains(string(in[0]), "BE NICE") || protocol.StringField(in[0], "role") != "developer" {
		t.Errorf("developer message %s", in[0])
	}
	// Only what changed is told again.
	st.ok("t2", "go", policy("never", protocol.PolicyWorkspaceWrite))
	if n := strings.Count(joined(st.script.input(1)), "USE TABS"); n != 1 {
		t.Errorf("instructions told %d times", n)
	}
	if s := joined(st.script.input(1)); strings.Count(s, "<permissions instructions>") != 2 || !strings.Contains(s, "Approvals: never") {
		t.Errorf("input %s", s)
	}
	st.write("AGENTS.md", "USE SPACES")
	now = now.AddDate(0, 0, 1)
	st.ok("t3", "go", policy("never", protocol.PolicyWorkspaceWrite))
	if s := joined(st.script.input(2)); !strings.Contains(s, "USE SPACES") || !strings.Contains(s, "2026-02-04") || strings.Count(s, "<permissions instructions>") != 2 {
		t.Errorf("input %s", s)
	}
}

func TestBaseInstructions(t *testing.T) {
	st := newStage(t, say(words("1")))
	st.ok("t1", "go", nil)
	if s := string(st.script.requests[0]["input"]); !strings.HasPrefix(s, `[{"content":[{"text":"You are a coding agent`) {
		t.Errorf("input %s", cutString(s, 300))
	}
	if strings.Contains(joined(st.recorded), "You are a coding agent") {
		t.Error("base instructions are recorded: an update could not change them")
	}
	st = newStageWith(t, func(c *agent.Config) { c.BaseInstructions = "BE A POET" }, say(words("1")))
	st.ok("t1", "go", nil)
	if s := string(st.script.requests[0]["input"]); !strings.HasPrefix(s, `[{"content":[{"text":"BE A POET"`) {
		t.Errorf("input %s", cutString(s, 300))
	}
}
