package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/rpc"
	"towline/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func listen(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	if cfg.Metrics == nil {
		cfg.Metrics = New("1.2.3", func() Snapshot { return Snapshot{Attached: 2, EngineKind: "codex", EngineState: "ready"} })
	}
	s, err := Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	})
	return s
}

// ask sends one request on a connection of its own.
func ask(t *testing.T, method, url string, header map[string]string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		if k == "Host" {
			r.Host = v
		}
		r.Header.Set(k, v)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(body)
}

func TestWhoIsToldMetrics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, guarded := listen(t, ServerConfig{Listen: "127.0.0.1:0"}), listen(t, ServerConfig{Listen: "http://0.0.0.0:0", TokenFile: file})
	guardedURL := strings.Replace(strings.Replace(guarded.URL(), "[::]", "127.0.0.1", 1), "0.0.0.0", "127.0.0.1", 1)
	for name, tc := range map[string]struct {
		method, url string
		header      map[string]string
		status      int
	}{
		"anybody on this machine": {"GET", open.URL(), nil, 200},
		"HEAD":                    {"HEAD", open.URL(), nil, 200},
		"POST":                    {"POST", open.URL(), nil, 405},
		"another path":            {"GET", strings.TrimSuffix(open.URL(), "/metrics") + "/debug/pprof/", nil, 404},
		"a web page":              {"GET", open.URL(), map[string]string{"Origin": "http://127.0.0.1"}, 403},
		"a name bent to here":     {"GET", open.URL(), map[string]string{"Host": "attacker.example"}, 403},
		"no token":                {"GET", guardedURL, nil, 401},
		"the token":               {"GET", guardedURL, map[string]string{"Authorization": "Bearer 0123456789abcdef"}, 200},
		"in lower case":           {"GET", guardedURL, map[string]string{"Authorization": "bearer 0123456789abcdef"}, 200},
		"another token":           {"GET", guardedURL, map[string]string{"Authorization": "Bearer 0123456789abcdeg"}, 401},
		"the token as Basic":      {"GET", guardedURL, map[string]string{"Authorization": "Basic 0123456789abcdef"}, 401},
		"the token in the URL":    {"GET", guardedURL + "?token=0123456789abcdef", nil, 401},
	} {
		status, body := ask(t, tc.method, tc.url, tc.header)
		if status != tc.status || (status == 200 && tc.method == "GET") != strings.Contains(body, `towline_build_info{version="1.2.3"`) {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
	if err := os.WriteFile(file, []byte("another token it is\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask(t, "GET", guardedURL, map[string]string{"Authorization": "Bearer 0123456789abcdef"}); status != 401 {
		t.Errorf("the old token: %d", status)
	}
	if status, _ := ask(t, "GET", guardedURL, map[string]string{"Authorization": "Bearer another token it is"}); status != 200 {
		t.Errorf("the new token: %d", status)
	}
	_ = os.Remove(file)
	if status, _ := ask(t, "GET", guardedURL, map[string]string{"Authorization": "Bearer "}); status != 503 {
		t.Errorf("without a file: %d", status)
	}
}

func TestMetricsListenersThatAreRefused(t *testing.T) {
	short, loose := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "l")
	if err := errors.Join(os.WriteFile(short, []byte("short"), 0o600), os.WriteFile(loose, []byte("0123456789abcdef"), 0o600), os.Chmod(loose, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  ServerConfig
		want string
		exit int
	}{
		"beyond loopback":    {ServerConfig{Listen: "0.0.0.0:0"}, "without a token", config.ExitFailure},
		"a name":             {ServerConfig{Listen: "localhost:0"}, "neither IP:PORT", config.ExitUsage},
		"no port":            {ServerConfig{Listen: "127.0.0.1"}, "neither IP:PORT", config.ExitUsage},
		"https without cert": {ServerConfig{Listen: "https://127.0.0.1:0"}, "needs a certificate", config.ExitFailure},
		"a short token":      {ServerConfig{Listen: "0.0.0.0:0", TokenFile: short}, "at least 16", config.ExitConfig},
		"a loose file":       {ServerConfig{Listen: "127.0.0.1:0", TokenFile: loose}, "others can read", config.ExitConfig},
	} {
		if tc.cfg.TokenFile == loose && runtime.GOOS == "windows" {
			continue
		}
		s, err := Listen(t.Context(), tc.cfg)
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || config.ExitCode(err) != tc.exit {
			t.Errorf("%s: %v (exit %d)", name, err, config.ExitCode(err))
		}
	}
	taken := listen(t, ServerConfig{Listen: "127.0.0.1:0"})
	if _, err := Listen(t.Context(), ServerConfig{Listen: taken.ln.Addr().String()}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
}

// Few ask at once; more wait, and nobody is turned away for good.
func TestManyWhoAskWait(t *testing.T) {
	s := listen(t, ServerConfig{Listen: "127.0.0.1:0"})
	var idle []net.Conn
	for range maxScrapers {
		c, err := net.Dial("tcp", s.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	answer := make(chan int, 1)
	go func() {
		status, _ := ask(t, "GET", s.URL(), nil)
		answer <- status
	}()
	for _, c := range idle {
		_ = c.Close()
	}
	select {
	case status := <-answer:
		if status != 200 {
			t.Errorf("%d", status)
		}
	case <-time.After(patience):
		t.Error("nobody is told anything any more")
	}
}

// session is a stream that outlives its link.
type session struct{ rpc.Stream }

func (session) Away() (time.Time, bool)  { return time.Unix(7, 0), true }
func (session) Changed() <-chan struct{} { return nil }

func TestStreamsAreCounted(t *testing.T) {
	m := New("v", nil)
	near, far := rpc.Pipe(4)
	defer func() { _ = far.Close(nil) }()
	s := m.Stream(near, `ws"} 1`) // a name from outside is no label
	if _, ok := s.(absentee); ok {
		t.Error("it outlives its link")
	}
	if a, ok := m.Stream(session{near}, "ssh").(absentee); !ok {
		t.Error("a session is none any more")
	} else if since, away := a.Away(); !away || since != time.Unix(7, 0) {
		t.Error("it does not say that it is away")
	}
	go func() {
		msg, _ := far.Read(t.Context())
		_ = far.Write(t.Context(), append(msg, '!'))
	}()
	if err := s.Write(t.Context(), []byte("four")); err != nil {
		t.Fatal(err)
	}
	if msg, err := s.Read(t.Context()); err != nil || string(msg) != "four!" {
		t.Fatalf("%q, %v", msg, err)
	}
	_ = s.Close(nil)
	if _, err := s.Read(t.Context()); err == nil {
		t.Error("it is not closed")
	}
	var b strings.Builder
	m.Connection("ws", "accepted")
	m.AuthFailure("missing")
	m.writeTo(&b)
	for _, want := range []string{
		`towline_messages_total{via="other",direction="in"} 1`, `towline_messages_total{via="other",direction="out"} 1`,
		`towline_message_bytes_total{via="other",direction="in"} 5`, `towline_message_bytes_total{via="other",direction="out"} 4`,
		`towline_connections_total{via="ws",outcome="accepted"} 1`, `towline_auth_failures_total{reason="missing"} 1`, "towline_uptime_seconds",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, &b)
		}
	}
}

func BenchmarkCountedMessage(b *testing.B) {
	m := New("v", nil)
	s := m.Stream(empty{}, "ws")
	for b.Loop() {
		_ = s.Write(b.Context(), nil)
	}
}

type empty struct{ rpc.Stream }

func (empty) Write(context.Context, []byte) error { return nil }
