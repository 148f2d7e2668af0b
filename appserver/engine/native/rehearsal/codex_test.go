package rehearsal

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// codexes are the real binaries to test with.
func codexes(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		const lacking = "TOWLINE_TEST_CODEX is not set (colon-separated paths of codex binaries): NOT TESTED with the real Codex"
		if os.Getenv("CI") == "true" {
			t.Fatal(lacking)
		}
		t.Skip(lacking)
	}
	return strings.Split(list, ":")
}

// codex is a real Codex with a home of its own and the rehearsal as its provider.
type codex struct {
	bin, home, project string
}

func newCodex(t *testing.T, bin string) codex {
	t.Helper()
	srv, err := Listen(t.Context(), "127.0.0.1:0", Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// Not t.TempDir: Codex dislikes a home below the temporary folder.
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp(base, "towline-rehearsal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Logf("left behind: %v", err)
		}
	})
	c := codex{bin: bin, home: home, project: filepath.Join(home, "project")}
	for _, d := range []string{c.project, filepath.Join(home, "codex"), filepath.Join(home, "tmp")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf(`model = %q
model_provider = "rehearsal"
check_for_update_on_startup = false
[model_providers.rehearsal]
name = "Rehearsal"
base_url = %q
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 2
[tools.update_plan]
enabled = true
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
[projects.%q]
trust_level = "trusted"
`, Slug, srv.URL(), c.project)
	if err := os.WriteFile(filepath.Join(home, "codex", "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c codex) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Dir = c.project
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "TMPDIR=" + filepath.Join(c.home, "tmp"), "CODEX_HOME=" + filepath.Join(c.home, "codex")}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// each runs a test with every binary.
func each(t *testing.T, test func(t *testing.T, c codex)) {
	for _, bin := range codexes(t) {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) { test(t, newCodex(t, bin)) })
	}
}

func TestCodexExec(t *testing.T) {
	each(t, func(t *testing.T, c codex) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		say := func(prompt string, args ...string) string {
			t.Helper()
			args = append([]string{"exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access"}, args...)
			cmd := c.command(ctx, append(args, prompt)...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v\n%s\n%s", prompt, err, out, stderr.String())
			}
			return string(out)
		}
		if out := say("run echo from-the-command"); !strings.Contains(out, `from-the-command\n","exit_code":0`) || !strings.Contains(out, "ended well") {
			t.Errorf("run: %s", out)
		}
		if out := say("create notes.txt with first foo\\nsecond"); !strings.Contains(out, `"kind":"add"`) {
			t.Errorf("create: %s", out)
		}
		if out := say("change foo to bar in notes.txt"); !strings.Contains(out, `"kind":"update"`) || !strings.Contains(out, "I changed") {
			t.Errorf("change: %s", out)
		}
		if b, err := os.ReadFile(filepath.Join(c.project, "notes.txt")); err != nil || string(b) != "first bar\nsecond\n" {
			t.Errorf("the file holds %q, %v", b, err)
		}
		if out := say("plan bake, eat"); strings.Count(out, `"type":"todo_list"`) < 3 {
			t.Errorf("plan: %s", out)
		}
		if out := say("disconnect"); !strings.Contains(out, "Reconnecting") || !strings.Contains(out, "second attempt") {
			t.Errorf("disconnect: %s", out)
		}
		if out := say("loop"); !strings.Contains(out, "was compacted") {
			t.Errorf("loop: %s", out)
		}
		schema := filepath.Join(c.home, "schema.json")
		if err := os.WriteFile(schema, []byte(`{"type":"object","properties":{"title":{"type":"string"}},"required":["title"],"additionalProperties":false}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := say("name this", "--output-schema", schema); !strings.Contains(out, `{\"title\":\"Rehearsal: name this\"}`) {
			t.Errorf("schema: %s", out)
		}
		if out, err := c.command(ctx, "exec", "--json", "--skip-git-repo-check", "fail").Output(); err == nil || !strings.Contains(string(out), `"turn.failed"`) {
			t.Errorf("fail: %v, %s", err, out)
		}
	})
}

// TestCodexTour is what a first run shows, with the real app-server: an approval
// is asked for and given, and a file is written and changed.
func TestCodexTour(t *testing.T) {
	each(t, func(t *testing.T, c codex) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := c.command(ctx, "app-server")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = in.Close()
			_ = cmd.Wait() // ends when its input does
		}()
		send := func(v map[string]any) {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(append(b, '\n')); err != nil {
				t.Fatal(err)
			}
		}
		var approvals, patches int
		var text, diff string
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		send(map[string]any{"id": 1, "method": "initialize", "params": map[string]any{"clientInfo": map[string]any{"name": "towline-test", "version": "1"}}})
		for lines.Scan() {
			var m struct {
				ID     json.RawMessage `json:"id"`
				Method string          `json:"method"`
				Result struct {
					Thread struct{ ID string } `json:"thread"`
				} `json:"result"`
				Error  json.RawMessage `json:"error"`
				Params struct {
					Diff string `json:"diff"`
					Item struct {
						Type, Text, Status string
					} `json:"item"`
				} `json:"params"`
			}
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatalf("%v: %s", err, lines.Bytes())
			}
			if m.Error != nil {
				t.Fatalf("refused: %s", lines.Bytes())
			}
			switch {
			case string(m.ID) == "1" && m.Method == "":
				send(map[string]any{"id": 2, "method": "thread/start", "params": map[string]any{"cwd": c.project, "approvalPolicy": "on-request", "sandbox": "danger-full-access"}})
			case string(m.ID) == "2" && m.Method == "":
				send(map[string]any{"id": 3, "method": "turn/start", "params": map[string]any{
					"threadId": m.Result.Thread.ID, "input": []any{map[string]any{"type": "text", "text": "show me around"}},
					"sandboxPolicy": map[string]any{"type": "workspaceWrite", "networkAccess": true},
				}})
			case m.Method == "item/commandExecution/requestApproval":
				approvals++
				send(map[string]any{"id": m.ID, "result": map[string]any{"decision": "accept"}})
			case m.Method == "item/fileChange/requestApproval":
				send(map[string]any{"id": m.ID, "result": map[string]any{"decision": "accept"}})
			case m.Method == "turn/diff/updated":
				diff = m.Params.Diff
			case m.Method == "item/completed" && m.Params.Item.Type == "fileChange" && m.Params.Item.Status == "completed":
				patches++
			case m.Method == "item/completed" && m.Params.Item.Type == "agentMessage":
				text += m.Params.Item.Text
			case m.Method == "turn/completed":
				if approvals != 1 || patches != 2 || !strings.Contains(text, "That was the tour") || !strings.Contains(text, "was approved and ran") {
					t.Errorf("%d approvals, %d patches, and the text is %s", approvals, patches, text)
				}
				if !strings.Contains(diff, "+Status: **seen**") {
					t.Errorf("the turn's diff is %s", diff)
				}
				return
			}
		}
		t.Fatalf("the app-server ended before the turn did: %v", lines.Err())
	})
}
