//go:build unix

package codex

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// patience bounds every wait; the machine may be busy.
const patience = 40 * time.Second

func TestMain(m *testing.M) {
	if url := os.Getenv("CODEX_TEST_OWNER"); url != "" {
		ownUntilKilled()
		return
	}
	goleak.VerifyTestMain(m)
}

// eachCodex runs f with every real codex there is.
func eachCodex(t *testing.T, f func(t *testing.T, bin string)) {
	t.Helper()
	list := os.Getenv("TOWLINE_TEST_CODEX")
	if list == "" {
		lacking(t, "the real codex: set TOWLINE_TEST_CODEX to its binaries, separated by colons")
	}
	for bin := range strings.SplitSeq(list, ":") {
		t.Run(regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(bin), func(t *testing.T) { f(t, bin) })
	}
}

func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING in CI: %s", what)
	}
	t.Skipf("SKIPPED, LACKING: %s", what)
}

// newHome makes a home for Codex whose only endpoint is baseURL ("" configures
// none, so that an account is needed) and returns the environment for it.
func newHome(t *testing.T, baseURL string) []string {
	t.Helper()
	home := t.TempDir()
	conf := "check_for_update_on_startup = false\n"
	if baseURL != "" {
		conf += fmt.Sprintf("model = \"gpt-5.5\"\nmodel_provider = \"fake\"\n[model_providers.fake]\nname = \"Fake\"\nbase_url = %q\n"+
			"wire_api = \"responses\"\nrequest_max_retries = 0\nstream_max_retries = 0\n", baseURL)
	}
	conf += "[analytics]\nenabled = false\n[features]\nplugins = false\napps = false\nremote_plugin = false\n" +
		"[tui]\nscreen_reader_detection_done = true\n[notice.model_migrations]\n\"gpt-5.5\" = \"gpt-6-sol\"\n"
	write(t, filepath.Join(home, ".codex", "config.toml"), conf, 0o600)
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + filepath.Join(home, ".codex"), "TMPDIR=" + t.TempDir(),
		"LANG=C.UTF-8", "RUST_BACKTRACE=0",
		// Nothing may leave the machine, whatever a version looks up.
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
	}
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// script makes a program that stands in for codex: it knows --version, and body
// is the rest.
func script(t *testing.T, version, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "codex")
	write(t, path, "#!/bin/sh\n[ \"$1\" = --version ] && { echo codex-cli "+version+"; exit 0; }\n"+body+"\n", 0o700)
	return path
}

// journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// pids are those of the servers the engine has started, in order.
func (j *journal) pids() (out []int) {
	for _, m := range regexp.MustCompile(`msg="started codex".* pid=(\d+)`).FindAllStringSubmatch(j.String(), -1) {
		n, _ := strconv.Atoi(m[1]) // the pattern is digits
		out = append(out, n)
	}
	return out
}

// run starts an engine and returns a stop that waits for its end; the end of
// the test does it otherwise.
func run(t *testing.T, cfg Config) (e *Engine, log *journal, stop func()) {
	t.Helper()
	return runRetrying(t, cfg, backoff{first: 20 * time.Millisecond, most: 100 * time.Millisecond})
}

func runRetrying(t *testing.T, cfg Config, retry backoff) (e *Engine, log *journal, stop func()) {
	t.Helper()
	log = new(journal)
	cfg.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.RuntimeDir == "" {
		cfg.RuntimeDir = filepath.Join(t.TempDir(), "run")
	}
	e = New(cfg)
	e.retry = retry
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("the engine's log:\n%s", log)
		}
	})
	return e, log, stop
}

// until waits for a state that satisfies ok and returns it.
func until(t *testing.T, e *Engine, what string, ok func(protocol.EngineState) bool) protocol.EngineState {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := e.Changed()
		st := e.State()
		if ok(st) {
			return st
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not %s: %+v", what, st)
		}
	}
}

func ready(st protocol.EngineState) bool { return st.State == stateReady }

// client is one that attaches through Connect.
type client struct {
	*rpc.Peer
	t     *testing.T
	notes chan note
	ended chan struct{}
}

type note struct {
	method string
	params json.RawMessage
}

func connect(t *testing.T, e *Engine) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := e.Connect(ctx)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	c := &client{t: t, notes: make(chan note, 1000), ended: make(chan struct{})}
	c.Peer = rpc.NewPeer(s, c)
	serving, stop := context.WithCancel(context.Background())
	go func() { defer close(c.ended); _ = c.Serve(serving) }()
	t.Cleanup(func() { stop(); <-c.ended })
	c.call("initialize", protocol.InitializeParams{ClientInfo: protocol.ClientInfo{Name: "test", Version: "1"}}, nil)
	return c
}

func (c *client) Request(_ context.Context, r *rpc.Request) { r.Fail(protocol.Errorf("no")) }

func (c *client) Notification(_ context.Context, method string, params json.RawMessage) {
	select {
	case c.notes <- note{method, params}:
	default:
	}
}

func (c *client) call(method string, params, result any) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.Call(ctx, method, params, result); err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
}

// await returns the params of the next notification called method.
func (c *client) await(method string) json.RawMessage {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case n := <-c.notes:
			if n.method == method {
				return n.params
			}
		case <-deadline:
			c.t.Fatalf("no %s", method)
		}
	}
}

// endpoint is a model that says reply, once hold (if any) is closed.
func endpoint(t *testing.T, reply string, hold <-chan struct{}) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = fmt.Fprintf(w, "data: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"message\",\"role\":\"assistant\","+
			"\"content\":[{\"type\":\"output_text\",\"text\":%q}]}}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r1\"}}\n\n", reply)
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/v1"
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// eventually polls for what nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}

// ownUntilKilled is a process that runs an engine, for the test that kills it.
func ownUntilKilled() {
	var environ []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CODEX_TEST_") {
			environ = append(environ, kv)
		}
	}
	e := New(Config{
		Binary: os.Getenv("CODEX_TEST_OWNER"), ShareControlSocket: true, Environ: environ,
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	_ = e.Run(context.Background())
}
