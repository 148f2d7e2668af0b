package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPTY makes a terminal and its other end.
func openPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return master, tty
}

func modeOf(t *testing.T, tty *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(tty.Fd()), getTermios)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

// A real terminal: what is typed for a secret is not echoed, and a question that
// is given up leaves the terminal as it was.
func TestTerminalReadsWithoutEcho(t *testing.T) {
	master, tty := openPTY(t)
	seen := new(syncBuffer)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 256)
		for {
			n, err := master.Read(buf)
			_, _ = seen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	})
	defer func() {
		_ = tty.Close() // which ends the read above
		wg.Wait()
		_ = master.Close()
	}()
	before := modeOf(t, tty)
	got := make(chan string)
	go func() {
		s, _ := fileTerminal{tty}.ReadLine(t.Context(), false)
		got <- s
	}()
	for modeOf(t, tty) == before { // echo is off now
		time.Sleep(time.Millisecond)
	}
	if _, err := master.Write([]byte("hunterr\x7f2\n")); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "hunter2" {
		t.Errorf("read %q", s)
	}
	if modeOf(t, tty) != before {
		t.Error("the terminal's mode is another one now")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := make(chan error)
	go func() {
		_, err := fileTerminal{tty}.ReadLine(ctx, false)
		gone <- err
	}()
	for modeOf(t, tty) == before {
		time.Sleep(time.Millisecond)
	}
	cancel(errors.New("hung up"))
	if err := <-gone; err == nil || err.Error() != "hung up" || modeOf(t, tty) != before {
		t.Errorf("a question given up: %v, mode kept %v", err, modeOf(t, tty) == before)
	}
	if strings.Contains(seen.String(), "hunter") {
		t.Errorf("echoed: %q", seen.String())
	}
}

// syncBuffer is a bytes.Buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
