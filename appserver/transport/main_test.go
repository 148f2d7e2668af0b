//go:build unix

package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"towline/appserver/access"
	"towline/appserver/rpc"
)

// patience bounds every wait; the machine may be busy.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	if url := os.Getenv("TRANSPORT_TEST_DIAL"); url != "" {
		dialAsStranger(url)
		return
	}
	if path := os.Getenv("TRANSPORT_TEST_LISTEN"); path != "" {
		listenAsStranger(path)
		return
	}
	if addr := os.Getenv("TRANSPORT_TEST_CROWD"); addr != "" {
		crowdAsStranger(addr)
		return
	}
	goleak.VerifyTestMain(m)
}

// lacking skips and says why; in CI, which must lack nothing, it fails.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING in CI: %s", what)
	}
	t.Skipf("SKIPPED, LACKING: %s", what)
}

// echo answers every message with itself.
func echo(ctx context.Context, s rpc.Stream, _ access.Principal, _, _ string) {
	for {
		msg, err := s.Read(ctx)
		if err != nil {
			return
		}
		if s.Write(ctx, msg) != nil {
			return
		}
	}
}

// open listens at url and serves with accept until the test ends.
func open(t *testing.T, url string, o Options, accept AcceptFunc) *Listener {
	t.Helper()
	l, err := Listen(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, accept)
	return l
}

// serve runs l until the test ends or stop is called, which waits.
func serve(t *testing.T, l *Listener, accept AcceptFunc) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, accept) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

func socketURL(t *testing.T) string {
	return "unix://" + filepath.Join(shortDir(t), "s", "sock")
}

// shortDir is a folder whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dial(t *testing.T, url string) rpc.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := Dial(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(nil) })
	return s
}

// roundTrip sends msg and returns what comes back.
func roundTrip(t *testing.T, s rpc.Stream, msg string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Write(ctx, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// rawDial opens the bytes under a listener's URL.
func rawDial(t *testing.T, url string) net.Conn {
	t.Helper()
	network, addr, _ := strings.Cut(strings.Replace(url, "ws://", "tcp://", 1), "://")
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// upgrade is a stock client's handshake; extra adds header lines or, under the
// same name, replaces them.
func upgrade(host string, extra ...string) string {
	req := "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, h := range extra {
		name, value, _ := strings.Cut(h, ": ")
		line := regexp.MustCompile(`(?m)^` + name + `: .*\r\n`)
		req = line.ReplaceAllString(req, "")
		if value != "" {
			req += h + "\r\n"
		}
	}
	return req + "\r\n"
}

// asNobody runs this test binary as another user, with one variable set, and
// returns the command, not started.
func asNobody(t *testing.T, variable string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		lacking(t, "root, to act as another user")
	}
	// The binary and its folder must be reachable for that user.
	bin := filepath.Join(shortDir(t), "helper")
	raw, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin)
	cmd.Dir, cmd.Env = "/", []string{variable}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}

// dialAsStranger prints how a connection attempt of another user ends.
func dialAsStranger(url string) {
	s, err := Dial(context.Background(), url)
	if err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("connected")
	_ = s.Close(nil)
}

// listenAsStranger serves a unix socket that everybody can reach, until its
// standard input ends.
func listenAsStranger(path string) {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = os.Chmod(path, 0o777)
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = l.Close()
}

// crowdAsStranger opens many connections and says nothing on them, until its
// standard input ends.
func crowdAsStranger(addr string) {
	for range 2 * defaultMaxPending {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer c.Close() //nolint:gocritic // all at the end
	}
	fmt.Println("there")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
