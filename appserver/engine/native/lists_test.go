package native_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// What the stock TUI asks at start-up, in its order, with what it needs to find.
func TestStartUpOfTheStockClient(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	for _, tc := range []struct {
		method string
		params any
		want   string
	}{
		{"account/read", map[string]any{}, `"requiresOpenaiAuth":false`},
		{"model/list", map[string]any{"includeHidden": true}, `"isDefault":true`},
		{"hooks/list", map[string]any{"cwds": []string{h.cwd}}, `"cwd":"` + h.cwd},
		{"account/bedrock/checkGovCloudRequirements", map[string]any{}, `"isGovCloud":false`},
		{"config/read", map[string]any{"includeLayers": true, "cwd": "."}, `"` + h.cwd + `":{"trust_level":"trusted"}`},
		{"configRequirements/read", nil, `"requirements":null`},
		{"collaborationMode/list", map[string]any{}, `"mode":"plan"`},
		{"thread/list", map[string]any{"limit": 5}, `"data":[]`},
		{"skills/list", map[string]any{}, `"skills":[]`},
		{"plugin/installed", map[string]any{}, `"marketplaces":[]`},
		{"plugin/list", map[string]any{}, `"marketplaces":[]`},
		{"thread/loaded/list", map[string]any{}, `"data":[]`},
		{"permissionProfile/list", map[string]any{}, `":workspace"`},
		{"mcpServerStatus/list", map[string]any{}, `"data":[]`},
		{"experimentalFeature/list", map[string]any{}, `"data":[]`},
		{"app/list", map[string]any{}, `"data":[]`},
		{"remoteControl/status/read", nil, `"status":"disabled"`},
		{"account/gatewayOAuth/read", nil, `"required":false`},
		{"modelProvider/capabilities/read", map[string]any{}, `"webSearch":false`},
		{"thread/attachment/list", map[string]any{"threadId": "x"}, `"data":[]`},
		{"project/list", map[string]any{}, `"data":[]`},
		{"threadSection/list", map[string]any{}, `"data":[]`},
		{"modelProvider/list", map[string]any{}, `"defaultProviderId":"openai"`},
	} {
		if raw := c.call(tc.method, tc.params); !strings.Contains(string(raw), tc.want) {
			t.Errorf("%s: no %s in %s", tc.method, tc.want, raw)
		}
	}
	c.refused("account/rateLimits/read", nil, "authentication required")
}

func TestWhatClientsWriteToTheConfigurationIsKept(t *testing.T) {
	h := start(t, nil)
	c, other := h.connect(), h.connect()
	c.call("config/batchWrite", map[string]any{"edits": []any{
		map[string]any{"keyPath": "model", "value": "other", "mergeStrategy": "replace"},
		map[string]any{"keyPath": `notice."a.b".seen`, "value": true, "mergeStrategy": "upsert"},
	}, "reloadUserConfig": true})
	c.call("config/value/write", map[string]any{"keyPath": "model_reasoning_effort", "value": "high", "mergeStrategy": "replace"})
	raw := other.call("config/read", map[string]any{})
	conf := protocol.Field(raw, "config")
	if protocol.StringField(conf, "model") != "other" || protocol.StringField(conf, "model_reasoning_effort") != "high" ||
		!strings.Contains(string(conf), `"a.b":{"seen":true}`) {
		t.Errorf("config = %s", conf)
	}
	var got protocol.ThreadOpened
	other.read(other.call("thread/start", map[string]any{}), &got)
	if got.Model != "other" || *got.ReasoningEffort != "high" {
		t.Errorf("a new thread has %s, %v", got.Model, *got.ReasoningEffort)
	}
	for _, key := range []string{"", "a..b", `"open`, "."} {
		c.refused("config/value/write", map[string]any{"keyPath": key, "value": 1, "mergeStrategy": "replace"}, "invalid key path")
	}
	c.refused("config/value/write", map[string]any{"keyPath": "big", "value": strings.Repeat("x", 70_000), "mergeStrategy": "replace"}, "full")
	c.call("config/value/write", map[string]any{"keyPath": "model", "value": nil, "mergeStrategy": "replace"})
	if raw := c.call("config/read", map[string]any{}); protocol.StringField(protocol.Field(raw, "config"), "model") == "other" {
		t.Errorf("null did not remove the key: %s", raw)
	}
}

