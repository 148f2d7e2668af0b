package account

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towline/config/secret"
)

// helperCommand runs this test binary as another process that works on the same
// login.
func helperCommand(t testing.TB, what, home, issuer string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, self)
	c.Env = []string{"ACCOUNT_TEST_HELPER=" + what, "ACCOUNT_TEST_HOME=" + home, "ACCOUNT_TEST_ISSUER=" + issuer, "PATH=" + os.Getenv("PATH")}
	return c
}

// runHelper is the other process:
//
//	token     says "ready", waits for a line, asks for a token, prints what became of it
//	rejected  the same after its token was refused
//	killed    refreshes, and is killed between receiving and storing
//	locked    holds the refresh lock until its standard input ends
func runHelper(what string) int {
	home, issuer := os.Getenv("ACCOUNT_TEST_HOME"), os.Getenv("ACCOUNT_TEST_ISSUER")
	s, err := secret.Open(secret.Options{CodexHome: home, Kind: secret.KindFile, StateDir: filepath.Join(home, "towline"), Environ: func(string) string { return "" }})
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	m, err := New(Config{Store: s, CodexHome: home, Issuer: Issuer{URL: issuer, ClientID: "client-tow"}})
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	in := bufio.NewReader(os.Stdin)
	var b Bearer
	switch what {
	case "token", "rejected":
		a, _, err := s.Load(ctx)
		if err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		fmt.Println("ready")
		_, _ = in.ReadString('\n')
		if what == "token" {
			b, err = m.Token(ctx)
		} else {
			b, err = m.Rejected(ctx, m.bearer(a))
		}
		if err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		fmt.Println("got", b.Token)
		return 0
	case "killed":
		if _, err := s.Lock(ctx); err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		a, _, err := s.Load(ctx)
		if err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		now, err := m.askRefresh(ctx, a, reasonForced)
		if err == nil {
			err = s.Journal(ctx, a, now)
		}
		if err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		self, _ := os.FindProcess(os.Getpid())
		_ = self.Kill()
		time.Sleep(patience) // not reached
	case "locked":
		if _, err := s.Lock(ctx); err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		fmt.Println("ready")
		_, _ = io.ReadAll(in)
		return 0
	}
	return 1
}

// helper is one of them, started and ready.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(t testing.TB, what, home, issuer string) *helper {
	t.Helper()
	h := &helper{cmd: helperCommand(t, what, home, issuer)}
	h.cmd.Stderr = os.Stderr
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewReader(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.in.Close(); _ = h.cmd.Wait() })
	if line := h.line(t); line != "ready" {
		t.Fatalf("the other process says %q", line)
	}
	return h
}

func (h *helper) line(t testing.TB) string {
	t.Helper()
	s, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the other process: %v", err)
	}
	return strings.TrimSpace(s)
}
