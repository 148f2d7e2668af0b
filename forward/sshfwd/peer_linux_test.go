package sshfwd

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The port here leads to a host's login: it is not for other users of this machine.
func TestSecurityAnotherUserIsNotCarried(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "root, which can be another user")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		lacking(t, "bash")
	}
	port := server(t, http.NotFound)
	l, err := Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	c := NewCarrier(local{}, port, Options{Check: speaksHTTP})
	if _, err := c.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	var dialled atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = l.Serve(ctx, func(ctx context.Context) (Conn, error) { dialled.Add(1); return c.Dial(ctx) }, nil)
	})
	run, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	cmd := exec.CommandContext(run, bash, "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d && cat >&3 && cat <&3", l.Port()))
	cmd.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	out, _ := cmd.Output() // it is hung up on
	if len(out) != 0 || dialled.Load() != 0 {
		t.Errorf("it was carried: %d, %q", dialled.Load(), out)
	}
	cancel()
	wg.Wait()
}
