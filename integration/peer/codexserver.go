package peer

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// CodexServer is a stock `codex app-server` that listens on loopback.
type CodexServer struct {
	URL string // ws://127.0.0.1:PORT

	t    testing.TB
	c    Codex
	env  []string
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *syncBuffer
	gone chan struct{}
}

// StartServer starts one in a folder of its own, with exactly the environment
// env and further arguments, until the test ends.
func (c Codex) StartServer(t testing.TB, env []string, args ...string) *CodexServer {
	t.Helper()
	s := &CodexServer{t: t, c: c, env: env, dir: t.TempDir(), args: args}
	s.start("ws://127.0.0.1:0")
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("codex app-server said:\n%s", s.log)
		}
	})
	return s
}

func (s *CodexServer) start(listen string) {
	s.t.Helper()
	s.cmd = exec.Command(s.c.Bin, append([]string{"app-server", "--listen", listen}, s.args...)...) //nolint:noctx // Stop ends it
	s.cmd.Env, s.cmd.Dir = s.env, s.dir
	s.log, s.gone = &syncBuffer{}, make(chan struct{})
	r, w := io.Pipe() // rather than StderrPipe, which Wait would close early
	s.cmd.Stderr = io.MultiWriter(s.log, w)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	url := make(chan string, 1)
	go func() { // ends with the process
		for sc := bufio.NewScanner(r); sc.Scan(); {
			if _, u, ok := strings.Cut(sc.Text(), "listening on: "); ok {
				url <- strings.TrimSpace(u)
				break
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	go func() { defer close(s.gone); _ = s.cmd.Wait(); _ = w.Close() }()
	select {
	case s.URL = <-url:
	case <-s.gone:
		s.t.Fatalf("codex app-server ended:\n%s", s.log)
	case <-time.After(Patience):
		s.t.Fatalf("codex app-server never listened:\n%s", s.log)
	}
}

// Stop ends it at once.
func (s *CodexServer) Stop() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.gone
}

// Restart starts it again at the same address, with other arguments.
func (s *CodexServer) Restart(args ...string) {
	s.t.Helper()
	s.Stop()
	s.args = args
	s.start(s.URL)
}
