package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// accepted is a listener's end of what dial connects to its port.
func accepted(t *testing.T, addr string, dial func(port int)) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", addr) //nolint:noctx // a test's
	if err != nil {
		t.Skip("no such address: ", err)
	}
	defer func() { _ = ln.Close() }()
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second))
	dial(ln.Addr().(*net.TCPAddr).Port)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestOwnConnectionsAreNotForeign(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		t.Run(addr, func(t *testing.T) {
			c := accepted(t, net.JoinHostPort(addr, "0"), func(port int) {
				near, err := net.Dial("tcp", net.JoinHostPort(addr, fmt.Sprint(port))) //nolint:noctx // a test's
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = near.Close() })
			})
			if err := Check(c); err != nil {
				t.Error(err)
			}
		})
	}
}

// The end of one direction is not the end of a connection.
func TestWhoHasSaidAllIsNotForeign(t *testing.T) {
	c := accepted(t, "127.0.0.1:0", func(port int) {
		near, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		_ = near.(*net.TCPConn).CloseWrite()
		t.Cleanup(func() { _ = near.Close() })
	})
	if err := Check(c); err != nil {
		t.Error(err)
	}
}

// Who closes at once cannot be asked for any more: the kernel shows such a socket as
// root's, or not at all.
func TestSecurityWhoLeftAtOnceIsForeign(t *testing.T) {
	c := accepted(t, "127.0.0.1:0", func(port int) {
		near, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		_, _ = near.Write([]byte("GET /auth/callback"))
		_ = near.Close()
	})
	if err := Check(c); !errors.Is(err, ErrForeign) {
		t.Errorf("%v", err)
	}
}

func TestSecurityAnotherUserIsForeign(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "root, which can be another user")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		lacking(t, "bash")
	}
	c := accepted(t, "127.0.0.1:0", func(port int) {
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, bash, "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; read -r line <&3", port))
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	})
	if err := Check(c); !errors.Is(err, ErrForeign) {
		t.Errorf("%v", err)
	}
}

func TestOwnerReadsTheKernelsTable(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:05AF 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0
   1: 0100007F:C001 0100007F:05AF 01 00000000:00000000 00:00000000 00000000  1001        0 12 1 0
   2: 0100007F:C002 0100007F:05AF 05 00000000:00000000 00:00000000 00000000     0        0 0 1 0
   3: 0100007F:C003 0100007F:05AF 01
`
	for local, want := range map[string]string{
		"0100007F:C001": "{01 1001 12} true", "0100007F:C002": "{05 0 0} true", "0100007F:C003": "{ 0 } false", "0100007F:05AF": "{ 0 } false",
	} {
		r, ok := find(strings.NewReader(table), local, "0100007F:05AF")
		if got := fmt.Sprint(r, ok); got != want {
			t.Errorf("%s: %s, want %s", local, got, want)
		}
	}
}

// lacking skips a test whose peer is missing, and fails it in CI.
func lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("LACKING: %s", what)
	}
	t.Skipf("LACKING: %s", what)
}
