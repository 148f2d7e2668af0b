package sshd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"
)

// actAs is the variable that makes this test binary one of the programs that
// the tests start, instead of the tests.
const actAs = "TOWLINE_TEST_ACT"

// act is such a program.
func act(as string) int {
	switch as {
	case "listen": // as a login does: answers each connection with what it said
		ln, err := net.Listen("tcp", os.Getenv("ADDR"))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					all, _ := io.ReadAll(c) // its half-close, then the answer
					_, _ = fmt.Fprintf(c, "got %s", all)
					_ = c.Close()
				}()
			}
		}()
		fmt.Println("listens")
		_, _ = io.Copy(io.Discard, os.Stdin) // whoever started it is gone, or wants it gone
		return 0
	case "echo":
		dir, _ := os.Getwd()
		fmt.Printf("args %q\ndir %s\ntty %v\nenv %q\n", os.Args[1:], dir, term.IsTerminal(0), os.Environ())
		fmt.Fprintln(os.Stderr, "on stderr")
		n, _ := io.Copy(os.Stdout, os.Stdin)
		fmt.Printf("\nread %d\n", n)
		return 7
	case "ask": // as for a key: without echo
		fmt.Print("key: ")
		key, err := term.ReadPassword(0)
		cols, rows, _ := term.GetSize(0)
		fmt.Printf("\ngot %d characters, %v, on %dx%d\n", len(key), err, cols, rows)
		w := make(chan os.Signal, 1)
		signal.Notify(w, syscall.SIGINT)
		fmt.Println("waiting")
		<-w
		fmt.Println("interrupted")
		return 130
	case "stubborn": // notes when it is asked to leave, and stays until it is done
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		child := exec.Command("/bin/sleep", "600") //nolint:noctx // ended with the group
		_ = child.Start()
		fmt.Println("pid", os.Getpid(), child.Process.Pid)
		<-asked
		_ = os.WriteFile(os.Getenv("NOTE"), []byte("asked"), 0o600)
		for !fileExists(os.Getenv("NOTE") + ".enough") {
			time.Sleep(5 * time.Millisecond)
		}
		_ = os.WriteFile(os.Getenv("NOTE"), []byte("done"), 0o600)
		return 0
	}
	return 1
}

// actor is this test binary, or a copy of it under another name.
func actor(t testing.TB, name string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	if name == "" {
		return self
	}
	path := filepath.Join(t.TempDir(), name) // a copy: another name of the same file would still be us
	raw, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(path, raw, 0o700))
	return path
}

// listenAs starts a process that listens on addr, until the test ends or stop is
// called.
func listenAs(t testing.TB, path, addr string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(path, args...) //nolint:noctx // ended with its input
	cmd.Env = []string{actAs + "=listen", "ADDR=" + addr}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	done := false
	stop = func() {
		if !done {
			done = true
			_ = in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	if err != nil || strings.TrimSpace(line) != "listens" {
		t.Fatalf("%s does not listen: %q, %v", path, line, err)
	}
	return stop
}

// freePort is a port of 127.0.0.1 that was free a moment ago.
func freePort(t testing.TB) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	return uint16(ln.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
}
