// Package remotetest holds what every carrier of an SSH connection must do,
// written once: [Conformance] runs over any remote.Conn. [StartSSHD] gives it a
// real OpenSSH server to talk to, [StartRelay] a link to count and to cut. Only
// tests import it.
package remotetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towline/launcher/remote"
)

// Bound is how long the suite waits for anything before it calls it stuck. It is
// generous because machines that run tests are busy, and measures nothing.
const Bound = 45 * time.Second

// UnixSockets may be lacking, for [Conformance].
const UnixSockets = "a unix socket of the remote"

// Conformance checks that what dial returns behaves as remote.Conn promises. The
// far end must be this machine, with a POSIX shell, forwarding allowed and at
// least ten sessions a connection. dial is called for several fresh connections
// and fails the test itself; Conformance closes them. What the carrier cannot do,
// and says so, is named in lacks.
func Conformance(t *testing.T, dial func() remote.Conn, lacks ...string) {
	t.Helper()
	for _, c := range []struct {
		name  string
		check func(*testing.T, remote.Conn)
	}{
		{"a command's output, errors and status", execStatus},
		{"a command is the shell's to read", execQuoting},
		{"a signal is told", execSignal},
		{"input ends without the command", execHalfClose},
		{"a lot of data each way, unchanged", execBulk},
		{"commands side by side", execConcurrent},
		{"closing a process ends its command", execClose},
		{"a start that is no longer wanted", execCancelled},
		{UnixSockets, dialUnix},
		{"a TCP address of the remote", dialTCP},
		{"the end of one direction", dialHalfClose},
		{"nobody listens there", dialRefused},
		{"closing ends everything", closeAll},
	} {
		if slices.Contains(lacks, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			conn := dial()
			t.Cleanup(func() { _ = conn.Close() })
			within(t, func() { c.check(t, conn) })
		})
	}
}

// within fails the test when f takes longer than Bound.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done) // also after t.FailNow, which ends this goroutine
		f()
	}()
	select {
	case <-done:
	case <-time.After(2 * Bound):
		t.Fatal("stuck")
	}
}

func start(t *testing.T, c remote.Conn, command string) remote.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Bound)
	defer cancel()
	p, err := c.Exec(ctx, command, remote.ExecOptions{})
	if err != nil {
		t.Fatalf("exec %q: %v", command, err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Run runs a command with no input and returns what it wrote and how it ended.
func Run(t *testing.T, c remote.Conn, command string) (stdout, stderr string, err error) {
	t.Helper()
	return drain(t, start(t, c, command), "")
}

func drain(t *testing.T, p remote.Process, input string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&out, p.Stdout()) })
	wg.Go(func() { _, _ = io.Copy(&errs, p.Stderr()) })
	if _, err := io.WriteString(p.Stdin(), input); err != nil && input != "" {
		t.Errorf("write to stdin: %v", err)
	}
	_ = p.Stdin().Close()
	err = p.Wait()
	wg.Wait()
	return out.String(), errs.String(), err
}

func execStatus(t *testing.T, c remote.Conn) {
	out, errs, err := Run(t, c, `echo out; echo err >&2; exit 7`)
	if out != "out\n" || errs != "err\n" {
		t.Errorf("stdout %q, stderr %q", out, errs)
	}
	var exit *remote.ExitError
	if !errors.As(err, &exit) || exit.Status != 7 || exit.Signal != "" {
		t.Errorf("ended with %v, want exit status 7", err)
	}
	if _, _, err := Run(t, c, "true"); err != nil {
		t.Errorf("true ended with %v", err)
	}
	if _, _, err := Run(t, c, "exit 255"); !errors.As(err, &exit) || exit.Status != 255 {
		t.Errorf("exit 255 ended with %v: it is a status like any other", err)
	}
}

func execQuoting(t *testing.T, c remote.Conn) {
	out, _, err := Run(t, c, "printf '<%s>' 'a  b' \"$((20+22))\" '-n' '\\' \"it's\" 'ü'\nprintf '<%s>' second")
	if want := `<a  b><42><-n><\><it's><ü><second>`; out != want || err != nil {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func execSignal(t *testing.T, c remote.Conn) {
	_, _, err := Run(t, c, "kill -TERM $$; sleep 60")
	var exit *remote.ExitError
	// Some servers or carriers tell the signal, some a status, some neither.
	if !errors.As(err, &exit) || exit.Signal != "TERM" && exit.Status != 128+15 && exit.Status != -1 {
		t.Errorf("a command killed by TERM ended with %v", err)
	}
}

func execHalfClose(t *testing.T, c remote.Conn) {
	out, _, err := drain(t, start(t, c, "cat; echo and then"), "some input\n")
	if out != "some input\nand then\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

func execBulk(t *testing.T, c remote.Conn) {
	const size = 6 << 20 // more than a channel window
	p := start(t, c, "cat; printf end >&2")
	in, out := sha256.New(), sha256.New()
	var errs bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		src := io.LimitReader(rand.NewChaCha8([32]byte{7}), size)
		if n, err := io.Copy(p.Stdin(), io.TeeReader(src, in)); n != size || err != nil {
			t.Errorf("sent %d bytes, then %v", n, err)
		}
		_ = p.Stdin().Close()
	})
	wg.Go(func() { _, _ = io.Copy(&errs, p.Stderr()) })
	n, err := io.Copy(out, p.Stdout())
	wg.Wait()
	if n != size || err != nil || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Errorf("%d bytes came back (%v), not the %d sent", n, err, size)
	}
	if err := p.Wait(); err != nil || errs.String() != "end" {
		t.Errorf("ended with %v, stderr %q", err, &errs)
	}
}

