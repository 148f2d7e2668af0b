//go:build unix

package appserver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/access/bearer"
	"towline/appserver/metrics"
	"towline/appserver/protocol"
	"towline/appserver/rpc"
	"towline/appserver/transport"
	"towline/config"
)

const patience = 30 * time.Second

// opened is a daemon with the offline model, and its configuration.
func opened(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "tw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	paths, err := config.Locate(func(name string) string {
		return map[string]string{"TOWLINE_HOME": home, "HOME": home}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default(paths)
	c.Engine.Kind, c.Engine.Native.Rehearsal = config.EngineNative, true
	log := slog.New(slog.DiscardHandler)
	if err := paths.Ensure(); err != nil {
		t.Fatal(err)
	}
	engine, err := OpenEngine(t.Context(), EngineConfig{
		Config: c.Engine, Paths: paths, Project: home, Version: "test", Environ: func(string) string { return "" }, Self: os.Args[0], Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(home, "token")
	if err := os.WriteFile(token, []byte("a capability token of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Paths: paths, Engine: engine, Host: "test", Project: home, Version: "test", Log: log,
		Listeners: Listeners{
			Auth:               bearer.Config{Capability: []bearer.Capability{{Name: "test", File: token, Role: protocol.RoleOperator}}},
			DangerousPlaintext: true,
		},
	}
	change(&cfg)
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func serve(t testing.TB, s *Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	})
}

// remote is a client with the token that comes by the listener beyond loopback.
func remote(ctx context.Context, url string, resume bool) (net.Conn, rpc.Stream, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(strings.Replace(url, "0.0.0.0", "127.0.0.1", 1), "ws://"))
	if err != nil {
		return nil, nil, err
	}
	s, err := rpc.DialWebSocket(ctx, c, rpc.WebSocketOptions{Resume: resume, Header: http.Header{"Authorization": {"Bearer a capability token of the test"}}})
	return c, s, err
}

// initialize makes the handshake of the protocol on s.
func initialize(t *testing.T, s rpc.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Write(ctx, []byte(`{"id":1,"method":"initialize","params":{"clientInfo":{"name":"x","version":"1"}}}`)); err != nil {
		t.Fatal(err)
	}
	if msg, err := s.Read(ctx); err != nil || !strings.Contains(string(msg), `"id":1`) {
		t.Fatalf("%s, %v", msg, err)
	}
}

// gone waits until s ends.
func gone(t *testing.T, s rpc.Stream) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, err := s.Read(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatal("still connected")
			}
			return err
		}
	}
}

func TestOneSwitchClosesWhatOtherMachinesReach(t *testing.T) {
	s := opened(t, func(c *Config) { c.Listen = []string{"ws://0.0.0.0:0", "ws://127.0.0.1:0"} })
	serve(t, s)
	urls, on := s.Remote()
	if len(urls) != 1 || !on || len(s.Addresses()) != 3 {
		t.Fatalf("%q %v, %q", urls, on, s.Addresses())
	}
	local, err := transport.Dial(t.Context(), "unix://"+s.cfg.Paths.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = local.Close(nil) }()
	initialize(t, local)
	_, plain, err := remote(t.Context(), urls[0], false)
	if err != nil {
		t.Fatal(err)
	}
	initialize(t, plain)
	// One session whose link is there, and one that is away.
	var streams []*rpc.Resumable
	for _, away := range []bool{false, true} {
		links, off := make(chan net.Conn, 100), make(chan struct{})
		r := rpc.NewResumable(rpc.ResumeOptions{Dial: func(ctx context.Context) (rpc.Stream, error) {
			select {
			case <-off:
				return nil, errors.New("no network")
			default:
			}
			c, st, err := remote(ctx, urls[0], true)
			if err == nil {
				links <- c
			}
			return st, err
		}})
		defer func() { _ = r.Close(nil) }()
		initialize(t, r)
		streams = append(streams, r)
		if away {
			close(off)
			_ = (<-links).Close()
		}
	}
	if n := s.sessions.Count(); n != 2 {
		t.Fatalf("%d sessions", n)
	}

	if err := s.SetRemote(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if n := s.sessions.Count(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if _, on := s.Remote(); on || len(s.Addresses()) != 2 {
		t.Errorf("on %v, %q", on, s.Addresses())
	}
	if _, _, err := remote(t.Context(), urls[0], false); err == nil {
		t.Error("the listener is open")
	}
	_ = gone(t, plain)
	if err := gone(t, streams[0]); !errors.Is(err, rpc.ErrLost) {
		t.Errorf("a session ends with %v", err)
	}
	if err := s.SetRemote(t.Context(), false); err != nil {
		t.Errorf("off twice: %v", err)
	}
	if err := local.Write(t.Context(), []byte(`{"id":2,"method":"towline/status/read","params":{}}`)); err != nil {
		t.Errorf("the local client: %v", err)
	}

	if err := errors.Join(s.SetRemote(t.Context(), true), s.SetRemote(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	again, on := s.Remote()
	if len(again) != 1 || again[0] != urls[0] || !on {
		t.Errorf("open again at %q, was %q", again, urls)
	}
	_, st, err := remote(t.Context(), again[0], false)
	if err != nil {
		t.Fatal(err)
	}
	initialize(t, st)
	_ = st.Close(nil)
}

func TestRemoteListenersStayClosedUntilTheyAreWanted(t *testing.T) {
	s := opened(t, func(c *Config) {
		c.Listen, c.Listeners.RemoteOff = []string{"ws://0.0.0.0:0"}, true
	})
	serve(t, s)
	if urls, on := s.Remote(); on || len(urls) != 1 || len(s.Addresses()) != 1 {
		t.Errorf("%q %v %q", urls, on, s.Addresses())
	}
	if err := s.SetRemote(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	urls, _ := s.Remote()
	_, st, err := remote(t.Context(), urls[0], false)
	if err != nil {
		t.Fatal(err)
	}
	initialize(t, st)
	_ = st.Close(nil)
}

// What could not be opened later is refused at the start.
func TestRemoteListenersThatAreOffAreCheckedAllTheSame(t *testing.T) {
	paths, err := config.Locate(func(string) string { return t.TempDir() })
	if err != nil {
		t.Fatal(err)
	}
	d := doors{}
	err = d.open(t.Context(), "unix://"+paths.Socket(), []string{"ws://0.0.0.0:0"}, nil, true)
	_ = d.close()
	if err == nil || !strings.Contains(err.Error(), "without auth") {
		t.Errorf("%v", err)
	}
}

func TestMetricsOfADaemon(t *testing.T) {
	s := opened(t, func(c *Config) {
		c.Listen, c.Metrics = []string{"ws://127.0.0.1:0"}, metrics.ServerConfig{Listen: "127.0.0.1:0"}
	})
	serve(t, s)
	_, st, err := remote(t.Context(), s.Addresses()[0], false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close(nil) }()
	initialize(t, st)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.MetricsURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	for _, want := range []string{
		`towline_build_info{version="test"`, `towline_connections_total{via="ws",outcome="accepted"} 1`, `towline_messages_total{via="ws",direction="in"} 1`,
		"towline_clients_attached 1\n", "towline_requests_total 1\n", "towline_requests_in_flight 0\n", `towline_engine_state{kind="native",state="ready"} 1`,
		"towline_audit_entries_total ", "towline_audit_failures_total 0\n", "towline_approvals_waiting 0\n", "towline_turns_running 0\n", "towline_listeners 2\n",
		"# TYPE towline_requests_total counter",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if strings.Contains(string(body), "a capability token") {
		t.Error("the token is told")
	}
}
