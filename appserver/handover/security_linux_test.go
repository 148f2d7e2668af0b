package handover

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment of this program when it plays a command of an agent's sandbox.
const (
	envConfine = "HANDOVER_TEST_CONFINE" // become confined, then
	envAsk     = "HANDOVER_TEST_ASK"     // ask at this socket
)

func init() {
	if path := os.Getenv(envConfine); path != "" {
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			fmt.Println("lacking:", err)
			os.Exit(1)
		}
		fmt.Println(syscall.Exec("/proc/self/exe", os.Args[:1], []string{envAsk + "=" + path}))
		os.Exit(1)
	}
	if path := os.Getenv(envAsk); path != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := Start(ctx, path, "/bin/true")
		fmt.Println("start:", err)
		_, err = Visit(ctx, path, Guest{Kind: "local", ID: "uid:0", Role: 4})
		fmt.Println("guest:", err)
		_, err = Dial(ctx, path, "x")
		fmt.Println("heir:", err)
		c, err := DialPrivate(ctx, path+".elder")
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 1)
			if _, err = c.Read(b); err == nil && b[0] != 'x' {
				err = fmt.Errorf("refused")
			}
		}
		fmt.Println("elder:", err)
		os.Exit(0)
	}
}

// daemon counts what it is asked for.
type daemon struct{ asked atomic.Int32 }

func (d *daemon) Offer() (Offer, error) { d.asked.Add(1); return Offer{Format: Format}, nil }
func (d *daemon) Yield(context.Context) (Offer, map[string]*os.File, error) {
	d.asked.Add(1)
	return Offer{}, nil, ErrNobody
}
func (d *daemon) TakeBack(error) {}
func (d *daemon) Retire(int)     {}
func (d *daemon) Guest(_ context.Context, _ Guest, c net.Conn) {
	d.asked.Add(1)
	_ = c.Close()
}
func (d *daemon) Note(Note)                 { d.asked.Add(1) }
func (d *daemon) Start(string) (int, error) { d.asked.Add(1); return 1, nil }

// A command that an agent runs in its sandbox is a process of the same user. Here it
// could have a program run outside of the sandbox, or be an administrator.
func TestSecurityConfinedProcessesFindNoHandOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "upgrade.sock")
	s, err := Listen(path, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	elder, err := ListenPrivate(path + ".elder")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := elder.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x")) // whoever hears this is inside
			_ = c.Close()
		}
	}()
	d := new(daemon)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, d) }()
	defer func() {
		_ = elder.Close()
		<-accepted
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = s.Close()
	}()

	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{envConfine + "=" + path}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "lacking") {
		t.Skipf("SKIPPED, LACKING: %s", out)
	}
	if strings.Contains(string(out), "<nil>") || strings.Count(string(out), "\n") != 4 {
		t.Errorf("a confined process got in:\n%s", out)
	}
	if n := d.asked.Load(); n != 0 {
		t.Errorf("the daemon was asked %d times:\n%s", n, out)
	}
	if _, err := Start(ctx, path, "/bin/true"); err != nil {
		t.Errorf("its owner: %v", err)
	}
}
