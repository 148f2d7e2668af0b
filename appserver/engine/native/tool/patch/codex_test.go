package patch

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"towline/appserver/protocol"
)

// realCodex drives one codex app-server over stdio against a scripted model
// that answers each prompt with an apply_patch call holding the prompt's text.
type realCodex struct {
	t    *testing.T
	in   io.Writer
	msgs chan message
	id   int
}

type message struct {
	ID     *int            `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// outcome is what the real Codex did with one patch.
type outcome struct {
	changes []protocol.FileUpdate
	status  string
	diff    string // of the turn
	told    string // what the model reads
}

// codexBinaries lists the binaries to test against, or skips loudly.
func codexBinaries(t *testing.T) []string {
	t.Helper()
	v := os.Getenv("TOWLINE_TEST_CODEX")
	if v == "" {
		const lack = "TOWLINE_TEST_CODEX does not name a codex binary: the patch format is NOT compared with the real Codex"
		if os.Getenv("CI") == "true" {
			t.Fatal(lack)
		}
		t.Skip(lack)
	}
	return filepath.SplitList(v)
}

func startCodex(t *testing.T, binary string) *realCodex {
	t.Helper()
	var calls atomic.Int64
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req struct {
			Input []struct {
				Type    string          `json:"type"`
				Role    string          `json:"role"`
				Content json.RawMessage `json:"content"`
				Output  json.RawMessage `json:"output"`
			} `json:"input"`
		}
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		last := req.Input[len(req.Input)-1]
		item := map[string]any{"type": "message", "role": "assistant", "content": []any{map[string]any{"type": "output_text", "text": string(last.Output)}}}
		if last.Role == "user" {
			var parts []struct{ Text string }
			if err := json.Unmarshal(last.Content, &parts); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			item = map[string]any{"type": "custom_tool_call", "call_id": fmt.Sprint("c", calls.Add(1)), "name": "apply_patch", "input": parts[0].Text}
		}
		b, _ := json.Marshal(map[string]any{"type": "response.output_item.done", "item": item})
		_, _ = fmt.Fprintf(w, "data: %s\n\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}}\n\n", b)
	}))
	t.Cleanup(model.Close)

	// Not under $TMPDIR: Codex warns about a home there.
	base, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp(base, ".towline-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	conf := fmt.Sprintf(`
model = "gpt-5.5"
model_provider = "fake"
check_for_update_on_startup = false
[model_providers.fake]
name = "Fake"
base_url = "%s/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[analytics]
enabled = false
[features]
plugins = false
apps = false
remote_plugin = false
`, model.URL)
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := osexec.CommandContext(ctx, binary, "app-server")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + home}
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
	c := &realCodex{t: t, in: in, msgs: make(chan message, 1000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(c.msgs)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 64<<20)
		for sc.Scan() {
			var m message
			if json.Unmarshal(sc.Bytes(), &m) == nil {
				c.msgs <- m
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = cmd.Wait() // killed
	})
	c.call("initialize", map[string]any{"clientInfo": map[string]any{"name": "t", "version": "1"}, "capabilities": map[string]any{"experimentalApi": true}}, nil)
	return c
}

func (c *realCodex) call(method string, params, result any) {
	c.t.Helper()
	c.id++
	b, err := json.Marshal(map[string]any{"id": c.id, "method": method, "params": params})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(b, '\n')); err != nil {
		c.t.Fatal(err)
	}
	for {
		m := c.next()
		if m.Method != "" || m.ID == nil || *m.ID != c.id {
			continue
		}
		if m.Error != nil {
			c.t.Fatalf("%s: %s", method, m.Error)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				c.t.Fatal(err)
			}
		}
		return
	}
}

func (c *realCodex) next() message {
	c.t.Helper()
	select {
	case m, ok := <-c.msgs:
		if !ok {
			c.t.Fatal("codex ended")
		}
		return m
	case <-time.After(30 * time.Second):
		c.t.Fatal("codex is silent")
	}
	return message{}
}

// apply lets Codex apply a patch in dir.
func (c *realCodex) apply(dir, text string) outcome {
	c.t.Helper()
	var opened struct{ Thread struct{ ID string } }
	c.call("thread/start", map[string]any{"cwd": dir, "approvalPolicy": "never", "sandbox": "danger-full-access", "ephemeral": true}, &opened)
	c.call("turn/start", map[string]any{"threadId": opened.Thread.ID, "input": []any{map[string]any{"type": "text", "text": text}}}, nil)
	var o outcome
	for {
		m := c.next()
		var p struct {
			ThreadID string `json:"threadId"`
			Diff     string `json:"diff"`
			Item     struct {
				Type    string                `json:"type"`
				Text    string                `json:"text"`
				Status  string                `json:"status"`
				Changes []protocol.FileUpdate `json:"changes"`
			} `json:"item"`
		}
		if err := json.Unmarshal(m.Params, &p); err != nil || p.ThreadID != opened.Thread.ID {
			continue
		}
		switch m.Method {
		case "item/completed":
			switch p.Item.Type {
			case "fileChange":
				o.changes, o.status = p.Item.Changes, p.Item.Status
			case "agentMessage":
				o.told = p.Item.Text
			}
		case "turn/diff/updated":
			o.diff = p.Diff
		case "turn/completed":
			return o
		}
	}
}

// tree reads all files below dir, by relative path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
