package tui

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towline/appserver/rpc"
)

// codexes are the real binaries to test with.
func codexes(t *testing.T) []string {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		why := "TOWLINE_TEST_CODEX is not set: the journey against a real `codex app-server` was not made"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return strings.Split(list, ":")
}

// scriptedModel answers the Responses API by what the last message asks for.
func scriptedModel(t *testing.T) string {
	t.Helper()
	var n int
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Input []struct {
				Role    string          `json:"role"`
				Content json.RawMessage `json:"content"`
			} `json:"input"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		mu.Lock()
		n++
		id := fmt.Sprint("call", n)
		mu.Unlock()
		say := func(v any) {
			raw, _ := json.Marshal(v)
			_, _ = fmt.Fprintf(w, "data: %s\n\n", raw)
			w.(http.Flusher).Flush()
		}
		w.Header().Set("Content-Type", "text/event-stream")
		last := ""
		if len(body.Input) > 0 && body.Input[len(body.Input)-1].Role == "user" {
			last = string(body.Input[len(body.Input)-1].Content)
		}
		switch {
		case strings.Contains(last, "escalate"):
			args, _ := json.Marshal(obj{"cmd": "echo from-the-command", "yield_time_ms": 1000, "sandbox_permissions": "require_escalated", "justification": "because the test says so"})
			say(obj{"type": "response.output_item.done", "item": obj{"type": "function_call", "call_id": id, "name": "exec_command", "arguments": string(args)}})
		case strings.Contains(last, "patch"):
			say(obj{"type": "response.output_item.done", "item": obj{"type": "custom_tool_call", "call_id": id, "name": "apply_patch", "input": "*** Begin Patch\n*** Add File: made-by-patch.txt\n+first line\n*** End Patch\n"}})
		default:
			say(obj{"type": "response.output_item.added", "item": obj{"type": "message", "role": "assistant", "id": id, "content": []any{}}})
			say(obj{"type": "response.output_text.delta", "delta": "The **scripted** "})
			say(obj{"type": "response.output_item.done", "item": obj{"type": "message", "role": "assistant", "id": id, "content": []any{obj{"type": "output_text", "text": "The **scripted** answer."}}}})
		}
		say(obj{"type": "response.completed", "response": obj{"id": id, "usage": obj{"input_tokens": 1000, "output_tokens": 30, "total_tokens": 1030}}})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// codexProcess is one `codex app-server` on stdio.
type codexProcess struct {
	io.Reader
	io.Writer
	close func()
}

func (c codexProcess) Close() error { c.close(); return nil }

func TestJourneyWithRealCodex(t *testing.T) {
	for _, bin := range codexes(t) {
		t.Run(filepath.Base(filepath.Dir(bin)), func(t *testing.T) { codexJourney(t, bin) })
	}
}

func codexJourney(t *testing.T, bin string) {
	home, err := os.MkdirTemp("/var/tmp", "towline-codex-") // Codex warns about homes under $TMPDIR
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	project := filepath.Join(home, "project")
	config := fmt.Sprintf("model = \"gpt-5.5\"\nmodel_provider = \"fake\"\ncheck_for_update_on_startup = false\n[model_providers.fake]\nname = \"Fake\"\nbase_url = \"%s/v1\"\nwire_api = \"responses\"\nrequest_max_retries = 0\nstream_max_retries = 0\n[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n[projects.%q]\ntrust_level = \"trusted\"\n", scriptedModel(t), project)
	if err := os.Mkdir(project, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	dial := func(context.Context) (rpc.Stream, error) {
		c := exec.Command(bin, "app-server")
		c.Env = []string{"CODEX_HOME=" + home, "HOME=" + home, "PATH=" + os.Getenv("PATH")}
		c.Dir = project
		in, err := c.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := c.Start(); err != nil {
			return nil, err
		}
		var once sync.Once
		return rpc.NewLines(codexProcess{out, in, func() {
			once.Do(func() {
				_ = in.Close()
				_ = c.Process.Kill()
				_ = c.Wait()
			})
		}}), nil
	}
	use := func(c *Config) { c.Dial, c.NewThread = dial, true }
	s := start(t, newFake(t), 100, 30, use)
	s.sees("gpt-5.5", "○ new", "workspace-write · on-request")
	s.keys("hello", "<enter>")
	s.sees("› hello", "The scripted answer.", "✔ done", "tokens")
	s.keys("please escalate", "<enter>")
	s.sees("Run this command?", "$ echo from-the-command", "why: because the test says so")
	s.decides("y")
	s.sees("  from-the-command", "✔ done")
	s.keys("patch it", "<enter>")
	s.sees("● Add made-by-patch.txt", "+ first line", "✔ done")
	s.keys("/rename", " the journey", "<enter>")
	s.sees("the journey")
	s.keys("/detach", "<enter>")
	r, err := s.ends()
	if err != nil || r.Thread == "" {
		t.Fatalf("Run = %+v, %v", r, err)
	}

	// Another process on the same home: everything is there.
	s = start(t, newFake(t), 100, 30, func(c *Config) { use(c); c.NewThread, c.Thread = false, r.Thread })
	s.sees("the journey", "● Add made-by-patch.txt", "$ echo from-the-command")
	s.keys("<home>")
	s.sees("› hello")
	s.keys("<ctrl+t>")
	s.sees("dev-server · threads", "the journey", "done")
	s.keys("n")
	s.sees("○ new")
	s.keys("<ctrl+d>")
	if _, err := s.ends(); err != nil {
		t.Errorf("Run = %v", err)
	}
}
