//go:build unix

package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/appserver/rpc"
	"towline/config"
)

func TestDialExplainsWhatIsWrong(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	stale(t, filepath.Join(dir, "dead"))
	plainHTTP := func(status int, body string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(srv.Close)
		return "ws://" + srv.Listener.Addr().String()
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	for name, tc := range map[string]struct {
		url, want string
		exit      int
	}{
		"no socket":    {"unix://" + dir + "/none", "no such socket", config.ExitUnavailable},
		"dead socket":  {"unix://" + dir + "/dead", "nobody listens", config.ExitUnavailable},
		"free port":    {"ws://" + free.Addr().String(), "nobody listens", config.ExitUnavailable},
		"web server":   {plainHTTP(200, "hello"), "HTTP 200 OK: hello", config.ExitUnavailable},
		"redirect":     {plainHTTP(302, ""), "HTTP 302", config.ExitUnavailable},
		"refused":      {plainHTTP(403, "refused: \x1b[31mno\r\n"), "HTTP 403 Forbidden: refused: [31mno", config.ExitDenied},
		"unauthorized": {plainHTTP(401, ""), "HTTP 401", config.ExitDenied},
		"no TLS there": {strings.Replace(plainHTTP(200, ""), "ws:", "wss:", 1), "does not speak TLS", config.ExitUnavailable},
		"no address":   {"tcp://127.0.0.1:1", "invalid remote address `tcp://127.0.0.1:1`", config.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Dial(t.Context(), tc.url)
			var p *config.Problem
			if !errors.As(err, &p) || p.Stage != "dial" || !strings.Contains(err.Error(), tc.want) || p.Exit != tc.exit || len(p.Hints) == 0 {
				t.Errorf("Dial = %v (%+v), want %q", err, p, tc.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\r\n") {
				t.Errorf("%q can act on a terminal", err)
			}
		})
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in its queue and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("the caller has had enough"))
	defer cancel()
	if _, err := Dial(ctx, "ws://"+l.Addr().String()); err == nil || !strings.Contains(err.Error(), "the caller has had enough") {
		t.Errorf("Dial = %v", err)
	}
}

func TestDialBoundsOnlyTheDialing(t *testing.T) {
	l := open(t, socketURL(t), Options{}, echo)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Dial(ctx, l.URL())
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(nil) }()
	roundTrip(t, s, "1")
}

// A socket's name can outlive its server in a folder others write to: whoever
// takes it over must not be talked to.
func TestDialRefusesAServerOfAnotherUser(t *testing.T) {
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	cmd := asNobody(t, "TRANSPORT_TEST_LISTEN="+path)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := Dial(t.Context(), "unix://"+path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("Dial = %v", err)
	}
}

func TestStdio(t *testing.T) {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := Stdio(inR, outW)
	go func() { _, _ = io.WriteString(inW, "\n{\"id\":1}\n{\"id\":2}"); _ = inW.Close() }()
	for _, want := range []string{`{"id":1}`, `{"id":2}`} {
		if got, err := s.Read(t.Context()); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	lines := make(chan string, 1)
	go func() { l, _ := bufio.NewReader(outR).ReadString('\n'); lines <- l }()
	if err := s.Write(t.Context(), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "{}\n" {
		t.Errorf("wrote %q", got)
	}
	_ = s.Close(nil)
}

// stuck is standard input as a terminal nobody types on: its Read ignores Close.
type stuck struct{ release chan struct{} }

func (s stuck) Read([]byte) (int, error) { <-s.release; return 0, io.EOF }

func TestStdioReadHonoursItsContextOnAStuckInput(t *testing.T) {
	in := stuck{make(chan struct{})}
	defer close(in.release)
	s := Stdio(in, io.Discard)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, rpc.ErrClosed) {
		t.Errorf("read again: %v", err)
	}
}