func execConcurrent(t *testing.T, c remote.Conn) {
	var wg sync.WaitGroup
	for i := range 8 {
		p := start(t, c, fmt.Sprintf("read x; echo %d $x", i))
		wg.Go(func() {
			out, _, err := drain(t, p, fmt.Sprintf("in%d\n", i))
			if want := fmt.Sprintf("%d in%d\n", i, i); out != want || err != nil {
				t.Errorf("command %d said %q, %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func execClose(t *testing.T, c remote.Conn) {
	dir := t.TempDir()
	started, over := filepath.Join(dir, "started"), filepath.Join(dir, "over")
	p := start(t, c, fmt.Sprintf("echo up; : >'%s'; cat >/dev/null; : >'%s'", started, over))
	if _, err := io.ReadFull(p.Stdout(), make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_ = p.Wait() // returns
	appears(t, over)
	if _, err := io.ReadAll(p.Stdout()); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
		t.Logf("reading after Close: %v", err)
	}
	if out, _, err := Run(t, c, "echo still here"); out != "still here\n" || err != nil {
		t.Errorf("the connection after a process was closed: %q, %v", out, err)
	}
}

// appears waits for a file that a remote command makes.
func appears(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(Bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Errorf("the remote command never made %s", path)
}

func execCancelled(t *testing.T, c remote.Conn) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := c.Exec(ctx, "true", remote.ExecOptions{}); err == nil {
		_ = p.Close()
		t.Error("Exec with a context that is over started something")
	}
	ctx, cancel = context.WithTimeout(t.Context(), Bound)
	p, err := c.Exec(ctx, "cat", remote.ExecOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds the start only
	out, _, err := drain(t, p, "hello")
	if out != "hello" || err != nil {
		t.Errorf("after the start's context ended: %q, %v", out, err)
	}
	_ = p.Close()
}

// echo accepts one connection, gives back what it gets, and says goodbye once the
// other side has ended its half.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
		_, _ = io.WriteString(c, "bye")
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func talk(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("got %q, %v", buf, err)
	}
	if conn.RemoteAddr() == nil || conn.LocalAddr() == nil {
		t.Error("an address is nil")
	}
}

// socketDir is short: a unix socket's path has little room.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func dialUnix(t *testing.T, c remote.Conn) {
	path := filepath.Join(socketDir(t), "s")
	echo(t, listen(t, "unix", path))
	conn, err := c.DialUnix(t.Context(), path)
	talk(t, conn, err)
}

func dialTCP(t *testing.T, c remote.Conn) {
	l := listen(t, "tcp", "127.0.0.1:0")
	echo(t, l)
	conn, err := c.DialTCP(t.Context(), l.Addr().String())
	talk(t, conn, err)
	if conn, err := c.DialTCP(t.Context(), "no port"); err == nil {
		_ = conn.Close()
		t.Error("an address without a port was dialed")
	}
}

func dialHalfClose(t *testing.T, c remote.Conn) {
	l := listen(t, "tcp", "127.0.0.1:0")
	echo(t, l)
	conn, err := c.DialTCP(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "all of it, "); err != nil {
		t.Fatal(err)
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		t.Fatalf("%T has no CloseWrite", conn)
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); string(all) != "all of it, bye" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
}

func dialRefused(t *testing.T, c remote.Conn) {
	if conn, err := c.DialUnix(t.Context(), filepath.Join(socketDir(t), "nobody")); err == nil {
		_ = conn.Close()
		t.Error("a socket that is not there was dialed")
	}
	l := listen(t, "tcp", "127.0.0.1:0")
	addr := l.Addr().String()
	_ = l.Close()
	if conn, err := c.DialTCP(t.Context(), addr); err == nil {
		_ = conn.Close()
		t.Error("a port nobody listens on was dialed")
	}
	if out, _, err := Run(t, c, "echo still here"); out != "still here\n" || err != nil {
		t.Errorf("the connection after refused dials: %q, %v", out, err)
	}
}

func closeAll(t *testing.T, c remote.Conn) {
	select {
	case <-c.Done():
		t.Fatalf("gone already: %v", c.Err())
	default:
	}
	p := start(t, c, "echo up; cat")
	if _, err := io.ReadFull(p.Stdout(), make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	l := listen(t, "tcp", "127.0.0.1:0")
	echo(t, l)
	conn, err := c.DialTCP(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { _ = c.Close() })
	}
	wg.Wait()
	<-c.Done()
	if c.Err() == nil {
		t.Error("Err is nil although Done is closed")
	}
	if err := p.Wait(); err == nil {
		t.Error("a process outlived its connection unharmed")
	}
	if rest, _ := io.ReadAll(conn); strings.Contains(string(rest), "bye") {
		t.Logf("the far end saw the end: %q", rest)
	}
	_ = conn.Close()
	if p, err := c.Exec(t.Context(), "true", remote.ExecOptions{}); err == nil {
		_ = p.Close()
		t.Error("Exec after Close worked")
	}
	if conn, err := c.DialTCP(t.Context(), l.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("DialTCP after Close worked")
	}
	if conn, err := c.DialUnix(t.Context(), "/nothing"); err == nil {
		_ = conn.Close()
		t.Error("DialUnix after Close worked")
	}
}
