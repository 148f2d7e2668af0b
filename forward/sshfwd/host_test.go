//go:build unix

package sshfwd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits on real programs; they take milliseconds.
const patience = 45 * time.Second

// lacking skips a test whose peer is missing, and fails it in CI.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING: %s", what)
	}
	t.Skipf("LACKING: %s", what)
}

// local is a Host that runs commands here, as sshd would; with forbids, it opens
// nothing itself.
type local struct {
	forbids bool
	noise   string // what start files print
}

func (l local) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	if l.forbids {
		return nil, errors.New("administratively prohibited")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (l local) Exec(_ context.Context, command string) (Process, error) {
	cmd := exec.Command("/bin/sh", "-c", l.noise+"\nexec "+command) //nolint:noctx,gosec // Close ends it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p := &process{cmd: cmd, over: make(chan struct{})}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	r, out, _ := os.Pipe()
	er, eout, _ := os.Pipe()
	cmd.Stdout, cmd.Stderr, p.out, p.errs = out, eout, r, er
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, _ = out.Close(), eout.Close()
	go func() { p.err = cmd.Wait(); close(p.over) }()
	return p, nil
}

// process is one of them. Its Close closes its streams, as the end of a channel
// does, and leaves it to itself to end; it must.
type process struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, errs *os.File
	over      chan struct{}
	err       error
}

func (p *process) Stdin() io.WriteCloser { return p.in }
func (p *process) Stdout() io.Reader     { return p.out }
func (p *process) Stderr() io.Reader     { return p.errs }
func (p *process) Wait() error           { <-p.over; return p.err }
func (p *process) Close() error {
	_, _, _ = p.in.Close(), p.out.Close(), p.errs.Close()
	select {
	case <-p.over:
	case <-time.After(patience):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.over
		return fmt.Errorf("%v did not end with its channel", p.cmd.Args)
	}
	return nil
}

// server answers HTTP on a port of the loopback.
func server(t testing.TB, h http.HandlerFunc) int {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// speaksHTTP is a check.
func speaksHTTP(_ context.Context, c io.ReadWriter) error {
	if _, err := io.WriteString(c, "GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	return r.Body.Close()
}

// only is a folder with the programs every host has, and some more.
func only(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range append([]string{"sh", "cat", "sleep"}, names...) {
		path, err := exec.LookPath(n)
		if err != nil {
			lacking(t, n)
		}
		if err := os.Symlink(path, filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newStreamForTest(said string) *stream {
	return &stream{r: bufio.NewReaderSize(strings.NewReader(said), 32<<10)}
}