func TestModelFallback(t *testing.T) {
	h := start(t, nil)
	c := h.connect()
	var got protocol.ThreadOpened
	c.read(c.call("thread/start", map[string]any{"model": "unheard-of", "allowProviderModelFallback": true}), &got)
	if got.Model != "gpt-5.5" {
		t.Errorf("model = %s", got.Model)
	}
	c.read(c.call("thread/start", map[string]any{"model": "unheard-of"}), &got)
	if got.Model != "unheard-of" {
		t.Errorf("model = %s", got.Model)
	}
}

func TestFileSearch(t *testing.T) {
	h := start(t, nil)
	for _, name := range []string{
		"main.go", "cmd/server/main.go", "docs/readme.md", "build/main.o", "deep/keep/main.o", "logs/a.log", ".git/main.go",
		"vendor/x/y/main.go", "src/MainWindow.ts",
	} {
		p := filepath.Join(h.cwd, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(h.cwd, ".gitignore"), []byte("# no\n/build/\n*.log\nvendor/**/y\n*.o\n!deep/keep/*.o\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := h.connect()
	type files struct {
		Files []struct {
			Path      string
			FileName  string `json:"file_name"`
			MatchType string `json:"match_type"`
			Indices   []int
		}
	}
	find := func(q string) (out []string) {
		var f files
		c.read(c.call("fuzzyFileSearch", map[string]any{"query": q, "roots": []string{h.cwd}}), &f)
		for _, m := range f.Files {
			out = append(out, m.Path)
		}
		return out
	}
	if got := find("main"); len(got) == 0 || got[0] != "main.go" || !slices.Contains(got, "src/MainWindow.ts") || !slices.Contains(got, "deep/keep/main.o") ||
		slices.Contains(got, "build/main.o") || slices.Contains(got, ".git/main.go") || slices.Contains(got, "vendor/x/y/main.go") {
		t.Errorf("main: %q", got)
	}
	if got := find("csm"); len(got) == 0 || got[0] != "cmd/server/main.go" {
		t.Errorf("csm: %q", got)
	}
	if got := find("log"); slices.Contains(got, "logs/a.log") {
		t.Errorf("log: %q", got)
	}
	if got := find("zzz"); got != nil {
		t.Errorf("zzz: %q", got)
	}
	c.call("fuzzyFileSearch/sessionStart", map[string]any{"sessionId": "s", "roots": []string{h.cwd}})
	c.call("fuzzyFileSearch/sessionUpdate", map[string]any{"sessionId": "s", "query": "readme"})
	n := c.method(0, "fuzzyFileSearch/sessionUpdated")
	if !strings.Contains(string(n.Params), "docs/readme.md") {
		t.Errorf("session: %s", n.Params)
	}
	c.method(0, "fuzzyFileSearch/sessionCompleted")
	c.call("fuzzyFileSearch/sessionStop", map[string]any{"sessionId": "s"})
	c.refused("fuzzyFileSearch/sessionUpdate", map[string]any{"sessionId": "s", "query": "x"}, "not found")
}

func TestGitInfo(t *testing.T) {
	h := start(t, nil)
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(h.cwd, ".git", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("HEAD", "ref: refs/heads/feature/x\n")
	write("packed-refs", "# pack-refs\n1111111111111111111111111111111111111111 refs/heads/feature/x\n")
	write("config", "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://user:secret@example.com/a/b.git\n")
	c := h.connect()
	var got protocol.ThreadOpened
	c.read(c.call("thread/start", map[string]any{}), &got)
	g := got.Thread.GitInfo
	if g == nil || *g.Branch != "feature/x" || *g.SHA != strings.Repeat("1", 40) || *g.OriginURL != "https://example.com/a/b.git" {
		t.Errorf("git = %+v", g)
	}
	write("refs/heads/feature/x", strings.Repeat("2", 40)+"\n")
	c.read(c.call("thread/start", map[string]any{}), &got)
	if *got.Thread.GitInfo.SHA != strings.Repeat("2", 40) {
		t.Errorf("git = %+v", got.Thread.GitInfo)
	}
}
